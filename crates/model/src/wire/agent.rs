//! What an agent says of itself.

use serde::{Deserialize, Serialize};

use crate::id::AgentId;
use crate::label::Label;
use crate::operation::{Operation, PackageRun};

/// Kept while the agent lives: it expires unless renewed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Version of this form.
    pub schema: u32,
    /// The agent's lasting identity.
    pub agent: AgentId,
    /// Its host's name.
    pub hostname: String,
    /// Its program's version.
    pub version: String,
    /// Executions it may run at once.
    pub max_jobs: usize,
    /// Executions it runs now.
    pub running: usize,
    /// Whether it takes no new work, as it was told.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drained: bool,
    /// The groups it belongs to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<Label>,
    /// What its host is short of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Writes of this process that rested on a history which had moved on, and were refused.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refused_writes: u64,
    /// Which process says so: two that claim one identity are told apart by it. Agents of earlier versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// What it can do, if it is a worker that a controller's gateway speaks for. Readers of before this field take it for an agent like any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<Box<AttachedWorker>>,
    /// When this process started, by the agent's clock.
    pub started_at: jiff::Timestamp,
}

/// A worker that is attached to a controller's gateway: it runs the nodes of its packages and, if it is a Longshore, operations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AttachedWorker {
    /// The name that it gives itself, beside its host's.
    pub name: String,
    /// Its instance id.
    pub instance: String,
    /// Whose work it does.
    pub tenant: String,
    /// The address of the controller that it is attached to.
    pub controller: String,
    /// What it has installed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<WorkerPackage>,
    /// The names of the operations that it performs beside `package.run`. None of them for a worker that is no Longshore.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<String>,
}

impl AttachedWorker {
    /// Whether it performs an operation of the catalogue.
    #[must_use]
    pub fn performs(&self, operation: Operation) -> bool {
        self.operations.iter().any(|name| name == operation.name())
    }

    /// The version that a job for a node of a package runs with: the one that it names, or else the highest that has the node; `None` if there
    /// is none. A package whose manifest was not told is taken to have every node.
    #[must_use]
    pub fn version_for(&self, run: &PackageRun) -> Option<&str> {
        WorkerPackage::version_for(&self.packages, run)
    }
}

/// A package that an attached worker has installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WorkerPackage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The types of its nodes, where the worker told its manifest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
}

impl WorkerPackage {
    /// The version of one of `packages` that a job for a node runs with; see [`AttachedWorker::version_for`].
    #[must_use]
    pub fn version_for<'a>(packages: &'a [Self], run: &PackageRun) -> Option<&'a str> {
        let fits = |package: &&Self| {
            package.name == run.package
                && run.version.as_ref().is_none_or(|version| *version == package.version)
                && (package.nodes.is_empty() || package.nodes.contains(&run.node))
        };
        let rank =
            |version: &&str| version.split(['.', '-', '+']).map(|part| (part.parse::<u64>().ok(), part.to_owned())).collect::<Vec<_>>();
        packages.iter().filter(fits).map(|package| package.version.as_str()).max_by_key(rank)
    }
}

/// A process of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its own, drawn when it started.
    pub id: String,
    /// That of its state directory on its host since the host was started: of two processes with the same one, one has ended.
    pub place: String,
}

/// Something that an agent's host is short of. Everything is measured in percent of what there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Condition {
    /// `memory_pressure`, `high_load` or `disk_pressure`; more may come.
    pub kind: String,
    /// What was measured last: memory or disk in use, or the load of the last minute by the number of processors.
    pub percent: u32,
    /// From where on it counts.
    pub threshold_percent: u32,
    /// On which file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<String>,
    /// Since when, by the agent's clock.
    #[schema(value_type = String, format = DateTime)]
    pub since: jiff::Timestamp,
}

/// What people want of an agent. Stays until it is changed, also while the agent is away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentState {
    /// Version of this form.
    pub schema: u32,
    /// The agent.
    pub agent: AgentId,
    /// Whether it is to take no new work.
    pub drained: bool,
    /// Since when, by the controller's clock.
    pub at: jiff::Timestamp,
    /// Who said so.
    pub by: String,
    /// Why, in their words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}
