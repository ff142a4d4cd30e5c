//! What a task's end is told with: one frame, of a result or of an error.

use std::time::Duration;

use longshore_session::Payload;
use serde_json::{Value, json};

use super::frames::{Dispatch, code, kind};
use super::handlers::{Fault, FaultKind, Outcome};
use super::journal::Kept;

/// Bytes of an error's message.
const MESSAGE_BYTES_MAX: usize = 16 << 10;

/// What an answer has to name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Of {
    pub(crate) run: String,
    pub(crate) task: String,
    pub(crate) node: String,
    /// The dispatch's id.
    pub(crate) dispatch: String,
    pub(crate) seq: Option<u64>,
}

impl Of {
    pub(crate) fn dispatch(dispatch: &Dispatch, id: &str, seq: Option<u64>) -> Self {
        let Dispatch { run_id, task_id, node_id, .. } = dispatch;
        Self { run: run_id.clone(), task: task_id.clone(), node: node_id.clone(), dispatch: id.to_owned(), seq }
    }
}

/// The answer to a task that has ended. A result is correlated by the dispatch's id.
pub(crate) fn of_end(of: &Of, end: Result<Outcome, Fault>, id: String) -> Kept {
    match end {
        Ok(outcome) => {
            let mut payload = Payload::new();
            payload.insert("run_id".to_owned(), of.run.clone().into());
            payload.insert("task_id".to_owned(), of.task.clone().into());
            payload.insert("status".to_owned(), outcome.status.word().into());
            payload.insert("result".to_owned(), Value::Object(outcome.result));
            payload.insert("duration_ms".to_owned(), millis(outcome.duration).into());
            payload.insert("metadata".to_owned(), Value::Object(outcome.metadata));
            if !outcome.artifacts.is_empty() {
                payload.insert("artifacts".to_owned(), Value::Array(outcome.artifacts));
            }
            Kept { id, kind: kind::RESULT.to_owned(), payload, corr: Some(of.dispatch.clone()), seq: of.seq }
        }
        Err(fault) => {
            let code = match fault.kind {
                FaultKind::Failed => code::FAILURE,
                FaultKind::ResourceMissing => code::RESOURCE,
                FaultKind::TimedOut => code::TIMEOUT,
                FaultKind::Cancelled => code::CANCELLED,
            };
            of_error(of, code, &fault.message, Payload::new(), id)
        }
    }
}

/// An error, correlated by the task's id: by anything else the existing scheduler would take it for another node's.
pub(crate) fn of_error(of: &Of, code: &str, message: &str, more: Payload, id: String) -> Kept {
    let message = message.trim();
    let message =
        if message.is_empty() { "the handler failed and said nothing" } else { &message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)] };
    let mut details = more;
    for (name, value) in [("run_id", &of.run), ("task_id", &of.task), ("node_id", &of.node)] {
        if !value.is_empty() {
            details.insert(name.to_owned(), value.clone().into());
        }
    }
    let mut payload = Payload::new();
    payload.insert("code".to_owned(), code.into());
    payload.insert("message".to_owned(), message.into());
    payload.insert("context".to_owned(), json!({ "where": "worker", "details": details }));
    let corr = if of.task.is_empty() { &of.dispatch } else { &of.task };
    Kept { id, kind: kind::ERROR.to_owned(), payload, corr: Some(corr.clone()), seq: of.seq }
}

/// Whether a task has ended with this answer. Any other says that it was not done, so that it is tried when it is sent again.
pub(crate) fn is_final(kept: &Kept) -> bool {
    let code = kept.payload.get("code").and_then(Value::as_str);
    kept.kind != kind::ERROR || code.is_some_and(|code| [code::FAILURE, code::TIMEOUT, code::RESOURCE].contains(&code))
}

/// Whether an answer says that its task was given back, or ended by whoever sent it.
pub(crate) fn is_cancelled(kept: &Kept) -> bool {
    kept.kind == kind::ERROR && kept.payload.get("code").and_then(Value::as_str) == Some(code::CANCELLED)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
