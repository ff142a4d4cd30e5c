//! What is kept of a concurrency key: which jobs wait for their turn, and which execution has it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{ExecutionId, JobId};

/// A job that waits, or whose turn it is. Written when it is submitted, and kept until it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiter {
    /// Version of this form.
    pub schema: u32,
    /// The concurrency key.
    pub key: String,
    /// The job.
    pub job: JobId,
    /// Its execution, if it has one only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<ExecutionId>,
    /// Its earliest start: nobody waits for it before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// When it came, by the clock of whoever wrote this.
    pub since: Timestamp,
}

/// One attempt of one execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The job.
    pub job: JobId,
    /// Its execution.
    pub execution: ExecutionId,
    /// From 1.
    pub attempt: u32,
}

/// Who has the turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Version of this form.
    pub schema: u32,
    /// The attempt that may run.
    pub holder: Holder,
    /// Whom it was taken from, because that one had not started: if it has all the same, it still has the turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Holder>,
}
