//! Heartbeats in a bucket whose entries expire, and whose expiry is told.

use async_nats::HeaderMap;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use longshore_model::AgentId;
use longshore_model::wire::agent::Heartbeat;

use super::link::{Shared, from_json, to_json};
use super::tail::{From, Item, Tail};
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

    async fn watch(&self) -> Result<RegistryStream, Error> {
        let bucket = &self.link.layout.registry_bucket;
        let tail = Tail::open(self.link.clone(), Layout::bucket_stream(bucket), Layout::bucket_subjects(bucket), From::Newest).await?;
        let link = self.link.clone();
        Ok(stream::unfold(Some((tail, link, false)), |state| async move {
            let (mut tail, link, is_current) = state?;
            loop {
                match tail.next().await {
                    Ok(Item::Current) => return Some((Ok(RegistryEvent::Current), Some((tail, link, true)))),
                    Ok(Item::Message(message, _)) => match parse(&link, &message) {
                        // Markers of agents that were gone before the watcher came are no news.
                        Some(RegistryEvent::Left(_) | RegistryEvent::Silent(_)) if !is_current => {}
                        Some(event) => return Some((Ok(event), Some((tail, link, is_current)))),
                        None => {}
                    },
                    Err(fault) => return Some((Err(fault), None)),
                }
            }
        })
        .boxed())
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
