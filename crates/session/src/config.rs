//! What an operator may choose, and the bounds of it all. Defaults are those of the existing worker and scheduler where they have one.

use std::time::Duration;

use jiff::Timestamp;

use crate::control::{Handshake, Register};
use crate::reconnect::Reconnect;

/// What time it is, twice: both are handed in with everything that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since some fixed moment, never going back: what timers are set by.
    pub at: Duration,
    /// The time of day: what frames are stamped with.
    pub wall: Timestamp,
}

/// What to do with a frame for which the application has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// It stays in the window, and the peer stops sending.
    Block,
    /// It is handed out as dropped.
    DropNew,
    /// The one that has waited longest is handed out as dropped.
    DropOldest,
}

/// When an unacknowledged frame is sent again: after `base`, then after twice that, and so on up to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resend {
    /// The first wait; 50 ms are the least.
    pub base: Duration,
    /// The longest wait.
    pub max: Duration,
    /// How often; one more wait after the last, then the session is given up. Frames are not.
    pub attempts: u32,
}

/// What both ends have.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// The tenant of every frame.
    pub tenant: String,
    /// Who sends: the worker's instance id, or the scheduler's name.
    pub sender_id: String,
    /// The largest frame that is read.
    pub frame_bytes_in_max: usize,
    /// The largest frame that the other end reads; larger ones are refused here.
    pub frame_bytes_out_max: usize,
    /// How many frames may be under way in each direction; taken as 1 to [`LinkConfig::WINDOW_FRAMES_MAX`].
    pub window_frames: u64,
    /// When to send again.
    pub resend: Resend,
    /// How many received frames wait for the application; 0 is no bound but that of bytes.
    pub app_frames_max: usize,
    /// How many bytes of memory received frames may take in all, as estimated; past it nothing more is taken before its turn.
    pub app_bytes_max: usize,
    /// What happens beyond.
    pub app_overflow: Overflow,
    /// How many frames may wait for their acknowledgement or for the window.
    pub outbox_frames_max: usize,
    /// How many bytes of them.
    pub outbox_bytes_max: usize,
    /// When acknowledgements by id are said again. The existing scheduler forgets those that come too early; another Longshore does not need it and does not get it.
    pub ack_repeats: Vec<Duration>,
    /// How long a missing number is waited for. A peer that is no Longshore may never fill it; then it is skipped. Longshore always does, or is disconnected.
    pub hole_patience: Duration,
}

impl LinkConfig {
    /// More than this nobody needs, and bitmaps and memory stay small.
    pub const WINDOW_FRAMES_MAX: u64 = 1024;

    /// For a worker of `tenant` whose instance is `sender_id`.
    #[must_use]
    pub fn of_worker(tenant: &str, sender_id: &str) -> Self {
        Self {
            tenant: tenant.to_owned(),
            sender_id: sender_id.to_owned(),
            frame_bytes_in_max: 16 << 20,
            frame_bytes_out_max: 16 << 20,
            window_frames: 64,
            resend: Resend { base: Duration::from_millis(200), max: Duration::from_secs(5), attempts: 6 },
            app_frames_max: 1024,
            app_bytes_max: 64 << 20,
            app_overflow: Overflow::Block,
            outbox_frames_max: 4096,
            outbox_bytes_max: 64 << 20,
            ack_repeats: vec![Duration::from_millis(250), Duration::from_secs(1)],
            // The existing scheduler never sends again and sockets keep order, so nobody is on the way.
            hole_patience: Duration::from_secs(1),
        }
    }

    /// For the gateway's end of a session with a worker of `tenant`.
    #[must_use]
    pub fn of_gateway(tenant: &str) -> Self {
        Self {
            // What the existing worker reads at most.
            frame_bytes_out_max: 1 << 20,
            ack_repeats: Vec::new(),
            // The existing worker tries for 16.2 s.
            hole_patience: Duration::from_secs(20),
            ..Self::of_worker(tenant, "scheduler-control")
        }
    }

    pub(crate) fn window(&self) -> u64 {
        self.window_frames.clamp(1, Self::WINDOW_FRAMES_MAX)
    }
}

/// What a worker's end has.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// What both ends have.
    pub link: LinkConfig,
    /// What it says first.
    pub handshake: Handshake,
    /// What it can do; [`crate::FEATURE`] is added.
    pub register: Register,
    /// How long to wait for the acceptance once the request for it is acknowledged.
    pub accept_timeout: Duration,
    /// Between heartbeats.
    pub heartbeat_interval: Duration,
    /// Up to this much is added.
    pub heartbeat_jitter: Duration,
    /// When to dial again.
    pub reconnect: Reconnect,
}

impl WorkerConfig {
    /// The usual times, for a worker that says `handshake` and `register`.
    #[must_use]
    pub fn new(link: LinkConfig, handshake: Handshake, register: Register) -> Self {
        Self {
            link,
            handshake,
            register,
            accept_timeout: Duration::from_secs(10),
            heartbeat_interval: Duration::from_secs(30),
            heartbeat_jitter: Duration::from_secs(5),
            reconnect: Reconnect::default(),
        }
    }
}

/// What a gateway's end has.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// What both ends have.
    pub link: LinkConfig,
    /// The worker's instance id.
    pub instance: String,
    /// How long a worker that was let in may take to say what it can do.
    pub register_timeout: Duration,
    /// How long a connected worker may be silent.
    pub silence_max: Duration,
    /// How long a session without a connection is kept.
    pub detached_max: Duration,
}

impl GatewayConfig {
    /// The usual times, for the worker `instance` of `tenant`.
    #[must_use]
    pub fn new(tenant: &str, instance: &str) -> Self {
        Self {
            link: LinkConfig::of_gateway(tenant),
            instance: instance.to_owned(),
            register_timeout: Duration::from_secs(20),
            silence_max: Duration::from_secs(90),
            detached_max: Duration::from_secs(3600),
        }
    }
}
