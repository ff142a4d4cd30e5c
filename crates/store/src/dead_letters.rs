//! Dead letters: one record for each job whose attempts are used up. Made from the ledger, and rewritten under a guard.

use async_trait::async_trait;
use futures::stream::BoxStream;
use longshore_model::JobId;
use longshore_model::wire::dead_letter::DeadLetter;

use crate::{Error, Revision};

/// A letter, and what the next write of it must name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLetter {
    /// Of the letter as it was read.
    pub revision: Revision,
    /// The letter.
    pub letter: DeadLetter,
}

/// What became of a letter's write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterPut {
    /// It is stored, at this revision.
    Stored(Revision),
    /// Somebody wrote the job's letter after the revision named, or removed it. Read, decide again.
    Conflict,
}

/// What a follower is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LetterEvent {
    /// A letter, new or changed.
    Letter(Box<StoredLetter>),
    /// Every letter that was there when the follower came has been told. Said once.
    Current,
}

/// Letters without an end. That one was removed is not told.
pub type LetterStream = BoxStream<'static, Result<LetterEvent, Error>>;

/// Dead letters, at most one a job.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Stores a job's letter if its newest one has the revision `after`; 0 if it has none. May be repeated with the same content: it
    /// takes effect once.
    async fn put(&self, letter: &DeadLetter, after: Revision) -> Result<LetterPut, Error>;

    /// Reads a job's letter. Reads what the leader has.
    async fn load(&self, job: JobId) -> Result<Option<StoredLetter>, Error>;

    /// Removes a job's letter. Safe to repeat.
    async fn delete(&self, job: JobId) -> Result<(), Error>;

    /// Every letter as it is, then as they change.
    async fn follow(&self) -> Result<LetterStream, Error>;
}
