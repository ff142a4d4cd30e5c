//! What handler hosts are allowed, and where they find what they need.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use longshore_model::limits::{KILL_GRACE, LOG_BYTES_PER_STEP_MAX};

use crate::SupervisorCommand;
use crate::process::Limits;

/// How handlers are run. [`HostSettings::new`] has the defaults.
#[derive(Debug, Clone)]
pub struct HostSettings {
    /// Runs [`crate::process::supervisor::supervise_main`].
    pub supervisor: SupervisorCommand,
    /// A directory for a lock, of this worker alone; made if it is missing. UTF-8.
    pub state_dir: PathBuf,
    /// Where the tasks' data directories are; made if it is missing. UTF-8.
    pub data_dir: PathBuf,
    /// What becomes of the tasks' data directories.
    pub data_policy: DataPolicy,
    /// The name of this worker, in descriptions of artifacts.
    pub worker_name: String,
    /// The interpreter of packages that have none of their own. `python3` unless said.
    pub python: PathBuf,
    /// Variables for every host, beside `PATH`, `HOME` and `LANG`. Nothing else of the worker's own environment gets there.
    pub environment: BTreeMap<String, String>,
    /// How long a handler may take to stop when it is asked to; then its host is ended. 2 s unless said.
    pub stop_grace: Duration,
    /// How long the other tasks of a host that has to be ended may go on, if they can. 10 s unless said.
    pub patience: Duration,
    /// Whether a task that is stopped, or whose time is up, takes its host with it: then it is known that nothing that its handler has started
    /// is left. Other tasks of the host may go on for `patience`. No unless said.
    pub ends_with_task: bool,
    /// How long a host without work is kept warm. 300 s unless said.
    pub idle: Duration,
    /// Warm hosts at a time; the one that was idle longest goes for a new one, and if all are busy, the new one waits. 32 unless said.
    pub hosts_max: usize,
    /// How long a host may take to be ready. 30 s unless said.
    pub start_max: Duration,
    /// The wait before a host that has died is started again; doubles with each death in a row. 200 ms unless said.
    pub restart_base: Duration,
    /// The longest such wait. 30 s unless said.
    pub restart_max: Duration,
    /// Bytes of address space of each process of a host. 4 GiB unless said.
    pub memory_bytes_max: Option<u64>,
    /// Open descriptors of each. 4096 unless said.
    pub open_files_max: Option<u64>,
    /// Processes and threads of the user that hosts run as; not enforced for root. 4096 unless said.
    pub processes_max: Option<u64>,
    /// Bytes of each file. 16 GiB unless said.
    pub file_bytes_max: Option<u64>,
    /// Bytes of one call's parameters, result or feedback as JSON. 64 MiB unless said.
    pub frame_bytes_max: usize,
    /// Bytes of what a task of a warm host prints; more is cut. 64 MiB unless said.
    pub output_bytes_max: u64,
}

/// What becomes of a task's data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataPolicy {
    /// It stays.
    Keep,
    /// It goes when nothing in its top level has changed for that long; looked at once an hour.
    KeepFor(Duration),
    /// It goes when its task has ended, however that was. Resources that lie there go with it.
    Remove,
}

impl HostSettings {
    /// Settings with the defaults.
    #[must_use]
    pub fn new(supervisor: SupervisorCommand, state_dir: PathBuf, data_dir: PathBuf, worker_name: String) -> Self {
        const GIB: u64 = 1 << 30;
        Self {
            supervisor,
            state_dir,
            data_dir,
            data_policy: DataPolicy::KeepFor(Duration::from_secs(7 * 24 * 3600)),
            worker_name,
            python: "python3".into(),
            environment: BTreeMap::new(),
            stop_grace: KILL_GRACE,
            patience: Duration::from_secs(10),
            ends_with_task: false,
            idle: Duration::from_secs(300),
            hosts_max: 32,
            start_max: Duration::from_secs(30),
            restart_base: Duration::from_millis(200),
            restart_max: Duration::from_secs(30),
            memory_bytes_max: Some(4 * GIB),
            open_files_max: Some(4096),
            processes_max: Some(4096),
            file_bytes_max: Some(16 * GIB),
            frame_bytes_max: 64 << 20,
            output_bytes_max: LOG_BYTES_PER_STEP_MAX,
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            memory_bytes: self.memory_bytes_max,
            open_files: self.open_files_max,
            processes: self.processes_max,
            file_bytes: self.file_bytes_max,
            no_core: true,
        }
    }
}
