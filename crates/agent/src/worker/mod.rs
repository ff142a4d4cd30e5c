//! The worker: does the work of a scheduler, or of a controller's gateway, that hands it out over a WebSocket.
//!
//! - [`settings`]: what an operator may set.
//! - `run`: the loop, with rooms for what it hears, says, performs and tells of itself, and for how it ends. It feeds the sans-IO session of `longshore-session` with bytes from `dial` and `socket`, and performs what it asks for.
//! - `tasks`: which tasks run, decided without a clock or a socket; `queues`: what waits; `perform`: one task; `answer`: what its end is told with. What the loop does with them is in `work`,
//!   `answering`, `talk` and `package_commands`.
//! - `journal`: what a killed worker's successor has to know.
//! - [`Handlers`]: whoever runs the packages' handlers. They never run inside this process.
//! - [`Operations`]: the same, and for a controller the operations of the catalogue too.
//!
//! The invariant guarded here: whatever was acknowledged is answered, once, whatever breaks or is killed; and what was answered is not run again.

mod answer;
mod answering;
mod dial;
mod frames;
mod handlers;
mod journal;
mod next;
mod operations;
mod package_commands;
mod packages;
mod perform;
mod printed;
mod queues;
mod run;
pub mod settings;
mod socket;
mod talk;
mod tasks;
mod vitals;
mod work;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use longshore_session::codec::EncodeError;
use longshore_session::control::{Auth, AuthMode as WireAuthMode, Capabilities, Concurrency, Handshake, Register, Token, Worker as About};
use longshore_session::{LinkConfig, Now, Reconnect, Resend, WorkerConfig};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use dial::DialerError;
pub use handlers::{Door, Fault, FaultKind, Handlers, Install, Inventory, NextCall, NextError, Outcome, Prints, Status, Task};
pub use journal::JournalError;
pub use operations::{JobKeys, Operations, OperationsError};
pub use packages::{PackageHandlers, PackagesError};
use settings::{AuthMode, Settings, TransportKind, seconds};

/// The largest frame that is read; whoever sends a larger one is disconnected.
const FRAME_BYTES_MAX: usize = 16 << 20;

/// Why a worker could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings give no way to a scheduler.
    #[error("cannot connect to any scheduler")]
    Dialer(#[from] DialerError),
    /// There is no journal.
    #[error("cannot keep a journal")]
    Journal(#[from] JournalError),
    /// A file or directory that the settings name.
    #[error("cannot use {}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What it would say of itself.
    #[error("what the worker says of itself is more than a scheduler reads")]
    TooMuch(#[source] EncodeError),
    /// The scheduler refused, and the settings say to end then.
    #[error("the scheduler refused: {0}")]
    Refused(String),
    /// No random bytes.
    #[error("the system gives no random bytes")]
    Random(#[source] io::Error),
}

/// What a running worker is doing, for whoever watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct View {
    /// The session is open.
    pub is_open: bool,
    /// No more work is taken.
    pub is_draining: bool,
    /// Tasks that have begun and not ended.
    pub running: usize,
    /// Tasks and commands that wait for their turn.
    pub queued: usize,
    /// Messages that were not acknowledged.
    pub unacknowledged: usize,
}

/// A worker that is ready to run.
pub struct Worker {
    runner: run::Runner,
    view: watch::Receiver<View>,
    instance: String,
}

impl Worker {
    /// Prepares everything but the connection: reads the files that the settings name, opens the journal of an earlier process. May look at the disk.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn new(settings: Settings, instance: String, hostname: String, handlers: Arc<dyn Handlers>) -> Result<Self, Error> {
        let began = Instant::now();
        let inventory = handlers.inventory();
        let is_inventory_known = inventory.is_some();
        let mut register = with_inventory(register(&settings), &inventory.unwrap_or_default());
        register.capabilities.features.extend(handlers.features());
        let handshake = handshake(&settings, &instance, hostname)?;
        let config = session_config(&settings, &instance, handshake, register.clone());
        let now = Now { at: began.elapsed(), wall: jiff::Timestamp::now() };
        let (session, register) = open_session(config, register, now)?;
        // Heartbeats say how full it is, from the first on.
        fs::create_dir_all(&settings.data_dir).map_err(|source| Error::File { path: settings.data_dir.clone(), source })?;
        let dialer = match settings.transport {
            TransportKind::Websocket => Some(dial::Dialer::new(&settings, FRAME_BYTES_MAX)?),
            TransportKind::Dummy => None,
        };
        let journal = journal::Journal::open(&settings.state_dir_of(&instance))?;
        let tasks = tasks::Tasks::new(limits(&settings));
        let (view_tx, view) = watch::channel(View::default());
        let settings = Arc::new(settings);
        let parts = run::Parts { settings, handlers, journal, session, register, is_inventory_known, tasks, dialer, began, view: view_tx };
        Ok(Self { runner: run::Runner::new(parts), view, instance })
    }

    /// Which worker it is.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// What it is doing, from here on.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// Takes work until `drain`, then finishes what runs within `drain_timeout_seconds` and ends. At `stop` it gives back what runs and ends.
    ///
    /// Dropped, it loses nothing: its journal is what a killed worker leaves.
    ///
    /// # Errors
    /// The scheduler refused it, and the settings say to end then.
    pub async fn run(self, drain: CancellationToken, stop: CancellationToken) -> Result<(), Error> {
        self.runner.run(drain, stop).await
    }
}

/// The lasting identity kept in a file, made if there is none. A file that cannot be written gives an identity for this once.
///
/// # Errors
/// No random bytes.
pub fn lasting_identity(path: &Path) -> Result<String, Error> {
    let read = || fs::read_to_string(path).ok().map(|text| text.trim().to_owned()).filter(|id| !id.is_empty());
    if let Some(id) = read() {
        return Ok(id);
    }
    let id = uuid_of(random_bits()?);
    // Written beside it first: a kill leaves none, and never one that says nothing.
    let draft = path.with_added_extension(&id);
    let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(id.as_bytes())?;
        match fs::hard_link(&draft, path) {
            // One without an identity in it: what a full disk leaves.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && read().is_none() => fs::rename(&draft, path),
            linked => linked,
        }
    });
    // Best effort: what stays is a small file that nobody reads.
    let _ = fs::remove_file(&draft);
    match made {
        Ok(()) => Ok(id),
        // Somebody else was quicker.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(read().unwrap_or(id)),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "the worker's identity cannot be kept: it is another one after a restart");
            Ok(id)
        }
    }
}

fn limits(settings: &Settings) -> tasks::Limits {
    tasks::Limits {
        inflight: Some(settings.dispatch_max_inflight).filter(|most| *most > 0),
        parallel: settings.concurrency_max_parallel,
        per_node: settings.concurrency_per_node_limits.clone().unwrap_or_default(),
        cooldown: settings.cooldown(),
    }
}

fn handshake(settings: &Settings, instance: &str, hostname: String) -> Result<Handshake, Error> {
    let token = match (&settings.auth_token, &settings.auth_token_file) {
        (Some(token), _) => Some(token.0.clone()),
        (None, Some(path)) => {
            let text = fs::read_to_string(path).map_err(|source| Error::File { path: path.clone(), source })?;
            let token = text.trim();
            if token.is_empty() {
                let source = io::Error::new(io::ErrorKind::InvalidData, "there is no token in it");
                return Err(Error::File { path: path.clone(), source });
            }
            Some(token.to_owned())
        }
        (None, None) => None,
    };
    let auth = match settings.auth_mode {
        AuthMode::Token => Auth { mode: WireAuthMode::Token, token: token.map(Token), fingerprint: None },
        AuthMode::Mtls => {
            let fingerprint = match (&settings.auth_fingerprint, &settings.tls_cert_file) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(path)) => Some(dial::fingerprint(path)?),
                (None, None) => None,
            };
            Auth { mode: WireAuthMode::Mtls, token: None, fingerprint }
        }
    };
    let worker = About {
        worker_name: settings.worker_name.clone(),
        worker_instance_id: Some(instance.to_owned()),
        version: settings.worker_version.clone(),
        hostname,
    };
    Ok(Handshake { protocol: settings.handshake_protocol_version, auth, worker })
}

fn register(settings: &Settings) -> Register {
    let limits = settings.concurrency_per_node_limits.as_ref();
    Register {
        capabilities: Capabilities {
            concurrency: Concurrency {
                max_parallel: settings.concurrency_max_parallel.unwrap_or(1) as u64,
                per_node_limits: limits.map(|limits| limits.iter().map(|(node, limit)| (node.clone(), *limit as u64)).collect()),
            },
            runtimes: settings.runtime_names.clone(),
            features: settings.feature_flags.clone(),
        },
        payload_types: Some(settings.payload_types.clone()),
        packages: None,
        manifests: None,
        channels: None,
    }
}

fn with_inventory(register: Register, inventory: &Inventory) -> Register {
    Register { packages: Some(inventory.packages.clone()), manifests: Some(inventory.manifests.clone()), ..register }
}

/// Manifests are left out if they are more than a scheduler reads.
fn open_session(config: WorkerConfig, register: Register, now: Now) -> Result<(longshore_session::Worker, Register), Error> {
    let seed = random_bits()?;
    match longshore_session::Worker::new(config.clone(), seed, now) {
        Ok(session) => Ok((session, register)),
        Err(error @ (EncodeError::TooLarge { .. } | EncodeError::TooHeavy { .. })) => {
            tracing::warn!(%error, "the manifests are more than a scheduler reads and are left out");
            let register = Register { manifests: None, ..register };
            let config = WorkerConfig { register: register.clone(), ..config };
            Ok((longshore_session::Worker::new(config, seed, now).map_err(Error::TooMuch)?, register))
        }
        Err(error @ (EncodeError::Empty(_) | EncodeError::TooLong(_) | EncodeError::TooDeep | EncodeError::Unwritable(_))) => {
            Err(Error::TooMuch(error))
        }
    }
}

fn session_config(settings: &Settings, instance: &str, handshake: Handshake, register: Register) -> WorkerConfig {
    let usual = LinkConfig::of_worker(&settings.tenant, instance);
    let link = LinkConfig {
        frame_bytes_in_max: FRAME_BYTES_MAX,
        window_frames: settings.session_window_size,
        resend: Resend {
            base: Duration::from_millis(settings.ack_retry_base_ms),
            max: Duration::from_millis(settings.ack_retry_max_ms),
            attempts: settings.ack_retry_attempts,
        },
        app_frames_max: settings.session_app_queue_max,
        app_overflow: settings.session_app_queue_overflow.into(),
        ..usual
    };
    WorkerConfig {
        accept_timeout: Duration::from_secs(settings.session_accept_timeout_seconds),
        heartbeat_interval: Duration::from_secs(settings.heartbeat_interval_seconds),
        heartbeat_jitter: Duration::from_secs(settings.heartbeat_jitter_seconds),
        reconnect: Reconnect {
            base: seconds(settings.reconnect_base_delay_seconds),
            max: seconds(settings.reconnect_max_delay_seconds),
            jitter: settings.reconnect_jitter,
            abort_on_auth_error: settings.reconnect_abort_on_auth_error,
            abort_on_protocol_error: settings.reconnect_abort_on_protocol_error,
        },
        ..WorkerConfig::new(link, handshake, register)
    }
}

fn random_bits() -> Result<u128, Error> {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        let more = rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty());
        filled += more.map_err(|errno| Error::Random(errno.into()))?;
    }
    Ok(u128::from_ne_bytes(bytes))
}

fn uuid_of(bits: u128) -> String {
    uuid::Builder::from_random_bytes(bits.to_ne_bytes()).into_uuid().to_string()
}

/// An identifier that nobody else has.
fn random_id() -> String {
    uuid_of(random_bits().unwrap_or_else(|_| uuid::Uuid::now_v7().as_u128()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_follows_its_settings() {
        let settings = Settings {
            tenant: "blue".to_owned(),
            session_window_size: 3,
            session_accept_timeout_seconds: 4,
            session_app_queue_max: 5,
            ack_retry_base_ms: 6,
            ack_retry_max_ms: 7,
            ack_retry_attempts: 8,
            heartbeat_interval_seconds: 9,
            heartbeat_jitter_seconds: 10,
            reconnect_base_delay_seconds: 0.25,
            reconnect_max_delay_seconds: 0.5,
            reconnect_jitter: 0.75,
            ..Settings::default()
        };
        let handshake = handshake(&settings, "w", "host".to_owned()).unwrap();
        let config = session_config(&settings, "w", handshake, register(&settings));
        let (link, s) = (&config.link, Duration::from_secs);
        assert_eq!((link.tenant.as_str(), link.window_frames, link.app_frames_max), ("blue", 3, 5));
        assert_eq!((link.resend.base.as_millis(), link.resend.max.as_millis(), link.resend.attempts), (6, 7, 8));
        assert_eq!((config.accept_timeout, config.heartbeat_interval, config.heartbeat_jitter), (s(4), s(9), s(10)));
        let Reconnect { base, max, jitter, .. } = config.reconnect;
        assert_eq!((base.as_millis(), max.as_millis(), jitter), (250, 500, 0.75));
    }
}
