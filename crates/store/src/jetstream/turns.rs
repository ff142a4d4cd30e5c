//! Turns in a bucket of their own: a key for each who waits, and one for who has the turn. The order is that of the bucket.

use async_nats::HeaderMap;
use async_nats::jetstream::stream::Stream;
use async_trait::async_trait;
use bytes::Bytes;
use longshore_model::JobId;
use longshore_model::wire::turn::{Hold, Waiter};

use super::link::{Guard, Shared, Written, from_json, to_json};
use super::read::Stored;
use crate::{Error, Revision, Turn, Turns, WaiterPage};

const READING: &str = "reading who waits for a turn";
/// What is stored of a turn that nobody has.
const FREE: &[u8] = b"null";

pub(super) struct JetStreamTurns {
    link: Shared,
    stream: Stream<()>,
    name: String,
}

impl JetStreamTurns {
    pub(super) async fn open(link: Shared) -> Result<Self, Error> {
        let name = link.layout.turn_stream();
        let stream = link.stream(&name, "opening the turns").await?;
        Ok(Self { link, stream, name })
    }

    async fn put(&self, subject: String, value: Bytes, after: Revision, doing: &'static str) -> Result<Option<Revision>, Error> {
        match self.link.write(subject.clone(), value.clone(), HeaderMap::new(), Guard::Last(&subject, after), doing).await? {
            Written::Stored(revision) => Ok(Some(revision)),
            // Our own earlier try may be what stands in the way.
            Written::Guarded => {
                let found = self.link.read_last(&self.stream, &subject, READING).await?;
                Ok(found.filter(|message| message.payload == value && message.sequence > after).map(|message| message.sequence))
            }
        }
    }
}

#[async_trait]
impl Turns for JetStreamTurns {
    async fn enter(&self, waiter: &Waiter) -> Result<(), Error> {
        let subject = self.link.layout.waiter(&waiter.key, waiter.job);
        let value = to_json(waiter, "waiter")?;
        self.link.write(subject, value, HeaderMap::new(), Guard::Absent, "queueing for a turn").await.map(|_| ())
    }

    async fn waiting(&self, key: &str) -> Result<Vec<Waiter>, Error> {
        let stored = self.link.read_all(&self.name, &self.link.layout.waiters(key), READING).await?;
        Ok(stored.iter().filter_map(readable).collect())
    }

    async fn page(&self, after: Revision) -> Result<WaiterPage, Error> {
        let page = self.link.read_page(&self.name, &self.link.layout.all_waiters(), after, READING).await?;
        let next = page.next();
        let items = page.messages.iter().filter_map(|message| Some((message.sequence, readable(message)?))).collect();
        Ok(WaiterPage { items, next })
    }

    async fn leave(&self, key: &str, job: JobId) -> Result<(), Error> {
        self.link.purge(&self.stream, &self.link.layout.waiter(key, job), "leaving the queue for a turn").await
    }

    async fn turn(&self, key: &str) -> Result<Turn, Error> {
        let subject = self.link.layout.turn(key);
        let Some(message) = self.link.read_last(&self.stream, &subject, READING).await? else { return Ok(Turn::default()) };
        Ok(Turn { hold: from_json(&subject, &message.payload)?, revision: message.sequence })
    }

    async fn take(&self, key: &str, hold: &Hold, after: Revision) -> Result<Option<Revision>, Error> {
        self.put(self.link.layout.turn(key), to_json(hold, "turn")?, after, "taking a turn").await
    }

    async fn release(&self, key: &str, held: Revision) -> Result<(), Error> {
        self.put(self.link.layout.turn(key), Bytes::from_static(FREE), held, "ending a turn").await.map(|_| ())
    }
}

/// Who waits by a record. One that cannot be read must not keep the others waiting.
fn readable(message: &Stored) -> Option<Waiter> {
    from_json(&message.subject, &message.payload)
        .inspect_err(|error| tracing::error!(%error, "who waits for a turn cannot be read, and is passed over"))
        .ok()
}
