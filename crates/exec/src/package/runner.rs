//! Runs nodes of packages as they are installed now: what agents and workers have in common.
//!
//! Packages are installed, replaced and removed by other processes too. So what was found once is believed only while the directory
//! still says the same, which two looks at a manifest's file tell.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use longshore_model::operation::PackageRun;
use longshore_model::wire::agent::WorkerPackage;
use tokio_util::sync::CancellationToken;

use super::host::{Call, Door, ErrorKind, HandlerError, Hosts, Outcome};
use super::registry::{Look, Stamp};
use super::{Installed, Inventory, Lease, PackageName, PackageVersion, Packages};

/// Between looks for trees that nobody uses any more.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

/// Runs nodes of the packages of one directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runner(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    packages: Packages,
    hosts: Hosts,
    /// What was found, and how the directory looked then.
    known: Mutex<BTreeMap<(PackageName, PackageVersion), (Installed, Look)>>,
    offered: Mutex<Offered>,
    swept: Mutex<Instant>,
}

/// What can be run, as it was read last.
#[derive(Debug, Default)]
struct Offered {
    stamp: Option<Stamp>,
    packages: Arc<[WorkerPackage]>,
}

impl Runner {
    /// Runs what is in `packages` in `hosts`.
    #[must_use]
    pub fn new(packages: Packages, hosts: Hosts) -> Self {
        Self(Arc::new(Inner { packages, hosts, known: Mutex::default(), offered: Mutex::default(), swept: Mutex::new(Instant::now()) }))
    }

    /// The packages directory.
    #[must_use]
    pub fn packages(&self) -> &Packages {
        &self.0.packages
    }

    /// Where handlers run.
    #[must_use]
    pub fn hosts(&self) -> &Hosts {
        &self.0.hosts
    }

    /// The packages that can be run now, as the registry keeps them. Reads manifests only if the directory has changed. One that is broken
    /// is told then, and left out. If the directory cannot be read, what was there before counts.
    pub async fn offered(&self) -> Arc<[WorkerPackage]> {
        let inner = Arc::clone(&self.0);
        let looked = tokio::task::spawn_blocking(move || inner.look()).await;
        looked.unwrap_or_else(|error| {
            tracing::error!(%error, "looking at the packages met a fault of ours");
            Arc::default()
        })
    }

    /// The version that a job runs with here, if it can run here.
    pub(crate) async fn version_for(&self, run: &PackageRun) -> Option<String> {
        WorkerPackage::version_for(&self.offered().await, run).map(str::to_owned)
    }

    /// Runs the handler of one task with the package as it is installed now; the package stays as it is until the task's end.
    ///
    /// `stop` and a dropped future end it as those of [`Hosts::run`].
    ///
    /// # Errors
    /// There is no such package, or what [`Hosts::run`] says.
    pub async fn run(&self, name: &str, version: &str, call: Call, door: Door, stop: CancellationToken) -> Result<Outcome, HandlerError> {
        let missing =
            || HandlerError::new(ErrorKind::NotLoaded, format!("Handler not registered: the package {name} {version} is not installed"));
        let (Ok(name), Ok(version)) = (name.parse::<PackageName>(), version.parse::<PackageVersion>()) else { return Err(missing()) };
        let inner = Arc::clone(&self.0);
        let found = tokio::task::spawn_blocking(move || inner.find(name, version)).await;
        let (installed, _lease) = found.ok().flatten().ok_or_else(missing)?;
        self.0.hosts.run(&installed, call, door, stop).await
    }

    /// Lets the hosts of a version, or of every version, go once their tasks are over. Safe to repeat.
    pub fn retire(&self, name: &PackageName, version: Option<&PackageVersion>) {
        let mut known = self.0.known();
        let is_meant = |key: &(PackageName, PackageVersion)| key.0 == *name && version.is_none_or(|version| key.1 == *version);
        let retired: Vec<_> = known.keys().filter(|key| is_meant(key)).cloned().collect();
        for key in retired {
            if let Some((installed, _)) = known.remove(&key) {
                self.0.hosts.retire(&installed);
            }
        }
    }

    /// Ends every host and waits until they are gone. Safe to repeat.
    pub async fn close(&self) {
        self.0.hosts.close().await;
    }
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, BTreeMap<(PackageName, PackageVersion), (Installed, Look)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The package as it is now, held. Blocks: for two looks at a file as a rule.
    fn find(&self, name: PackageName, version: PackageVersion) -> Option<(Installed, Lease)> {
        self.sweep_now_and_then();
        let key = (name, version);
        let before = self.known().get(&key).cloned();
        if let Some((installed, look)) = &before
            && let Ok(lease) = installed.hold()
            && self.packages.look_at(installed) == *look
        {
            return Some((installed.clone(), lease));
        }
        let found = self.packages.hold_and_look(&key.0, &key.1);
        // It was replaced or edited, or is gone: hosts of before take no more tasks.
        if let Some((earlier, _)) = &before {
            self.hosts.retire(earlier);
        }
        match found {
            Some((installed, lease, look)) => {
                self.known().insert(key, (installed.clone(), look));
                Some((installed, lease))
            }
            None => {
                self.known().remove(&key);
                None
            }
        }
    }

    fn look(&self) -> Arc<[WorkerPackage]> {
        self.sweep_now_and_then();
        let mut offered = self.offered.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = self.packages.stamp().ok();
        if stamp.is_some() && stamp == offered.stamp {
            return Arc::clone(&offered.packages);
        }
        match self.packages.inventory() {
            Ok(inventory) => *offered = Offered { stamp, packages: kept(inventory).into() },
            // What is running goes on, and the next look may tell more.
            Err(error) => {
                let is_new = offered.stamp.take().is_some();
                if is_new {
                    tracing::warn!(%error, path = %self.packages.root().display(), "the packages directory cannot be read");
                }
            }
        }
        Arc::clone(&offered.packages)
    }

    /// Trees that were in use when they were replaced or removed go later, also if nobody opens the directory again.
    fn sweep_now_and_then(&self) {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if swept.elapsed() >= SWEEP_EVERY {
            *swept = Instant::now();
            drop(swept);
            self.packages.sweep();
        }
    }
}

/// What of an inventory can be run, as the registry keeps it; the rest is told.
fn kept(inventory: Inventory) -> Vec<WorkerPackage> {
    for broken in inventory.broken {
        tracing::warn!(directory = %broken.directory.display(), why = broken.why, "a package cannot be used");
    }
    let (kept, n_left_out) = WorkerPackage::kept(inventory.installed.into_iter().map(|installed| WorkerPackage {
        name: installed.name.to_string(),
        version: installed.version.to_string(),
        nodes: installed.manifest.nodes.iter().map(|node| node.node_type.to_string()).collect(),
    }));
    if n_left_out > 0 {
        tracing::warn!(n_left_out, "more packages are installed than the registry keeps; the rest is left out");
    }
    kept
}

/// What went wrong, with the exception's type if there was one.
#[must_use]
pub fn words_of(error: &HandlerError) -> String {
    match &error.type_name {
        Some(name) if *name != error.message => format!("{name}: {}", error.message),
        Some(_) | None => error.message.clone(),
    }
}
