//! What is told of a job: the manifest in its results, and the response that says the same.

use jiff::Timestamp;
use longshore_exec::workspace::Ran;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::SCHEMA;
use longshore_model::wire::result::{FileChanges, StepResult, Timing, WorkspaceReason, WorkspaceResult, WorkspaceStatus};
use longshore_model::wire::stand_alone::{Asked, MANIFEST_FILE, Manifest, Response};
use tokio::time::Instant;

/// Bytes of an error in a response: it may quote names of any length, and a message has a bound.
const ERROR_BYTES_MAX: usize = 4096;
/// Bytes of a name that cannot be used, in the response that says so.
const NAME_BYTES_MAX: usize = 1024;

/// What is known of a job from its beginning.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub(super) id: String,
    pub(super) worker: String,
    pub(super) attempt: u32,
    pub(super) asked: Option<Asked>,
    pub(super) start: Timestamp,
    pub(super) began: Instant,
}

impl Header {
    /// The manifest of a job whose steps have run.
    pub(super) fn manifest(&self, Ran { steps, end, verified }: Ran, files: FileChanges) -> Manifest {
        let end = end.as_ref();
        let failure = end.and_then(|end| end.failure.as_ref());
        let exit_code = match (end, steps.last()) {
            (None, _) => 0,
            (Some(_), Some(StepResult { exit_code: Some(code), .. })) if *code != 0 => *code,
            (Some(_), Some(StepResult { signal: Some(signal), .. })) => 128 + signal,
            (Some(_), Some(_) | None) => 1,
        };
        let reason = failure.and_then(|failure| match failure.code == ErrorCode::TimedOut {
            true => Some(WorkspaceReason::TimedOut),
            false => (failure.code == ErrorCode::Cancelled).then_some(WorkspaceReason::Cancelled),
        });
        let error = failure.map(|failure| failure.message.clone());
        let mut manifest = self.put_together(steps, (error, exit_code, reason), files);
        manifest.result.left_running = !verified;
        manifest
    }

    /// The manifest of a job that failed otherwise, such as before any step.
    pub(super) fn failed(&self, steps: Vec<StepResult>, error: String) -> Manifest {
        self.put_together(steps, (Some(error), 1, None), FileChanges::default())
    }

    fn put_together(
        &self,
        steps: Vec<StepResult>,
        (error, exit_code, reason): (Option<String>, i32, Option<WorkspaceReason>),
        files: FileChanges,
    ) -> Manifest {
        let result = WorkspaceResult {
            job_id: self.id.clone(),
            status: if error.is_none() { WorkspaceStatus::Success } else { WorkspaceStatus::Failed },
            timing: Timing {
                start: self.start,
                end: Timestamp::now(),
                duration_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            },
            steps,
            error: error.map(|error| shortened(error, ERROR_BYTES_MAX)),
            reason,
            left_running: false,
            files,
            archive: None,
            worker: self.worker.clone(),
            attempt: self.attempt,
            schema: SCHEMA,
        };
        Manifest { result, exit_code, delivery: self.asked.clone() }
    }
}

/// The response to what was not begun.
pub(super) fn refusal(id: &str, reason: &str) -> Response {
    Response {
        id: shortened(id.to_owned(), NAME_BYTES_MAX),
        status: WorkspaceStatus::Failed,
        exit_code: 1,
        manifest_file: MANIFEST_FILE.to_owned(),
        error: Some(shortened(reason.to_owned(), ERROR_BYTES_MAX)),
    }
}

fn shortened(mut text: String, bytes_max: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}
