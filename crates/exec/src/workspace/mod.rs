//! Workspace jobs: steps in a fresh copy of a bundle, or of a directory on a shared drive.
//!
//! For a bundle, of which an archive comes back:
//!
//! ```text
//!   create ─► stage ─► run the steps ─► collect ─► clean
//!               │            │                       ▲
//!               └────────────┴── fault, time-out, ───┤   collecting is left out only when staging failed
//!                                cancel              │   or nobody waits any more
//! ```
//!
//! Cleaning follows on every path. What a killed agent leaves is swept when the next one starts.
//!
//! For a directory on a drive the changes come back into its own `results`: [`mod@shared`] for a job of the fleet; a stand-alone worker
//! puts the same parts together with [`Source`], [`Workspace`] and [`Results`]. What changed is known in one way for all
//! ([`mod@changes`], [`mod@collect`]).

mod answer;
mod archive;
mod beside;
mod changes;
mod clean;
mod collect;
mod copy;
mod duplicate;
mod forget;
mod globs;
mod hold;
mod repoint;
mod results;
mod run;
mod runner;
mod shared;
mod source;
mod stage;

use std::fs::File;
use std::sync::Arc;

use jiff::Timestamp;
use longshore_model::operation::WorkspaceRun;
use longshore_model::wire::problem::{ErrorCode, chain};
use longshore_model::wire::record::{Failure, SCHEMA};
use longshore_model::wire::result::{FileChanges, StepResult, Timing, WorkspaceReason, WorkspaceResult, WorkspaceStatus};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

pub use self::beside::{StageError, Staged, Workspace};
use self::changes::Snapshot;
pub(crate) use self::changes::{Stamp, TICK};
pub use self::collect::CollectError;
pub use self::duplicate::CopyError;
pub use self::globs::Globs;
pub use self::hold::{Hold, HoldError, Leftover, is_reserved, leftovers};
pub use self::results::Results;
use self::run::Steps;
pub use self::runner::{Ran, Runner};
pub use self::source::{ResolveError, Source};
use self::stage::{Place, PrepareError};
use crate::drive::{Pulse, Unfinished};
use crate::executor::Host;
use crate::finished::{Archive, Finished, is_host_fault};
use crate::process::{Stop, Stops, random_text};
use crate::{Output, Task};

/// The name of a job's workspace in the directory that the job has for itself.
const PLACE: &str = "job";

/// Runs a workspace job: from its bundle to its archive, or in a directory of the host's. `host.workspaces` is the job's own directory, whose name is never used twice.
pub(crate) async fn run(host: &Host, task: &Task, run: &WorkspaceRun, output: Arc<dyn Output>, stops: &Stops) -> Finished {
    let globs = match run.artifacts.as_deref().map(Globs::new).transpose() {
        Ok(globs) => globs,
        Err(error) => return Finished::failed(ErrorCode::Validation, format!("/args/artifacts: {error}")),
    };
    if let Some(name) = &run.source {
        return shared::perform(host, task, run, (name, globs), output, stops).await;
    }
    let workspaces = host.workspaces.clone();
    let place = match blocking(move || Place::create(&workspaces, PLACE)).await {
        Ok(Ok(place)) => Arc::new(place),
        Ok(Err(error)) => return Finished::host_fault(format!("could not make a workspace: {error}")),
        Err(finished) => return *finished,
    };
    let finished = inside(host, task, run, globs, output, stops, &place).await;
    if let Err(error) = host.watch(stops).over(move |_| clean::clean(&place)).await {
        tracing::warn!(%error, "a workspace is left to the next start");
    }
    finished
}

async fn inside(
    host: &Host,
    task: &Task,
    run: &WorkspaceRun,
    globs: Option<Globs>,
    output: Arc<dyn Output>,
    stops: &Stops,
    place: &Arc<Place>,
) -> Finished {
    let header = Header::of(task);
    let bundle = if run.bundle.is_some() { task.bundle.clone() } else { None };
    if run.bundle.is_some() && bundle.is_none() {
        return not_staged(&PrepareError::NoBundle, stops);
    }
    let watch = host.watch(stops);
    let staging = {
        let (place, stops) = (Arc::clone(place), stops.clone());
        move |pulse: &Pulse| stage::stage(&place, bundle.as_deref(), &stops, pulse)
    };
    let snapshot = match watch.over(staging).await {
        Ok(Ok(snapshot)) => snapshot,
        Ok(Err(error)) => return not_staged(&error, stops),
        Err(unfinished) => return not_begun("prepare the workspace", unfinished, stops),
    };
    let steps = run::steps(host, task, run, output, stops, (place, host.temporary.join(random_text()))).await;
    if stops.now() == Some(Stop::Abandoned) {
        return Finished::cancelled(steps.verified);
    }
    let path = host.temporary.join(format!("{}.{}.tar.zst", task.job.id, random_text()));
    let (place, ended) = (Arc::clone(place), Ending::of(&steps));
    let brought = watch.over(move |pulse| bring_back(&place, snapshot, globs, steps, header, path, pulse)).await;
    brought.unwrap_or_else(|unfinished| ended.without_what_changed(unfinished))
}

struct Header {
    job: String,
    worker: String,
    attempt: u32,
    start: Timestamp,
    began: Instant,
}

impl Header {
    /// What is known of a job that begins now.
    fn of(task: &Task) -> Self {
        Self {
            job: task.job.id.to_string(),
            worker: task.hostname.clone(),
            attempt: task.attempt,
            start: Timestamp::now(),
            began: Instant::now(),
        }
    }

    /// The manifest of a job whose steps have run, their processes verified to be gone or not, and which ended like `end` if it did not end well.
    fn manifest(&self, (steps, verified): (Vec<StepResult>, bool), end: Option<&Finished>, files: FileChanges) -> WorkspaceResult {
        WorkspaceResult {
            job_id: self.job.clone(),
            status: if end.is_none() { WorkspaceStatus::Success } else { WorkspaceStatus::Failed },
            timing: Timing {
                start: self.start,
                end: Timestamp::now(),
                duration_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            },
            steps,
            error: end.and_then(|end| Some(end.failure.as_ref()?.message.clone())),
            reason: end.and_then(reason),
            left_running: !verified,
            files,
            archive: None,
            worker: self.worker.clone(),
            attempt: self.attempt,
            schema: SCHEMA,
        }
    }
}

/// Collects, and puts the answer together.
fn bring_back(
    place: &Place,
    snapshot: Snapshot,
    globs: Option<Globs>,
    steps: Steps,
    header: Header,
    path: std::path::PathBuf,
    pulse: &Pulse,
) -> Finished {
    let Steps { results, logs, end, verified } = steps;
    let manifest = |files| header.manifest((results, verified), end.as_ref(), files);
    let collected = File::options().write(true).create_new(true).open(&path).map_err(CollectError::Write).and_then(|file| {
        // From here on the file is removed on every path.
        let pending = Archive::new(path, longshore_model::wire::result::ArchiveInfo { size: 0, sha256: String::new(), entries: 0 });
        archive::archive(place, snapshot, globs.as_ref(), logs, manifest, file, pulse)
            .map(|(result, info)| (result, pending.with_info(info)))
    });
    match collected {
        Ok((mut result, archive)) => {
            result.archive = Some(archive.info().clone());
            let result = serde_json::to_value(answer::for_answer(result)).ok();
            let finished = end.unwrap_or_else(|| Finished::completed(Some(true), serde_json::Value::Null));
            Finished { result, archive: Some(archive), ..finished }
        }
        Err(error) => not_brought(&error, end),
    }
}

/// The end of a job, which would have ended like `end`, whose artifacts did not come back.
fn not_brought(error: &CollectError, end: Option<Finished>) -> Finished {
    let message = format!("could not {}", chain(error));
    match end {
        // The cancel is the better news of the two.
        Some(end) if end.cancel_verified.is_some() => end,
        _ if error.is_host_fault() => Finished::host_fault(message),
        _ => Finished::failed(ErrorCode::Collecting, message),
    }
}

/// The end of a job whose drive does not answer before its first step.
fn not_begun(what: &str, unfinished: Unfinished, stops: &Stops) -> Finished {
    match (unfinished, stops.now()) {
        (Unfinished::Fault, _) => Finished::failed(ErrorCode::Internal, format!("could not {what}: {unfinished}")),
        // Whoever copies still holds what it has of the drive.
        (_, Some(Stop::Cancelled | Stop::Abandoned)) => Finished::cancelled(false),
        (_, Some(Stop::TimedOut) | None) => Finished::host_fault(format!("could not {what}: {unfinished}")),
    }
}

/// How steps have ended: what is known of it when it cannot be said on the drive.
struct Ending {
    failure: Option<Failure>,
    is_cancelled: bool,
}

impl Ending {
    fn of(steps: &Steps) -> Self {
        let end = steps.end.as_ref();
        Self { failure: end.and_then(|end| end.failure.clone()), is_cancelled: end.is_some_and(|end| end.cancel_verified.is_some()) }
    }

    /// The end of a job of which nothing can be brought back.
    fn without_what_changed(self, unfinished: Unfinished) -> Finished {
        let message = format!("could not bring back what changed: {unfinished}");
        match self.failure {
            _ if self.is_cancelled => Finished::cancelled(false),
            None if unfinished == Unfinished::Fault => Finished::failed(ErrorCode::Internal, message),
            None => Finished::host_fault(message),
            Some(Failure { code: ErrorCode::HostFault, message: first }) => Finished::host_fault(format!("{first}; {message}")),
            Some(Failure { code, message: first }) => Finished::failed(code, format!("{first}; {message}")),
        }
    }
}

fn reason(end: &Finished) -> Option<WorkspaceReason> {
    let code = end.failure.as_ref()?.code;
    let timed_out = (code == ErrorCode::TimedOut).then_some(WorkspaceReason::TimedOut);
    timed_out.or((code == ErrorCode::Cancelled).then_some(WorkspaceReason::Cancelled))
}

fn not_staged(error: &PrepareError, stops: &Stops) -> Finished {
    let message = format!("could not {}", chain(error));
    match (error.is_interrupted(), stops.now()) {
        (true, Some(Stop::TimedOut)) => Finished::failed(ErrorCode::TimedOut, "its time was up while the workspace was prepared"),
        (true, _) => Finished::cancelled(true),
        (false, _) if error.io().is_some_and(is_host_fault) => Finished::host_fault(message),
        (false, _) => Finished::failed(ErrorCode::Staging, message),
    }
}

/// Runs file work off the runtime's threads. A panic in it is a fault of ours and ends the attempt, not the agent.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Box<Finished>> {
    spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "file work of a workspace failed");
        Box::new(Finished::failed(ErrorCode::Internal, "the workspace's file work ended in a fault of the agent; its log has more"))
    })
}
