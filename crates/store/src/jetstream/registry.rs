//! Heartbeats in a bucket whose entries expire, and whose expiry is told.

use async_nats::HeaderMap;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use longshore_model::AgentId;
use longshore_model::wire::agent::{AgentState, Heartbeat};

use super::link::{Shared, from_json, to_json};
use super::tail::{From, Item, Reading, Tail};
use crate::layout::Layout;
use crate::{Error, Registry, RegistryEvent, RegistryStream};

const TTL: &str = "Nats-TTL";
const OPERATION: &str = "KV-Operation";
const MARKER: &str = "Nats-Marker-Reason";

pub(super) struct JetStreamRegistry {
    link: Shared,
}

impl JetStreamRegistry {
    pub(super) fn new(link: Shared) -> Self {
        Self { link }
    }
}

#[async_trait]
impl Registry for JetStreamRegistry {
    async fn beat(&self, heartbeat: &Heartbeat) -> Result<(), Error> {
        // A plain publish with a time to live: the client's `create` would drop it over an expiry marker.
        let mut headers = HeaderMap::new();
        headers.insert(TTL, format!("{}s", self.link.config.registry.ttl.as_secs().max(1)));
        let subject = self.link.layout.heartbeat(heartbeat.agent);
        let id = format!("{subject} {}", moment());
        self.link.write_as(id, subject, to_json(heartbeat, "heartbeat")?, headers, "sending a heartbeat").await?;
        Ok(())
    }

    async fn leave(&self, agent: AgentId) -> Result<(), Error> {
        let mut headers = HeaderMap::new();
        headers.insert(OPERATION, "PURGE");
        headers.insert("Nats-Rollup", "sub");
        headers.insert(TTL, "60s");
        let subject = self.link.layout.heartbeat(agent);
        let id = format!("{subject} left {}", moment());
        self.link.write_as(id, subject, Bytes::new(), headers, "leaving the registry").await?;
        Ok(())
    }

    async fn set_state(&self, state: &AgentState) -> Result<(), Error> {
        let subject = self.link.layout.state(state.agent);
        let id = format!("{subject} {}", moment());
        self.link.write_as(id, subject, to_json(state, "agent state")?, HeaderMap::new(), "saying what an agent is to do").await?;
        Ok(())
    }

    async fn state_of(&self, agent: AgentId) -> Result<Option<AgentState>, Error> {
        const DOING: &str = "reading what an agent is to do";
        let stream = self.link.stream(&Layout::bucket_stream(&self.link.layout.state_bucket), DOING).await?;
        let subject = self.link.layout.state(agent);
        let message = self.link.read_last(&stream, &subject, DOING).await?;
        message.map(|message| from_json(&subject, &message.payload)).transpose()
    }

    async fn watch(&self) -> Result<RegistryStream, Error> {
        let layout = &self.link.layout;
        let open = async |bucket: &str| {
            let tail = Tail::open(self.link.clone(), Layout::bucket_stream(bucket), Layout::bucket_subjects(bucket), From::Newest).await?;
            Ok::<Reading, Error>(tail.run())
        };
        let watch = Watch {
            link: self.link.clone(),
            beats: open(&layout.registry_bucket).await?,
            states: open(&layout.state_bucket).await?,
            beats_are_current: false,
            states_are_current: false,
        };
        Ok(stream::unfold(Some(watch), |watch| async move {
            let mut watch = watch?;
            match watch.next().await {
                Ok(event) => Some((Ok(event), Some(watch))),
                Err(fault) => Some((Err(fault), None)),
            }
        })
        .boxed())
    }
}

struct Watch {
    link: Shared,
    beats: Reading,
    states: Reading,
    beats_are_current: bool,
    states_are_current: bool,
}

impl Watch {
    async fn next(&mut self) -> Result<RegistryEvent, Error> {
        loop {
            let was_current = self.beats_are_current && self.states_are_current;
            tokio::select! {
                item = self.beats.next() => match item? {
                    Item::Current => self.beats_are_current = true,
                    Item::Message(message, _) => match parse(&self.link, &message) {
                        // Markers of agents that were gone before the watcher came are no news.
                        Some(RegistryEvent::Left(_) | RegistryEvent::Silent(_)) if !self.beats_are_current => {}
                        Some(event) => return Ok(event),
                        None => {}
                    },
                },
                item = self.states.next() => match item? {
                    Item::Current => self.states_are_current = true,
                    Item::Message(message, _) => match from_json(&message.subject, &message.payload) {
                        Ok(state) => return Ok(RegistryEvent::State(state)),
                        Err(error) => tracing::error!(%error, "what an agent is to do cannot be read, and is passed over"),
                    },
                },
            }
            if !was_current && self.beats_are_current && self.states_are_current {
                return Ok(RegistryEvent::Current);
            }
        }
    }
}

fn parse(link: &Shared, message: &async_nats::jetstream::Message) -> Option<RegistryEvent> {
    let agent = link.layout.parse_heartbeat(&message.subject)?;
    let header = |name: &str| message.headers.as_ref().and_then(|headers| headers.get(name)).map(async_nats::HeaderValue::as_str);
    if header(OPERATION).is_some() {
        return Some(RegistryEvent::Left(agent));
    }
    if header(MARKER).is_some() || message.payload.is_empty() {
        return Some(RegistryEvent::Silent(agent));
    }
    from_json(&message.subject, &message.payload)
        .map(RegistryEvent::Beat)
        .inspect_err(|error| tracing::warn!(%error, "unreadable heartbeat"))
        .ok()
}

/// Distinguishes one heartbeat from the next with the same content.
fn moment() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}
