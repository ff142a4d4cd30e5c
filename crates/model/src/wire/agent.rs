//! What an agent says of itself.

use serde::{Deserialize, Serialize};

use crate::id::AgentId;
use crate::label::Label;
use crate::limits::{PACKAGE_NAME_BYTES_MAX, WORKER_NODES_MAX, WORKER_PACKAGES_MAX};
use crate::operation::{Operation, PackageRun};
use crate::package::compare_versions;

/// How far the registry was followed when something was decided by it. Larger is later; the two do not compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FleetRevision {
    /// Of the newest heartbeat that was seen, or end of one.
    pub heartbeats: u64,
    /// Of the newest drain or undrain that was seen.
    pub states: u64,
}

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
    /// The packages of its host, whose nodes it runs beside everything else; a worker's are in `worker`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<WorkerPackage>,
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
    /// The names of the operations that it performs, `package.run` among them where that may have secrets. A worker that is no Longshore has
    /// its packages managed, and does no other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<String>,
    /// Since when several workers take its instance id from each other: each needs one of its own. By the controller's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub contested_since: Option<jiff::Timestamp>,
}

impl AttachedWorker {
    /// Whether it performs an operation of the catalogue.
    #[must_use]
    pub fn performs(&self, operation: Operation) -> bool {
        self.operations.iter().any(|name| name == operation.name())
    }
}

impl Heartbeat {
    /// The packages whose nodes can be run there.
    #[must_use]
    pub fn packages(&self) -> &[WorkerPackage] {
        self.worker.as_ref().map_or(&self.packages, |worker| &worker.packages)
    }
}

/// A package that an agent or an attached worker has installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WorkerPackage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The types of its nodes, where its manifest is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
}

impl WorkerPackage {
    /// The version of these packages that a job for a node runs with: the one that it names, or else the highest that has the node; `None` if
    /// there is none. A package whose nodes are not known is taken to have every node.
    #[must_use]
    pub fn version_for<'a>(packages: &'a [Self], run: &PackageRun) -> Option<&'a str> {
        let fits = |package: &&Self| {
            package.name == run.package
                && run.version.as_ref().is_none_or(|version| *version == package.version)
                && (package.nodes.is_empty() || package.nodes.contains(&run.node))
        };
        packages.iter().filter(fits).map(|package| package.version.as_str()).max_by(|one, other| compare_versions(one, other))
    }

    /// As much of these as the registry keeps of one agent, sorted and each once; and how many were left out. What has a name that no job can
    /// say is left out without a word.
    #[must_use]
    pub fn kept(packages: impl IntoIterator<Item = Self>) -> (Vec<Self>, usize) {
        let can_be_said = |text: &str| !text.is_empty() && text.len() <= PACKAGE_NAME_BYTES_MAX;
        let (mut kept, mut n_nodes, mut n_left_out) = (Vec::new(), 0, 0);
        for mut package in packages {
            if !can_be_said(&package.name) || !can_be_said(&package.version) {
                continue;
            }
            package.nodes.retain(|node| can_be_said(node));
            package.nodes.sort();
            package.nodes.dedup();
            if kept.len() >= WORKER_PACKAGES_MAX || n_nodes + package.nodes.len() > WORKER_NODES_MAX {
                n_left_out += 1;
            } else {
                n_nodes += package.nodes.len();
                kept.push(package);
            }
        }
        kept.sort_by(|one, other| (&one.name, &one.version).cmp(&(&other.name, &other.version)));
        kept.dedup_by(|one, other| (&one.name, &one.version) == (&other.name, &other.version));
        (kept, n_left_out)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::secret::Secrets;

    fn package(version: &str, nodes: &[&str]) -> WorkerPackage {
        let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
        WorkerPackage { name: "p".to_owned(), version: version.to_owned(), nodes }
    }

    #[test]
    fn without_a_version_the_highest_release_that_has_the_node_runs() {
        let packages = [package("1.9.0", &["a", "b"]), package("1.10.0", &["a"]), package("1.10.0-rc.1", &["a"]), package("0.1.0", &[])];
        let run = |version: Option<&str>, node: &str| {
            let (version, node) = (version.map(str::to_owned), node.to_owned());
            let run = PackageRun { package: "p".to_owned(), version, node, parameters: serde_json::Map::new(), secrets: Secrets::new() };
            WorkerPackage::version_for(&packages, &run)
        };
        assert_eq!(run(None, "a"), Some("1.10.0"));
        assert_eq!(run(None, "b"), Some("1.9.0"));
        assert_eq!(run(None, "c"), Some("0.1.0"), "whose nodes are not known");
        assert_eq!(run(Some("1.10.0-rc.1"), "a"), Some("1.10.0-rc.1"));
        assert_eq!((run(Some("1.10.0"), "b"), run(Some("3.0.0"), "a")), (None, None));
    }

    #[test]
    fn the_registry_keeps_so_much_and_no_more_of_what_is_installed() {
        let many = (0..WORKER_PACKAGES_MAX + 2).map(|n| package(&format!("{n}.0.0"), &["a", "a"]));
        let (kept, left_out) = WorkerPackage::kept(many);
        assert_eq!((kept.len(), left_out, kept[0].nodes.len()), (WORKER_PACKAGES_MAX, 2, 1));
        let nodes: Vec<String> = (0..WORKER_NODES_MAX).map(|n| n.to_string()).collect();
        let large = WorkerPackage { nodes, ..package("1.0.0", &[]) };
        let (kept, left_out) = WorkerPackage::kept([large, package("2.0.0", &["a"]), package("3.0.0", &[]), package("", &[])]);
        assert_eq!((kept.len(), left_out), (2, 1));
        let (kept, _) = WorkerPackage::kept([package("1.0.0", &["x".repeat(1000).as_str()])]);
        assert_eq!(kept[0].nodes, Vec::<String>::new());
    }
}
