//! Every way in which a job can end, with every trick by which something of it could stay: nothing does.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use longshore_exec::{Executor, Finished, Machine, Output};
use longshore_model::wire::record::Outcome;
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::drive::{Small, is_root};
use crate::support::{PATIENCE, Recorder, config, eventually, is_alive, processes_of, steps, within};
use crate::tricks::ESCAPES;

/// After this nothing of a job may be there.
const GONE_WITHIN: Duration = Duration::from_secs(2);
/// Between looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How it ends, once it is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Success,
    Failure,
    TimeOut,
    Cancel,
    /// The agent is killed and comes back, and goes on with the job until it is cancelled.
    AgentKilledAndBack,
    /// The agent is killed, and the next one does not want the job.
    AgentKilledAndDiscarded,
    /// The agent is killed, and nobody comes in time.
    AgentKilledForGood,
    CarrierKilled,
    SupervisorKilled,
    /// Everything that is Longshore's is killed at once.
    AllKilled,
    DiskFull,
}

const ENDINGS: &[Ending] = &[
    Ending::Success,
    Ending::Failure,
    Ending::TimeOut,
    Ending::Cancel,
    Ending::AgentKilledAndBack,
    Ending::AgentKilledAndDiscarded,
    Ending::AgentKilledForGood,
    Ending::CarrierKilled,
    Ending::SupervisorKilled,
    Ending::AllKilled,
    Ending::DiskFull,
];

/// Two hundred: each ending with each escape, and the rest with the agent killed at another moment of the job.
const CASES: usize = 200;
/// Most of a case is waiting.
const AT_ONCE: usize = 4;

#[test]
fn two_hundred_endings_with_tricks_leave_nothing() {
    let next = AtomicUsize::new(0);
    let runtime = Runtime::new().unwrap();
    let facilities = runtime.block_on(longshore_exec::facilities(config(Path::new("/"), Duration::ZERO).supervisor));
    let can_limit = facilities.iter().all(|facility| facility.used || !facility.name.starts_with("limit_"));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let case = next.fetch_add(1, Ordering::Relaxed);
                    if case >= CASES {
                        return;
                    }
                    perform(case, can_limit);
                }
            });
        }
    });
}

fn perform(case: usize, can_limit: bool) {
    let (name, script) = ESCAPES[case % ESCAPES.len()];
    let round = case / ESCAPES.len();
    let ending = ENDINGS.get(round).copied().unwrap_or(Ending::AgentKilledAndDiscarded);
    // From the twelfth round on the agent is killed while the workspace is made, its first step begins, or it runs.
    let early = (round >= ENDINGS.len()).then(|| Duration::from_micros(1000 * (case % ESCAPES.len()) as u64));
    Case::new(case, format!("{name}, {ending:?}, {early:?}"), can_limit).run(script, ending, early);
}

struct Case {
    name: String,
    mark: String,
    dir: TempDir,
    runtime: Runtime,
    /// What was there before, of what jobs may leave on a host.
    before: BTreeSet<OsString>,
    /// The directories that its jobs had, whose names are in those of their control groups.
    seen: RefCell<BTreeSet<OsString>>,
    /// Every other case has, where the host can keep them.
    has_limits: bool,
}

impl Case {
    fn new(number: usize, name: String, can_limit: bool) -> Self {
        let mark = format!("{}.{number}", 100_000 + std::process::id() % 100_000);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self {
            name,
            mark,
            dir: tempfile::tempdir().unwrap(),
            runtime,
            before: host_objects(),
            seen: RefCell::default(),
            has_limits: number % 2 == 1 && can_limit,
        }
    }

    fn open(&self, patience: Duration) -> Executor {
        Executor::open_resuming(config(&self.dir.path().join("state"), Duration::from_millis(50)), Machine::default(), patience).unwrap()
    }

    fn run(&self, script: &str, ending: Ending, early: Option<Duration>) {
        let up = self.dir.path().join("up");
        let script = script.replace("$MARK", &self.mark).replace("$UP", &up.display().to_string());
        let last = match ending {
            Ending::Success => "true",
            Ending::Failure => "exit 3",
            // Neither its log nor anything of its agent's has any room from then on.
            Ending::DiskFull => "yes > $LONGSHORE_RESULTS/large",
            Ending::TimeOut
            | Ending::Cancel
            | Ending::AgentKilledAndBack
            | Ending::AgentKilledAndDiscarded
            | Ending::AgentKilledForGood
            | Ending::CarrierKilled
            | Ending::SupervisorKilled
            | Ending::AllKilled => "sleep 1000",
        };
        let disk = (ending == Ending::DiskFull).then(|| Small::mount(&self.dir.path().join("state"), "2m"));
        if matches!(disk, Some(None)) {
            return;
        }
        let mut task = steps(None, json!([format!("{script}; {last}")]));
        if self.has_limits {
            // In control groups, which must not stay either.
            let limits = json!({ "processes": 500, "memory": "1GiB", "cpu": "2" });
            task = crate::support::task("workspace.run", json!({ "steps": [format!("{script}; {last}")], "limits": limits }));
        }
        if ending == Ending::TimeOut {
            task = within(Duration::from_millis(300), task);
        }
        let patience = if ending == Ending::AgentKilledForGood { Duration::from_millis(50) } else { PATIENCE };
        let agent = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let executor = self.open(patience);
        let cancel = CancellationToken::new();
        let running = {
            let (executor, cancel, output): (_, _, Arc<dyn Output>) = (executor.clone(), cancel.clone(), Arc::new(Recorder::default()));
            agent.spawn(async move { executor.run(task, output, cancel).await })
        };
        match early {
            Some(early) => self.runtime.block_on(async { tokio::time::sleep(early).await }),
            None => self.wait("it is up", || up.exists()),
        }
        self.seen.borrow_mut().extend(self.workspaces().filter_map(|path| Some(path.file_name()?.to_owned())));
        let end = |finished: &Finished| (finished.outcome, finished.cancel_verified);
        match ending {
            Ending::Success => assert_eq!(self.finished(running).outcome, Outcome::Completed, "{}", self.name),
            Ending::Failure | Ending::TimeOut | Ending::DiskFull => {
                assert_eq!(self.finished(running).outcome, Outcome::Failed, "{}", self.name)
            }
            Ending::Cancel => {
                cancel.cancel();
                assert_eq!(end(&self.finished(running)), (Outcome::Cancelled, Some(true)), "{}", self.name);
            }
            Ending::CarrierKilled | Ending::SupervisorKilled => {
                let victims = if ending == Ending::CarrierKilled { "LONGSHORE_CARRIER" } else { "LONGSHORE_SUPERVISOR" };
                self.kill(&[victims]);
                assert_eq!(self.finished(running).outcome, Outcome::Failed, "{}", self.name);
            }
            Ending::AgentKilledAndBack | Ending::AgentKilledAndDiscarded | Ending::AgentKilledForGood | Ending::AllKilled => {
                agent.shutdown_timeout(PATIENCE);
                drop(executor);
                if ending == Ending::AllKilled {
                    self.kill(&["LONGSHORE_CARRIER", "LONGSHORE_SUPERVISOR"]);
                }
                if ending == Ending::AgentKilledForGood {
                    self.wait("its workspace is gone", || self.workspaces().next().is_none());
                }
                let next = self.open(PATIENCE);
                for left in next.resumable() {
                    if ending == Ending::AgentKilledAndBack {
                        let (output, cancel): (Arc<dyn Output>, _) = (Arc::new(Recorder::default()), CancellationToken::new());
                        cancel.cancel();
                        let mut finished = self.runtime.block_on(next.resume(left, output, cancel)).unwrap();
                        finished.archive = None;
                        assert_eq!(end(&finished), (Outcome::Cancelled, Some(true)), "{}", self.name);
                    } else {
                        assert!(next.discard(left), "{}", self.name);
                    }
                }
                return self.assert_nothing_left();
            }
        }
        agent.shutdown_timeout(PATIENCE);
        self.assert_nothing_left();
    }

    fn finished(&self, running: tokio::task::JoinHandle<Finished>) -> Finished {
        let mut finished = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, running).await }).expect(&self.name).unwrap();
        finished.archive = None;
        finished
    }

    fn wait(&self, what: &'static str, holds: impl FnMut() -> bool) {
        self.runtime.block_on(eventually(what, holds));
    }

    fn workspaces(&self) -> impl Iterator<Item = PathBuf> {
        fs::read_dir(self.dir.path().join("state/workspaces")).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
    }

    /// Kills what carries one of these marks and belongs to this case.
    fn kill(&self, variables: &[&str]) {
        let place = self.dir.path().canonicalize().unwrap();
        for pid in pids() {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let carries = |entry: &[u8]| variables.iter().any(|variable| entry.starts_with(variable.as_bytes()));
            let is_ours = |entry: &[u8]| entry.windows(place.as_os_str().len()).any(|part| part == place.as_os_str().as_bytes());
            if environment.split(|byte| *byte == 0).any(|entry| carries(entry) && is_ours(entry)) {
                let _gone_already =
                    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL);
            }
        }
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        // Time in which nobody here got to run is nobody's fault: a look counts for no longer than it takes.
        let (mut passed, mut looked_at) = (Duration::ZERO, Instant::now());
        let left = loop {
            let left = self.left();
            if left.is_empty() || passed >= GONE_WITHIN {
                break left;
            }
            self.runtime.block_on(async { tokio::time::sleep(LOOK_EVERY).await });
            passed += looked_at.elapsed().min(LOOK_EVERY * 4);
            looked_at = Instant::now();
        };
        assert!(left.is_empty(), "{}: {left:?}", self.name);
    }

    /// Processes, directories, files, mounts, control groups and shared objects that are there and were not before.
    fn left(&self) -> Vec<String> {
        let place = self.dir.path().canonicalize().unwrap();
        let of_ours = |text: &[u8]| text.windows(place.as_os_str().len()).any(|part| part == place.as_os_str().as_bytes());
        let sleeps = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == self.mark.as_bytes()) && is_alive(*pid)
        };
        let helps = |pid: &i32| of_ours(&fs::read(format!("/proc/{pid}/environ")).unwrap_or_default()) && is_alive(*pid);
        let mut left: Vec<_> = pids().filter(|pid| sleeps(pid) || helps(pid)).map(|pid| format!("process {pid}")).collect();
        left.extend(processes_of(self.dir.path()).iter().map(|pid| format!("process {pid} of a step")));
        left.extend(self.workspaces().map(|path| format!("{}", path.display())));
        left.extend(fs::read_dir(place.join("state/tmp")).into_iter().flatten().map(|entry| format!("{:?}", entry.unwrap().path())));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(mounts.lines().filter(|line| of_ours(line.as_bytes()) && !line.contains("/state ")).map(str::to_owned));
        for path in ["up.1", "up.2"].map(|name| fs::read_to_string(place.join(name)).unwrap_or_default()) {
            left.extend(Some(path.trim().to_owned()).filter(|path| Path::new(path).exists()));
        }
        left.extend(groups_of(&self.seen.borrow()));
        left.extend(host_objects().difference(&self.before).map(|name| format!("{name:?}")));
        left
    }
}

fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Shared objects that outlive processes. Without namespaces of their own, which take root, what jobs make of them is the host's.
fn host_objects() -> BTreeSet<OsString> {
    let mut found = BTreeSet::new();
    if !is_root() {
        return found;
    }
    for kind in ["msg", "sem", "shm"] {
        let text = fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap_or_default();
        found.extend(text.lines().skip(1).filter_map(|line| Some(format!("{kind} {}", line.split_whitespace().nth(1)?).into())));
    }
    found
}

/// The control groups of these jobs.
fn groups_of(jobs: &BTreeSet<OsString>) -> Vec<String> {
    let (mut open, mut found) = (vec![PathBuf::from("/sys/fs/cgroup")], Vec::new());
    while let Some(dir) = open.pop() {
        let entries = fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
        let inner: Vec<_> = entries.filter(|path| path.is_dir()).collect();
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_ours =
            |path: &&PathBuf| name(path).starts_with("longshore-") && jobs.iter().any(|job| name(path).contains(&*job.to_string_lossy()));
        found.extend(inner.iter().filter(is_ours).map(|path| path.display().to_string()));
        open.extend(inner);
    }
    found
}
