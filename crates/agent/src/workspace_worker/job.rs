//! What one request asks for, from the job's directory to its `result.json`; nothing of a broker.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use longshore_exec::workspace::{Globs, Hold, ResolveError, Results, Source, StageError, Staged, Workspace, is_reserved};
use longshore_exec::{Output, Pulse, Unfinished, Watch};
use longshore_model::limits::REQUEST_BYTES_MAX;
use longshore_model::stand_alone::{Definition, Refused, Request};
use longshore_model::unit::Span;
use longshore_model::wire::log::LogStream;
use longshore_model::wire::problem::chain;
use longshore_model::wire::result::{FileChanges, WorkspaceReason};
use longshore_model::wire::stand_alone::{Asked, Manifest, Response};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Config;
use super::manifest::{Header, refusal};

const RESULT: &str = "result.json";
/// Bytes of a manifest that is read back; its lists are bounded by what a sync lists.
const MANIFEST_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Before what a fault of this host kept from being done is offered again.
const AFTER_FAULT: Duration = Duration::from_secs(5);
/// The same for what somebody else is doing at the moment.
const AFTER_BUSY: Duration = Duration::from_secs(1);

/// Reads a message's payload.
pub(super) fn read(payload: &[u8]) -> Result<Request, Refused> {
    let request = Request::parse(payload)?;
    if is_reserved(&request.id) {
        let reason = "`id` cannot be used: the name belongs to Longshore".to_owned();
        return Err(Refused { id: Some(request.id.to_string()), reason });
    }
    Ok(request)
}

/// What became of a request.
pub(super) enum Performed {
    /// It was done, well or badly: the manifest is on disk.
    Answered {
        response: Response,
        /// To be dropped, which takes a while, when nobody waits for it.
        workspace: Option<Workspace>,
    },
    /// It had been done before, and this is what was said then.
    Stored(Response),
    /// It can never be done.
    Refused { response: Response, reason: String },
    /// Somebody else may do it, or this worker later.
    NotNow(NotNow),
    /// The broker does not wait for it any more.
    Gone,
}

/// Why something is given back.
#[derive(Debug)]
pub(super) struct NotNow {
    pub(super) reason: String,
    pub(super) delay: Duration,
    /// Whether this worker is at fault, and not just late.
    pub(super) is_fault: bool,
}

/// Which delivery of which message a request came by.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    pub(super) asked: Option<Asked>,
    pub(super) attempt: u32,
}

impl NotNow {
    pub(super) fn busy(reason: String) -> Self {
        Self { reason, delay: AFTER_BUSY, is_fault: false }
    }

    pub(super) fn fault(reason: String) -> Self {
        Self { reason, delay: AFTER_FAULT, is_fault: true }
    }

    pub(super) fn unfinished(what: &str, unfinished: Unfinished) -> Self {
        Self::fault(format!("could not {what}: {unfinished}"))
    }

    fn stopped() -> Self {
        Self { reason: "the worker was told to stop".to_owned(), delay: Duration::ZERO, is_fault: false }
    }
}

impl Config {
    /// Watches file work of a job that ends at the `deadline`, or at `stop`.
    pub(super) fn watch(&self, deadline: Instant, stop: &CancellationToken) -> Watch {
        Watch::new(deadline, stop.clone(), self.runner.drive_patience)
    }
}

/// The stand-alone door has no live logs but the files.
struct FilesOnly;

impl Output for FilesOnly {
    fn write(&self, _step: u32, _stream: LogStream, _bytes: &[u8]) {}
}

/// Does what `request` asks for. `is_open` is asked while the source is copied. At `stop` the steps are ended and nothing is said.
pub(super) async fn perform(
    config: &Config,
    request: &Request,
    offer: Offer,
    hold: &Arc<Hold>,
    is_open: impl Future<Output = bool>,
    stop: &CancellationToken,
) -> Performed {
    let header = Header {
        id: request.id.to_string(),
        worker: config.worker.clone(),
        attempt: offer.attempt,
        asked: offer.asked,
        start: Timestamp::now(),
        began: Instant::now(),
    };
    // Its own limit is on the drive.
    let watch = config.watch(header.began + config.timeout, stop);
    let opening = {
        let (jobs_dir, request, asked) = (config.jobs_dir.clone(), request.clone(), header.asked.clone());
        move |_: &Pulse| open(&jobs_dir, &request, asked.as_ref())
    };
    let opened = match watch.over(opening).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(performed)) => return *performed,
        Err(unfinished) => return Performed::NotNow(NotNow::unfinished("open the job's directory", unfinished)),
    };
    let Opened { source, results, definition, previous } = opened;
    let (results, hold) = (Arc::new(results), Arc::clone(hold));
    let (definition, globs) = match definition {
        Ok(both) => both,
        Err(reason) => return refused_with_manifest(&watch, &header, results, reason).await,
    };
    let limit = definition.timeout.unwrap_or(config.timeout);
    let deadline = header.began + limit;
    let watch = config.watch(deadline, stop);

    let staging = {
        let (results, hold, stop) = (Arc::clone(&results), Arc::clone(&hold), stop.clone());
        watch.over(move |pulse| {
            let is_stopped = || {
                pulse.beat();
                stop.is_cancelled() || Instant::now() >= deadline
            };
            Workspace::stage(&source, &results, &hold, &is_stopped)
        })
    };
    let (staged, is_open) = tokio::join!(staging, is_open);
    let (workspace, staged) = match staged {
        Ok(Ok(staged)) => staged,
        Ok(Err(error)) => return not_staged(&watch, &header, results, &error, stop, (deadline, limit)).await,
        Err(unfinished) => return Performed::NotNow(NotNow::unfinished("copy the job's directory", unfinished)),
    };
    if !is_open {
        return discarded(workspace, Performed::Gone).await;
    }
    let forgetting = {
        let results = Arc::clone(&results);
        // From here on the logs are this run's, and neither artifacts nor the manifest of another may stand beside them. The manifest
        // goes last: it is what tells what there is.
        watch.over(move |pulse| {
            let goes_on = || {
                pulse.beat();
                false
            };
            previous.map_or(Ok(()), |previous| results.forget(&previous, &goes_on)).and_then(|()| results.remove(RESULT))
        })
    };
    match forgetting.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let fault = NotNow::fault(format!("could not {}", chain(&error)));
            return discarded(workspace, Performed::NotNow(fault)).await;
        }
        Err(unfinished) => {
            let unfinished = NotNow::unfinished("remove what an earlier run had brought", unfinished);
            return discarded(workspace, Performed::NotNow(unfinished)).await;
        }
    }
    let ran = config.runner.run(&workspace, &request.id, &definition.run, (deadline, limit), Arc::new(FilesOnly), stop.clone()).await;
    if stop.is_cancelled() && ran.end.is_some() {
        return discarded(workspace, Performed::NotNow(NotNow::stopped())).await;
    }
    if let Some(end) = ran.end.as_ref().filter(|end| end.transient) {
        let message = end.failure.as_ref().map(|failure| failure.message.clone()).unwrap_or_default();
        return discarded(workspace, Performed::NotNow(NotNow::fault(message))).await;
    }
    let bringing = {
        let stop = stop.clone();
        move |pulse: &Pulse| {
            let is_stopped = || {
                pulse.beat();
                stop.is_cancelled()
            };
            bring_back(&header, workspace, staged, &results, globs.as_ref(), ran, &is_stopped)
        }
    };
    let brought = watch.over(bringing).await;
    brought.unwrap_or_else(|unfinished| Performed::NotNow(NotNow::unfinished("bring back what changed", unfinished)))
}

struct Opened {
    source: Source,
    results: Results,
    /// Or what is wrong with it.
    definition: Result<(Definition, Option<Globs>), String>,
    /// What the last run had brought.
    previous: Option<FileChanges>,
}

/// Finds the job's directory and what it says, and whether the message was answered before.
fn open(jobs_dir: &Path, request: &Request, asked: Option<&Asked>) -> Result<Opened, Box<Performed>> {
    let unusable = |error: ResolveError| {
        let reason = format!("could not {}", chain(&error));
        Box::new(match error {
            ResolveError::Busy { .. } => Performed::NotNow(NotNow::busy(reason)),
            _ if error.is_host_fault() => Performed::NotNow(NotNow::fault(reason)),
            ResolveError::Jobs { .. }
            | ResolveError::Missing { .. }
            | ResolveError::NotADirectory { .. }
            | ResolveError::Unreadable { .. } => Performed::Refused { response: refusal(request.id.as_str(), &reason), reason },
        })
    };
    let source = Source::resolve(jobs_dir, &request.id).map_err(unusable)?;
    let results = source.results().map_err(unusable)?;
    let previous = match stored(&results) {
        Some(stored) if asked.is_some() && stored.delivery.as_ref() == asked => {
            return Err(Box::new(Performed::Stored(stored.response())));
        }
        other => other.map(|previous| previous.result.files),
    };
    let definition = definition(&source, request);
    Ok(Opened { source, results, definition, previous })
}

/// The manifest of the last run, if there is one that can be read: what cannot is none of ours, and is replaced.
fn stored(results: &Results) -> Option<Manifest> {
    match results.read(RESULT, MANIFEST_BYTES_MAX) {
        Ok(content) => serde_json::from_slice(&content?).ok(),
        Err(error) => {
            tracing::warn!(%error, "the last run's result.json cannot be read");
            None
        }
    }
}

fn definition(source: &Source, request: &Request) -> Result<(Definition, Option<Globs>), String> {
    let file = if request.has_steps() { None } else { Some(source.read("job.json", REQUEST_BYTES_MAX as u64)) };
    let file = file.transpose().map_err(|error| format!("job.json cannot be read: {error}"))?.flatten();
    let definition = request.definition(file.as_deref()).map_err(|error| error.to_string())?;
    let globs = definition.run.artifacts.as_deref().map(Globs::new).transpose().map_err(|error| format!("/artifacts: {error}"))?;
    Ok((definition, globs))
}

async fn refused_with_manifest(watch: &Watch, header: &Header, results: Arc<Results>, reason: String) -> Performed {
    match answer(watch, header.failed(Vec::new(), reason.clone()), results).await {
        Performed::Answered { response, workspace: _ } => Performed::Refused { response, reason },
        other @ (Performed::Stored(_) | Performed::Refused { .. } | Performed::NotNow(_) | Performed::Gone) => other,
    }
}

async fn not_staged(
    watch: &Watch,
    header: &Header,
    results: Arc<Results>,
    error: &StageError,
    stop: &CancellationToken,
    (deadline, limit): (Instant, Duration),
) -> Performed {
    if stop.is_cancelled() {
        return Performed::NotNow(NotNow::stopped());
    }
    let reason = format!("could not {}", chain(error));
    if error.is_host_fault() || matches!(error, StageError::Make { .. }) {
        return Performed::NotNow(NotNow::fault(reason));
    }
    let mut manifest = header.failed(Vec::new(), reason);
    if Instant::now() >= deadline {
        manifest.result.error = Some(format!("ran longer than {}: its time was up while the workspace was prepared", Span(limit)));
        manifest.result.reason = Some(WorkspaceReason::TimedOut);
    }
    answer(watch, manifest, results).await
}

async fn answer(watch: &Watch, manifest: Manifest, results: Arc<Results>) -> Performed {
    let written = watch.over(move |_| written(manifest, &results, None)).await;
    written.unwrap_or_else(|unfinished| Performed::NotNow(NotNow::unfinished("write result.json", unfinished)))
}

/// Brings back what changed, and writes the manifest.
fn bring_back(
    header: &Header,
    workspace: Workspace,
    staged: Staged,
    results: &Results,
    globs: Option<&Globs>,
    ran: longshore_exec::workspace::Ran,
    is_stopped: &dyn Fn() -> bool,
) -> Performed {
    let manifest = match workspace.sync(staged, results, globs, ran.steps.len(), is_stopped) {
        Ok(files) => header.manifest(ran, files),
        Err(_) if is_stopped() => return Performed::NotNow(NotNow::stopped()),
        Err(error) if error.is_host_fault() => return Performed::NotNow(NotNow::fault(format!("could not {}", chain(&error)))),
        Err(error) => header.failed(ran.steps, format!("could not {}", chain(&error))),
    };
    written(manifest, results, Some(workspace))
}

fn written(manifest: Manifest, results: &Results, workspace: Option<Workspace>) -> Performed {
    let mut json = match serde_json::to_vec_pretty(&manifest) {
        Ok(json) => json,
        Err(error) => return Performed::NotNow(NotNow::fault(format!("could not write the manifest: {error}"))),
    };
    json.push(b'\n');
    match results.write(RESULT, &json) {
        Ok(()) => Performed::Answered { response: manifest.response(), workspace },
        Err(error) => Performed::NotNow(NotNow::fault(format!("could not {}", chain(&error)))),
    }
}

/// Removes the workspace, off the runtime's threads.
async fn discarded(workspace: Workspace, performed: Performed) -> Performed {
    // A panic there leaves the workspace, which the next who uses the name removes.
    let _left = spawn_blocking(move || drop(workspace)).await;
    performed
}
