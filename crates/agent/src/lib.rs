//! The agent: takes work, does it on this host, and answers, whatever crashes in between.
//!
//! [`Dispatcher`](dispatcher) decides, without a clock or a socket, what is started, held or handed back. [`runtime`] feeds it and performs what it
//! says; one [`execution`] worker carries each piece of work from its claim to its stored answer. What a killed process leaves behind is in
//! the [`journal`], and the next start gives it back at once.
//!
//! The invariant guarded here: no work starts without a recorded claim, and no answer is forgotten once work has ended.

mod attempt;
mod claims;
mod dispatcher;
mod execution;
mod heartbeat;
mod journal;
mod news;
mod outbox;
mod output;
mod recovery;
mod runtime;
mod transfer;
mod trust;
mod turn;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use longshore_exec::{Executor, SupervisorCommand};
use longshore_model::{AgentId, Label};
use longshore_seal::{OpeningKeys, TrustedKeys};
use longshore_store::Store;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

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
    /// The executor could not be opened.
    #[error("cannot prepare the host")]
    Host(#[from] longshore_exec::OpenError),
    /// The broker is gone for good, or is not as it must be.
    #[error("the broker does not serve it")]
    Broker(#[from] longshore_store::Error),
    /// Another agent process uses this state directory.
    #[error("another agent uses {}", .0.display())]
    Busy(PathBuf),
}

/// An agent that is ready to run.
pub struct Agent {
    config: Arc<Config>,
    store: Store,
    executor: Executor,
    journal: journal::Journal,
    started_at: jiff::Timestamp,
}

impl Agent {
    /// Prepares the host: makes directories, clears away what a killed process left. Takes no work yet.
    ///
    /// # Errors
    /// Directories that cannot be used, or another agent that uses them.
    pub fn new(config: Config, store: Store) -> Result<Self, Error> {
        let journal = journal::Journal::open(&config.state_dir.join("journal"))?;
        let executor = Executor::open(longshore_exec::Config {
            state_dir: config.state_dir.clone(),
            supervisor: config.supervisor.clone(),
            kill_grace: config.kill_grace,
        })?;
        Ok(Self { config: Arc::new(config), store, executor, journal, started_at: jiff::Timestamp::now() })
    }

    /// Makes itself known: from here on jobs may be addressed to it, and wait until it runs. Safe to repeat.
    ///
    /// # Errors
    /// The broker did not take the heartbeat, or another queue group takes the work for anybody.
    pub async fn join(&self) -> Result<(), Error> {
        self.store.work.join().await?;
        Ok(self.store.registry.beat(&heartbeat::heartbeat(&self.config, self.started_at, &heartbeat::Load::default())).await?)
    }

    /// Takes work until `drain`, then finishes what it holds. At `stop` it ends what still runs and hands it back. Ends when all is settled.
    ///
    /// # Errors
    /// The broker is gone for good.
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
