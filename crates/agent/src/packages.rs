//! Which packages' nodes this agent runs: looked at beside its heartbeats, so that what is installed or removed meanwhile is told without a
//! restart.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use longshore_exec::package::host::{HostSettings, Hosts};
use longshore_exec::package::{InstallConfig, Installer, Packages, Runner};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::heartbeat::Load;
use crate::host::Host;
use crate::{Config, Error};

/// Between looks; longer where one takes long.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A look costs at most a part of this size of the time.
const LOOK_SHARE: u32 = 50;

/// Packages whose nodes an agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackagesConfig {
    /// Where they are; made if it is missing.
    pub dir: PathBuf,
    /// The interpreter of packages that have none of their own.
    pub python: PathBuf,
}

/// Prepares for handlers: opens the directory, ends what a killed agent left running. Blocks; needs a runtime.
pub(crate) fn open(own: &PackagesConfig, config: &Config) -> Result<(Runner, Installer), Error> {
    let packages = Packages::open(&own.dir)?;
    let (state, data) = (config.state_dir.join("packages"), config.state_dir.join("package-data"));
    let settings = HostSettings {
        python: own.python.clone(),
        stop_grace: config.kill_grace,
        // An agent says of what was cancelled whether all of it is gone.
        ends_with_task: true,
        ..HostSettings::new(config.supervisor.clone(), state, data, config.hostname())
    };
    let mut install = InstallConfig::new(config.supervisor.clone());
    install.python.program = own.python.display().to_string();
    let installer = Installer::new(packages.clone(), install);
    Ok((Runner::new(packages, Hosts::new(settings)?), installer))
}

/// Looks until `stop`. A change is told at once.
pub(crate) async fn run(host: Arc<dyn Host>, load: Arc<Load>, stop: CancellationToken) {
    let mut pause = LOOK_EVERY;
    while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        let began = Instant::now();
        let Some(packages) = stop.run_until_cancelled(host.packages()).await else { return };
        let mut known = load.packages.lock().expect("no holder of this lock panics");
        if *known != packages {
            tracing::info!(packages = packages.len(), "the packages of this host have changed");
            *known = packages;
            load.changed.notify_one();
        }
        drop(known);
        pause = LOOK_EVERY.max(began.elapsed() * LOOK_SHARE);
    }
}
