//! One request in our hands, and the broker's promise not to hand it to anybody else for a while.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::stream::RawMessageErrorKind;
use bytes::Bytes;
use longshore_model::wire::stand_alone::Asked;

use super::Requests;
use crate::Error;
use crate::jetstream::connect::parse_version;
use crate::jetstream::link::{TRY, timestamp};

/// The first server that takes a reason for a refusal; others would not understand the word.
const TAKES_REASONS: (u64, u64, u64) = (2, 10, 4);
/// Bytes of a reason.
const REASON_BYTES_MAX: usize = 512;

/// A request. Dropping it changes nothing: the broker offers it again when the claim has run out.
pub struct Request {
    requests: Requests,
    payload: Bytes,
    asked: Asked,
    delivered: u32,
    token: String,
}

impl Request {
    pub(super) fn new(requests: Requests, message: jetstream::Message) -> Self {
        let (asked, delivered) = match message.info() {
            Ok(info) => {
                let asked = Asked {
                    stream: info.stream.to_owned(),
                    sequence: info.stream_sequence,
                    stored_at: timestamp(std::time::SystemTime::from(info.published)),
                };
                (asked, u32::try_from(info.delivered).unwrap_or(u32::MAX))
            }
            // Nobody but the broker sends to our inbox; what has no place in a stream equals nothing that is stored.
            Err(_) => (Asked { stream: String::new(), sequence: 0, stored_at: jiff::Timestamp::UNIX_EPOCH }, 1),
        };
        let token = message.reply.as_ref().map(ToString::to_string).unwrap_or_default();
        Self { requests, payload: message.message.payload, asked, delivered: delivered.max(1), token }
    }

    /// What was published.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Which message it is.
    #[must_use]
    pub fn asked(&self) -> &Asked {
        &self.asked
    }

    /// How often the broker has handed it out, from 1.
    #[must_use]
    pub fn delivered(&self) -> u32 {
        self.delivered
    }

    /// What [`Requests::give_back_left`] takes, if this process does not get to it.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Extends the claim, without waiting for the broker. Safe to repeat; does nothing while the broker is away.
    pub async fn extend(&self) {
        if self.requests.is_connected() {
            // The next one comes soon.
            let _lost = self.requests.0.client.publish(self.token.clone(), "+WPI".into()).await;
        }
    }

    /// Whether the broker still waits for an end of it: not if somebody else has ended it, after this claim had run out.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn is_open(&self) -> Result<bool, Error> {
        // All up to there were acknowledged.
        if self.requests.consumer().await?.ack_floor.stream_sequence >= self.asked.sequence {
            return Ok(false);
        }
        if !self.requests.0.forgets_what_is_done.load(Ordering::Relaxed) {
            return Ok(true);
        }
        match self.requests.stream().await?.get_raw_message(self.asked.sequence).await {
            Ok(_) => Ok(true),
            Err(fault) => match fault.kind() {
                RawMessageErrorKind::NoMessageFound => Ok(false),
                // Such as a user who may not read messages.
                RawMessageErrorKind::InvalidSubject | RawMessageErrorKind::JetStream(_) | RawMessageErrorKind::Other => Ok(true),
            },
        }
    }

    /// Ends the claim: done. Safe to repeat.
    ///
    /// # Errors
    /// The broker did not confirm it.
    pub async fn done(&self) -> Result<(), Error> {
        self.tell("+ACK".into(), "ending a claim").await
    }

    /// Ends the claim: never again, for that reason. Safe to repeat.
    ///
    /// # Errors
    /// The broker did not confirm it.
    pub async fn refuse(&self, reason: &str) -> Result<(), Error> {
        let version = parse_version(&self.requests.0.client.server_info().version);
        let word = if version >= TAKES_REASONS {
            let plain: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            format!("+TERM {}", &plain[..plain.floor_char_boundary(REASON_BYTES_MAX)])
        } else {
            "+TERM".to_owned()
        };
        self.tell(word, "refusing a request").await
    }

    /// Hands it back, to be offered again after `delay`.
    ///
    /// # Errors
    /// The broker did not confirm it: it is offered again when the claim has run out.
    pub async fn give_back(&self, delay: Duration) -> Result<(), Error> {
        let word = if delay.is_zero() { "-NAK".to_owned() } else { format!("-NAK {{\"delay\":{}}}", delay.as_nanos()) };
        self.tell(word, "giving a request back").await
    }

    async fn tell(&self, word: String, doing: &'static str) -> Result<(), Error> {
        if !self.requests.is_connected() {
            // It would be kept and sent whenever the broker is back: after we said that it was not.
            return Err(Error::Unavailable { doing, source: None });
        }
        let request = async_nats::Request::new().payload(word.into()).timeout(Some(TRY));
        let told = self.requests.0.client.send_request(self.token.clone(), request).await;
        told.map(drop).map_err(|fault| Error::unavailable(doing, fault))
    }
}

impl Requests {
    /// Whether a token is of a request that came from this queue.
    #[must_use]
    pub fn is_ours(&self, token: &str) -> bool {
        is_of(token, &self.0.config.stream, &self.0.config.consumer)
    }

    /// Hands back what another process held and did not get to. A token whose claim has run out changes nothing.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn give_back_left(&self, token: &str) -> Result<(), Error> {
        if !self.is_ours(token) {
            return Ok(());
        }
        let request = async_nats::Request::new().payload("-NAK".into()).timeout(Some(TRY));
        let told = self.0.client.send_request(token.to_owned(), request).await;
        told.map(drop).map_err(|fault| Error::unavailable("giving a request back", fault))
    }
}

/// `$JS.ACK.STREAM.CONSUMER.…`, or with a domain and an account before the stream. It comes from a file.
fn is_of(token: &str, stream: &str, consumer: &str) -> bool {
    let tokens: Vec<&str> = token.split('.').collect();
    let names = match tokens.as_slice() {
        ["$JS", "ACK", stream, consumer, _, _, _, _, _] => Some((stream, consumer)),
        ["$JS", "ACK", _, _, stream, consumer, _, _, _, _, _, ..] => Some((stream, consumer)),
        _ => None,
    };
    let is_plain = tokens.iter().all(|token| !token.is_empty() && *token != "*" && *token != ">" && !token.contains(char::is_whitespace));
    is_plain && names == Some((&stream, &consumer))
}

#[cfg(test)]
mod tests {
    use super::is_of;

    #[test]
    fn tokens_are_of_the_queue_they_name() {
        assert!(is_of("$JS.ACK.JOBS.w.1.17.3.1700000000000000000.0", "JOBS", "w"));
        assert!(is_of("$JS.ACK._.hash.JOBS.w.1.17.3.1700000000000000000.0.x", "JOBS", "w"));
        for token in [
            "",
            "jobs.pending",
            "$JS.ACK.JOBS.other.1.17.3.17.0",
            "$JS.ACK.OTHER.w.1.17.3.17.0",
            "$JS.ACK.JOBS.w.*.17.3.17.0",
            "$JS.ACK.JOBS.w.1.17.3.17.>",
            "$JS.ACK.JOBS.w",
            "$JS.API.STREAM.DELETE.JOBS",
        ] {
            assert!(!is_of(token, "JOBS", "w"), "{token}");
        }
    }
}
