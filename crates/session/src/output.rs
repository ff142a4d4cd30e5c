//! What a session asks of whoever runs it, and what it is told to say.

use crate::control::{Drain, Heartbeat, Register};
use crate::envelope::{Envelope, Payload, Text};
use crate::greeting::Greeting;

/// One connection of a session. What comes from an earlier one is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Binding(pub(crate) u64);

/// Something to do or to know. To be drained after every call, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Worker: dial, then say `connected` or `dial_failed`.
    Connect,
    /// Send it. If that binding is gone, forget it.
    Transmit {
        /// Where.
        to: Binding,
        /// What.
        text: Text,
    },
    /// Close the socket, after what was transmitted before.
    Close {
        /// Which.
        binding: Binding,
        /// The WebSocket close code.
        code: u16,
        /// The WebSocket close reason.
        reason: String,
    },
    /// The session is open: numbered frames flow.
    Opened {
        /// Whether it is the earlier one.
        resumed: bool,
    },
    /// The connection is gone. What waits is kept.
    Detached {
        /// Why.
        reason: String,
    },
    /// The peer has passed this message on; whoever kept it may forget it.
    Acknowledged {
        /// The message's id.
        id: String,
    },
    /// A received frame found no room, as configured. Its sender was told that it arrived, so it has to be answered.
    Dropped(Envelope),
    /// A peer that sends nothing twice left these numbers out.
    Skipped {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// Worker: take no more work.
    Drain(Drain),
    /// Worker: say `heartbeat` now.
    HeartbeatDue,
    /// Worker: the end, unless `finish` was called because of a refusal that the settings say to end at.
    Stopped(Stop),
    /// Gateway: what the worker can do, first or anew.
    Registered(Register),
    /// Gateway: how the worker is.
    Heartbeat(Heartbeat),
    /// Gateway: a bound worker greets again. Judge it and say `greet`, or `reset`.
    Authenticate(Greeting),
    /// Gateway: the worker has begun a new session without saying whether it got this message, and it would act on it twice. It is not sent again.
    Uncertain {
        /// The message's id.
        id: String,
    },
    /// Gateway: without connection for too long. Nothing goes on from here.
    Expired,
}

/// Why a worker's session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// Everything was said and acknowledged.
    Finished,
    /// Somebody asked it to finish, and this many messages were not acknowledged in time. They are still there for whoever kept them.
    Unfinished(usize),
    /// The peer refused, and the settings say to give up.
    Refused(String),
}

/// Something to say.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Its id, if it has one from before a restart; then a Longshore peer that has passed it on does not do so again.
    pub id: Option<String>,
    /// Not `control.*`.
    pub kind: String,
    /// What it says.
    pub payload: Payload,
    /// What it belongs to.
    pub corr: Option<String>,
    /// The counter of its run.
    pub seq: Option<u64>,
    /// Whether the peer shall acknowledge it by id as well.
    pub wants_ack: bool,
}

impl Message {
    /// A message that is acknowledged by its number only.
    #[must_use]
    pub fn new(kind: &str, payload: Payload) -> Self {
        Self { id: None, kind: kind.to_owned(), payload, corr: None, seq: None, wants_ack: false }
    }
}

/// Why a received frame had no effect.
#[derive(Debug, thiserror::Error)]
pub enum Ignored {
    /// It came over a connection that is not the session's any more.
    #[error("the connection is not the session's any more")]
    StaleBinding,
    /// It is no frame.
    #[error("the frame cannot be read")]
    Malformed(#[from] crate::codec::DecodeError),
    /// It is no frame of its kind.
    #[error("the frame cannot be read")]
    BadControl(#[from] crate::control::ControlError),
    /// It speaks for somebody else.
    #[error("the frame's {0} is not the session's")]
    Foreign(&'static str),
    /// It has no meaning now. Its sender says it again if it matters.
    #[error("a frame of the kind {kind:?} has no meaning while the session is {phase}")]
    Unexpected {
        /// Its kind.
        kind: String,
        /// Where the session stands.
        phase: Phase,
    },
    /// It was taken before.
    #[error("the frame was taken before")]
    Known,
    /// There is no room for it.
    #[error("there is no room for the frame")]
    NoRoom,
}

/// Where a session stands, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waiting to dial again.
    BackingOff,
    /// Dialling.
    Connecting,
    /// Getting to know each other.
    Handshaking,
    /// Numbered frames flow.
    Open,
    /// The same, and no new work is taken.
    Draining,
    /// No connection, and the other end may come back.
    Detached,
    /// The end.
    Over,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::BackingOff => "backing off",
            Self::Connecting => "connecting",
            Self::Handshaking => "handshaking",
            Self::Open => "open",
            Self::Draining => "draining",
            Self::Detached => "detached",
            Self::Over => "over",
        })
    }
}

/// Counts, for metrics and for tests of bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Numbered and not acknowledged; never more than the window.
    pub under_way: usize,
    /// Those and what waits for the window.
    pub outbox: usize,
    /// Frames of the session itself that wait for an acknowledgement.
    pub requests: usize,
    /// Received and waiting for the application.
    pub app_queue: usize,
    /// Received and not in order yet, or blocked; never more than the window.
    pub held: usize,
    /// Bytes of memory that received frames take in all, as estimated.
    pub received_bytes: usize,
    /// Received frames that were dropped as configured.
    pub dropped: u64,
    /// The highest number up to which everything was received.
    pub received_upto: u64,
    /// Acknowledgements that will be said again.
    pub ack_repeats: usize,
}

impl Stats {
    /// As a heartbeat has them, under the names of the existing worker.
    pub(crate) fn add_to(&self, metrics: &mut Payload) {
        metrics.entry("inflight").or_insert(0.into());
        metrics.insert("pending_acks".to_owned(), (self.under_way + self.requests).into());
        metrics.insert("app_queue".to_owned(), self.app_queue.into());
        metrics.insert("app_queue_drops".to_owned(), self.dropped.into());
        metrics.insert("conn_state".to_owned(), "connected".into());
        metrics.insert("recv_base_seq".to_owned(), self.received_upto.into());
        metrics.insert("recv_buffer".to_owned(), self.held.into());
    }
}
