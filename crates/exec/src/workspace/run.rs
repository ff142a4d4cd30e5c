//! Runs the steps, one after the other, each with its own log file.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longshore_model::operation::{Step, WorkspaceRun};
use longshore_model::unit::Span;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::Failure;
use longshore_model::wire::result::{StepResult, WorkspaceStatus};
use rustix::fs::{Mode, OFlags};

use super::blocking;
use super::stage::Place;
use crate::drive::Pulse;
use crate::executor::Host;
use crate::files;
use crate::finished::Finished;
use crate::process::{Contain, Exit, Groups, Limits, LogFile, Program, Sink, Stop, Stops, Wiring, random_text};
use crate::provider::command::{ending, from_fault, is_verified};
use crate::secrets::opened;
use crate::{Output, Task};

/// What became of the steps.
pub(crate) struct Steps {
    /// Each that started, in order.
    pub(crate) results: Vec<StepResult>,
    /// Their logs, by the descriptors they were written through.
    pub(crate) logs: Vec<File>,
    /// How the job ends, if it does not end well; without a result.
    pub(crate) end: Option<Finished>,
    /// Whether every process is known to be gone.
    pub(crate) verified: bool,
}

/// One step that has ended.
struct Ended {
    exit: Option<Exit>,
    elapsed: std::time::Duration,
    truncated: bool,
    verified: bool,
    /// What went wrong, without the step's name.
    trouble: Option<Finished>,
}

/// Runs the steps until one fails that may not, or something stops them. `temporary` is where they keep temporary files: it is made, and removed
/// with all that is in it; an absolute path that nobody else uses.
pub(crate) async fn steps(
    host: &Host,
    task: &Task,
    run: &WorkspaceRun,
    output: Arc<dyn Output>,
    stops: &Stops,
    (place, temporary): (&Arc<Place>, PathBuf),
) -> Steps {
    let mut steps = Steps { results: Vec::new(), logs: Vec::new(), end: None, verified: true };
    let secrets = match opened(&run.secrets) {
        Ok(secrets) => secrets,
        Err(finished) => {
            steps.end = Some(*finished);
            return steps;
        }
    };
    let groups = match Groups::make(&host.launcher.state_dir, &random_text(), &run.limits) {
        Ok(groups) => Arc::new(groups),
        Err(unbounded) => {
            steps.end = Some(Finished::failed(ErrorCode::Unsupported, format!("this host could not {unbounded}")));
            return steps;
        }
    };
    match files::make_private_dir(&temporary) {
        Ok(()) => run_all(host, task, run, (output, &secrets), stops, (place, &groups, &temporary), &mut steps).await,
        Err(error) => steps.end = Some(Finished::host_fault(format!("could not make a directory for temporary files: {error}"))),
    }
    let tidying = move || {
        groups.end();
        if let Err(error) = remove(&temporary) {
            tracing::warn!(%error, "temporary files of a job could not be removed");
        }
    };
    if blocking(tidying).await.is_err() {
        tracing::warn!("a job's control groups and temporary files are left to the next start");
    }
    steps
}

/// Removes a directory that steps could do anything to.
fn remove(dir: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else { return Ok(()) };
    files::remove(files::open_dir(parent)?.as_fd(), &CString::new(name.as_bytes())?)
}

async fn run_all(
    host: &Host,
    task: &Task,
    run: &WorkspaceRun,
    (output, secrets): (Arc<dyn Output>, &BTreeMap<String, String>),
    stops: &Stops,
    (place, groups, temporary): (&Arc<Place>, &Groups, &Path),
    steps: &mut Steps,
) {
    for (index, step) in run.steps.iter().enumerate() {
        if let Some(stop) = stops.now() {
            steps.end = Some(stopped(stop, task, steps.verified));
            break;
        }
        let name = log_name(index);
        let opening = {
            let (place, name) = (Arc::clone(place), name.clone());
            move |_: &Pulse| open_log(&place, &name).and_then(|log| Ok((log.try_clone()?, log)))
        };
        let within = stops.within(step.timeout);
        let watch = host.watch(&within);
        let log = match watch.over(opening).await.unwrap_or_else(|unfinished| Err(unfinished.into())) {
            Ok((log, kept)) => {
                steps.logs.push(kept);
                LogFile::new(log, watch)
            }
            Err(error) => {
                steps.end = Some(Finished::host_fault(format!("could not open {name}: {error}")));
                break;
            }
        };
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        let sink = Sink::to_file(Arc::clone(&output), number, run.output_bytes_max, Some(log)).without(secrets);
        let contain = Contain { namespaces: true, doors: groups.doors() };
        let limits = Limits { file_bytes: run.limits.file_size, no_core: true, ..Limits::default() };
        let wiring = Wiring { contain: Some(contain), limits, ..Wiring::default() };
        let mut ended = self::step(host, task, (index, step, secrets), (sink, wiring), &within, (place, temporary)).await;
        if let (Some(trouble), Some(memory)) = (&mut ended.trouble, groups.memory_used_up())
            && let Some(failure) = &mut trouble.failure
        {
            failure.message.push_str(&format!("; a process was ended as the job used up its limit of {memory} of memory"));
        }
        steps.verified &= ended.verified;
        let result = StepResult {
            index,
            command: step.script.clone(),
            status: if ended.trouble.is_none() { WorkspaceStatus::Success } else { WorkspaceStatus::Failed },
            exit_code: ended.exit.and_then(|exit| exit.code),
            duration_ms: u64::try_from(ended.elapsed.as_millis()).unwrap_or(u64::MAX),
            log: name,
            name: step.name.clone(),
            signal: ended.exit.and_then(|exit| exit.signal),
            truncated: ended.truncated,
        };
        steps.results.push(result);
        let Some(trouble) = ended.trouble else { continue };
        if let Some(stop) = stops.now() {
            // The stop is what ended the step, whatever else it looks like.
            steps.end = Some(stopped(stop, task, steps.verified));
            break;
        }
        if trouble.transient || !step.continue_on_error {
            steps.end = Some(named(trouble, index, step));
            break;
        }
    }
}

/// The name of a step's log.
pub(crate) fn log_name(index: usize) -> String {
    format!("step_{index}.log")
}

async fn step(
    host: &Host,
    task: &Task,
    (index, step, secrets): (usize, &Step, &BTreeMap<String, String>),
    (mut sink, wiring): (Sink, Wiring),
    stops: &Stops,
    (place, temporary): (&Place, &Path),
) -> Ended {
    let mut words = step.shell.0.clone();
    words.push(step.script.clone());
    let mut env = host.environment(&place.tree_path);
    let own = [
        ("CI", "true"),
        ("LONGSHORE_JOB_ID", &task.job.id.to_string()),
        ("LONGSHORE_STEP", &index.to_string()),
        ("LONGSHORE_WORKSPACE", &place.tree_path),
        ("LONGSHORE_RESULTS", &place.results_path),
        // Removed with the job: what is made in the host's own would stay.
        ("TMPDIR", &temporary.to_string_lossy()),
    ];
    env.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
    env.extend(step.env.clone());
    env.extend(task.variables());
    env.extend(secrets.clone());
    let program = Program { words, cwd: place.tree_path.clone(), env };
    let began = tokio::time::Instant::now();
    let ran = host.launcher.run_wired(program, wiring, &mut sink, stops).await;
    let ran = match ran {
        Ok(ran) => ran,
        Err(fault) => {
            let trouble = from_fault(&fault);
            if let Some(failure) = &trouble.failure {
                sink.remark(&format!("[longshore] {}\n", failure.message)).await;
            }
            let captured = sink.finish().await;
            return Ended {
                exit: None,
                elapsed: began.elapsed(),
                truncated: captured.cut,
                verified: is_verified(&fault),
                trouble: Some(trouble),
            };
        }
    };
    let captured = sink.finish().await;
    let trouble = match (ran.stop, ran.exit, captured.log_fault) {
        (Some(Stop::Cancelled | Stop::Abandoned), _, _) => Some(Finished::cancelled(ran.verified)),
        (Some(Stop::TimedOut), _, _) => {
            let limit = Span(step.timeout.unwrap_or(task.job.timeout));
            Some(Finished::failed(ErrorCode::TimedOut, format!("ran longer than {limit}")))
        }
        (None, _, Some(fault)) => Some(Finished::host_fault(format!("could not be logged: {fault}"))),
        (None, Some(Exit { code: Some(0), signal: None }), None) => None,
        (None, exit, None) => Some(Finished::failed(ErrorCode::ExitStatus, ending(exit))),
    };
    Ended { exit: ran.exit, elapsed: ran.elapsed, truncated: captured.cut, verified: ran.verified, trouble }
}

fn stopped(stop: Stop, task: &Task, verified: bool) -> Finished {
    match stop {
        Stop::Cancelled | Stop::Abandoned => Finished::cancelled(verified),
        Stop::TimedOut => {
            let gone = if verified { "" } else { "; not every process is known to be gone" };
            Finished::failed(ErrorCode::TimedOut, format!("ran longer than {}{gone}", Span(task.job.timeout)))
        }
    }
}

/// Says in the failure which step it was.
fn named(mut finished: Finished, index: usize, step: &Step) -> Finished {
    let first_line = step.script.trim().lines().next().unwrap_or_default();
    let name = step.name.as_deref().unwrap_or(first_line);
    let short: String = name.chars().take(80).collect();
    finished.failure =
        finished.failure.map(|Failure { code, message }| Failure { code, message: format!("step {index} ({short:?}) {message}") });
    finished
}

/// Makes a step's log file anew, whatever an earlier step may have put there.
fn open_log(place: &Place, name: &str) -> io::Result<File> {
    // An earlier step may have taken our own rights away.
    files::own(place.results.as_fd())?;
    files::remove(place.results.as_fd(), &CString::new(name)?)?;
    // Written to at its own place, whatever length the step gives it.
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(&place.results, name, flags, Mode::from_raw_mode(0o644))?))
}
