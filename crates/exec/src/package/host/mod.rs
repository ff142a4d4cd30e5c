//! Handlers of packages, each in a process of its own kind and never in ours.
//!
//! [`Hosts::run`] runs one task's handler and gives what it returned in the form every runtime shares. Python handlers share one
//! warm interpreter for each package as it is installed; programs are started for each call, or are warm too. Every host is below
//! a supervisor ([`crate::process`]), held to limits, and takes at worst its own tasks with it when it goes.
//!
//! What is in here knows nothing of sessions, brokers and error codes on a wire: see [`ErrorKind`].

mod answer;
mod call;
mod codec;
mod data;
mod death;
mod feedback;
mod frame;
mod normal;
mod outbox;
mod pool;
mod process;
mod relay;
mod resources;
mod settings;
mod start;
mod target;
mod warm;
#[cfg(feature = "wasm")]
mod wasm;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::call::{Artifact, Call, Door, ErrorKind, ExecMode, HandlerError, NextCall, NextError, NextRequest, Outcome, Status};
pub use self::feedback::{CHUNK_BYTES_MAX, Channel, Chunk, Feedback, FeedbackReceiver, FeedbackSender, channel as feedback_channel};
pub use self::settings::{DataPolicy, HostSettings};
pub(crate) use self::target::{engine_remarks, remarks};
#[cfg(feature = "wasm")]
pub use self::wasm::wasm_host_main;

use self::answer::Answer;
use self::data::{DataDirs, SWEEP_EVERY};
use self::pool::{Grounds, Key, Pool};
use self::resources::Resources;
use self::target::{Protocol, Runtime};
use super::Installed;
use crate::executor::{OpenError, PATH_DEFAULT, inherited, lock_directory};
use crate::files;
use crate::process::{Launcher, Marked, Stops, end_marked};

/// The first argument that makes the supervisor's program the host of a module, in its stead: it runs `wasm_host_main` then.
pub const WASM_HOST: &str = "__wasm";
/// Whether this build can run WebAssembly modules.
pub const HAS_WASM: bool = cfg!(feature = "wasm");
const WITHOUT_WASM: &str = "this program was built without WebAssembly (cargo feature `wasm`): run one that has it, or another runtime";

/// How long a task waits that no host took.
const ASK_AGAIN: Duration = Duration::from_millis(5);

/// Runs handlers, any number at once. Cheap to clone; the last one that goes ends every host.
#[derive(Debug, Clone)]
pub struct Hosts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    grounds: Arc<Grounds>,
    pool: Pool,
    data: Arc<DataDirs>,
    /// Ends everything.
    stop: CancellationToken,
    /// Held as long as hosts are; the kernel gives it back however that ends.
    _lock: OwnedFd,
}

/// What a handler is told of its task, as JSON.
#[derive(Serialize)]
struct Request<'a> {
    node_type: &'a str,
    exec_mode: ExecMode,
    target: Entry<'a>,
    context: Context<'a>,
    leased: &'a [Value],
    output: bool,
}

#[derive(Serialize)]
struct Entry<'a> {
    entrypoint: &'a str,
    handler: &'a str,
}

#[derive(Serialize)]
struct Context<'a> {
    run_id: &'a str,
    task_id: &'a str,
    node_id: &'a str,
    params: &'a Map<String, Value>,
    data_dir: &'a str,
    tenant: &'a str,
    host_node_id: Option<&'a str>,
    middleware_chain: Option<&'a [Value]>,
    chain_index: Option<u64>,
    trace: Option<&'a Value>,
    metadata: &'a Map<String, Value>,
    resource_refs: Option<&'a [Map<String, Value>]>,
}

impl Hosts {
    /// Prepares the directories, and ends what a worker that was killed left running.
    ///
    /// Blocks: for milliseconds as a rule, for some seconds if there is much to end. Needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// A directory cannot be prepared, is not UTF-8, or another worker has the state directory.
    pub fn new(mut settings: HostSettings) -> Result<Self, OpenError> {
        let (state_dir, state_text) = prepared(&settings.state_dir)?;
        let lock = lock_directory(&state_dir, "hosts.lock")?;
        let mark = format!("{state_text}/hosts");
        if !end_marked(Marked::Agent(&mark)) {
            tracing::warn!("handler hosts of an earlier worker could not be ended");
        }
        std::fs::create_dir_all(&settings.data_dir)
            .and_then(|()| settings.data_dir.canonicalize())
            .map(|path| settings.data_dir = path)
            .map_err(|source| OpenError::StateDir { path: settings.data_dir.clone(), source })?;
        if settings.data_dir.to_str().is_none() {
            return Err(OpenError::NotUtf8 { path: settings.data_dir });
        }
        let launcher =
            Launcher { supervisor: settings.supervisor.clone(), kill_grace: settings.stop_grace, state_dir: mark, nursery: None };
        let mut environment = BTreeMap::from([
            ("PATH".to_owned(), inherited("PATH").unwrap_or_else(|| PATH_DEFAULT.to_owned())),
            ("HOME".to_owned(), inherited("HOME").unwrap_or(state_text)),
            ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ]);
        environment.extend(settings.environment.clone());
        let data = Arc::new(DataDirs::new(settings.data_dir.clone(), settings.data_policy));
        let pool = Pool::new(settings.hosts_max);
        let (resources, tasks, stop) = (Arc::<Resources>::default(), TaskTracker::new(), CancellationToken::new());
        let grounds = Arc::new(Grounds { settings, launcher, environment, resources, tasks });
        let (sweeper, stopped, tasks) = (Arc::clone(&data), stop.clone(), grounds.tasks.clone());
        grounds.tasks.spawn(async move {
            loop {
                let sweeper = Arc::clone(&sweeper);
                // Also what another task's handler does with links there is none of ours: the walk goes by descriptors.
                let _failures_are_told = tasks.spawn_blocking(move || sweeper.sweep(SystemTime::now())).await;
                tokio::select! {
                    () = stopped.cancelled() => return,
                    () = tokio::time::sleep(SWEEP_EVERY) => {}
                }
            }
        });
        Ok(Self(Arc::new(Inner { grounds, pool, data, stop, _lock: lock })))
    }

    /// Runs the handler of one task to its end.
    ///
    /// `stop` asks the handler to stop; it has the grace of the settings for that, and then its host is ended. The time-out of the
    /// call does the same. Dropping the future asks the handler to stop as well, and does not wait for it.
    ///
    /// # Errors
    /// There is no outcome, and why. A handler that *says* it failed is an outcome.
    pub async fn run(&self, installed: &Installed, call: Call, door: Door, stop: CancellationToken) -> Result<Outcome, HandlerError> {
        let inner = &*self.0;
        let deadline = call.timeout.map(|timeout| Instant::now() + timeout);
        let target = target::of(installed, &call.node_type)?;
        let leased = inner.grounds.resources.lease(&call.resource_refs)?;
        let data_dir = inner.data.make(&call.run_id, &call.task_id).map_err(|error| {
            HandlerError::new(ErrorKind::HostUnavailable, format!("the task's data directory could not be made: {error}"))
        })?;
        let request = Request {
            node_type: &call.node_type,
            exec_mode: target.exec_mode.unwrap_or(call.exec_mode),
            target: Entry { entrypoint: &target.entrypoint, handler: &target.handler },
            context: Context {
                run_id: &call.run_id,
                task_id: &call.task_id,
                node_id: &call.node_id,
                params: &call.parameters,
                data_dir: &data_dir.path.to_string_lossy(),
                tenant: &call.tenant,
                host_node_id: call.host_node_id.as_deref(),
                middleware_chain: call.middleware_chain.as_deref(),
                chain_index: call.chain_index,
                trace: call.trace.as_ref(),
                metadata: &call.metadata,
                resource_refs: Some(call.resource_refs.as_slice()).filter(|refs| !refs.is_empty()),
            },
            leased: &leased.handles,
            output: door.output.is_some(),
        };
        let payload = serde_json::to_vec(&request).expect("maps with texts as keys are JSON");
        if payload.len() > inner.grounds.settings.frame_bytes_max {
            let message = format!(
                "the task's parameters have {} bytes as JSON, and {} are the most",
                payload.len(),
                inner.grounds.settings.frame_bytes_max
            );
            return Err(HandlerError::new(ErrorKind::HostUnavailable, message));
        }
        let limit = Limit { stop: &stop, all: &inner.stop, deadline, timeout: call.timeout };
        let key = Key { directory: installed.directory.clone(), runtime: target.runtime };
        let (value, took) = match &key.runtime {
            Runtime::Wasm { .. } if !HAS_WASM => {
                return Err(HandlerError::new(ErrorKind::NotLoaded, format!("Handler not registered: {WITHOUT_WASM}")));
            }
            Runtime::Python | Runtime::Wasm { .. } | Runtime::Process { protocol: Protocol::Lines, .. } => {
                self.warm(installed, &key, door, &payload, &limit).await?
            }
            Runtime::Process { protocol: Protocol::Once, command } => {
                let abandon = inner.stop.child_token();
                let far = Instant::now() + Duration::from_secs(100 * 365 * 24 * 3600);
                let stops = Stops { cancel: stop.clone(), abandon, deadline: deadline.unwrap_or(far) };
                let ended = process::once(&inner.grounds, installed, &key, command, &payload, door.output, &stops).await;
                ended.map_err(|error| match error.kind {
                    ErrorKind::TimedOut => Over::TimedOut.error(&limit, error.verified),
                    ErrorKind::Cancelled => Over::Stopped.error(&limit, error.verified),
                    ErrorKind::NotLoaded
                    | ErrorKind::Raised
                    | ErrorKind::BadReturn
                    | ErrorKind::ResourceMissing
                    | ErrorKind::HostDied
                    | ErrorKind::HostUnavailable => error,
                })?
            }
        };
        let outcome = normal::normalised(value, &call.metadata, took)?;
        for remark in &outcome.remarks {
            tracing::warn!(package = %installed.name, node_type = %call.node_type, %remark, "a handler's answer was read generously");
        }
        Ok(outcome)
    }

    async fn warm(
        &self,
        installed: &Installed,
        key: &Key,
        door: Door,
        payload: &[u8],
        limit: &Limit<'_>,
    ) -> Result<(Value, Duration), HandlerError> {
        let inner = &*self.0;
        let mut door = Some(door);
        let mut begun = loop {
            let host = tokio::select! {
                biased;
                over = limit.over() => return Err(over.before_it_began(limit)),
                host = inner.pool.host(&inner.grounds, installed, key) => host?,
            };
            match host.begin(&mut door, payload) {
                Ok(begun) => break begun,
                // It was let go between being found and being asked, or has all it can take.
                Err(warm::Gone) => tokio::time::sleep(ASK_AGAIN).await,
            }
        };
        let (answer, over) = tokio::select! {
            biased;
            answer = begun.answer() => (answer, None),
            over = limit.over() => {
                begun.stop();
                (begun.answer().await, Some(over))
            }
        };
        let settings = &inner.grounds.settings;
        let verified = over.is_none() || !settings.ends_with_task || begun.bury(settings.patience).await;
        match (answer, over) {
            (Answer::Returned { value, took }, None | Some(Over::Stopped)) => Ok((value, took)),
            (Answer::Returned { .. }, Some(Over::TimedOut)) => Err(Over::TimedOut.error(limit, verified)),
            (Answer::Failed(error), Some(over)) => Err(over.error(limit, error.verified && verified)),
            (Answer::Failed(error), None) => Err(error),
        }
    }

    /// Lets the hosts of a package go once their tasks are over, for when it was installed anew or is uninstalled. New tasks get new
    /// hosts. Safe to repeat.
    pub fn retire(&self, installed: &Installed) {
        self.0.pool.retire(Some(&format!("{}@{}", installed.name, installed.version)));
    }

    /// Whether a host ends with a task that was stopped, so that it is known that nothing of it is left.
    #[must_use]
    pub fn end_with_tasks(&self) -> bool {
        self.0.grounds.settings.ends_with_task
    }

    /// How many hosts are warm.
    #[must_use]
    pub fn warm_hosts(&self) -> usize {
        self.0.pool.warm()
    }

    /// How many resources are registered, and how many bytes those have that say so.
    #[must_use]
    pub fn resources(&self) -> (usize, u64) {
        self.0.grounds.resources.usage()
    }

    /// Ends every host and waits until they are gone. Tasks that run are stopped first, within the grace. Safe to repeat.
    pub async fn close(&self) {
        self.0.stop.cancel();
        self.0.pool.retire(None);
        self.0.grounds.tasks.close();
        self.0.grounds.tasks.wait().await;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
        self.pool.retire(None);
    }
}

/// What ends a task before its handler does.
struct Limit<'a> {
    stop: &'a CancellationToken,
    all: &'a CancellationToken,
    deadline: Option<Instant>,
    timeout: Option<Duration>,
}

/// What did.
#[derive(Debug, Clone, Copy)]
enum Over {
    Stopped,
    TimedOut,
}

impl Limit<'_> {
    async fn over(&self) -> Over {
        let timed_out = async {
            match self.deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Over::Stopped,
            () = self.all.cancelled() => Over::Stopped,
            () = timed_out => Over::TimedOut,
        }
    }
}

impl Over {
    /// For a task that no host has seen.
    fn before_it_began(self, limit: &Limit<'_>) -> HandlerError {
        match self {
            Self::Stopped => self.error(limit, true),
            Self::TimedOut => {
                let timeout = longshore_model::unit::Span(limit.timeout.unwrap_or_default());
                HandlerError::new(ErrorKind::TimedOut, format!("no handler host was ready for the task within {timeout}"))
            }
        }
    }

    fn error(self, limit: &Limit<'_>, verified: bool) -> HandlerError {
        let rest = if verified { "" } else { ", and not every process of its host is known to be gone" };
        let error = match self {
            Self::Stopped => HandlerError::new(ErrorKind::Cancelled, format!("the task was cancelled{rest}")),
            Self::TimedOut => {
                let timeout = longshore_model::unit::Span(limit.timeout.unwrap_or_default());
                HandlerError::new(ErrorKind::TimedOut, format!("the handler ran longer than {timeout}{rest}"))
            }
        };
        HandlerError { verified, ..error }
    }
}

/// Makes a directory of ours, and gives its real path.
fn prepared(dir: &std::path::Path) -> Result<(std::path::PathBuf, String), OpenError> {
    let fault = |source| OpenError::StateDir { path: dir.to_owned(), source };
    files::make_private_dir(dir).map_err(fault)?;
    let dir = dir.canonicalize().map_err(fault)?;
    match dir.to_str().map(str::to_owned) {
        Some(text) => Ok((dir, text)),
        None => Err(OpenError::NotUtf8 { path: dir }),
    }
}
