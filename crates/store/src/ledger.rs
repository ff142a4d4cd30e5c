//! The ledger: the one truth about every job. Definitions and answers are written once; events are appended under a guard.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;
use longshore_model::wire::record::{Answer, Definition, Event, Reservation};
use longshore_model::{ExecutionId, JobId};

use crate::Error;

/// The ledger's own count of writes; larger is later.
pub type Revision = u64;

/// What became of a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// It is stored and announced, at this revision.
    Stored(Revision),
    /// A definition of that id is there already. As ids are random this is an earlier try of the same write.
    Exists,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It is stored, at this revision.
    Stored(Revision),
    /// Somebody wrote to this history after the revision named, or deleted it. Read, decide again.
    Conflict,
}

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// It is stored, and final.
    Stored,
    /// The execution has an answer already; this one was dropped.
    Exists,
}

/// Everything recorded of one job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRecord {
    /// As it was accepted.
    pub definition: Definition,
    /// The definition's revision.
    pub definition_revision: Revision,
    /// When the broker stored the definition.
    pub stored_at: Timestamp,
    /// Every event with its revision, oldest first.
    pub events: Vec<(Revision, ExecutionId, Event)>,
    /// Every answer.
    pub answers: Vec<Answer>,
    /// For a job of several executions, the revision of each one's share, as far as they are stored.
    pub shares: BTreeMap<ExecutionId, Revision>,
}

/// Everything recorded of one execution.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutionRecord {
    /// Of the newest message: what the next append must name.
    pub revision: Revision,
    /// Oldest first.
    pub events: Vec<Event>,
    /// If it has one.
    pub answer: Option<Answer>,
}

impl JobRecord {
    /// A job that was just stored.
    #[must_use]
    pub fn new(definition: Definition, definition_revision: Revision, stored_at: Timestamp) -> Self {
        Self { definition, definition_revision, stored_at, events: Vec::new(), answers: Vec::new(), shares: BTreeMap::new() }
    }

    /// The revision that an execution begins with: the definition's, or its share's, which is 0 while it is not stored.
    #[must_use]
    pub fn announced_at(&self, execution: ExecutionId) -> Revision {
        match self.definition.executions.as_slice() {
            [_] => self.definition_revision,
            _ => self.shares.get(&execution).copied().unwrap_or(0),
        }
    }

    /// The newest revision of an execution: what the next append must name. 0 if its share is not stored yet.
    #[must_use]
    pub fn revision(&self, execution: ExecutionId) -> Revision {
        let first = self.announced_at(execution);
        self.events.iter().filter(|(_, of, _)| *of == execution).map(|(revision, ..)| *revision).fold(first, Revision::max)
    }

    /// The events of one execution, oldest first.
    pub fn events_of(&self, execution: ExecutionId) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |(_, of, _)| *of == execution).map(|(.., event)| event)
    }

    /// The answer of one execution.
    #[must_use]
    pub fn answer_of(&self, execution: ExecutionId) -> Option<&Answer> {
        self.answers.iter().find(|answer| answer.execution == execution)
    }
}

/// Definitions, events, answers.
///
/// Every write may be repeated with the same content: it takes effect once. All calls are cancel-safe in the sense that a dropped
/// write happened once or not at all.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Stores a definition and announces it to whom it concerns. For one execution that is one step that a crash cannot split. For several
    /// it is one step, and one more for each; once the definition is stored this does not fail, and what is missing is repaired by
    /// [`Work::announce`](crate::Work::announce).
    async fn create(&self, definition: &Definition) -> Result<Created, Error>;

    /// Appends an event to an execution's history, if nothing was appended to it since `after` and it has not been deleted. For the first
    /// event `after` is the definition's revision, or the share's; or 0, to end an execution whose share is not stored yet.
    async fn append(&self, job: JobId, execution: ExecutionId, after: Revision, event: &Event) -> Result<Appended, Error>;

    /// Stores an execution's answer, unless it has one.
    async fn answer(&self, answer: &Answer) -> Result<Answered, Error>;

    /// Reads everything of a job; `None` if there is no definition. Reads what the ledger's leader has.
    async fn load(&self, job: JobId) -> Result<Option<JobRecord>, Error>;

    /// Reads everything of one execution; `None` if it is not there, or not any more. Reads what the ledger's leader has.
    async fn load_execution(&self, job: JobId, execution: ExecutionId) -> Result<Option<ExecutionRecord>, Error>;

    /// Reads one answer.
    async fn load_answer(&self, job: JobId, execution: ExecutionId) -> Result<Option<Answer>, Error>;

    /// Claims an idempotency key (already hashed to hex) for a submission. Gives back what the key stands for: this reservation, or the
    /// one that was first.
    async fn reserve(&self, key_hash: &str, reservation: &Reservation) -> Result<Reservation, Error>;

    /// What an idempotency key (already hashed to hex) stands for, if it was claimed.
    async fn reserved(&self, key_hash: &str) -> Result<Option<Reservation>, Error>;

    /// Makes a key stand for a deleted job from now on, if it stands for `job`. Safe to repeat; a key that has expired stays so.
    async fn retire(&self, key_hash: &str, job: JobId) -> Result<(), Error>;

    /// Removes definition, events and answers. Safe to repeat. The caller has withdrawn the work before.
    async fn delete(&self, job: JobId) -> Result<(), Error>;
}
