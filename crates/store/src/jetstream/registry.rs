//! Heartbeats in a bucket whose entries expire, and whose expiry is told.

use async_nats::HeaderMap;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use longshore_model::AgentId;
use longshore_model::wire::agent::{AgentState, FleetRevision, Heartbeat};

use super::link::{Guard, Shared, Written, from_json, to_json};
use super::tail::{From, Item, Reading, Tail};
use crate::layout::Layout;
use crate::{Error, Newest, Registry, RegistryEvent, RegistryItem, RegistryStream, Revision};

const TTL: &str = "Nats-TTL";
const OPERATION: &str = "KV-Operation";
const MARKER: &str = "Nats-Marker-Reason";
/// Beside [`OPERATION`]: the agent did not just leave.
const REMOVED: &str = "Longshore-Removed";

pub(super) struct JetStreamRegistry {
    link: Shared,
}

impl JetStreamRegistry {
    pub(super) fn new(link: Shared) -> Self {
        Self { link }
    }

    /// A heartbeat is a plain publish with a time to live: the client's `create` would drop that over an expiry marker.
    fn lifetime(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(TTL, format!("{}s", self.link.config.registry.ttl.as_secs().max(1)));
        headers
    }

    /// Puts the end of its life in the place of an agent's heartbeat, for watchers; it stays for a minute.
    async fn end(&self, agent: AgentId, how: &str, mut headers: HeaderMap, doing: &'static str) -> Result<(), Error> {
        headers.insert(OPERATION, "PURGE");
        headers.insert("Nats-Rollup", "sub");
        headers.insert(TTL, "60s");
        let subject = self.link.layout.heartbeat(agent);
        let id = format!("{subject} {how} {}", moment());
        self.link.write_as(id, subject, Bytes::new(), headers, doing).await?;
        Ok(())
    }
}

#[async_trait]
impl Registry for JetStreamRegistry {
    async fn beat(&self, heartbeat: &Heartbeat) -> Result<(), Error> {
        let headers = self.lifetime();
        let subject = self.link.layout.heartbeat(heartbeat.agent);
        let id = format!("{subject} {}", moment());
        self.link.write_as(id, subject, to_json(heartbeat, "heartbeat")?, headers, "sending a heartbeat").await?;
        Ok(())
    }

    async fn beat_after(&self, heartbeat: &Heartbeat, after: Revision) -> Result<Option<Revision>, Error> {
        let subject = self.link.layout.heartbeat(heartbeat.agent);
        let guard = Guard::Last(&subject, after);
        match self.link.write(subject.clone(), to_json(heartbeat, "heartbeat")?, self.lifetime(), guard, "sending a heartbeat").await? {
            Written::Stored(revision) => Ok(Some(revision)),
            Written::Guarded => Ok(None),
        }
    }

    async fn newest(&self, agent: AgentId) -> Result<Newest, Error> {
        const DOING: &str = "reading an agent's heartbeat";
        let stream = self.link.stream(&Layout::bucket_stream(&self.link.layout.registry_bucket), DOING).await?;
        let subject = self.link.layout.heartbeat(agent);
        let Some(message) = self.link.read_last(&stream, &subject, DOING).await? else {
            return Ok(Newest { revision: 0, heartbeat: None });
        };
        let is_marker = message.payload.is_empty() || message.headers.get(OPERATION).is_some();
        let heartbeat = if is_marker { None } else { Some(from_json(&subject, &message.payload)?) };
        Ok(Newest { revision: message.sequence, heartbeat })
    }

    async fn leave(&self, agent: AgentId) -> Result<(), Error> {
        self.end(agent, "left", HeaderMap::new(), "leaving the registry").await
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

    async fn states_of(&self, agent: AgentId) -> Result<Vec<AgentState>, Error> {
        let stream = Layout::bucket_stream(&self.link.layout.state_bucket);
        let stored = self.link.read_all(&stream, &self.link.layout.state(agent), "reading what was wanted of an agent").await?;
        stored.iter().rev().map(|message| from_json(&message.subject, &message.payload)).collect()
    }

    async fn forget(&self, agent: AgentId) -> Result<(), Error> {
        const DOING: &str = "removing an agent";
        let layout = &self.link.layout;
        for (bucket, keys) in [
            (&layout.state_bucket, layout.state(agent)),
            (&layout.facts_bucket, layout.facts(agent)),
            (&layout.inbox_bucket, layout.inbox(agent)),
        ] {
            let stream = self.link.stream(&Layout::bucket_stream(bucket), DOING).await?;
            self.link.purge(&stream, &keys, DOING).await?;
        }
        let mut headers = HeaderMap::new();
        headers.insert(REMOVED, "true");
        self.end(agent, "removed", headers, DOING).await
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
            seen: FleetRevision::default(),
        };
        Ok(stream::unfold(Some(watch), |watch| async move {
            let mut watch = watch?;
            match watch.next().await {
                Ok(event) => Some((Ok(RegistryItem { event, seen: watch.seen }), Some(watch))),
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
    seen: FleetRevision,
}

impl Watch {
    async fn next(&mut self) -> Result<RegistryEvent, Error> {
        loop {
            let was_current = self.beats_are_current && self.states_are_current;
            tokio::select! {
                item = self.beats.next() => match item? {
                    Item::Current => self.beats_are_current = true,
                    Item::Message(message, place) => {
                        self.seen.heartbeats = place.sequence;
                        match parse(&self.link, &message) {
                            // Markers of agents that were gone before the watcher came are no news.
                            Some(RegistryEvent::Left(_) | RegistryEvent::Silent(_) | RegistryEvent::Removed(_))
                                if !self.beats_are_current => {}
                            Some(event) => return Ok(event),
                            None => {}
                        }
                    }
                },
                item = self.states.next() => match item? {
                    Item::Current => self.states_are_current = true,
                    Item::Message(message, place) => {
                        self.seen.states = place.sequence;
                        match from_json(&message.subject, &message.payload) {
                            Ok(state) => return Ok(RegistryEvent::State(state)),
                            Err(error) => tracing::error!(%error, "what an agent is to do cannot be read, and is passed over"),
                        }
                    }
                },
            }
            if !was_current && self.beats_are_current && self.states_are_current {
                return Ok(RegistryEvent::Current);
            }
        }
    }
}

fn parse(link: &Shared, message: &async_nats::Message) -> Option<RegistryEvent> {
    let agent = link.layout.parse_heartbeat(&message.subject)?;
    let header = |name: &str| message.headers.as_ref().and_then(|headers| headers.get(name)).map(async_nats::HeaderValue::as_str);
    if header(REMOVED).is_some() {
        return Some(RegistryEvent::Removed(agent));
    }
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
pub(super) fn moment() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}
