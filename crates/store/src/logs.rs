//! Live output: kept for a while, bounded, read from any point on.

use std::ops::Range;

use async_trait::async_trait;
use futures::stream::BoxStream;
use longshore_model::wire::log::LogRecord;
use longshore_model::{ExecutionId, JobId};

use crate::{Error, Revision};

/// A record and its place in the store; places grow, with holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLog {
    /// Its place.
    pub place: Revision,
    /// The output.
    pub record: LogRecord,
}

/// Records of one job without an end.
pub type LogStream = BoxStream<'static, Result<StoredLog, Error>>;

/// Live output.
#[async_trait]
pub trait Logs: Send + Sync {
    /// Stores records in this order: after an error, of none of them, of all or of the first ones, and never one without those before it.
    /// May be repeated: a record (job, execution, attempt, seq) is stored once, if the repeat comes within two minutes.
    async fn append(&self, records: &[LogRecord]) -> Result<(), Error>;

    /// Attempt and number of an execution's newest record.
    async fn newest(&self, job: JobId, execution: ExecutionId) -> Result<Option<(u32, u64)>, Error>;

    /// The places between which everything is that is stored, of any job; they begin with 0 or 1 if nothing was ever dropped.
    async fn kept(&self) -> Result<Range<Revision>, Error>;

    /// Records of a job after a place (0 is the beginning), then live ones, without an end.
    async fn follow(&self, job: JobId, after: Revision) -> Result<LogStream, Error>;

    /// The place of a job's newest record; 0 if there is none.
    async fn last(&self, job: JobId) -> Result<Revision, Error>;

    /// Removes a job's records. Safe to repeat.
    async fn delete(&self, job: JobId) -> Result<(), Error>;
}
