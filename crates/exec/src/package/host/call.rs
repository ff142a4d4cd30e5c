//! What is asked of a handler, and what it gives: the words that every runtime shares.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};

use super::feedback::FeedbackSender;
use crate::Output;

/// One task for a handler. `Debug` does not show its parameters.
#[derive(Clone, Default)]
pub struct Call {
    /// The run it belongs to.
    pub run_id: String,
    /// The task within the run.
    pub task_id: String,
    /// The node of the workflow.
    pub node_id: String,
    /// Which of the package's node types.
    pub node_type: String,
    /// What the handler is given. May hold secrets: never logged.
    pub parameters: Map<String, Value>,
    /// For whom.
    pub tenant: String,
    /// The node whose middleware this is, if it is one.
    pub host_node_id: Option<String>,
    /// The chain of middlewares, and where this node stands in it; without both there is no `next()`.
    pub middleware_chain: Option<Vec<Value>>,
    /// See `middleware_chain`.
    pub chain_index: Option<u64>,
    /// What the handler sees as `trace`; nothing, as a rule.
    pub trace: Option<Value>,
    /// What the handler sees as `metadata`, and what a result's metadata starts from.
    pub metadata: Map<String, Value>,
    /// References to resources of this worker: each is leased before the handler runs and released after it.
    pub resource_refs: Vec<Map<String, Value>>,
    /// How plain functions run where neither node nor adapter says.
    pub exec_mode: ExecMode,
    /// How long the handler may take, waiting for its host included.
    pub timeout: Option<Duration>,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Call");
        shown.field("run_id", &self.run_id).field("task_id", &self.task_id).field("node_type", &self.node_type).finish_non_exhaustive()
    }
}

/// Where a handler runs within its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecMode {
    /// Coroutines on the event loop, plain functions in a thread.
    #[default]
    Auto,
    /// Everything on the event loop.
    Inline,
    /// Plain functions in a thread; coroutines have to be on the event loop.
    Thread,
}

impl ExecMode {
    /// What a manifest says, trimmed and in any case; nothing for a word that is none.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        match word.trim().to_lowercase().as_str() {
            "auto" => Some(Self::Auto),
            "inline" | "async" | "event_loop" | "loop" => Some(Self::Inline),
            "thread" => Some(Self::Thread),
            _ => None,
        }
    }
}

/// Whom a handler can talk to while it runs.
#[derive(Default)]
pub struct Door {
    /// Takes its feedback; without, feedback goes nowhere.
    pub feedback: Option<Arc<FeedbackSender>>,
    /// Takes its calls of `next()`; without, they fail with `next_unavailable`.
    pub next: Option<mpsc::Sender<NextCall>>,
    /// Takes what it prints and logs, at most 64 MiB; without, that goes nowhere. A
    /// [`FeedbackSender`] is one: then it is said among the feedback. A program's stdout is its answer and not among it.
    pub output: Option<Arc<dyn Output>>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("feedback", &self.feedback).field("next", &self.next).finish_non_exhaustive()
    }
}

/// A handler calls the next element of its chain and waits. May happen any number of times in one task.
#[derive(Debug)]
pub struct NextCall {
    /// What is handed on.
    pub request: NextRequest,
    /// Takes the answer. Dropped without one, the handler gets `next_cancelled`.
    pub reply: oneshot::Sender<Result<Map<String, Value>, NextError>>,
}

/// What is handed on.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NextRequest {
    /// For the next element.
    pub payload: Map<String, Value>,
    /// Of the host node.
    pub host_ctx: Map<String, Value>,
    /// Of the middleware.
    pub middleware_ctx: Map<String, Value>,
    /// How long the handler waits; it stops waiting by itself.
    pub timeout_ms: Option<u64>,
}

/// Why there is no answer from the next element.
#[derive(Debug, Clone, PartialEq, Serialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct NextError {
    /// For programs.
    pub code: String,
    /// For people.
    pub message: String,
    /// Where it came from, if that is known.
    pub trace: Option<Map<String, Value>>,
}

impl NextError {
    pub(crate) fn new(code: &str, message: &str) -> Self {
        Self { code: code.to_owned(), message: message.to_owned(), trace: None }
    }
}

/// How a handler said that its task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// Well.
    Succeeded,
    /// Not well, by the handler's own word.
    Failed,
    /// There was nothing to do.
    Skipped,
    /// It was given up.
    Cancelled,
}

/// What a handler gave, in the form every runtime shares.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// What it gave.
    pub result: Map<String, Value>,
    /// The call's metadata, overlaid by the handler's.
    pub metadata: Map<String, Value>,
    /// Resources it has made.
    pub artifacts: Vec<Artifact>,
    /// How long the handler itself took.
    pub duration: Duration,
    /// What of its answer was left out or read generously, in words.
    pub remarks: Vec<String>,
}

/// A resource that a handler has made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// Its name.
    pub resource_id: String,
    /// The worker that has it.
    pub worker_name: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Its content, where it is small.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<Value>,
    /// Until when it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// What else there is to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, Value>>,
}

/// Why there is no [`Outcome`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct HandlerError {
    /// For programs.
    pub kind: ErrorKind,
    /// The exception's type, where an exception is what happened: `ValueError`.
    pub type_name: Option<String>,
    /// For people; never empty.
    pub message: String,
    /// Whether whatever ran for the task is known to be gone.
    pub verified: bool,
}

/// What kind of a [`HandlerError`] it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The package has no such node type, or its handler could not be loaded.
    NotLoaded,
    /// The handler raised.
    Raised,
    /// What it returned is no result, or cannot be sent.
    BadReturn,
    /// A resource it needs is not on this worker.
    ResourceMissing,
    /// It ran longer than it may.
    TimedOut,
    /// It was asked to stop.
    Cancelled,
    /// Its host ended, or had to be ended, while it ran.
    HostDied,
    /// There is no host for it: no interpreter, say. Nothing ran.
    HostUnavailable,
}

impl HandlerError {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        if message.trim().is_empty() {
            "the handler failed and said nothing".clone_into(&mut message);
        }
        Self { kind, type_name: None, message, verified: true }
    }

    pub(crate) fn raised(type_name: impl Into<String>, message: impl Into<String>) -> Self {
        let (mut type_name, message) = (type_name.into(), message.into());
        type_name.truncate(type_name.floor_char_boundary(TYPE_NAME_BYTES_MAX));
        let message = if message.trim().is_empty() { type_name.clone() } else { message };
        Self { type_name: Some(type_name), ..Self::new(ErrorKind::Raised, message) }
    }
}

/// Bytes of an error's message.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// Bytes of the name of an exception's type.
const TYPE_NAME_BYTES_MAX: usize = 256;

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Skipped => "SKIPPED",
            Self::Cancelled => "CANCELLED",
        })
    }
}
