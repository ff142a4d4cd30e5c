//! The WebSocket session between a worker and whoever hands out work: sans-IO, both ends.
//!
//! Frames go in and come out as bytes, time and randomness are handed in, and everything to be done is an [`Output`] or a deadline. So a session is a function of what
//! happened to it, and is tried by the million cases. What frames mean beyond the session is not known here: a payload is a kind and JSON.
//!
//! - [`Worker`]: the worker's end, with its state diagram. [`Gateway`]: the other end, with its own; [`Greeting`] reads who comes before it is believed.
//! - [`Envelope`] and [`control`]: the frames; [`codec`]: their bytes.
//! - `link`: what both ends do alike, out of `outbox` (numbers, window, repeats), `inbox` (order, once, bounds) and `resend` (the schedule).
//!
//! # What holds
//!
//! Between two Longshores each message is delivered once and in order, over any number of connections and new sessions, as long as both ends live; over a restart, for what the
//! sender kept and sends again under its id. Towards the existing worker and scheduler as much holds as they allow: results are sent until they are acknowledged, what they
//! leave out is skipped and told, and what they might do twice is handed back.
//!
//! Both ends find out whom they talk to without a word that the existing ones would refuse: a worker registers [`FEATURE`], and the gateway answers that with [`HELLO`].

mod admission;
pub mod code;
pub mod codec;
mod config;
pub mod control;
mod dice;
mod envelope;
mod gateway;
mod greeting;
mod inbox;
mod link;
mod outbox;
mod output;
mod reconnect;
mod resend;
mod strict;
mod worker;

pub use admission::{Admission, Socket};
pub use config::{GatewayConfig, LinkConfig, Now, Overflow, Resend, WorkerConfig};
pub use envelope::{AckMark, Envelope, Payload, Role, Sender, Text};
pub use gateway::Gateway;
pub use greeting::{Greeting, Hail, Refusal};
pub use outbox::SendError;
pub use output::{Binding, Ignored, Message, Output, Phase, Stats, Stop};
pub use reconnect::Reconnect;
pub use worker::Worker;

/// What a Longshore worker says among its features.
pub const FEATURE: &str = "longshore.session.1";

/// What a Longshore gateway says to such a worker before it numbers anything.
pub const HELLO: &str = "ext.longshore.hello";
