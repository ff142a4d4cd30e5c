//! The feed: every change of the ledger, in order, from any point on. What indexes and waiters live on.

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;
use longshore_model::wire::record::{Answer, Definition, Event};
use longshore_model::{ExecutionId, JobId};
use serde::{Deserialize, Serialize};

use crate::{Error, Revision};

/// How far a reader has come. The ledger has two sequences, one of definitions and events and one of answers; order holds within each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// Newest definition or event seen.
    pub queue: Revision,
    /// Newest answer seen.
    pub responses: Revision,
}

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    /// A job was accepted.
    Defined(Box<Definition>),
    /// Something happened to an execution.
    Happened {
        /// The job.
        job: JobId,
        /// The execution.
        execution: ExecutionId,
        /// What.
        event: Event,
    },
    /// An execution was answered. It may be seen before the events that led to it, even before the definition.
    Answered(Box<Answer>),
    /// A job was deleted. A hint: it is not repeated to readers that come later, who find nothing of the job at all.
    Deleted(JobId),
}

/// What a reader is told.
#[derive(Debug, Clone, PartialEq)]
pub enum FeedItem {
    /// A change.
    Fact {
        /// How far the reader is with it.
        position: Position,
        /// When the broker stored it.
        at: Timestamp,
        /// At least so many more of the same sequence follow, as far as is known: 0 if nothing is.
        n_behind: u64,
        /// What.
        fact: Fact,
    },
    /// Everything that was there when the reader came has been told. Said once.
    CaughtUp,
}

/// Changes without an end. Reconnects by itself and misses nothing; an `Err` is the end and means that the stores are gone, or, if it is
/// [`Error::SetBack`], that what was told is not what is stored any more.
pub type FeedStream = BoxStream<'static, Result<FeedItem, Error>>;

/// The feed.
#[async_trait]
pub trait Feed: Send + Sync {
    /// Everything after `from`; the default position is the beginning of what is retained.
    ///
    /// # Errors
    /// [`Error::SetBack`] if the ledger ends before `from`.
    async fn follow(&self, from: Position) -> Result<FeedStream, Error>;
}
