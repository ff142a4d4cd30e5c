//! The agent: takes work, does it on this host, and answers, whatever crashes in between.
//!
//! [`Dispatcher`](dispatcher) decides, without a clock or a socket, what is started, held or handed back. [`runtime`] feeds it and performs what it
//! says; one [`execution`] worker carries each piece of work from its claim to its stored answer. What a killed process leaves behind is in
//! the [`journal`], and the next start gives it back at once.
//!
//! The invariant guarded here: no work starts without a recorded claim, and no answer is forgotten once work has ended.

mod attempt;
mod claims;
mod conditions;
mod dispatcher;
mod execution;
mod facts;
mod heartbeat;
mod host;
mod identity;
mod journal;
mod news;
mod outbox;
mod output;
mod packages;
mod recovery;
mod resumption;
mod runtime;
mod transfer;
mod trust;
mod turn;
pub mod worker;
pub mod workspace_worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use longshore_exec::{Executor, Machine, SupervisorCommand};
use longshore_model::limits::DRIVE_PATIENCE;
use longshore_model::{AgentId, Label};
use longshore_seal::{OpeningKeys, TrustedKeys};
use longshore_store::Store;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use conditions::Thresholds;
pub use dispatcher::Key;
pub use facts::FactsPolicy;
pub use host::{Host, Notes};
pub use journal::{Entry, Unbegun};
pub use packages::PackagesConfig;

/// What an agent needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its lasting identity.
    pub id: AgentId,
    /// The name it goes by; the host's own, as it is at each moment, unless given. Its identity is `id`, which a rename leaves alone.
    pub hostname: Option<String>,
    /// The groups it belongs to; at most [`LABELS_MAX`](longshore_model::limits::LABELS_MAX).
    pub labels: Vec<Label>,
    /// The true bound on running executions.
    pub max_jobs: usize,
    /// The waits between attempts of jobs that do not say what theirs are: the wait before attempt `n + 1` is the `n`th, or the last.
    pub backoff: Vec<Duration>,
    /// Where it keeps workspaces and its journal; made with mode 0700.
    pub state_dir: PathBuf,
    /// Where workspaces are instead: a directory that several agents must not share; made if it is missing.
    pub workspaces_dir: Option<PathBuf>,
    /// Whose directories jobs may name as their source.
    pub jobs_dir: Option<PathBuf>,
    /// How the supervisor of children is started.
    pub supervisor: SupervisorCommand,
    /// Between heartbeats; a third of what a heartbeat lasts.
    pub heartbeat_every: Duration,
    /// How long a process may ignore SIGTERM.
    pub kill_grace: Duration,
    /// Open the secrets of jobs; without them jobs with secrets fail here.
    pub opening_keys: Option<OpeningKeys>,
    /// Controllers that jobs must be signed by; without them unsigned jobs are run.
    pub trusted_keys: Option<TrustedKeys>,
    /// The host: this one, but in tests.
    pub machine: Machine,
    /// How often it looks at what its host is, and how long that is kept.
    pub facts: FactsPolicy,
    /// From where on its host counts as short of something.
    pub thresholds: Thresholds,
    /// Packages whose nodes it runs; without, jobs for them are skipped.
    pub packages: Option<PackagesConfig>,
}

impl Config {
    /// The name it goes by now.
    #[must_use]
    pub fn hostname(&self) -> String {
        self.hostname.clone().unwrap_or_else(longshore_exec::host_name)
    }
}

/// Why an agent could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its directories cannot be used.
    #[error("cannot use the state directory {}", .path.display())]
    State {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The executor could not be opened; another agent process uses its state directory, perhaps.
    #[error("cannot prepare the host")]
    Host(#[from] longshore_exec::OpenError),
    /// The packages directory.
    #[error("cannot use the packages directory")]
    Packages(#[from] longshore_exec::package::OpenError),
    /// The broker is gone for good, or is not as it must be.
    #[error("the broker does not serve it")]
    Broker(#[from] longshore_store::Error),
    /// Another agent has this one's identity.
    #[error(
        "another agent, on {hostname}, runs as {id}: a data directory was copied, most likely. Remove `agent.id` from the copy, and it gets an identity of its own"
    )]
    Identity {
        /// Whose.
        id: AgentId,
        /// The host that runs it.
        hostname: String,
    },
}

/// An agent that is ready to run.
pub struct Agent {
    config: Arc<Config>,
    store: Store,
    executor: Arc<dyn Host>,
    journal: Arc<dyn Notes>,
    facts: facts::Known,
    binding: Arc<identity::Binding>,
    started_at: jiff::Timestamp,
}

impl Agent {
    /// Prepares the host: makes directories, clears away what a killed process left. Takes no work yet.
    ///
    /// # Errors
    /// Directories that cannot be used, or another agent that uses them.
    pub fn new(config: Config, store: Store) -> Result<Self, Error> {
        let executor = longshore_exec::Config {
            state_dir: config.state_dir.clone(),
            supervisor: config.supervisor.clone(),
            kill_grace: config.kill_grace,
            workspaces_dir: config.workspaces_dir.clone(),
            jobs_dir: config.jobs_dir.clone(),
            drive_patience: DRIVE_PATIENCE,
        };
        // Half a claim: it is extended each quarter, so that whoever is offered the work meanwhile finds nobody at it.
        let executor = Executor::open_resuming(executor, config.machine.clone(), store.work.lease_duration() / 2)?;
        // Its lock is the journal's as well: both are in one state directory, and nobody opens one without the other.
        let journal = journal::Journal::open(&config.state_dir.join("journal"))?;
        if let Some(packages) = &config.packages {
            let (runner, installer) = packages::open(packages, &config)?;
            executor.run_packages(runner);
            executor.install_packages(installer);
        }
        let host = host::ThisHost::new(executor, config.machine.clone(), &config.state_dir);
        Ok(Self::on(config, store, Arc::new(host), Arc::new(journal)))
    }

    /// An agent on a host and with notes of somebody else's making. Takes no work yet.
    #[must_use]
    pub fn on(config: Config, store: Store, executor: Arc<dyn Host>, journal: Arc<dyn Notes>) -> Self {
        let started_at = store.clock.now();
        let binding = Arc::new(identity::Binding::new(executor.process()));
        Self { config: Arc::new(config), store, executor, journal, facts: facts::Known::default(), binding, started_at }
    }

    /// Makes itself known: from here on jobs may be addressed to it, and wait until it runs. Safe to repeat.
    ///
    /// # Errors
    /// The broker did not take the heartbeat, another queue group takes the work for anybody, or another agent has its identity.
    pub async fn join(&self) -> Result<(), Error> {
        self.store.work.join().await?;
        let registry = &*self.store.registry;
        let load = heartbeat::Load { packages: self.executor.packages().await.into(), ..heartbeat::Load::default() };
        let heartbeat = heartbeat::heartbeat(&self.config, &self.binding.process, self.started_at, &load);
        let told = if self.binding.is_bound() {
            self.binding.beat(registry, &heartbeat).await
        } else {
            self.binding.bind(registry, &heartbeat).await
        };
        match told? {
            identity::Beat::Told => Ok(()),
            identity::Beat::Refused { hostname } => Err(identity::refused(&self.store, &heartbeat, &self.binding.process, hostname).await),
        }
    }

    /// Takes work until `drain`, then finishes what it holds. At `stop` it ends what still runs and hands it back. Ends when all is settled.
    ///
    /// # Errors
    /// The broker is gone for good, or another agent has its identity.
    pub async fn run(self, drain: CancellationToken, stop: CancellationToken) -> Result<(), Error> {
        // On a worker thread, beside the tasks that it talks to: a caller that blocks on this would be woken for every event.
        let mut alone = JoinSet::new();
        alone.spawn(runtime::run(self, drain, stop));
        match alone.join_next().await.expect("it was spawned just above") {
            Ok(ended) => ended,
            Err(fault) => std::panic::resume_unwind(fault.into_panic()),
        }
    }
}
