//! The first frame of a connection, before anybody is believed: read without touching a session, so that who is refused has harmed nobody.

use crate::code;
use crate::codec::{decode, encode};
use crate::config::{LinkConfig, Now};
use crate::control::{Control, Handshake, Reset, Resume};
use crate::dice::Dice;
use crate::envelope::{AckMark, Envelope, Role, Sender, Text};

/// Who wants to come in, and with which words.
#[derive(Debug, Clone, PartialEq)]
pub struct Greeting {
    /// The frame's id.
    pub id: String,
    /// Whose work it wants.
    pub tenant: String,
    /// The worker's instance id.
    pub instance: String,
    /// What it says.
    pub hail: Hail,
}

/// The two ways in.
#[derive(Debug, Clone, PartialEq)]
pub enum Hail {
    /// A new session.
    Handshake(Handshake),
    /// An earlier one.
    Resume(Resume),
}

/// What is said to somebody who does not come in; then the socket is closed with 1011 and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One of [`crate::code`].
    pub code: String,
    /// For people.
    pub reason: String,
    /// How long to stay away.
    pub retry_after_ms: Option<u64>,
}

impl Refusal {
    /// A refusal without a time.
    #[must_use]
    pub fn new(code: &str, reason: &str) -> Self {
        Self { code: code.to_owned(), reason: reason.to_owned(), retry_after_ms: None }
    }

    /// The frame that says it. `seed` is 16 random bytes.
    #[must_use]
    pub fn frame(&self, tenant: &str, sender_id: &str, now: Now, seed: u128) -> Text {
        let reset = Reset { code: self.code.clone(), reason: self.reason.clone(), retry_after_ms: self.retry_after_ms };
        let sender = Sender { role: Role::Scheduler, id: sender_id.to_owned() };
        control_frame(&Control::Reset(reset), Dice::new(seed).id(), tenant, sender, None, now)
    }
}

impl Greeting {
    /// Reads the first frame of a connection. Holds nothing but that frame.
    ///
    /// # Errors
    /// The refusal to answer with, if it is neither a handshake nor a resume of a worker.
    pub fn read(bytes: &[u8], config: &LinkConfig) -> Result<Self, Refusal> {
        let malformed = |error: &dyn std::error::Error| Refusal::new(code::PROTOCOL, &error.to_string());
        let envelope = decode(bytes, config.frame_bytes_in_max).map_err(|error| malformed(&error))?;
        let control = Control::read(&envelope).map_err(|error| malformed(&error))?;
        Self::of(&envelope, control).ok_or_else(|| {
            Refusal::new(
                code::HANDSHAKE_REQUIRED,
                &format!("a connection begins with a handshake or a resume, not with {:?}", envelope.kind),
            )
        })
    }

    pub(crate) fn of(envelope: &Envelope, control: Control) -> Option<Self> {
        let hail = match control {
            Control::Handshake(handshake) => Hail::Handshake(handshake),
            Control::Resume(resume) => Hail::Resume(resume),
            Control::Register(_)
            | Control::Accept(_)
            | Control::Ack(_)
            | Control::Heartbeat(_)
            | Control::Reset(_)
            | Control::Drain(_)
            | Control::Unknown => return None,
        };
        let is_worker = envelope.sender.role == Role::Worker;
        let (id, tenant, instance) = (envelope.id.clone(), envelope.tenant.clone(), envelope.sender.id.clone());
        is_worker.then_some(Self { id, tenant, instance, hail })
    }
}

/// One frame of the session itself.
pub(crate) fn control_frame(control: &Control, id: String, tenant: &str, sender: Sender, ack: Option<AckMark>, now: Now) -> Text {
    let envelope = Envelope {
        kind: control.kind().to_owned(),
        id,
        ts: stamp(now),
        tenant: tenant.to_owned(),
        sender,
        payload: control.payload(),
        corr: None,
        seq: None,
        session_seq: None,
        ack,
        flags: None,
    };
    written(&envelope)
}

/// An envelope of our own. Whether what somebody else had put into it fits was checked when it came.
pub(crate) fn written(envelope: &Envelope) -> Text {
    Text::new(encode(envelope, usize::MAX).unwrap_or_default())
}

/// What Python reads: microseconds.
pub(crate) fn stamp(now: Now) -> jiff::Timestamp {
    jiff::Timestamp::from_microsecond(now.wall.as_microsecond()).unwrap_or(now.wall)
}
