//! Live output of a job, in records.

use serde::{Deserialize, Serialize};

use crate::id::{AgentId, ExecutionId, JobId};

/// Which output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A remark of Longshore's own, such as a truncation marker.
    System,
}

/// A piece of output, bytes as they were written. Pieces end where a read ended, not at lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Whose output.
    pub job: JobId,
    /// Whose share of it.
    pub execution: ExecutionId,
    /// Who ran it.
    pub agent: AgentId,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// Which step of a workspace job, from 0; 0 elsewhere.
    pub step: u32,
    /// Counts up by one within an attempt, from 0; a hole is a gap.
    pub seq: u64,
    /// When it was read, by the agent's clock.
    pub time: jiff::Timestamp,
    /// Which output.
    pub stream: LogStream,
    /// The bytes, at most [`crate::limits::LOG_RECORD_BYTES_MAX`].
    pub bytes: Vec<u8>,
}
