//! One pass over a stream: a consumer of its own, its messages in order, and an end at the first doubt.
//!
//! Written out rather than taken from the client, whose ordered consumer copies its whole context and reads the place three times for every
//! message (async-nats 0.51): a tenth of the time in which a controller that starts reads millions.

use std::time::Duration;

use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::{Message, StatusCode, Subscriber};
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use serde_json::json;

use super::link::Shared;
use crate::{Error, Revision};

/// Messages that one request asks for. The next is sent when half of them have come.
const ASKED: usize = 500;
/// How long a request waits for messages.
const WAITS: Duration = Duration::from_secs(30);
/// The broker's sign of life while a request waits.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Silence after which the broker has forgotten us.
const SILENCE_MAX: Duration = Duration::from_secs(25);

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) sequence: Revision,
    pub(super) stored_at: Timestamp,
    /// How many more there were when it was sent.
    pub(super) n_behind: u64,
}

/// A pass at work. Dropping it ends it; the broker forgets the consumer by itself.
pub(super) struct Pass {
    link: Shared,
    /// Where requests go, and where messages come.
    requests: String,
    inbox: String,
    messages: Subscriber,
    /// Messages that were asked for and have not come.
    n_asked: usize,
    /// The consumer's own count of the next message.
    next: u64,
    is_over: bool,
}

impl Pass {
    /// Begins one, and gives how many messages wait.
    pub(super) async fn begin(link: &Shared, stream: &str, config: OrderedConfig) -> Result<(Self, u64), Error> {
        const DOING: &str = "opening a reader";
        let consumer = link.stream(stream, DOING).await?.create_consumer(config).await.map_err(|fault| Error::unavailable(DOING, fault))?;
        let info = consumer.cached_info();
        let inbox = link.client.new_inbox();
        let messages = link.client.subscribe(inbox.clone()).await.map_err(|fault| Error::unavailable(DOING, fault))?;
        let requests = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{}", info.name);
        Ok((Self { link: link.clone(), requests, inbox, messages, n_asked: 0, next: 1, is_over: false }, info.num_pending))
    }

    /// The next message; `None` at the end of the pass. Cancelled, it is to be given up.
    pub(super) async fn next(&mut self) -> Option<(Message, Place)> {
        while !self.is_over {
            if self.is_short() {
                let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
                let request = json!({ "batch": ASKED, "expires": nanos(WAITS), "idle_heartbeat": nanos(HEARTBEAT) }).to_string();
                self.link.client.publish_with_reply(self.requests.clone(), self.inbox.clone(), request.into()).await.ok()?;
                self.n_asked += ASKED;
            }
            let message = tokio::time::timeout(SILENCE_MAX, self.messages.next()).await.ok()??;
            if let Some(taken) = self.take(message) {
                return Some(taken);
            }
        }
        None
    }

    /// The next message, if it has come already and no request is due.
    pub(super) fn next_here(&mut self) -> Option<(Message, Place)> {
        while !self.is_over && !self.is_short() {
            let message = self.messages.next().now_or_never()??;
            if let Some(taken) = self.take(message) {
                return Some(taken);
            }
        }
        None
    }

    fn is_short(&self) -> bool {
        self.n_asked <= ASKED / 2
    }

    /// A message with its place; `None` where the broker only says something, which may be the end of the pass.
    fn take(&mut self, message: Message) -> Option<(Message, Place)> {
        match message.status {
            None | Some(StatusCode::OK) => match message.reply.as_deref().and_then(place) {
                Some((place, count)) if count == self.next => {
                    self.next += 1;
                    self.n_asked = self.n_asked.saturating_sub(1);
                    return Some((message, place));
                }
                // One is missing, or came twice.
                Some(_) | None => self.is_over = true,
            },
            Some(StatusCode::IDLE_HEARTBEAT) => {}
            // A request's time is up: so many of its messages will not come.
            Some(StatusCode::TIMEOUT) => {
                let left = message.headers.as_ref().and_then(|headers| headers.get("Nats-Pending-Messages"));
                let left = left.and_then(|left| left.as_str().parse().ok()).unwrap_or(ASKED);
                self.n_asked = self.n_asked.saturating_sub(left);
            }
            // The consumer is gone, or the stream has another leader.
            Some(_) => self.is_over = true,
        }
        None
    }
}

/// What the broker says of a message in its reply subject, and the consumer's count of it:
/// `$JS.ACK.[DOMAIN.ACCOUNT.]STREAM.CONSUMER.DELIVERED.SEQUENCE.COUNT.NANOSECONDS.BEHIND[.…]`
fn place(reply: &str) -> Option<(Place, u64)> {
    let n_tokens = reply.bytes().filter(|byte| *byte == b'.').count() + 1;
    let mut tokens = reply.strip_prefix("$JS.ACK.")?.split('.').skip(if n_tokens >= 11 { 5 } else { 3 });
    let sequence = tokens.next()?.parse().ok()?;
    let count = tokens.next()?.parse().ok()?;
    let stored_at = Timestamp::from_nanosecond(tokens.next()?.parse::<i64>().ok()?.into()).ok()?;
    let n_behind = tokens.next()?.parse().ok()?;
    Some((Place { sequence, stored_at, n_behind }, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_from_both_forms_of_the_reply_subject() {
        let stored_at = Timestamp::from_nanosecond(1_700_000_000_000_000_001).unwrap();
        let expected = Some((Place { sequence: 7, stored_at, n_behind: 12 }, 5));
        assert_eq!(place("$JS.ACK.KV_jobs.c1.1.7.5.1700000000000000001.12"), expected);
        assert_eq!(place("$JS.ACK.hub.ACC.KV_jobs.c1.1.7.5.1700000000000000001.12"), expected);
        assert_eq!(place("$JS.ACK.hub.ACC.KV_jobs.c1.1.7.5.1700000000000000001.12.random"), expected);
        for other in ["", "$JS.ACK.", "_INBOX.1", "$JS.ACK.KV_jobs.c1.1.7.5.x.12", "$JS.ACK.KV_jobs.c1.1.7.5.1700000000000000001"] {
            assert_eq!(place(other), None, "{other}");
        }
    }
}
