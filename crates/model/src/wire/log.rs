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

/// Output that is missing before a record, as far as that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LogGap {
    /// Records: the hole in `seq`. Absent if nobody can say how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
    /// Bytes. Absent if the records were stored once and are not any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// What a handler tells of how far it is, as a line of its log: stage, progress from 0 to 1 in percent, and message; `None` if it is nothing.
#[must_use]
pub fn progress_line(stage: Option<String>, progress: Option<f64>, message: Option<String>) -> Option<String> {
    let progress = progress.filter(|part| (0.0..=1.0).contains(part)).map(|part| format!("{:.0}%", part * 100.0));
    let words: Vec<String> = [stage, progress, message].into_iter().flatten().collect();
    (!words.is_empty()).then(|| format!("{}\n", words.join(" ")))
}

impl std::fmt::Display for LogGap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.records, self.bytes) {
            (_, Some(bytes)) => write!(f, "output is missing here: {bytes} bytes"),
            (Some(1), None) => write!(f, "output is missing here: 1 record"),
            (Some(records), None) => write!(f, "output is missing here: {records} records"),
            (None, None) => write!(f, "output may be missing here"),
        }
    }
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
    /// What the agent dropped before this record, if it did; `seq` has a hole of so many records.
    pub gap: Option<LogGap>,
    /// The bytes, at most [`crate::limits::LOG_RECORD_BYTES_MAX`].
    pub bytes: Vec<u8>,
}
