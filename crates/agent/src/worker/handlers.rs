//! What a worker asks of whoever runs the handlers of packages. Nothing here knows a session, a frame or a socket.

use std::time::Duration;

use async_trait::async_trait;
use longshore_session::Payload;
use longshore_session::control::{Manifest, Package};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::settings::ExecMode;

/// Runs tasks, and keeps the packages that they are in.
#[async_trait]
pub trait Handlers: Send + Sync + 'static {
    /// Runs one task to its end. When `stop` is cancelled it ends soon; dropped, it leaves nothing running.
    ///
    /// # Errors
    /// See [`Fault`].
    async fn run(&self, task: Task, door: Door, stop: CancellationToken) -> Result<Outcome, Fault>;

    /// Installs one package version. The older ones stay, and so does everything if this fails.
    ///
    /// Both ways it tells the details of the event.
    ///
    /// # Errors
    /// What failed and why, as `error` among the details.
    async fn install(&self, install: Install) -> Result<Payload, Payload>;

    /// Removes one version, or all. Both ways it tells the details of the event.
    ///
    /// # Errors
    /// What failed and why, as `error` among the details.
    async fn uninstall(&self, name: String, version: Option<String>) -> Result<Payload, Payload>;

    /// What is installed; nothing if that cannot be looked at now, so that what was said of it before stays. May look at the disk.
    fn inventory(&self) -> Option<Inventory>;

    /// What is said of it beside its packages, in words among the features of the worker.
    fn features(&self) -> Vec<String> {
        Vec::new()
    }

    /// What heartbeats say of resources that handlers hold.
    fn metrics(&self) -> Payload {
        Payload::from_iter([("resource_handles".to_owned(), 0.into()), ("resource_bytes".to_owned(), 0.into())])
    }
}

/// One task. Parameters may hold secrets, so `Debug` does not show them.
#[derive(Clone, PartialEq)]
pub struct Task {
    /// The run it belongs to.
    pub run_id: String,
    /// The task within the run.
    pub task_id: String,
    /// The node of the workflow.
    pub node_id: String,
    /// Which of the package's node types.
    pub node_type: String,
    /// Which package.
    pub package_name: String,
    /// Which version of it.
    pub package_version: String,
    /// What the handler is given.
    pub parameters: Payload,
    /// For whom.
    pub tenant: String,
    /// The node whose middleware this is, if it is one.
    pub host_node_id: Option<String>,
    /// The chain of middlewares; without it and the index there is no `next()`.
    pub middleware_chain: Option<Vec<Value>>,
    /// Where this node stands in the chain.
    pub chain_index: Option<u64>,
    /// What the handler sees as metadata, and what a result's metadata begins with.
    pub metadata: Payload,
    /// Resources of this worker that it needs.
    pub resource_refs: Vec<Payload>,
    /// How plain functions run where neither node nor adapter says.
    pub exec_mode: ExecMode,
    /// How long it may run; whoever runs it may rely on `stop` instead.
    pub timeout: Option<Duration>,
}

impl std::fmt::Debug for Task {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Task")
            .field("run_id", &self.run_id)
            .field("task_id", &self.task_id)
            .field("node_type", &self.node_type)
            .finish_non_exhaustive()
    }
}

/// Whom a running handler talks to.
#[derive(Debug)]
pub struct Door {
    /// Takes feedback; waits while the other end is slow. Each payload is that of one frame without `run_id` and `task_id`.
    pub feedback: mpsc::Sender<Payload>,
    /// Takes calls of `next()`. The task holds none of the worker's slots while it waits for the answer.
    pub next: mpsc::Sender<NextCall>,
    /// What becomes of what it prints.
    pub prints: Prints,
}

/// What becomes of what a handler prints and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prints {
    /// It is said among the feedback, for a peer that keeps it as the task's log.
    Said,
    /// It is in this worker's own log, with the task's name: a scheduler of another kind has no place for it.
    Logged,
}

/// A handler calls the next element of its chain and waits.
#[derive(Debug)]
pub struct NextCall {
    /// For the next element.
    pub payload: Payload,
    /// Of the host node.
    pub host_ctx: Payload,
    /// Of the middleware.
    pub middleware_ctx: Payload,
    /// How long it waits, at most.
    pub timeout_ms: Option<u64>,
    /// Takes the answer; dropped without one if the worker ends.
    pub reply: oneshot::Sender<Result<Payload, NextError>>,
}

/// Why there is no answer from the next element.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct NextError {
    /// For programs.
    pub code: String,
    /// For people.
    pub message: String,
    /// Where it came from, if that is known.
    pub trace: Option<Payload>,
}

/// How a handler said that its task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Well.
    Succeeded,
    /// Not well, by the handler's own word.
    Failed,
    /// There was nothing to do.
    Skipped,
    /// It was given up.
    Cancelled,
}

impl Status {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Skipped => "SKIPPED",
            Self::Cancelled => "CANCELLED",
        }
    }
}

/// What a handler gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// What it gave.
    pub result: Payload,
    /// The task's metadata, overlaid by the handler's.
    pub metadata: Payload,
    /// Resources it has made, in the form of the frame.
    pub artifacts: Vec<Value>,
    /// How long the handler itself took.
    pub duration: Duration,
}

/// Why there is no [`Outcome`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// For programs.
    pub kind: FaultKind,
    /// For people, with the exception's type if there was one.
    pub message: String,
}

/// What kind of a [`Fault`] it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The handler raised, is unknown, gave no result, or its host died.
    Failed,
    /// A resource it needs is not on this worker.
    ResourceMissing,
    /// It ran longer than it may.
    TimedOut,
    /// It was asked to stop.
    Cancelled,
}

/// A package to install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where it is.
    pub url: String,
    /// What it must hash to.
    pub sha256: Option<String>,
}

/// What is installed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inventory {
    /// The packages.
    pub packages: Vec<Package>,
    /// Their manifests.
    pub manifests: Vec<Manifest>,
}
