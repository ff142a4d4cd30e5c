//! A fleet's workspace job in a directory of a drive that its host has: a copy of it is run in, and what changed is brought beside it.
//!
//! ```text
//!   resolve ─► results ─► copy ─► forget ─► run the steps ─► sync ─► result.json ─► clean
//! ```
//!
//! The results stay on the drive, under the names that a stand-alone worker would give them; nothing goes to the object store.

use std::path::Path;
use std::sync::Arc;

use longshore_model::DirectoryName;
use longshore_model::operation::WorkspaceRun;
use longshore_model::wire::problem::{ErrorCode, chain};
use longshore_model::wire::result::{FileChanges, WorkspaceResult};

use super::beside::{StageError, Staged, Workspace};
use super::collect::CollectError;
use super::globs::Globs;
use super::results::Results;
use super::source::{ResolveError, Source};
use super::stage::Place;
use super::{Ending, Header, PLACE, answer, not_begun, run};
use crate::drive::Pulse;
use crate::executor::Host;
use crate::finished::Finished;
use crate::process::{Stop, Stops, random_text};
use crate::{Output, Task};

const RESULT: &str = "result.json";
/// Bytes of an earlier run's manifest; the lists of one are bounded by what a sync lists.
const RESULT_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Runs a workspace job in the directory `name` of the host's jobs. `host.workspaces` is the job's own directory, whose name is never
/// used twice.
pub(super) async fn perform(
    host: &Host,
    task: &Task,
    run: &WorkspaceRun,
    (name, globs): (&DirectoryName, Option<Globs>),
    output: Arc<dyn Output>,
    stops: &Stops,
) -> Finished {
    let Some(jobs_dir) = host.jobs_dir.clone() else {
        let missing = format!(
            "could not open the directory {name:?}: this agent has none of jobs; set `agent.workspace.jobs_dir`",
            name = name.as_str()
        );
        return Finished::failed(ErrorCode::Staging, missing);
    };
    let header = Header::of(task);
    let watch = host.watch(stops);
    let staging = {
        let (jobs_dir, workspaces, name, stops) = (jobs_dir.clone(), host.workspaces.clone(), name.clone(), stops.clone());
        move |pulse: &Pulse| stage(&jobs_dir, &name, &workspaces, &stops, pulse)
    };
    let (workspace, staged, results) = match watch.over(staging).await {
        Ok(Ok(staged)) => staged,
        Ok(Err(error)) => return error.finished(stops),
        Err(unfinished) => return not_begun(&format!("copy {:?} into the workspace", jobs_dir.join(name.as_str())), unfinished, stops),
    };
    let steps = run::steps(host, task, run, output, stops, (&workspace.place, host.temporary.join(random_text()))).await;
    let ended = Ending::of(&steps);
    let bringing = {
        let stops = stops.clone();
        move |pulse: &Pulse| {
            if stops.now() == Some(Stop::Abandoned) {
                return Finished::cancelled(steps.verified);
            }
            bring_back(&workspace, staged, &results, globs.as_ref(), steps, &header, (&stops, pulse))
        }
    };
    watch.over(bringing).await.unwrap_or_else(|unfinished| ended.without_what_changed(unfinished))
}

/// Why no step was begun.
enum Unprepared {
    Source(ResolveError),
    Copy(StageError),
    Results(CollectError),
}

impl Unprepared {
    fn finished(&self, stops: &Stops) -> Finished {
        let (message, is_host_fault) = match self {
            Self::Source(error) => (chain(error), error.is_host_fault()),
            Self::Copy(error) => (chain(error), error.is_host_fault()),
            Self::Results(error) => (chain(error), error.is_host_fault()),
        };
        let message = format!("could not {message}");
        match stops.now() {
            Some(Stop::TimedOut) => Finished::failed(ErrorCode::TimedOut, "its time was up while the workspace was prepared"),
            Some(Stop::Cancelled | Stop::Abandoned) => Finished::cancelled(true),
            None if is_host_fault => Finished::host_fault(message),
            None => Finished::failed(ErrorCode::Staging, message),
        }
    }
}

fn stage(
    jobs_dir: &Path,
    name: &DirectoryName,
    workspaces: &Path,
    stops: &Stops,
    pulse: &Pulse,
) -> Result<(Workspace, Staged, Results), Unprepared> {
    let source = Source::resolve(jobs_dir, name).map_err(Unprepared::Source)?;
    let results = source.results().map_err(Unprepared::Source)?;
    let place = Place::for_results(workspaces, PLACE, &results).map_err(|source| {
        let path = workspaces.join(PLACE);
        Unprepared::Copy(StageError::Make { path, source })
    })?;
    let is_stopped = || {
        pulse.beat();
        stops.now().is_some()
    };
    let (workspace, staged) = Workspace::fill(place, &source, &is_stopped).map_err(Unprepared::Copy)?;
    // From here on the logs are this run's, and neither artifacts nor the manifest of another may stand beside them. The manifest goes
    // last: it is what tells what there is.
    let forgotten = previous(&results).map_or(Ok(()), |previous| results.forget(&previous, &is_stopped));
    forgotten.and_then(|()| results.remove(RESULT)).map_err(Unprepared::Results)?;
    Ok((workspace, staged, results))
}

/// What the last run had brought, if there is a manifest that can be read: what cannot is none of ours, and is replaced.
fn previous(results: &Results) -> Option<FileChanges> {
    let content = results.read(RESULT, RESULT_BYTES_MAX);
    let content = content.inspect_err(|error| tracing::warn!(%error, "the last run's result.json cannot be read")).ok()??;
    Some(serde_json::from_slice::<WorkspaceResult>(&content).ok()?.files)
}

fn bring_back(
    workspace: &Workspace,
    staged: Staged,
    results: &Results,
    globs: Option<&Globs>,
    steps: run::Steps,
    header: &Header,
    (stops, pulse): (&Stops, &Pulse),
) -> Finished {
    let run::Steps { results: steps, logs: _, end, verified } = steps;
    // Whoever stops a job still gets what there was.
    let is_stopped = || {
        pulse.beat();
        stops.abandon.is_cancelled()
    };
    let brought = workspace.sync(staged, results, globs, steps.len(), &is_stopped).and_then(|files| {
        let manifest = header.manifest((steps, verified), end.as_ref(), files);
        let mut json = serde_json::to_vec_pretty(&manifest).map_err(|error| CollectError::Write(error.into()))?;
        json.push(b'\n');
        results.write(RESULT, &json).map(|()| manifest)
    });
    match brought {
        Ok(manifest) => {
            let result = serde_json::to_value(answer::for_answer(manifest)).ok();
            let finished = end.unwrap_or_else(|| Finished::completed(Some(true), serde_json::Value::Null));
            Finished { result, ..finished }
        }
        Err(error) => super::not_brought(&error, end),
    }
}
