//! The ledger on two KV buckets.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use async_nats::jetstream::stream::Stream;
use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream;
use longshore_model::job::Shares;
use longshore_model::operation::{Kind, Operation};
use longshore_model::wire::record::{Answer, Definition, Event, Reservation};
use longshore_model::{AgentId, ExecutionId, JobId};

use super::digest;
use super::link::{Guard, Link, Shared, Written, from_json, to_json};
use super::read::Stored;
use crate::layout::{Layout, QueueKey};
use crate::{Answered, Appended, Created, Error, ExecutionRecord, JobRecord, Ledger, Revision};

/// Shares that are on their way to the broker at once.
const SHARES_AT_ONCE: usize = 256;
/// How often a key is reserved anew because what stood in the way was gone when it was looked at.
const RESERVE_TRIES: usize = 5;

pub(super) struct JetStreamLedger {
    link: Shared,
    queue: Stream<()>,
    responses: Stream<()>,
}

impl JetStreamLedger {
    pub(super) async fn open(link: Shared) -> Result<Self, Error> {
        let queue = link.stream(&Layout::bucket_stream(&link.layout.queue_bucket), "opening the ledger").await?;
        let responses = link.stream(&Layout::bucket_stream(&link.layout.response_bucket), "opening the ledger").await?;
        Ok(Self { link, queue, responses })
    }

    async fn history(&self, job: JobId) -> Result<Option<JobRecord>, Error> {
        let mut record: Option<JobRecord> = None;
        let mut shares = BTreeMap::new();
        let mut events = Vec::new();
        let stream = Layout::bucket_stream(&self.link.layout.queue_bucket);
        let (filter, mut next) = (self.link.layout.history(job), Some(0));
        // Page by page: the shares of a job for thousands have its arguments each, and of them only the places are kept.
        while let Some(after) = next {
            let page = self.link.read_page(&stream, &filter, after, "reading a job").await?;
            next = page.next();
            for message in page.messages {
                match self.link.layout.parse_queue_key(&message.subject) {
                    Some(QueueKey::Definition(_)) => {
                        if !digest::is_whole(&message.headers, &message.payload) {
                            return Err(Error::Corrupt {
                                key: message.subject,
                                source: "it is not what was accepted, by its digest".into(),
                            });
                        }
                        let definition = from_json(&message.subject, &message.payload)?;
                        record.get_or_insert(JobRecord::new(definition, message.sequence, message.time));
                    }
                    Some(QueueKey::Share(_, agent)) => {
                        shares.insert(agent.into(), message.sequence);
                    }
                    Some(QueueKey::Event(_, execution)) => {
                        events.push((message.sequence, execution, from_json(&message.subject, &message.payload)?));
                    }
                    None => {}
                }
            }
        }
        // Events without a definition are what a delete in progress has not reached yet.
        Ok(record.map(|record| JobRecord { events, shares, ..record }))
    }

    async fn answers(&self, job: JobId) -> Result<Vec<Answer>, Error> {
        let stream = Layout::bucket_stream(&self.link.layout.response_bucket);
        let messages = self.link.read_all(&stream, &self.link.layout.answers(job), "reading a job's answers").await?;
        messages.iter().map(|message| from_json(&message.subject, &message.payload)).collect()
    }
}

#[async_trait]
impl Ledger for JetStreamLedger {
    async fn create(&self, definition: &Definition) -> Result<Created, Error> {
        let subject = self.link.layout.definition(definition, kind_of(definition));
        let value = to_json(definition, "definition")?;
        match self.link.write(subject, value.clone(), digest::sealed(&value), Guard::Absent, "storing a job").await? {
            Written::Stored(revision) => {
                share(&self.link, definition, &definition.executions).await;
                Ok(Created::Stored(revision))
            }
            Written::Guarded => Ok(Created::Exists),
        }
    }

    async fn append(&self, job: JobId, execution: ExecutionId, after: Revision, event: &Event) -> Result<Appended, Error> {
        if after == 0 && execution == ExecutionId::Any {
            return Ok(Appended::Conflict);
        }
        // The guard spans the execution: a deleted one has no message at `after` any more, so nothing can be added to it.
        let filter = self.link.layout.execution(job, execution);
        let subject = self.link.layout.event(job, execution, after);
        let value = to_json(event, "event")?;
        match self.link.write(subject.clone(), value.clone(), HeaderMap::new(), Guard::Last(&filter, after), "recording an event").await? {
            Written::Stored(revision) => Ok(Appended::Stored(revision)),
            // Our own earlier try may be what stands in the way.
            Written::Guarded => match self.link.read_last(&self.queue, &subject, "reading an event").await? {
                Some(message) if message.payload == value => Ok(Appended::Stored(message.sequence)),
                Some(_) | None => Ok(Appended::Conflict),
            },
        }
    }

    async fn answer(&self, answer: &Answer) -> Result<Answered, Error> {
        let subject = self.link.layout.answer(answer.job, answer.execution);
        let value = to_json(answer, "answer")?;
        match self.link.write(subject, value, HeaderMap::new(), Guard::Absent, "storing an answer").await? {
            Written::Stored(_) => Ok(Answered::Stored),
            // Our own earlier try, or somebody else's?
            Written::Guarded if self.load_answer(answer.job, answer.execution).await?.as_ref() == Some(answer) => Ok(Answered::Stored),
            Written::Guarded => Ok(Answered::Exists),
        }
    }

    async fn load(&self, job: JobId) -> Result<Option<JobRecord>, Error> {
        let (history, answers) = tokio::try_join!(self.history(job), self.answers(job))?;
        Ok(history.map(|record| JobRecord { answers, ..record }))
    }

    async fn load_execution(&self, job: JobId, execution: ExecutionId) -> Result<Option<ExecutionRecord>, Error> {
        let stream = Layout::bucket_stream(&self.link.layout.queue_bucket);
        let filter = self.link.layout.execution(job, execution);
        let (messages, answer) =
            tokio::try_join!(self.link.read_all(&stream, &filter, "reading an execution"), self.load_answer(job, execution))?;
        let Some(revision) = messages.last().map(|last| last.sequence) else { return Ok(None) };
        let is_event = |message: &&Stored| matches!(self.link.layout.parse_queue_key(&message.subject), Some(QueueKey::Event(..)));
        let events =
            messages.iter().filter(is_event).map(|message| from_json(&message.subject, &message.payload)).collect::<Result<_, _>>()?;
        Ok(Some(ExecutionRecord { revision, events, answer }))
    }

    async fn load_answer(&self, job: JobId, execution: ExecutionId) -> Result<Option<Answer>, Error> {
        let subject = self.link.layout.answer(job, execution);
        let message = self.link.read_last(&self.responses, &subject, "reading an answer").await?;
        message.map(|message| from_json(&subject, &message.payload)).transpose()
    }

    async fn reserve(&self, key_hash: &str, reservation: &Reservation) -> Result<Reservation, Error> {
        if !longshore_model::operation::is_sha256(key_hash) {
            return Err(Error::Refused { doing: "reserving an idempotency key", reason: "the key was not hashed".into() });
        }
        const DOING: &str = "reserving an idempotency key";
        let subject = self.link.layout.idempotency(key_hash);
        let value = to_json(reservation, "reservation")?;
        for _ in 0..RESERVE_TRIES {
            match self.link.write(subject.clone(), value.clone(), HeaderMap::new(), Guard::Absent, DOING).await? {
                Written::Stored(_) => return Ok(reservation.clone()),
                Written::Guarded => {
                    if let Some(message) = self.link.read_last(&self.queue, &subject, DOING).await? {
                        return from_json(&subject, &message.payload);
                    }
                    // What stood there expired between the two. Only what is stored makes this submission the first.
                }
            }
        }
        Err(Error::Unavailable { doing: DOING, source: None })
    }

    async fn reserved(&self, key_hash: &str) -> Result<Option<Reservation>, Error> {
        let subject = self.link.layout.idempotency(key_hash);
        let message = self.link.read_last(&self.queue, &subject, "reading an idempotency key").await?;
        message.map(|message| from_json(&subject, &message.payload)).transpose()
    }

    async fn retire(&self, key_hash: &str, job: JobId) -> Result<(), Error> {
        const DOING: &str = "retiring an idempotency key";
        let subject = self.link.layout.idempotency(key_hash);
        while let Some(message) = self.link.read_last(&self.queue, &subject, DOING).await? {
            let reservation: Reservation = from_json(&subject, &message.payload)?;
            if reservation.job != job || reservation.deleted {
                break;
            }
            let value = to_json(&Reservation { deleted: true, ..reservation }, "reservation")?;
            match self.link.write(subject.clone(), value, HeaderMap::new(), Guard::Last(&subject, message.sequence), DOING).await? {
                Written::Stored(_) => break,
                // A reservation changes once: the next look finds it retired, or expired.
                Written::Guarded => {}
            }
        }
        Ok(())
    }

    async fn delete(&self, job: JobId) -> Result<(), Error> {
        // The history first: broken off in between, a history without its answers would look like unfinished work.
        self.link.purge(&self.queue, &self.link.layout.history(job), "deleting a job").await?;
        self.link.purge(&self.responses, &self.link.layout.answers(job), "deleting a job's answers").await?;
        // A hint for other controllers' indexes; whoever misses it finds out by reading.
        let _ = self.link.client.publish(self.link.layout.deleted(), job.to_string().into()).await;
        Ok(())
    }
}

/// Stores the shares of those executions of a job of several that have none, and so tells their agents. What cannot be stored is left to
/// whoever finds it missing. Gives whether any was stored.
pub(super) async fn share(link: &Link, definition: &Definition, executions: &[ExecutionId]) -> bool {
    if definition.executions.len() == 1 {
        return false;
    }
    let (kind, parts) = (kind_of(definition), Shares::of(definition));
    let parts = &parts;
    let agents: Vec<AgentId> = executions.iter().filter_map(|execution| execution.agent()).collect();
    let shares = agents.into_iter().map(|agent| async move {
        let mine = parts.share(agent.into());
        let subject = link.layout.share(definition.id, agent, kind);
        let filter = link.layout.execution(definition.id, agent.into());
        let stored = match to_json(&mine, "share") {
            Ok(value) => link.write(subject, value.clone(), digest::sealed(&value), Guard::Last(&filter, 0), "sharing a job").await,
            Err(fault) => Err(fault),
        };
        stored.inspect_err(|error| tracing::warn!(job.id = %definition.id, agent.id = %agent, %error, "a share of a job is not stored yet"))
    });
    let stored = stream::iter(shares).buffer_unordered(SHARES_AT_ONCE);
    stored.fold(false, |any, stored| std::future::ready(any | matches!(stored, Ok(Written::Stored(_))))).await
}

/// The catalogue decides; a definition of a newer version's operation counts as one that changes state.
pub(super) fn kind_of(definition: &Definition) -> Kind {
    Operation::by_name(&definition.operation).map_or(Kind::Modify, |operation| operation.spec().kind)
}
