//! The one way in: an attempt goes in, a [`Finished`] comes out.
//!
//! Work runs in a task of its own that outlives a dropped [`Executor::run`] for as long as it takes to end the processes and to
//! remove the workspace; [`Executor::close`] waits for that. After a crash the next [`Executor::open`] does it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use longshore_model::job::Job;
use longshore_model::limits::DRIVE_PATIENCE;
use longshore_model::operation::Call;
use longshore_model::wire::agent::WorkerPackage;
use longshore_model::wire::log::LogStream;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::{ExecutionId, JobId};
use rustix::fs::{FlockOperation, Mode, OFlags};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::carrier::Left;
use crate::drive::Watch;
use crate::finished::Finished;
use crate::machine::Machine;
use crate::package::{self, Installer, Runner};
use crate::process::{Launcher, Marked, Stops, end_marked, pause};
use crate::{carrier, files, provider};

/// Where programs are looked for when the agent's own `PATH` is not set.
pub(crate) const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// What an executor needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its own directory; made if it is missing. One executor at a time; its path must be UTF-8.
    pub state_dir: PathBuf,
    /// What starts a supervisor.
    pub supervisor: SupervisorCommand,
    /// How long a process may ignore SIGTERM before SIGKILL.
    pub kill_grace: Duration,
    /// Where workspace jobs run instead of in [`Self::state_dir`]: a directory on a faster or larger drive, this executor's alone; made if it
    /// is missing.
    pub workspaces_dir: Option<PathBuf>,
    /// Whose directories workspace jobs may name as their source.
    pub jobs_dir: Option<PathBuf>,
    /// How long a drive may be silent after a workspace job was to end.
    pub drive_patience: Duration,
}

/// The command that runs [`crate::process::supervisor::supervise_main`], such as `longshore __supervise`.
#[derive(Debug, Clone)]
pub struct SupervisorCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// One attempt.
#[derive(Debug, Clone)]
pub struct Task {
    /// What to do.
    pub job: Job,
    /// Whose share of it.
    pub execution: ExecutionId,
    /// Which attempt, from 1; 0 where nobody counts them. Programs find it in `LONGSHORE_ATTEMPT`.
    pub attempt: u32,
    /// Its turn under the job's concurrency key: higher than that of every holder before. Programs find it in `LONGSHORE_FENCE`.
    pub fence: Option<u64>,
    /// The host's name, for a workspace job's manifest.
    pub hostname: String,
    /// The packed bundle the job names, on local disk, its digest verified by the caller.
    pub bundle: Option<PathBuf>,
}

impl Task {
    /// What its programs are told of it.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (String, String)> {
        let attempt = Some(self.attempt).filter(|attempt| *attempt > 0);
        let attempt = attempt.map(|attempt| ("LONGSHORE_ATTEMPT".to_owned(), attempt.to_string()));
        attempt.into_iter().chain(self.fence.map(|fence| ("LONGSHORE_FENCE".to_owned(), fence.to_string())))
    }
}

/// Takes output as it comes.
pub trait Output: Send + Sync {
    /// Takes a piece of at most [`longshore_model::limits::LOG_RECORD_BYTES_MAX`] bytes. Must be cheap and must not block.
    fn write(&self, step: u32, stream: LogStream, bytes: &[u8]);

    /// Waits until a piece would be taken rather than dropped. For who can wait, as what it has to say is kept elsewhere. Cancel-safe.
    fn ready(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}

/// Why an executor could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its directory could not be prepared.
    #[error("prepare the state directory {path:?}")]
    StateDir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another executor has it.
    #[error("use the state directory {path:?}: another agent runs there")]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// Its path cannot be told to programs.
    #[error("use the state directory {path:?}: its path is not UTF-8")]
    NotUtf8 {
        /// Which.
        path: PathBuf,
    },
}

/// Performs attempts, any number at once. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Executor(Arc<Inner>);

/// An attempt at a workspace job that an earlier executor began, and that goes on, or has ended since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resumable {
    /// The job.
    pub job: JobId,
    /// Whose share of it.
    pub execution: ExecutionId,
    /// Which attempt.
    pub attempt: u32,
    /// Whether it went on when the executor was opened; it had ended otherwise.
    pub runs: bool,
}

#[derive(Debug)]
struct Inner {
    host: Host,
    /// What an earlier executor left running, until somebody says what becomes of it.
    left: Mutex<BTreeMap<Resumable, Left>>,
    tasks: TaskTracker,
    /// Held as long as the executor lives; the kernel gives them back however that ends.
    _locks: Vec<OwnedFd>,
}

/// What every operation may use.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) launcher: Launcher,
    pub(crate) workspaces: PathBuf,
    pub(crate) jobs_dir: Option<PathBuf>,
    pub(crate) temporary: PathBuf,
    pub(crate) home: String,
    pub(crate) machine: Machine,
    /// Held by whoever changes the host's settings: one at a time.
    pub(crate) settings: tokio::sync::Mutex<()>,
    pub(crate) path: String,
    /// How long a workspace job goes on without an agent.
    pub(crate) patience: Duration,
    /// How long a drive may be silent after a workspace job was to end.
    pub(crate) drive_patience: Duration,
    /// What runs nodes of packages, if somebody does.
    pub(crate) packages: OnceLock<Runner>,
    /// What installs and removes them, if somebody may.
    pub(crate) installer: OnceLock<Installer>,
}

impl Host {
    /// A host on which programs are started by `launcher`, and no job outlives its agent.
    pub(crate) fn new(launcher: Launcher, (workspaces, temporary): (PathBuf, PathBuf), home: Option<String>, machine: Machine) -> Self {
        Self {
            home: home.unwrap_or_else(|| launcher.state_dir.clone()),
            path: machine.path.clone().or_else(|| inherited("PATH")).unwrap_or_else(|| PATH_DEFAULT.to_owned()),
            launcher,
            workspaces,
            jobs_dir: None,
            temporary,
            machine,
            settings: tokio::sync::Mutex::default(),
            patience: Duration::ZERO,
            drive_patience: DRIVE_PATIENCE,
            packages: OnceLock::new(),
            installer: OnceLock::new(),
        }
    }

    /// Watches the file work of a job that `stops` may end.
    pub(crate) fn watch(&self, stops: &Stops) -> Watch {
        Watch::of(stops, self.drive_patience)
    }

    /// Where a program is on the `PATH`, if it is.
    pub(crate) fn find(&self, program: &str) -> Option<String> {
        let paths = self.path.split(':').filter(|dir| dir.starts_with('/')).map(|dir| Path::new(dir).join(program));
        let runs = |path: &PathBuf| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
        paths.into_iter().find(runs).and_then(|path| path.into_os_string().into_string().ok())
    }

    /// The environment every program gets: nothing of the agent's own but `PATH`.
    pub(crate) fn environment(&self, home: &str) -> BTreeMap<String, String> {
        [("PATH", self.path.as_str()), ("HOME", home), ("LANG", "C.UTF-8")].map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }
}

impl Executor {
    /// Opens the state directory, making it if it is missing, and sweeps what an executor that was killed left behind: processes,
    /// workspaces, temporary files.
    ///
    /// Blocks: for milliseconds as a rule, for some seconds if there is much to sweep.
    ///
    /// # Errors
    /// The directory cannot be prepared, or another executor has it.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        Self::open_on(config, Machine::default())
    }

    /// [`Self::open`] for another machine than the one this runs on: a directory, and programs on a `PATH` of its own.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn open_on(config: Config, machine: Machine) -> Result<Self, OpenError> {
        let executor = Self::open_resuming(config, machine, Duration::ZERO)?;
        for left in executor.resumable() {
            if !executor.discard(left) {
                tracing::warn!(job.id = %left.job, "processes of an earlier agent could not be ended");
            }
        }
        Ok(executor)
    }

    /// [`Self::open_on`] for who goes on with what an earlier executor left: workspace jobs outlive an executor whose process is killed for
    /// as long as `patience`, and those that did are [`Self::resumable`] rather than swept.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn open_resuming(config: Config, machine: Machine, patience: Duration) -> Result<Self, OpenError> {
        let given = config.state_dir;
        let fault = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| OpenError::StateDir { path, source }
        };
        files::make_private_dir(&given).map_err(fault(&given))?;
        let state_dir = given.canonicalize().map_err(fault(&given))?;
        let Some(state_text) = state_dir.to_str().map(str::to_owned) else {
            return Err(OpenError::NotUtf8 { path: state_dir });
        };
        let lock = lock_directory(&state_dir, "exec.lock")?;
        if !end_marked(Marked::Agent(&state_text)) {
            tracing::warn!("processes of an earlier agent could not be ended");
        }
        let mut locks = vec![lock];
        let workspaces = match config.workspaces_dir {
            // What else is there is somebody's: only what lies in a directory of ours is swept.
            Some(elsewhere) => {
                std::fs::create_dir_all(&elsewhere).map_err(fault(&elsewhere))?;
                let elsewhere = elsewhere.canonicalize().map_err(fault(&elsewhere))?;
                locks.push(lock_directory(&elsewhere, ".longshore.lock")?);
                elsewhere.join("longshore")
            }
            None => state_dir.join("workspaces"),
        };
        let temporary = state_dir.join("tmp");
        for dir in [&workspaces, &temporary] {
            files::make_private_dir(dir).map_err(fault(dir))?;
        }
        if let Err(error) = files::empty_dir(&temporary) {
            tracing::warn!(%error, dir = %temporary.display(), "something an earlier agent left could not be removed");
        }
        let left = carrier::sweep(&workspaces).map_err(fault(&workspaces))?;
        let left = left.into_iter().map(|left| (left.whose(), left));
        let left = Mutex::new(left.collect());
        let launcher = Launcher { supervisor: config.supervisor, kill_grace: config.kill_grace, state_dir: state_text, nursery: None };
        let (jobs_dir, drive_patience) = (config.jobs_dir, config.drive_patience);
        let host = Host { patience, drive_patience, jobs_dir, ..Host::new(launcher, (workspaces, temporary), inherited("HOME"), machine) };
        Ok(Self(Arc::new(Inner { host, left, tasks: TaskTracker::new(), _locks: locks })))
    }

    /// What an earlier executor left running, in no order of time, and nobody has resumed or discarded yet.
    #[must_use]
    pub fn resumable(&self) -> Vec<Resumable> {
        self.left().keys().copied().collect()
    }

    /// Goes on with what an earlier executor left: like [`Self::run`], with the output of the attempt from its beginning; `None` if there
    /// is nothing of it. What was wanted of it then is so now: its time-out, its limits, its secrets.
    pub async fn resume(&self, left: Resumable, output: Arc<dyn Output>, cancel: CancellationToken) -> Option<Finished> {
        let left = self.left().remove(&left)?;
        let abandon = CancellationToken::new();
        // Its time-out is watched where it runs.
        let deadline = Instant::now() + Duration::from_secs(365 * 24 * 3600);
        let stops = Stops { cancel, abandon: abandon.clone(), deadline };
        let performing = self.0.tasks.spawn(async move { carrier::adopt(left, output, &stops).await });
        let _abandoned_with_this_future = abandon.drop_guard();
        Some(performing.await.unwrap_or_else(|error| fault_of_ours(&error)))
    }

    /// Ends what an earlier executor left, and removes all of it. True if every process is known to be gone. Blocks, for milliseconds as a
    /// rule. Safe to repeat.
    #[must_use]
    pub fn discard(&self, left: Resumable) -> bool {
        let left = self.left().remove(&left);
        left.is_none_or(|left| carrier::discard(&left))
    }

    fn left(&self) -> std::sync::MutexGuard<'_, BTreeMap<Resumable, Left>> {
        self.0.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Performs one attempt. Never errors: every fault is a [`Finished`].
    ///
    /// `cancel` ends the processes (SIGTERM, and SIGKILL after the grace); what a workspace job had made by then is still brought
    /// back. Dropping the future ends them at once and brings nothing back. Needs a tokio runtime with I/O and time.
    pub async fn run(&self, task: Task, output: Arc<dyn Output>, cancel: CancellationToken) -> Finished {
        let began = Instant::now();
        let abandon = CancellationToken::new();
        let stops = Stops { cancel, abandon: abandon.clone(), deadline: began + task.job.timeout };
        let inner = Arc::clone(&self.0);
        let performing = self.0.tasks.spawn(async move {
            // In a place of its own: a task moves what it holds several times.
            Box::pin(perform(&inner.host, &task, output, &stops)).await
        });
        let _abandoned_with_this_future = abandon.drop_guard();
        let finished = performing.await.unwrap_or_else(|error| fault_of_ours(&error));
        Finished { duration: began.elapsed(), ..finished }
    }

    /// Runs nodes of these packages too; without, jobs for them are skipped. For the first call only.
    pub fn run_packages(&self, runner: Runner) {
        let _they_are_already = self.0.host.packages.set(runner);
    }

    /// Installs and removes packages too, where those are that it runs; without, jobs for that are skipped. For the first call only.
    pub fn install_packages(&self, installer: Installer) {
        let _it_may_already = self.0.host.installer.set(installer);
    }

    /// The packages whose nodes it runs.
    pub async fn packages(&self) -> Arc<[WorkerPackage]> {
        match self.0.host.packages.get() {
            Some(runner) => runner.offered().await,
            None => Arc::default(),
        }
    }

    /// Waits for attempts that are still being performed or tidied up, those of dropped futures included, and ends the hosts of handlers
    /// that are kept warm. Starts nothing and stops nothing else; safe to repeat.
    pub async fn close(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
        if let Some(runner) = self.0.host.packages.get() {
            runner.close().await;
        }
    }
}

fn fault_of_ours(error: &tokio::task::JoinError) -> Finished {
    tracing::error!(%error, "an attempt ended in a fault of ours");
    Finished::failed(ErrorCode::Internal, "the attempt ended in a fault of the agent; its log has more")
}

async fn perform(host: &Host, task: &Task, output: Arc<dyn Output>, stops: &Stops) -> Finished {
    match &task.job.call {
        Call::NetworkDnsGet { interface } => provider::dns::get(host, interface.as_ref(), stops).await,
        Call::NetworkDnsSet(change) => provider::dns::set(host, change, stops).await,
        Call::NetworkPingRun(ping) => provider::ping::run(host, ping, stops).await,
        Call::NodeDiskGet => provider::node::disk_get(stops).await,
        Call::NodeHostnameGet => provider::hostname::get(host),
        Call::NodeHostnameSet { hostname } => provider::hostname::set(host, hostname, stops).await,
        Call::NodeLoadGet => provider::node::load_get(stops).await,
        Call::NodeMemoryGet => provider::node::memory_get(stops).await,
        Call::NodeOsGet => provider::node::os_get(stops).await,
        Call::NodeStatusGet => provider::node::status_get(host, stops).await,
        Call::NodeUptimeGet => provider::node::uptime_get(stops).await,
        Call::CommandExec(command) | Call::CommandShell { command, script: _ } => {
            provider::command::run(host, task, command, output, stops).await
        }
        Call::WorkspaceRun { run, args: _ } => carrier::run(host, task, run, output, stops).await,
        Call::PackageInstall(install) => package::management::install(host, install, stops).await,
        Call::PackageList => package::management::list(host).await,
        Call::PackageRun(run) => package::job::run(host, task, run, output, stops).await,
        Call::PackageUninstall(uninstall) => package::management::uninstall(host, uninstall, stops).await,
        Call::WithFacts(_) => Finished::failed(ErrorCode::Internal, "nobody put the host's facts into the arguments"),
    }
}

/// Takes a state directory for us alone, by a file in it. The kernel gives it back however we end.
///
/// # Errors
/// The file cannot be made, or another process has the lock.
pub(crate) fn lock_directory(state_dir: &Path, name: &str) -> Result<OwnedFd, OpenError> {
    let path = state_dir.join(name);
    let lock = rustix::fs::open(&path, OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| OpenError::StateDir { path, source: errno.into() })?;
    if locked(&lock) { Ok(lock) } else { Err(OpenError::InUse { path: state_dir.to_owned() }) }
}

/// Takes the lock. One whose holder has just ended can be held for a moment more, by a child of it between `fork` and `exec`.
fn locked(lock: &OwnedFd) -> bool {
    let deadline = Instant::now() + LOCK_PATIENCE;
    while rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > deadline {
            return false;
        }
        pause(&mut [], Duration::from_millis(5));
    }
    true
}

/// A variable of the agent's own that programs get too, because they cannot be found or do not work without.
pub(crate) fn inherited(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
