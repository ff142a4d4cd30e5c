//! Workspace jobs whose agent, or whose own process, is killed.

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use longshore_exec::{Executor, Machine, Output, Resumable};
use longshore_model::wire::log::LogStream;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::Outcome;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::support::{PATIENCE, Recorder, config, eventually, is_alive, pid_in, processes_of, steps};

/// An agent's place on a host, where one agent comes after the other.
struct Berth {
    dir: TempDir,
    runtime: Runtime,
}

impl Berth {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), runtime: Runtime::new().unwrap() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn workspaces(&self) -> Vec<PathBuf> {
        fs::read_dir(self.file("state/workspaces")).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    fn open(&self, patience: Duration) -> Executor {
        Executor::open_resuming(config(&self.file("state"), Duration::from_millis(200)), Machine::default(), patience).unwrap()
    }

    /// Starts steps, waits until `$DIR/pid` is written, and ends their agent as `kill -9` does: nothing is said to anybody. `$DIR` is the
    /// directory of the test.
    fn killed_while_running(&self, patience: Duration, script: &[&str]) {
        let agent = Runtime::new().unwrap();
        let executor = self.open(patience);
        let pid = self.file("pid");
        let script: Vec<_> = script.iter().map(|step| step.replace("$DIR", &self.dir.path().display().to_string())).collect();
        let task = steps(None, json!(script));
        agent.spawn(async move { executor.run(task, Arc::new(Recorder::default()), CancellationToken::new()).await });
        self.runtime.block_on(pid_in(&pid));
        agent.shutdown_timeout(PATIENCE);
    }

    /// Whether anything of a step lives.
    fn runs(&self) -> bool {
        !processes_of(self.dir.path()).is_empty()
    }

    fn wait(&self, what: &'static str, holds: impl FnMut() -> bool) {
        self.runtime.block_on(eventually(what, holds));
    }

    #[track_caller]
    fn one(&self, executor: &Executor) -> Resumable {
        let left = executor.resumable();
        assert_eq!(left.len(), 1, "{left:?}");
        left[0]
    }
}

const STEPS: &[&str] =
    &["echo one; echo $$ > $DIR/pid; until test -e $DIR/go; do sleep 0.02; done; echo two; echo made > made", "echo three >&2"];

#[test]
fn a_job_goes_on_while_its_agent_is_gone_and_the_next_one_has_all_of_it() {
    let berth = Berth::new();
    berth.killed_while_running(PATIENCE, STEPS);
    assert!(berth.runs());

    let executor = berth.open(PATIENCE);
    let left = berth.one(&executor);
    fs::write(berth.file("go"), "").unwrap();
    let output = Arc::new(Recorder::default());
    let resumed = executor.resume(left, output.clone(), CancellationToken::new());
    let finished = berth.runtime.block_on(async { tokio::time::timeout(PATIENCE, resumed).await.unwrap() }).unwrap();

    assert_eq!((finished.outcome, finished.failure), (Outcome::Completed, None));
    assert_eq!((output.text(LogStream::Stdout), output.text(LogStream::Stderr)), ("one\ntwo\n".into(), "three\n".into()));
    let result = finished.result.unwrap();
    assert_eq!((&result["status"], &result["steps"][1]["exitCode"]), (&json!("success"), &json!(0)));
    assert_eq!(created(&result), ["made"]);
    assert!(finished.archive.unwrap().path().exists());
    // It was the last that held it.
    assert!(!berth.runs() && berth.workspaces().is_empty() && executor.resumable().is_empty());
}

fn created(result: &Value) -> Vec<&str> {
    result["files"]["created"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect()
}

#[test]
fn a_job_that_ends_while_no_agent_is_there_is_found_ended() {
    let berth = Berth::new();
    berth.killed_while_running(PATIENCE, STEPS);
    fs::write(berth.file("go"), "").unwrap();
    berth.wait("it ends", || berth.workspaces().iter().any(|path| path.join("ended").exists()));

    let executor = berth.open(PATIENCE);
    let (left, output) = (berth.one(&executor), Arc::new(Recorder::default()));
    let finished = berth.runtime.block_on(executor.resume(left, output.clone(), CancellationToken::new())).unwrap();
    // Killed again before what came back was stored: the next one finds it still.
    std::mem::forget(finished);
    drop(executor);
    let (executor, output) = (berth.open(PATIENCE), Arc::new(Recorder::default()));
    let finished = berth.runtime.block_on(executor.resume(berth.one(&executor), output.clone(), CancellationToken::new())).unwrap();
    assert!(finished.archive.as_ref().unwrap().path().exists());
    assert_eq!((finished.outcome, output.text(LogStream::Stdout)), (Outcome::Completed, "one\ntwo\n".into()));
    drop(finished);
    assert!(!berth.runs() && berth.workspaces().is_empty());
}

#[test]
fn a_resumed_job_can_be_cancelled_and_brings_back_what_it_made() {
    let berth = Berth::new();
    berth.killed_while_running(PATIENCE, &["echo early > early; trap '' TERM; echo $$ > $DIR/pid; while :; do sleep 0.1; done"]);
    let executor = berth.open(PATIENCE);
    let (left, output, cancel) = (berth.one(&executor), Arc::new(Recorder::default()), CancellationToken::new());
    cancel.cancel();
    let mut finished = berth.runtime.block_on(executor.resume(left, output, cancel)).unwrap();
    finished.archive = None;
    assert_eq!((finished.outcome, finished.cancel_verified), (Outcome::Cancelled, Some(true)));
    assert_eq!(created(&finished.result.unwrap()), ["early"]);
    assert!(!berth.runs() && berth.workspaces().is_empty());
}

#[test]
fn a_job_that_no_agent_comes_back_to_ends_by_itself_and_leaves_nothing() {
    let berth = Berth::new();
    berth.killed_while_running(Duration::from_millis(300), &["setsid sh -c 'echo $$ > $DIR/pid; exec sleep 1000' & sleep 1000"]);
    berth.wait("its process ends", || !berth.runs());
    berth.wait("its workspace is gone", || berth.workspaces().is_empty());
    assert_eq!(berth.open(PATIENCE).resumable(), []);
}

#[test]
fn a_job_that_is_being_given_up_when_its_agent_comes_is_no_cancelled_one() {
    let berth = Berth::new();
    berth.killed_while_running(PATIENCE, &["echo $$ > $DIR/pid; exec sleep 1000"]);
    let executor = berth.open(PATIENCE);
    // What it tells itself when its patience is at an end. A socket's own path may be too long for a name.
    let workspace = fs::File::open(berth.workspaces().remove(0)).unwrap();
    let mut socket = UnixStream::connect(format!("/proc/self/fd/{}/control", workspace.as_raw_fd())).unwrap();
    socket.write_all(b"\"abandon\"\n").unwrap();
    let resumed = executor.resume(berth.one(&executor), Arc::new(Recorder::default()), CancellationToken::new());
    let finished = berth.runtime.block_on(async { tokio::time::timeout(PATIENCE, resumed).await.unwrap() }).unwrap();
    let failure = finished.failure.unwrap();
    assert_eq!((finished.outcome, failure.code, finished.transient), (Outcome::Failed, ErrorCode::HostFault, true), "{}", failure.message);
    assert!(!berth.runs() && berth.workspaces().is_empty());
}

#[test]
fn what_a_job_cannot_keep_of_its_results_is_told() {
    let berth = Berth::new();
    let executor = berth.open(PATIENCE);
    // As a disk that is full at that moment, but surely.
    let script = "mkdir $LONGSHORE_WORKSPACE/../../artifacts.tar.zst; touch $LONGSHORE_WORKSPACE/../../artifacts.tar.zst/x";
    let running = executor.run(steps(None, json!([script])), Arc::new(Recorder::default()), CancellationToken::new());
    let finished = berth.runtime.block_on(async { tokio::time::timeout(PATIENCE, running).await.unwrap() });
    let failure = finished.failure.unwrap();
    assert!(failure.message.starts_with("could not keep what the job brought back: "), "{}", failure.message);
    assert!(berth.workspaces().is_empty());
}

#[test]
fn a_job_that_is_no_longer_wanted_is_discarded_with_everything_of_it() {
    let berth = Berth::new();
    berth.killed_while_running(PATIENCE, &["setsid sh -c 'echo $$ > $DIR/pid; exec sleep 1000' & sleep 1000"]);
    let executor = berth.open(PATIENCE);
    let left = berth.one(&executor);
    assert!(executor.discard(left) && executor.discard(left));
    assert!(!berth.runs() && berth.workspaces().is_empty());
}

#[test]
fn an_agent_that_resumes_nothing_sweeps_what_goes_on() {
    let berth = Berth::new();
    berth.killed_while_running(PATIENCE, &["echo $$ > $DIR/pid; exec sleep 1000"]);
    let _executor = Executor::open(config(&berth.file("state"), Duration::ZERO)).unwrap();
    assert!(!berth.runs() && berth.workspaces().is_empty());
}

#[test]
fn what_cannot_be_read_after_a_kill_is_swept() {
    for spoiled in ["errand", "control"] {
        let berth = Berth::new();
        berth.killed_while_running(PATIENCE, &["echo $$ > $DIR/pid; exec sleep 1000"]);
        let path = berth.workspaces().remove(0).join(spoiled);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "{\"schema\": 2}").unwrap();
        assert_eq!(berth.open(PATIENCE).resumable(), [], "{spoiled}");
        assert!(!berth.runs() && berth.workspaces().is_empty(), "{spoiled}");
    }
}

/// The process that carries the job in this workspace.
fn carrier_of(workspace: &Path) -> i32 {
    let mark = format!("@{}", workspace.display()).into_bytes();
    let carries = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(b"LONGSHORE_CARRIER=") && entry.ends_with(&mark))
    };
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.into_iter().find(carries).expect("a carrier")
}

#[test]
fn killing_the_jobs_own_process_ends_the_job_with_everything_of_it() {
    let berth = Berth::new();
    let executor = berth.open(PATIENCE);
    let script = format!("setsid sh -c 'echo $$ > {0}; exec sleep 1000' & sleep 1000", berth.file("pid").display());
    let output: Arc<dyn Output> = Arc::new(Recorder::default());
    let running = executor.run(steps(None, json!([script])), output, CancellationToken::new());
    let (finished, ()) = berth.runtime.block_on(async {
        tokio::join!(running, async {
            pid_in(&berth.file("pid")).await;
            let carrier = carrier_of(&fs::canonicalize(berth.workspaces().remove(0)).unwrap());
            rustix::process::kill_process(rustix::process::Pid::from_raw(carrier).unwrap(), rustix::process::Signal::KILL).unwrap();
        })
    });
    let failure = finished.failure.unwrap();
    assert_eq!((finished.outcome, failure.code, finished.transient), (Outcome::Failed, ErrorCode::HostFault, true), "{}", failure.message);
    assert!(!berth.runs() && berth.workspaces().is_empty());
}

#[test]
fn killing_both_leaves_nothing_after_the_next_start() {
    let berth = Berth::new();
    berth.killed_while_running(PATIENCE, &["setsid sh -c 'echo $$ > $DIR/pid; exec sleep 1000' & sleep 1000"]);
    let carrier = carrier_of(&fs::canonicalize(berth.workspaces().remove(0)).unwrap());
    rustix::process::kill_process(rustix::process::Pid::from_raw(carrier).unwrap(), rustix::process::Signal::KILL).unwrap();
    // Not ours to reap any more: it may be a zombie of whoever adopts orphans here.
    berth.wait("it is gone", || !is_alive(carrier));
    assert_eq!(berth.open(PATIENCE).resumable(), []);
    assert!(!berth.runs() && berth.workspaces().is_empty());
}
