//! Frames of work: a job as the dispatch of its package's node or, for a Longshore, as an operation, and what a worker says of that.

use std::time::Duration;

use longshore_model::job::Job;
use longshore_model::operation::PackageRun;
use longshore_model::wire::attached::{OperationFrame, OutputPlace};
use longshore_model::wire::log::{LogStream, progress_line};
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Definition, Failure, Outcome};
use longshore_model::wire::result::PackageResult;
use longshore_model::{ExecutionId, JobId};
use longshore_session::{Envelope, Message, Payload};
use serde::Deserialize;
use serde_json::{Value, json};

/// One logical execution, as workers know it: the same in all its dispatches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Task {
    pub(super) job: JobId,
    pub(super) execution: ExecutionId,
    pub(super) attempt: u32,
}

impl Task {
    /// Its `run_id`.
    fn run(self) -> String {
        self.job.to_string()
    }

    /// Its `task_id`.
    pub(super) fn id(self) -> String {
        format!("{}/{}", self.execution, self.attempt)
    }

    fn parse(run: &str, task: &str) -> Option<Self> {
        let (execution, attempt) = task.split_once('/')?;
        Some(Self { job: run.parse().ok()?, execution: execution.parse().ok()?, attempt: attempt.parse().ok()? })
    }
}

/// What a worker says of a task.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Word {
    /// It has ended.
    Ended(Told),
    /// A task with this key runs already.
    RunsAlready,
    /// It was not taken; it may be said again after this long.
    NotNow(Duration, String),
    /// It was ended by the worker's own end: somebody may do it again.
    HandedBack(String),
}

/// How a task ended, in its worker's words: what they mean depends on what it was.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Told {
    pub(super) outcome: Outcome,
    pub(super) result: Option<PackageResult>,
    pub(super) failure: Option<Failure>,
    pub(super) duration_ms: Option<u64>,
}

/// What a worker tells on the way.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Feedback {
    pub(super) task: Task,
    pub(super) pieces: Vec<Piece>,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub(super) stream: LogStream,
    pub(super) bytes: Vec<u8>,
    /// Its number and its place, where a Longshore gave them to the output of an operation.
    pub(super) place: Option<(u64, OutputPlace)>,
}

/// How long a task waits that was not taken, unless the worker says.
const NOT_NOW: Duration = Duration::from_secs(1);
/// The longest that a worker may ask for.
const NOT_NOW_MAX: Duration = Duration::from_secs(60);
/// Bytes of a worker's message that an answer keeps.
pub(super) const MESSAGE_BYTES_MAX: usize = 8 << 10;

/// The dispatch of a task. `wants_ack`, as the existing worker expects it.
pub(super) fn dispatch(task: Task, job: &Job, run: &PackageRun, version: &str) -> Message {
    let node = task.execution.to_string();
    let timeout_ms = u64::try_from(job.timeout.as_millis()).unwrap_or(u64::MAX).max(1);
    let payload = json!({
        "run_id": task.run(),
        "task_id": task.id(),
        "node_id": node,
        "node_type": run.node,
        "package_name": run.package,
        "package_version": version,
        "parameters": run.parameters,
        "constraints": {"timeout_ms": timeout_ms},
        "concurrency_key": format!("{}:{node}", task.job),
    });
    message("biz.exec.dispatch", payload, Some(task.id()), Some(u64::from(task.attempt)), true)
}

/// The same of an operation, for a Longshore.
pub(super) fn operation(task: Task, definition: Definition, fence: Option<u64>, pass: Option<String>) -> Message {
    let frame = OperationFrame {
        run_id: task.run(),
        task_id: task.id(),
        node_id: task.execution.to_string(),
        operation: definition.operation.clone(),
        execution: task.execution,
        attempt: task.attempt,
        definition,
        fence,
        pass,
    };
    let payload = serde_json::to_value(frame).expect("names are text");
    message("ext.longshore.operation", payload, Some(task.id()), Some(u64::from(task.attempt)), true)
}

/// Asks a Longshore worker to end a task.
pub(super) fn cancel(task: Task) -> Message {
    let payload = json!({"run_id": task.run(), "task_id": task.id()});
    message("ext.longshore.cancel", payload, Some(task.id()), Some(u64::from(task.attempt)), false)
}

/// The answer to a middleware that asks for the next of its chain: a job is one node, so there is none.
pub(super) fn no_next(request: &Envelope) -> Option<Message> {
    let field = |name: &str| request.payload.get(name).and_then(Value::as_str);
    let (id, run, node) = (field("requestId")?, field("runId")?, field("nodeId")?);
    let middleware = field("middlewareId").unwrap_or(node);
    let payload = json!({
        "requestId": id, "runId": run, "nodeId": node, "middlewareId": middleware,
        "error": {"code": "next_no_chain", "message": "a job runs one node, and nothing follows it"},
    });
    Some(message("biz.exec.next.response", payload, Some(id.to_owned()), None, false))
}

pub(super) fn message(kind: &str, payload: Value, corr: Option<String>, seq: Option<u64>, wants_ack: bool) -> Message {
    let payload = match payload {
        Value::Object(fields) => fields,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Payload::new(),
    };
    Message { corr, seq, wants_ack, ..Message::new(kind, payload) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResultFrame {
    run_id: String,
    task_id: String,
    status: Status,
    #[serde(default)]
    result: Option<Payload>,
    #[serde(default)]
    duration_ms: Option<f64>,
    #[serde(default)]
    metadata: Option<Payload>,
    #[serde(default)]
    artifacts: Option<Vec<Value>>,
    #[serde(default)]
    error: Option<ErrorBody>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Status {
    Succeeded,
    Failed,
    Skipped,
    Cancelled,
}

#[derive(Deserialize)]
struct ErrorBody {
    code: String,
    message: String,
    #[serde(default)]
    remediation: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ErrorFrame {
    code: String,
    message: String,
    #[serde(default)]
    remediation: Option<String>,
    #[serde(default)]
    context: Option<ErrorContext>,
}

#[derive(Deserialize)]
struct ErrorContext {
    #[serde(default)]
    details: Option<Payload>,
}

/// Whether a frame ends a task, or says why it cannot begin: it is acknowledged when what follows from it is stored.
pub(super) fn is_word(envelope: &Envelope) -> bool {
    matches!(envelope.kind.as_str(), "biz.exec.result" | "biz.exec.error")
}

/// What a worker says of which task. `by_corr` finds a task by what the frame belongs to: a task's id, or that of its dispatch.
pub(super) fn word(envelope: &Envelope, by_corr: impl Fn(&str) -> Option<Task>) -> Result<(Task, Word), String> {
    let payload = Value::Object(envelope.payload.clone());
    let known = || envelope.corr.as_deref().and_then(&by_corr);
    if envelope.kind == "biz.exec.result" {
        let frame = ResultFrame::deserialize(payload);
        return match frame {
            Ok(frame) => {
                let task = Task::parse(&frame.run_id, &frame.task_id).or_else(known).ok_or("it names no task of ours")?;
                Ok((task, ended(frame)))
            }
            Err(error) => {
                let text = |name: &str| envelope.payload.get(name).and_then(Value::as_str).unwrap_or_default();
                let task = Task::parse(text("run_id"), text("task_id")).or_else(known).ok_or("it names no task of ours")?;
                Ok((task, failed(ErrorCode::HandlerFailed, format!("the worker's result cannot be read: {error}"))))
            }
        };
    }
    let frame = match ErrorFrame::deserialize(payload) {
        Ok(frame) => frame,
        // It names its task among its details, as far as these are there.
        Err(error) => {
            let details = &envelope.payload.get("context").unwrap_or(&Value::Null)["details"];
            let text = |name: &str| details[name].as_str().unwrap_or_default();
            let task = Task::parse(text("run_id"), text("task_id")).or_else(known).ok_or("it names no task of ours")?;
            return Ok((task, failed(ErrorCode::HandlerFailed, format!("the worker's error cannot be read: {error}"))));
        }
    };
    let details = frame.context.as_ref().and_then(|context| context.details.as_ref());
    let detail = |name: &str| details.and_then(|details| details.get(name)).and_then(Value::as_str).unwrap_or_default();
    let task = Task::parse(detail("run_id"), detail("task_id")).or_else(known).ok_or("it names no task of ours")?;
    let remaining = details.and_then(|details| details.get("retry_after_ms")).and_then(Value::as_u64).map(Duration::from_millis);
    Ok((task, refused(&frame, remaining)))
}

fn ended(frame: ResultFrame) -> Word {
    let said = frame.error.map(|error| said(&error.code, &error.message, error.remediation.as_deref()));
    let failure = |code, otherwise: &str| Some(Failure { code, message: said.clone().unwrap_or_else(|| otherwise.to_owned()) });
    let (outcome, failure) = match frame.status {
        Status::Succeeded => (Outcome::Completed, None),
        Status::Failed => (Outcome::Failed, failure(ErrorCode::HandlerFailed, "the handler said that it failed")),
        Status::Skipped => (Outcome::Skipped, failure(ErrorCode::Unsupported, "the handler said that it has nothing to do")),
        Status::Cancelled => return Word::HandedBack(said.unwrap_or_else(|| "the handler said that it was cancelled".to_owned())),
    };
    let (metadata, artifacts) = (frame.metadata.unwrap_or_default(), frame.artifacts.unwrap_or_default());
    // The version is known to whoever dispatched it.
    let result = PackageResult { output: frame.result.unwrap_or_default(), version: String::new(), metadata, artifacts };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a length of time in milliseconds; what is none is cut off"
    )]
    let duration_ms = frame.duration_ms.map(|duration| duration.max(0.0) as u64);
    Word::Ended(Told { outcome, result: Some(result), failure, duration_ms })
}

fn refused(frame: &ErrorFrame, remaining: Option<Duration>) -> Word {
    let message = said(&frame.code, &frame.message, frame.remediation.as_deref());
    match frame.code.as_str() {
        "E.CMD.CONCURRENCY_VIOLATION" => Word::RunsAlready,
        "E.CMD.OVERLOADED" | "E.RUNNER.COOLDOWN" => Word::NotNow(remaining.unwrap_or(NOT_NOW).min(NOT_NOW_MAX), message),
        "E.RUNNER.CANCELLED" => Word::HandedBack(message),
        "E.RUNNER.TIMEOUT" => failed(ErrorCode::TimedOut, message),
        "E.RESOURCE.MISSING" => failed(ErrorCode::Unsupported, message),
        _ => failed(ErrorCode::HandlerFailed, message),
    }
}

fn failed(code: ErrorCode, message: String) -> Word {
    Word::Ended(Told { outcome: Outcome::Failed, result: None, failure: Some(Failure { code, message }), duration_ms: None })
}

fn said(code: &str, message: &str, remediation: Option<&str>) -> String {
    let mut text = format!("{code}: {message}");
    if let Some(remediation) = remediation {
        text = format!("{text} ({remediation})");
    }
    text.truncate(text.floor_char_boundary(MESSAGE_BYTES_MAX));
    text
}

#[derive(Deserialize)]
struct FeedbackFrame {
    run_id: String,
    task_id: String,
    #[serde(default)]
    stage: Option<String>,
    #[serde(default)]
    progress: Option<f64>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    chunks: Option<Vec<Chunk>>,
}

#[derive(Deserialize)]
struct Chunk {
    channel: String,
    #[serde(default)]
    index: Option<u64>,
    #[serde(default)]
    metadata: Option<Value>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    data_base64: Option<String>,
}

/// What a worker tells of a task: what it wrote, and a line of our own about how far it is.
pub(super) fn feedback(envelope: &Envelope) -> Result<Feedback, String> {
    let frame = FeedbackFrame::deserialize(Value::Object(envelope.payload.clone())).map_err(|error| error.to_string())?;
    let task = Task::parse(&frame.run_id, &frame.task_id).ok_or("it names no task of ours")?;
    let mut pieces = Vec::new();
    let line = progress_line(frame.stage, frame.progress, frame.message);
    pieces.extend(line.map(|line| Piece { stream: LogStream::System, bytes: line.into_bytes(), place: None }));
    for Chunk { channel, index, metadata, text, data_base64 } in frame.chunks.unwrap_or_default() {
        let stream = if channel == "stderr" { LogStream::Stderr } else { LogStream::Stdout };
        let bytes = match (text, data_base64) {
            (Some(text), _) => text.into_bytes(),
            (None, Some(data)) => data_encoding::BASE64.decode(data.as_bytes()).map_err(|error| error.to_string())?,
            (None, None) => continue,
        };
        let place = index.zip(metadata.and_then(|place| OutputPlace::deserialize(place).ok()));
        // A log is a stream of its own for an operation alone: what a handler calls so is its output.
        let stream = if place.is_some() && channel == "log" { LogStream::System } else { stream };
        pieces.push(Piece { stream, bytes, place });
    }
    Ok(Feedback { task, pieces })
}
