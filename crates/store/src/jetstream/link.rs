//! The connection, and the two things every store does with it: a write that takes effect once, and a read through the leader.

use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use async_nats::{HeaderMap, HeaderName};
use bytes::Bytes;
use longshore_model::limits::RECORD_BYTES_MAX;
use longshore_model::wire::read::read_text;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::mux::Mux;
use crate::layout::Layout;
use crate::{Error, Revision};

/// How long one try of a write waits for its acknowledgement.
pub(super) const TRY: Duration = Duration::from_millis(1500);
/// How long a write is tried before its outcome is reported as unknown. Callers that must know go on trying.
const BUDGET: Duration = Duration::from_secs(4);
/// Between tries while the broker is there but its streams are not yet.
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes of a message that are left to its headers, which the broker counts as well.
const HEADER_BYTES_MAX: usize = 4 * 1024;
/// The broker's codes for a limit that is reached: of a stream's bytes, of an account's, of the server's storage.
const FULL: [u64; 3] = [10077, 10047, 10023];
/// The broker's code for "message size exceeds maximum".
const TOO_LARGE: u64 = 10054;
/// The broker's codes for faults that pass: JetStream is not there at the moment, or the cluster has no leader.
const PASSING: [u64; 2] = [10008, 10167];
/// The header that says under which filter the guarded sequence is the last.
const EXPECTED_LAST_UNDER: HeaderName = HeaderName::from_static("Nats-Expected-Last-Subject-Sequence-Subject");
/// "Wrong last sequence" in the form that names no sequence.
const WRONG_LAST_SEQUENCE: u64 = 10164;

/// One connection with all names; shared by the stores.
pub(super) struct Link {
    pub(super) client: async_nats::Client,
    pub(super) context: Context,
    pub(super) layout: Layout,
    pub(super) config: super::Config,
    pub(super) reconnects: broadcast::Sender<()>,
    pub(super) mux: Mux,
}

/// What became of a guarded write.
pub(super) enum Written {
    Stored(Revision),
    /// The guard did not hold.
    Guarded,
}

/// What a write demands of the stream.
pub(super) enum Guard<'a> {
    /// Nothing is stored under the subject itself.
    Absent,
    /// The newest message under this filter has this sequence.
    Last(&'a str, Revision),
}

impl Link {
    /// Whether there is a connection at the moment.
    pub(super) fn is_up(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Bytes of the largest record that this broker takes.
    pub(super) fn record_bytes_max(&self) -> usize {
        RECORD_BYTES_MAX.min(self.client.max_payload().saturating_sub(HEADER_BYTES_MAX))
    }

    /// Publishes under a guard and waits until the stream has it. The guard also keeps a repeat from taking effect twice: the broker looks
    /// at it before any message id, so what it refuses may be the caller's own earlier try.
    pub(super) async fn write(
        &self,
        subject: String,
        value: Bytes,
        headers: HeaderMap,
        guard: Guard<'_>,
        doing: &'static str,
    ) -> Result<Written, Error> {
        let headers = || {
            let mut headers = headers.clone();
            match guard {
                Guard::Absent => headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0"),
                Guard::Last(filter, revision) => {
                    headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, revision.to_string());
                    headers.insert(EXPECTED_LAST_UNDER, filter);
                }
            }
            headers
        };
        self.publish(subject, value, headers, doing).await
    }

    /// Publishes under a message id and waits until the stream has it. Repeats have that id, so that it takes effect once. Gives its place.
    pub(super) async fn write_as(
        &self,
        id: String,
        subject: String,
        value: Bytes,
        headers: HeaderMap,
        doing: &'static str,
    ) -> Result<Revision, Error> {
        let headers = || {
            let mut headers = headers.clone();
            headers.insert(async_nats::header::NATS_MESSAGE_ID, id.as_str());
            headers
        };
        match self.publish(subject, value, headers, doing).await? {
            Written::Stored(place) => Ok(place),
            Written::Guarded => Err(Error::Refused { doing, reason: "the broker saw a guard where there was none".into() }),
        }
    }

    /// With `headers` made for each try: most writes need one, and a copy costs as much as the map.
    async fn publish(&self, subject: String, value: Bytes, headers: impl Fn() -> HeaderMap, doing: &'static str) -> Result<Written, Error> {
        let max = self.record_bytes_max();
        if value.len() > max {
            return Err(Error::TooLarge { bytes: value.len(), max });
        }
        let deadline = Instant::now() + BUDGET;
        loop {
            let fault = match self.try_write(subject.clone(), value.clone(), headers()).await {
                Ok(ack) => return Ok(Written::Stored(ack.sequence)),
                Err(fault) => fault,
            };
            match fault.kind() {
                PublishErrorKind::WrongLastSequence | PublishErrorKind::WrongLastMessageId => return Ok(Written::Guarded),
                PublishErrorKind::MaxPayloadExceeded => return Err(Error::TooLarge { bytes: value.len(), max }),
                PublishErrorKind::Other => match code_of(&fault) {
                    Some(WRONG_LAST_SEQUENCE) => return Ok(Written::Guarded),
                    Some(TOO_LARGE) => return Err(Error::TooLarge { bytes: value.len(), max }),
                    Some(code) if FULL.contains(&code) => return Err(Error::Full { store: store_of(&subject) }),
                    Some(code) if !PASSING.contains(&code) => return Err(Error::Refused { doing, reason: reason_of(&fault) }),
                    Some(_) | None if Instant::now() >= deadline => return Err(Error::unavailable(doing, fault)),
                    Some(_) | None => tokio::time::sleep(PAUSE).await,
                },
                PublishErrorKind::StreamNotFound
                | PublishErrorKind::TimedOut
                | PublishErrorKind::BrokenPipe
                | PublishErrorKind::MaxAckPending => {
                    if Instant::now() >= deadline {
                        return Err(Error::unavailable(doing, fault));
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn try_write(
        &self,
        subject: String,
        value: Bytes,
        headers: HeaderMap,
    ) -> Result<async_nats::jetstream::publish::PublishAck, PublishError> {
        // While disconnected the client would keep the message and send it whenever it is back: after we said that we do not know.
        if !self.is_up() {
            return Err(PublishError::new(PublishErrorKind::BrokenPipe));
        }
        self.context.publish_with_headers(subject, headers, value).await?.await
    }

    /// The next message under `filter` at or after `sequence`, as the stream's leader has it.
    pub(super) async fn read_next(
        &self,
        stream: &Stream<()>,
        filter: &str,
        sequence: u64,
        doing: &'static str,
    ) -> Result<Option<Stored>, Error> {
        self.read(doing, || stream.raw_message_builder().sequence(sequence).next_by_subject(filter).send()).await
    }

    /// The newest message under `filter`, as the stream's leader has it.
    pub(super) async fn read_last(&self, stream: &Stream<()>, filter: &str, doing: &'static str) -> Result<Option<Stored>, Error> {
        self.read(doing, || stream.get_last_raw_message_by_subject(filter)).await
    }

    async fn read<F>(&self, doing: &'static str, request: impl Fn() -> F) -> Result<Option<Stored>, Error>
    where
        F: Future<Output = Result<Stored, async_nats::jetstream::stream::RawMessageError>>,
    {
        let deadline = Instant::now() + BUDGET;
        loop {
            let fault = match request().await {
                Ok(message) => return Ok(Some(message)),
                Err(fault) => fault,
            };
            match fault.kind() {
                RawMessageErrorKind::NoMessageFound => return Ok(None),
                RawMessageErrorKind::InvalidSubject => return Err(Error::Refused { doing, reason: "invalid subject".into() }),
                RawMessageErrorKind::JetStream(_) | RawMessageErrorKind::Other => {
                    if Instant::now() >= deadline {
                        return Err(Error::unavailable(doing, fault));
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// A handle to a stream, without asking the broker.
    pub(super) async fn stream(&self, name: &str, doing: &'static str) -> Result<Stream<()>, Error> {
        self.context.get_stream_no_info(name).await.map_err(|fault| Error::unavailable(doing, fault))
    }

    /// Removes everything under `filter`.
    pub(super) async fn purge(&self, stream: &Stream<()>, filter: &str, doing: &'static str) -> Result<(), Error> {
        self.purge_until(stream, filter, None, doing).await
    }

    /// Removes what is under `filter`, up to the sequence `last` if it is given.
    pub(super) async fn purge_until(
        &self,
        stream: &Stream<()>,
        filter: &str,
        last: Option<Revision>,
        doing: &'static str,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + BUDGET;
        loop {
            let purged = match last {
                None => stream.purge().filter(filter).await,
                Some(last) => stream.purge().filter(filter).sequence(last + 1).await,
            };
            match purged {
                Ok(_) => return Ok(()),
                Err(fault) if Instant::now() >= deadline => return Err(Error::unavailable(doing, fault)),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

pub(super) type Stored = async_nats::jetstream::message::StreamMessage;

/// Shared ownership of the connection.
pub(super) type Shared = Arc<Link>;

fn broker_error(fault: &PublishError) -> Option<&async_nats::jetstream::Error> {
    std::error::Error::source(fault).and_then(|source| source.downcast_ref())
}

fn code_of(fault: &PublishError) -> Option<u64> {
    broker_error(fault).map(|error| error.error_code().0)
}

fn reason_of(fault: &PublishError) -> String {
    broker_error(fault).map_or_else(|| fault.to_string(), ToString::to_string)
}

/// The bucket of a key's subject, or the subject's first token.
fn store_of(subject: &str) -> String {
    let key = subject.strip_prefix("$KV.").or_else(|| subject.strip_prefix("$O.")).unwrap_or(subject);
    key.split('.').next().unwrap_or_default().to_owned()
}

/// Bytes that most records have room in.
const USUAL_BYTES: usize = 1024;

pub(super) fn to_json(value: &impl Serialize, what: &'static str) -> Result<Bytes, Error> {
    let mut bytes = Vec::with_capacity(USUAL_BYTES);
    serde_json::to_writer(&mut bytes, value).map_err(|source| Error::Corrupt { key: what.to_owned(), source: Box::new(source) })?;
    Ok(bytes.into())
}

pub(super) fn from_json<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, Error> {
    read_text(value).map_err(|source| Error::Corrupt { key: key.to_owned(), source: Box::new(source) })
}

pub(super) fn timestamp(time: impl Into<std::time::SystemTime>) -> jiff::Timestamp {
    jiff::Timestamp::try_from(time.into()).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}
