//! How a message becomes a delivery, and the claim on it: what extends it, ends it, gives it back, and says whose claim is over.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{Consumer, pull};
use async_nats::jetstream::message::Acker;
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self, AckKind};
use async_nats::{HeaderMap, HeaderName, Request};
use async_trait::async_trait;
use bytes::Bytes;
use longshore_model::Label;
use longshore_model::wire::record::Definition;
use tokio::time::Instant;

use super::consumers::Consumers;
use super::digest;
use super::link::{Shared, from_json};
use super::offered::{Life, Offered, life};
use crate::{Before, Delivery, Error, Lease, Revision};

/// The ledger's revision of a definition that was announced again.
pub(super) const REVISION: HeaderName = HeaderName::from_static("Longshore-Revision");
/// How far whoever announced it again had read its history.
pub(super) const SEEN: HeaderName = HeaderName::from_static("Longshore-Seen");
/// The last delivery of the message that this one takes the place of.
const AFTER: HeaderName = HeaderName::from_static("Longshore-After");
/// What removed a key of a bucket, if that is what its record says.
const KV_OPERATION: HeaderName = HeaderName::from_static("KV-Operation");
/// Where a message was sourced from.
const SOURCE: HeaderName = HeaderName::from_static("Nats-Stream-Source");

/// A shared consumer, as it was known when work was asked for.
pub(super) struct Queue {
    consumers: Arc<Consumers>,
    group: Option<Label>,
    life: Life,
}

impl Queue {
    /// Where a consumer's deliveries come from.
    pub(super) fn new(consumers: &Arc<Consumers>, group: Option<&Label>, consumer: &Consumer<pull::Config>) -> Arc<Self> {
        Arc::new(Self { consumers: consumers.clone(), group: group.cloned(), life: life(consumer.cached_info()) })
    }

    /// Whether the consumer has forgotten nothing since.
    async fn is_as_it_was(&self) -> Result<bool, Error> {
        self.consumers.still_lives(self.group.as_ref(), self.life).await
    }
}

/// What a message of the work queue offers, if it is work and can be read.
pub(super) async fn delivery(queue: Arc<Queue>, message: jetstream::Message) -> Option<Delivery> {
    let (delivered, offered) = match message.info() {
        Ok(info) => {
            let offered = Offered { message: info.stream_sequence, number: info.consumer_sequence, life: queue.life };
            (info.delivered, Some(offered))
        }
        Err(_) => (1, None),
    };
    let headers = message.headers.clone().unwrap_or_default();
    let seen = headers.get(SEEN).and_then(|seen| seen.as_str().parse().ok());
    let before = match seen {
        Some(seen) => Before::Announcement(seen),
        None if delivered <= 1 && headers.get(REVISION).is_none() => Before::Nothing,
        None => Before::Offers,
    };
    let revision = revision_of(&headers);
    let token = message.reply.as_ref().map(ToString::to_string);
    // The broker will not offer it again by itself: giving it back takes a new message.
    let max_deliver = queue.consumers.link().config.consumer.max_deliver;
    let is_last = max_deliver > 0 && delivered >= max_deliver;
    let (message, acker) = message.split();
    if headers.get(KV_OPERATION).is_some() {
        // A marker of a removed key came through the source: nothing to do.
        let _ = acker.ack().await;
        return None;
    }
    if !digest::is_whole(&headers, &message.payload) {
        tracing::error!(subject = %message.subject, "work that is not what was accepted is taken out of the queue; the job is announced again");
        let _ = acker.ack_with(AckKind::Term).await;
        return None;
    }
    let definition = from_json::<Definition>(&message.subject, &message.payload);
    let (Ok(definition), Some(revision)) = (definition, revision) else {
        tracing::error!(subject = %message.subject, "unreadable work taken out of the queue");
        let _ = acker.ack_with(AckKind::Term).await;
        return None;
    };
    let again = is_last.then(|| Again { subject: message.subject.to_string(), value: message.payload.clone(), revision, seen });
    let after = headers.get(AFTER).and_then(|after| after.as_str().parse().ok());
    let lease = QueueLease { queue, acker, token, again, offered, after };
    Some(Delivery { definition, revision, before, received: Instant::now(), lease: Box::new(lease) })
}

/// The definition's place in the ledger: what the broker notes when it sources, or what we noted when we announced again.
pub(super) fn revision_of(headers: &HeaderMap) -> Option<Revision> {
    let announced = headers.get(REVISION).map(async_nats::HeaderValue::as_str);
    let sourced = headers.get(SOURCE).and_then(|source| source.as_str().split(' ').nth(1));
    announced.or(sourced)?.parse().ok()
}

struct QueueLease {
    queue: Arc<Queue>,
    acker: Acker,
    token: Option<String>,
    /// What is written in the place of the message, if this was the last time that the broker offered it.
    again: Option<Again>,
    offered: Option<Offered>,
    /// The last delivery of the message whose place this one has taken.
    after: Option<Offered>,
}

struct Again {
    subject: String,
    value: Bytes,
    revision: Revision,
    seen: Option<Revision>,
}

#[async_trait]
impl Lease for QueueLease {
    async fn extend(&self) -> Result<(), Error> {
        let Some(subject) = self.token.clone() else { return Ok(()) };
        let request = Request::new().payload(AckKind::Progress.into()).timeout(Some(super::link::TRY));
        let client = &self.queue.consumers.link().client;
        client.send_request(subject, request).await.map_err(|fault| Error::unavailable("extending a claim", fault))?;
        Ok(())
    }

    /// Without waiting for the broker: an end that is lost costs one look at a finished job, waiting would cost every job a round trip.
    async fn done(&self) -> Result<(), Error> {
        self.acker.ack().await.map_err(|fault| Error::Unavailable { doing: "ending a claim", source: Some(fault) })
    }

    async fn give_back(&self, delay: Duration) -> Result<(), Error> {
        let link = self.queue.consumers.link();
        if let Some(Again { subject, value, revision, seen }) = &self.again {
            // Without the delay: whoever takes it reads in the ledger that it is too early, and gives it back with one.
            let mut headers = digest::sealed(value);
            headers.insert(REVISION, revision.to_string());
            if let Some(seen) = seen {
                headers.insert(SEEN, seen.to_string());
            }
            if let Some(offered) = self.offered {
                headers.insert(AFTER, offered.to_string());
            }
            link.write_as(unique(subject), subject.clone(), value.clone(), headers, "giving work back").await?;
            return self.done().await;
        }
        let delay = (!delay.is_zero()).then_some(delay);
        self.acker
            .ack_with(AckKind::Nak(delay))
            .await
            .map_err(|fault| Error::Unavailable { doing: "giving work back", source: Some(fault) })?;
        link.client.flush().await.map_err(|fault| Error::unavailable("giving work back", fault))
    }

    fn token(&self) -> Option<String> {
        self.token.clone()
    }

    fn delivery(&self) -> Option<String> {
        self.offered.map(|offered| offered.to_string())
    }

    async fn follows(&self, earlier: &str) -> Result<bool, Error> {
        let Ok(earlier) = earlier.parse::<Offered>() else { return Ok(false) };
        if earlier.life != self.queue.life {
            // One of the two is of a life that is over. If it is ours, what is offered next shall not be.
            self.queue.is_as_it_was().await?;
            return Ok(false);
        }
        let is_repeat = self.offered.is_some_and(|offered| offered.repeats(earlier));
        // What the other message was last delivered as, its holder gave back.
        let takes_its_place = self.after.is_some_and(|last| last == earlier || last.repeats(earlier));
        if is_repeat || takes_its_place { self.queue.is_as_it_was().await } else { Ok(false) }
    }
}

/// The claim on an inbox entry.
pub(super) struct InboxLease {
    pub(super) link: Shared,
    pub(super) inbox: Stream<()>,
    pub(super) key: String,
}

#[async_trait]
impl Lease for InboxLease {
    async fn extend(&self) -> Result<(), Error> {
        // Nobody else is ever offered what is in this inbox.
        Ok(())
    }

    async fn done(&self) -> Result<(), Error> {
        self.link.purge(&self.inbox, &self.key, "clearing an inbox entry").await
    }

    async fn give_back(&self, _delay: Duration) -> Result<(), Error> {
        // The key stays where it is; the agent reads its inbox again.
        Ok(())
    }

    fn token(&self) -> Option<String> {
        None
    }

    fn delivery(&self) -> Option<String> {
        None
    }

    async fn follows(&self, _earlier: &str) -> Result<bool, Error> {
        Ok(false)
    }
}

/// Tells a write that is repeated on purpose from one that is sent twice.
pub(super) fn unique(subject: &str) -> String {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    format!("{subject} {nanos}")
}
