//! What an operator may set, under the names, bounds and defaults of the existing worker, and what a few names more.
//!
//! Nothing here reads a file or the environment: [`Sources`] holds what was found there, and [`Settings::load`] puts it together.

mod dot_env;
mod field;
mod sources;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use longshore_session::Overflow;
use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest, Sha256};

pub use field::names;
pub use sources::{Layer, Loaded, SettingsError, Sources};

/// The prefix of all variables.
pub const PREFIX: &str = "ASTRA_WORKER_";

/// Everything that may be set. Durations are in the unit that their name ends with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where to connect to: `ws://` or `wss://`.
    pub scheduler_ws_url: String,
    /// Package addresses without a scheme are taken to be below this.
    pub scheduler_rest_base_url: String,
    /// The tenant of every frame, and of every task.
    pub tenant: String,
    /// The worker's name for people, and for references to resources that are pinned to it.
    pub worker_name: String,
    /// Which worker this is; empty or unset: from `./var/worker_instance_id`.
    pub worker_instance_id: Option<String>,
    /// What proves who it is, if `auth_mode` is `token`.
    pub auth_token: Option<Secret>,
    /// The file that holds it instead.
    pub auth_token_file: Option<PathBuf>,
    /// The version that it says it has.
    pub worker_version: String,
    /// The protocol that it says it speaks.
    pub handshake_protocol_version: u32,
    /// Which proof it shows.
    pub auth_mode: AuthMode,
    /// The fingerprint of its certificate, if `auth_mode` is `mtls`; worked out from `tls_cert_file` unless given.
    pub auth_fingerprint: Option<String>,
    /// Certificates that `wss://` is checked against instead of the system's, in PEM.
    pub tls_ca_file: Option<PathBuf>,
    /// The client certificate, in PEM.
    pub tls_cert_file: Option<PathBuf>,
    /// Its key, in PEM.
    pub tls_key_file: Option<PathBuf>,
    /// Whether there is a scheduler at all.
    pub transport: TransportKind,
    /// Between heartbeats.
    pub heartbeat_interval_seconds: u64,
    /// Up to this much is added.
    pub heartbeat_jitter_seconds: u64,
    /// The first wait before something is sent again.
    pub ack_retry_base_ms: u64,
    /// The longest.
    pub ack_retry_max_ms: u64,
    /// How often; then the session is given up, and nothing that waits.
    pub ack_retry_attempts: u32,
    /// How long an acceptance may take.
    pub session_accept_timeout_seconds: u64,
    /// How many frames may be under way in each direction.
    pub session_window_size: u64,
    /// The first wait before dialling again.
    pub reconnect_base_delay_seconds: f64,
    /// The longest.
    pub reconnect_max_delay_seconds: f64,
    /// Each wait is multiplied by something between 1 less and 1 more this.
    pub reconnect_jitter: f64,
    /// Whether refused credentials end the worker.
    pub reconnect_abort_on_auth_error: bool,
    /// Whether a peer that does not speak the protocol ends the worker.
    pub reconnect_abort_on_protocol_error: bool,
    /// Frames between the socket and the session; when full the socket is not read. 0: a small number.
    pub transport_recv_queue_max: usize,
    /// Frames between the session and the queues of their kinds; 0: bounded by bytes alone.
    pub session_app_queue_max: usize,
    /// What happens beyond.
    pub session_app_queue_overflow: OverflowPolicy,
    /// Tasks and package commands at once; a task that waits for `next()` does not count. 0: no bound.
    pub dispatch_max_inflight: usize,
    /// What waits in the queue of each kind; 0: no bound but the bytes of the queue before it.
    pub dispatch_queue_max: usize,
    /// What happens beyond.
    pub dispatch_queue_overflow: OverflowPolicy,
    /// After which time without use a kind's queue is forgotten; 0: never.
    pub dispatch_queue_idle_seconds: f64,
    /// How long one task or package command may take; 0: as long as it takes.
    pub dispatch_timeout_seconds: f64,
    /// Failures in a row after which a handler is left alone; 0: never.
    pub dispatch_max_failures: u32,
    /// For how long; 0: never.
    pub dispatch_failure_cooldown_seconds: f64,
    /// Tasks at once, said to the scheduler, and kept to if it is set at all.
    pub concurrency_max_parallel: Option<usize>,
    /// Tasks at once of a node type.
    pub concurrency_per_node_limits: Option<BTreeMap<String, usize>>,
    /// How plain functions run where neither node nor adapter says.
    pub exec_mode_default: ExecMode,
    /// Runtimes that are offered.
    pub runtime_names: Vec<String>,
    /// Words that are said of this worker.
    pub feature_flags: Vec<String>,
    /// Kinds of frames that are taken; others are refused.
    pub payload_types: Vec<String>,
    /// Where packages are.
    pub packages_dir: Option<PathBuf>,
    /// Where tasks have their data, and the worker its journal.
    pub data_dir: PathBuf,
    /// Where the worker has its journal, and its handlers' hosts what they need; `worker` beside `data_dir` unless given.
    pub state_dir: Option<PathBuf>,
    /// How far packages may be fetched from.
    pub package_reach: PackageReach,
    /// Whether the hooks of packages are run.
    pub package_hooks: bool,
    /// Public keys of minisign: with any, packages have to be signed by one of them.
    pub package_keys: Vec<String>,
    /// Whether a signed package is taken that is older than the newest signed one of its name that was installed.
    pub package_allow_downgrade: bool,
    /// A directory of wheels, from which packages' dependencies are installed without a network.
    pub package_wheels_dir: Option<PathBuf>,
    /// The address of an index of Python packages, if there is no such directory.
    pub package_index: Option<String>,
    /// Whether a controller may have operations done to this host, beside those of packages. A scheduler of another kind never may.
    pub host_operations: bool,
    /// The file with the keys that open the secrets of jobs: `secrets.key` of an agent.
    pub job_opening_keys_file: Option<PathBuf>,
    /// The file with the keys of controllers that jobs must be signed by: `jobs.pub` of an agent.
    pub job_trusted_keys_file: Option<PathBuf>,
    /// The Python interpreter.
    pub python_program: String,
    /// How much is logged.
    pub log_level: LogLevel,
    /// How long running tasks get when the worker is asked to end, or to take no more without being told for how long.
    pub drain_timeout_seconds: f64,
    /// Told by the loader; without effect.
    pub config_path: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Self {
            scheduler_ws_url: "ws://localhost:8080/ws/worker".to_owned(),
            scheduler_rest_base_url: "http://localhost:8080/api/v1".to_owned(),
            tenant: "default".to_owned(),
            worker_name: "worker-local".to_owned(),
            worker_instance_id: None,
            auth_token: None,
            auth_token_file: None,
            worker_version: "0.1.0".to_owned(),
            handshake_protocol_version: 1,
            auth_mode: AuthMode::Token,
            auth_fingerprint: None,
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            transport: TransportKind::Websocket,
            heartbeat_interval_seconds: 30,
            heartbeat_jitter_seconds: 5,
            ack_retry_base_ms: 200,
            ack_retry_max_ms: 5000,
            ack_retry_attempts: 6,
            session_accept_timeout_seconds: 10,
            session_window_size: 64,
            reconnect_base_delay_seconds: 1.0,
            reconnect_max_delay_seconds: 30.0,
            reconnect_jitter: 0.2,
            reconnect_abort_on_auth_error: false,
            reconnect_abort_on_protocol_error: false,
            transport_recv_queue_max: 0,
            session_app_queue_max: 1024,
            session_app_queue_overflow: OverflowPolicy::Block,
            dispatch_max_inflight: 8,
            dispatch_queue_max: 256,
            dispatch_queue_overflow: OverflowPolicy::Block,
            dispatch_queue_idle_seconds: 300.0,
            dispatch_timeout_seconds: 0.0,
            dispatch_max_failures: 0,
            dispatch_failure_cooldown_seconds: 0.0,
            concurrency_max_parallel: None,
            concurrency_per_node_limits: None,
            exec_mode_default: ExecMode::Auto,
            runtime_names: words(&["python"]),
            feature_flags: Vec::new(),
            payload_types: words(&[
                "biz.exec.dispatch",
                "biz.exec.result",
                "biz.exec.error",
                "biz.exec.feedback",
                "biz.exec.next.request",
                "biz.exec.next.response",
                "biz.pkg.install",
                "biz.pkg.uninstall",
                "biz.pkg.event",
            ]),
            packages_dir: None,
            data_dir: PathBuf::from("./var/data"),
            state_dir: None,
            package_reach: PackageReach::Public,
            package_hooks: false,
            package_keys: Vec::new(),
            package_allow_downgrade: false,
            package_wheels_dir: None,
            package_index: None,
            host_operations: true,
            job_opening_keys_file: None,
            job_trusted_keys_file: None,
            python_program: "python3".to_owned(),
            log_level: LogLevel::Info,
            drain_timeout_seconds: 30.0,
            config_path: None,
        }
    }
}

impl Settings {
    /// Where this instance keeps what its next process has to know. Never below `data_dir`: what is old there goes.
    #[must_use]
    pub fn state_dir_of(&self, instance: &str) -> PathBuf {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let name = if (1..=100).contains(&instance.len()) && instance.chars().all(is_plain) {
            instance.to_owned()
        } else {
            data_encoding::HEXLOWER.encode(&Sha256::digest(instance.as_bytes()))
        };
        let beside = || self.data_dir.parent().unwrap_or(&self.data_dir).join("worker");
        self.state_dir.clone().unwrap_or_else(beside).join(name)
    }

    pub(crate) fn cooldown(&self) -> Option<(u32, Duration)> {
        let wait = seconds(self.dispatch_failure_cooldown_seconds);
        (self.dispatch_max_failures > 0 && !wait.is_zero()).then_some((self.dispatch_max_failures, wait))
    }

    pub(crate) fn timeout(&self) -> Option<Duration> {
        Some(seconds(self.dispatch_timeout_seconds)).filter(|timeout| !timeout.is_zero())
    }
}

/// A number of seconds that was checked to be one, and no longer than anybody waits.
pub(crate) fn seconds(number: f64) -> Duration {
    Duration::try_from_secs_f64(number.clamp(0.0, 1e9)).unwrap_or_default()
}

/// Something that nobody should see. Neither `Debug` nor what is written of it shows it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Secret(***)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str("***")
    }
}

/// Which proof a worker shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// A token.
    Token,
    /// A client certificate, and its fingerprint.
    Mtls,
}

/// Whether there is a scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransportKind {
    /// There is.
    Websocket,
    /// There is none: the worker stays up and does nothing.
    Dummy,
}

/// What to do with a frame for which there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverflowPolicy {
    /// It waits, and so does its sender.
    Block,
    /// It is refused.
    DropNew,
    /// The one that has waited longest is refused.
    DropOldest,
}

impl From<OverflowPolicy> for Overflow {
    fn from(policy: OverflowPolicy) -> Self {
        match policy {
            OverflowPolicy::Block => Self::Block,
            OverflowPolicy::DropNew => Self::DropNew,
            OverflowPolicy::DropOldest => Self::DropOldest,
        }
    }
}

/// How plain functions run where neither node nor adapter says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExecMode {
    /// Coroutines on the event loop, plain functions in a thread.
    Auto,
    /// Everything on the event loop.
    Inline,
    /// Plain functions in a thread.
    Thread,
}

/// How far packages may be fetched from; each includes the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageReach {
    /// The public network.
    Public,
    /// Private networks.
    Private,
    /// This host.
    Loopback,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum LogLevel {
    /// Why things are done, and each frame by its kind and id.
    Debug,
    /// What an operator would recognise.
    Info,
    /// What is odd.
    Warning,
    /// What somebody must look at.
    Error,
    /// The same; there is nothing above.
    Critical,
}
