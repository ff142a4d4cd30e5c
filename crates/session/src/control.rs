//! The frames of the session itself: which there are, read strictly and written as the existing worker and scheduler do. What each of them says is in `payload`.

mod payload;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::envelope::{Envelope, Payload};

pub use payload::{
    Accept, Ack, Auth, AuthMode, Capabilities, Concurrency, Drain, Drift, Handshake, Heartbeat, Manifest, Package, PackageStatus, Register,
    Reset, Resume, Token, Worker,
};

/// A frame of the session itself, read.
#[derive(Debug, Clone, PartialEq)]
pub enum Control {
    /// See [`Handshake`].
    Handshake(Handshake),
    /// See [`Register`].
    Register(Register),
    /// See [`Resume`].
    Resume(Resume),
    /// See [`Accept`].
    Accept(Accept),
    /// See [`Ack`].
    Ack(Ack),
    /// See [`Heartbeat`].
    Heartbeat(Heartbeat),
    /// See [`Reset`].
    Reset(Reset),
    /// See [`Drain`].
    Drain(Drain),
    /// A kind that a later version knows.
    Unknown,
}

/// Why a payload is not what its frame's kind says.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A field is missing, unknown, or of the wrong type.
    #[error("the payload of {kind} is not as it should be")]
    Malformed {
        /// The frame's kind.
        kind: String,
        /// What the reader says.
        #[source]
        source: serde_json::Error,
    },
    /// A value out of its bounds.
    #[error("{field} of {kind} must be {must}")]
    OutOfBounds {
        /// The frame's kind.
        kind: &'static str,
        /// Which field.
        field: &'static str,
        /// What it must be.
        must: &'static str,
    },
}

impl Control {
    /// Reads the payload of a frame whose kind begins with `control.`.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn read(envelope: &Envelope) -> Result<Self, ControlError> {
        let control = match envelope.kind.as_str() {
            "control.handshake" => Self::Handshake(read(envelope)?),
            "control.register" => Self::Register(read(envelope)?),
            "control.resume" => Self::Resume(read(envelope)?),
            "control.session.accept" => Self::Accept(read(envelope)?),
            "control.ack" => Self::Ack(read(envelope)?),
            "control.heartbeat" => Self::Heartbeat(read(envelope)?),
            "control.reset" => Self::Reset(read(envelope)?),
            "control.drain" => Self::Drain(read(envelope)?),
            _ => Self::Unknown,
        };
        control.check_bounds()?;
        Ok(control)
    }

    /// The kind that its frame carries. [`Control::Unknown`] is never written.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Handshake(_) => "control.handshake",
            Self::Register(_) => "control.register",
            Self::Resume(_) => "control.resume",
            Self::Accept(_) => "control.session.accept",
            Self::Ack(_) => "control.ack",
            Self::Heartbeat(_) => "control.heartbeat",
            Self::Reset(_) => "control.reset",
            Self::Drain(_) => "control.drain",
            Self::Unknown => "control.unknown",
        }
    }

    /// What its frame says.
    #[must_use]
    pub fn payload(&self) -> Payload {
        match self {
            Self::Handshake(frame) => object(frame),
            Self::Register(frame) => object(frame),
            Self::Resume(frame) => object(frame),
            Self::Accept(frame) => object(frame),
            Self::Ack(frame) => object(frame),
            Self::Heartbeat(frame) => object(frame),
            Self::Reset(frame) => object(frame),
            Self::Drain(frame) => object(frame),
            Self::Unknown => Payload::new(),
        }
    }

    fn check_bounds(&self) -> Result<(), ControlError> {
        let check =
            |holds: bool, field, must| if holds { Ok(()) } else { Err(ControlError::OutOfBounds { kind: self.kind(), field, must }) };
        match self {
            Self::Handshake(frame) => check(frame.protocol >= 1, "protocol", "at least 1"),
            Self::Register(frame) => {
                check(frame.capabilities.concurrency.max_parallel >= 1, "capabilities.concurrency.max_parallel", "at least 1")?;
                check(!frame.capabilities.runtimes.is_empty(), "capabilities.runtimes", "one or more")
            }
            Self::Ack(frame) => check(frame.recv_window != Some(0), "recv_window", "at least 1"),
            Self::Heartbeat(frame) => {
                check(frame.metrics.get("inflight").is_some_and(Value::is_u64), "metrics.inflight", "a number of 0 or more")
            }
            Self::Resume(_) | Self::Accept(_) | Self::Reset(_) | Self::Drain(_) | Self::Unknown => Ok(()),
        }
    }
}

fn read<T: DeserializeOwned>(envelope: &Envelope) -> Result<T, ControlError> {
    let malformed = |source| ControlError::Malformed { kind: envelope.kind.clone(), source };
    T::deserialize(Value::Object(envelope.payload.clone())).map_err(malformed)
}

fn object<T: Serialize>(frame: &T) -> Payload {
    match serde_json::to_value(frame) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) | Err(_) => Payload::new(),
    }
}
