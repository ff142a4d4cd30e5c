//! How a worker stands in the registry: its heartbeats follow each other, so that of two controllers only the one that it is attached to
//! speaks for it.

use jiff::Timestamp;
use longshore_model::Label;
use longshore_model::limits::{LABELS_MAX, WORKER_PACKAGES_MAX};
use longshore_model::operation::Operation;
use longshore_model::wire::agent::{AttachedWorker, Heartbeat, Process, WorkerPackage};
use longshore_model::wire::attached::FEATURE;
use longshore_model::wire::record::SCHEMA;
use longshore_session::control::{PackageStatus, Register};
use longshore_store::{Error as StoreError, Registry, Revision};
use serde_json::Value;

use super::admit::Identity;
use super::packages;

/// Executions that one worker may have at once, whatever it says of itself: less than a window of frames, so that a cancel always finds room.
const AT_ONCE_MAX: u64 = 48;
/// How often a heartbeat is tried again because another writer was first.
const TRIES: usize = 5;

/// What a worker can do, as it registered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Abilities {
    pub(super) at_once: usize,
    pub(super) labels: Vec<Label>,
    pub(super) packages: Vec<WorkerPackage>,
    /// Those that it cannot use: name and version.
    pub(super) broken: Vec<(String, String)>,
    /// Operations, of a Longshore, `package.run` among them if it takes its secrets; and what can be asked of the packages of any.
    pub(super) operations: Vec<Operation>,
}

impl Abilities {
    /// Within the registry's bounds; what is beyond them is left out, and told.
    pub(super) fn of(register: &Register) -> Self {
        // Features are free words: those that are labels are the groups that it belongs to.
        let mut labels: Vec<Label> = register.capabilities.features.iter().filter_map(|feature| feature.parse().ok()).collect();
        labels.sort();
        labels.dedup();
        labels.truncate(LABELS_MAX);
        let nodes_of = |name: &str, version: &str| {
            let manifest = register.manifests.iter().flatten().find(|manifest| manifest.name == name && manifest.version == version);
            let nodes = manifest.and_then(|manifest| manifest.manifest.get("nodes")).and_then(Value::as_array).into_iter().flatten();
            nodes.filter_map(|node| node.get("type")).filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let installed = register.packages.iter().flatten().filter(|package| package.status == PackageStatus::Installed);
        let (kept, n_left_out) = WorkerPackage::kept(installed.map(|package| WorkerPackage {
            name: package.name.clone(),
            version: package.version.clone(),
            nodes: nodes_of(&package.name, &package.version),
        }));
        if n_left_out > 0 {
            tracing::warn!(n_left_out, "a worker has more packages than the registry keeps; the rest is left out");
        }
        let at_once = register.capabilities.concurrency.max_parallel.clamp(1, AT_ONCE_MAX);
        let features = &register.capabilities.features;
        let is_longshore = features.iter().any(|feature| feature == longshore_session::FEATURE);
        let names = features.iter().filter_map(|feature| feature.strip_prefix(FEATURE)).filter(|_| is_longshore);
        let named = names.filter_map(Operation::by_name).filter(|operation| !operation.manages_packages());
        let mut operations: Vec<Operation> = named.chain(packages::asked_of(register)).collect();
        operations.sort();
        operations.dedup();
        let broken = register.packages.iter().flatten().filter(|package| package.status == PackageStatus::Failed);
        let broken = broken.take(WORKER_PACKAGES_MAX).map(|package| (package.name.clone(), package.version.clone())).collect();
        Self { at_once: usize::try_from(at_once).unwrap_or(1), labels, packages: kept, broken, operations }
    }
}

/// Whose heartbeats these are, and which was the last.
#[derive(Debug, Clone)]
pub(super) struct Presence {
    pub(super) process: Process,
    /// When the worker was first heard of: kept over controllers, as long as the registry knows it.
    pub(super) started_at: Timestamp,
    pub(super) last: Option<Revision>,
}

impl Presence {
    pub(super) fn new(now: Timestamp) -> Self {
        let id = uuid::Uuid::now_v7().to_string();
        Self { process: Process { place: format!("gateway {id}"), id }, started_at: now, last: None }
    }

    pub(super) fn heartbeat(
        &self,
        who: &Identity,
        tenant_and_instance: (&str, &str),
        can: &Abilities,
        load: Load,
        controller: &str,
    ) -> Heartbeat {
        let (tenant, instance) = tenant_and_instance;
        Heartbeat {
            schema: SCHEMA,
            agent: who.agent,
            hostname: who.hostname.clone(),
            version: who.version.clone(),
            max_jobs: can.at_once,
            running: load.running,
            drained: load.is_drained,
            labels: can.labels.clone(),
            conditions: Vec::new(),
            refused_writes: 0,
            process: Some(self.process.clone()),
            worker: Some(Box::new(AttachedWorker {
                name: who.name.clone(),
                instance: instance.to_owned(),
                tenant: tenant.to_owned(),
                controller: controller.to_owned(),
                packages: can.packages.clone(),
                operations: can.operations.iter().map(|operation| operation.name().to_owned()).collect(),
                contested_since: None,
            })),
            packages: Vec::new(),
            started_at: self.started_at,
        }
    }
}

/// What a worker is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) running: usize,
    pub(super) is_drained: bool,
}

/// What became of a heartbeat.
#[derive(Debug)]
pub(super) enum Beat {
    /// It is the newest, at this revision, and says this of when the worker was first heard of.
    Told(Revision, Timestamp),
    /// Another controller speaks for the worker.
    Taken,
    /// The broker did not take it.
    Failed(StoreError),
}

/// Says that the worker lives, after its last heartbeat. Without one the word of another controller is replaced: the worker is here now.
pub(super) async fn beat(registry: &dyn Registry, mut heartbeat: Heartbeat, last: Option<Revision>) -> Beat {
    let own = heartbeat.process.as_ref().map(|process| process.id.clone());
    let mut after = last;
    for _ in 0..TRIES {
        if let Some(after) = after {
            match registry.beat_after(&heartbeat, after).await {
                Ok(Some(revision)) => return Beat::Told(revision, heartbeat.started_at),
                Ok(None) => {}
                Err(error) => return Beat::Failed(error),
            }
        }
        let newest = match registry.newest(heartbeat.agent).await {
            Ok(newest) => newest,
            Err(error) => return Beat::Failed(error),
        };
        if let Some(other) = &newest.heartbeat {
            let is_own = other.process.as_ref().map(|process| &process.id) == own.as_ref();
            if !is_own && last.is_some() {
                return Beat::Taken;
            }
            heartbeat.started_at = other.started_at;
        }
        after = Some(newest.revision);
    }
    Beat::Failed(StoreError::Unavailable { doing: "telling the registry of a worker", source: None })
}

/// Whether `process` is the one that speaks for the agent, by the registry.
pub(super) async fn is_ours(registry: &dyn Registry, agent: longshore_model::AgentId, process: &str) -> bool {
    let newest = registry.newest(agent).await.ok().and_then(|newest| newest.heartbeat).and_then(|heartbeat| heartbeat.process);
    newest.is_some_and(|own| own.id == process)
}
