//! An executor in a temporary directory, and things to look at.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use longshore_exec::{Config, Executor, Finished, Machine, Output, SupervisorCommand, Task, bundle};
use longshore_model::job::Job;
use longshore_model::limits::DRIVE_PATIENCE;
use longshore_model::operation::Call;
use longshore_model::retry::RetryPolicy;
use longshore_model::wire::log::LogStream;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::{ExecutionId, JobId};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes; only a hang meets it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    pub(crate) executor: Executor,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with_grace(Duration::from_millis(200))
    }

    pub(crate) fn with_grace(kill_grace: Duration) -> Self {
        Self::below(&std::env::temp_dir(), kill_grace)
    }

    /// With everything in a directory below `place`.
    pub(crate) fn below(place: &Path, kill_grace: Duration) -> Self {
        let dir = tempfile::tempdir_in(place).unwrap();
        let executor = Executor::open(config(&dir.path().join("state"), kill_grace)).unwrap();
        Self { dir, executor }
    }

    /// An executor for a machine that is the directory `root`, with nothing on its `PATH` but what [`Self::program`] puts there.
    pub(crate) fn of_machine() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (root, bin) = (dir.path().join("root"), dir.path().join("bin"));
        fs::create_dir_all(&root).unwrap();
        fs::create_dir_all(&bin).unwrap();
        let machine = Machine { root, path: Some(bin.to_str().unwrap().to_owned()) };
        let executor = Executor::open_on(config(&dir.path().join("state"), Duration::from_millis(200)), machine).unwrap();
        Self { dir, executor }
    }

    /// The machine's files.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Puts a program on the machine's `PATH` that writes down each call, a line with `NAME [ARG]…`, and then runs `script`, in
    /// which `$ROOT` is the machine's root.
    pub(crate) fn program(&self, name: &str, script: &str) {
        let (root, calls) = (self.root(), self.file("calls"));
        let text = format!(
            "#!/bin/sh\nexport PATH=/usr/bin:/bin\nROOT='{}'\n(printf '{name} LC_ALL=%s' \"$LC_ALL\"; printf ' [%s]' \"$@\"; echo) >>'{}'\n{script}\n",
            root.display(),
            calls.display()
        );
        let path = self.dir.path().join("bin").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// What the programs were called with since the last time.
    pub(crate) fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.file("calls")).unwrap_or_default();
        let _none_yet = fs::remove_file(self.file("calls"));
        text.lines().map(|line| line.replace(" LC_ALL=C", "")).collect()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// A file outside of every workspace for scripts to write to.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) async fn run(&self, task: Task) -> Finished {
        self.run_into(task, &Arc::new(Recorder::default())).await
    }

    pub(crate) async fn run_into(&self, task: Task, output: &Arc<Recorder>) -> Finished {
        let output: Arc<dyn Output> = output.clone();
        tokio::time::timeout(PATIENCE, self.executor.run(task, output, CancellationToken::new())).await.expect("ends")
    }

    pub(crate) fn bundle(&self, source: &Path) -> PathBuf {
        let path = self.file("bundle");
        bundle::pack(source, &bundle::PackOptions::default(), fs::File::create(&path).unwrap(), &mut |_, _| {}).unwrap();
        path
    }

    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        for dir in ["workspaces", "tmp"] {
            let left: Vec<_> = fs::read_dir(self.state().join(dir)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert!(left.is_empty(), "{dir}: {left:?}");
        }
    }
}

pub(crate) fn config(state_dir: &Path, kill_grace: Duration) -> Config {
    let supervisor = SupervisorCommand { program: env!("CARGO_BIN_EXE_longshore-supervise").into(), args: Vec::new() };
    let state_dir = state_dir.to_owned();
    Config { state_dir, supervisor, kill_grace, workspaces_dir: None, jobs_dir: None, drive_patience: DRIVE_PATIENCE }
}

pub(crate) fn task(operation: &str, args: Value) -> Task {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let job = Job {
        id: JobId::from_bits(NEXT.fetch_add(1, Ordering::Relaxed).into()),
        call: Call::parse(operation, args).unwrap(),
        target: "_any".parse().unwrap(),
        executions: vec![ExecutionId::Any],
        timeout: PATIENCE,
        not_before: None,
        expires_at: jiff::Timestamp::MAX,
        retry: RetryPolicy::once(),
        concurrency_key: None,
        annotations: Default::default(),
        submitted_by: "tester".to_owned(),
        submitted_at: jiff::Timestamp::UNIX_EPOCH,
        retry_of: None,
        sealed_for: None,
    };
    Task { job, execution: ExecutionId::Any, attempt: 1, fence: None, hostname: "host".to_owned(), bundle: None }
}

pub(crate) fn shell(script: &str) -> Task {
    task("command.shell", json!({ "command": script }))
}

pub(crate) fn steps(bundle: Option<PathBuf>, steps: Value) -> Task {
    let digest = bundle.as_ref().map(|_| "0".repeat(64));
    Task { bundle, ..task("workspace.run", json!({ "steps": steps, "bundle": digest })) }
}

pub(crate) fn within(limit: Duration, mut task: Task) -> Task {
    task.job.timeout = limit;
    task
}

/// The code and the message of a failure.
#[track_caller]
pub(crate) fn failure(finished: &Finished) -> (ErrorCode, &str) {
    let failure = finished.failure.as_ref().unwrap_or_else(|| panic!("no failure: {finished:?}"));
    (failure.code, failure.message.as_str())
}

/// Keeps what it is given.
#[derive(Default)]
pub(crate) struct Recorder(pub(crate) Mutex<Vec<(u32, LogStream, Vec<u8>)>>);

impl Output for Recorder {
    fn write(&self, step: u32, stream: LogStream, bytes: &[u8]) {
        self.0.lock().unwrap().push((step, stream, bytes.to_vec()));
    }
}

impl Recorder {
    pub(crate) fn text(&self, wanted: LogStream) -> String {
        let pieces = self.0.lock().unwrap();
        let bytes = pieces.iter().filter(|(_, stream, _)| *stream == wanted).flat_map(|(_, _, bytes)| bytes.clone()).collect::<Vec<_>>();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Waits for a condition.
#[track_caller]
pub(crate) fn eventually(what: &'static str, mut holds: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let deadline = Instant::now() + PATIENCE;
    async move {
        while !holds() {
            assert!(Instant::now() < deadline, "never: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The process number a script has written, once it has.
pub(crate) async fn pid_in(path: &Path) -> i32 {
    let read = || fs::read_to_string(path).ok().and_then(|text| text.strip_suffix('\n')?.trim().parse().ok());
    eventually("a process number is written", || read().is_some()).await;
    read().unwrap()
}

pub(crate) fn is_alive(pid: i32) -> bool {
    // Its first thread may be gone before the others are, which still have its files and locks.
    let n_threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ") || n_threads > 1)
}

/// The processes of steps whose workspaces are below `dir`. What a step says of its own number may be true in its namespace only.
pub(crate) fn processes_of(dir: &Path) -> Vec<i32> {
    let begins = format!("LONGSHORE_WORKSPACE={}/", dir.canonicalize().unwrap().display()).into_bytes();
    let belongs = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(&begins)) && is_alive(*pid)
    };
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(belongs).collect()
}

pub(crate) fn write(root: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}
