//! What a gateway and a Longshore worker say to each other of an operation, within the frames of their session. Both may be of different versions:
//! what is added later is optional.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::log::LogGap;
use super::record::{Definition, Failure, Outcome};
use crate::ExecutionId;

/// What comes before an operation's name in the features that a worker registers: it performs that operation.
pub const FEATURE: &str = "longshore.operation.";

/// `ext.longshore.operation`: one attempt at an operation of the catalogue. May hold secrets, sealed as they are stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperationFrame {
    /// The job.
    pub run_id: String,
    /// `EXECUTION/ATTEMPT`.
    pub task_id: String,
    /// The execution.
    pub node_id: String,
    /// The operation's name, as in the definition.
    pub operation: String,
    /// Whose share it is.
    pub execution: ExecutionId,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// The definition as it is stored, so that its signature holds.
    pub definition: Definition,
    /// Its turn under the job's concurrency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<u64>,
    /// What the worker shows to fetch the job's bundle and to bring its archive; none where there is neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass: Option<String>,
}

/// How an operation ended: the `result` of the task's frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinishedFrame {
    /// In one word.
    pub outcome: Outcome,
    /// Whether it changed the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<bool>,
    /// What the operation gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<serde_json::Value>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// A fault of the host: another attempt may succeed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub transient: bool,
    /// For a cancelled attempt: whether every process is known to be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_verified: Option<bool>,
}

/// Where a piece of output belongs: the `metadata` of a chunk of feedback, whose `index` is the record's number within its attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputPlace {
    /// Which step, from 0.
    pub step: u32,
    /// When it was read, by the worker's clock.
    pub time: Timestamp,
    /// What the worker dropped before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<LogGap>,
}
