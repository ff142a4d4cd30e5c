//! The managed nats-server: found, configured, started below a guard, started again when it dies, stopped last.
//!
//! ```text
//!   longshore ── pipe ──► longshore __broker-guard ──► nats-server
//! ```
//!
//! The pipe closes when this process ends in whatever way, also by SIGKILL, and the guard then stops the server. Guard and server are in
//! process groups of their own, so that a Ctrl-C for us does not reach a server that is needed until the end.

mod binary;
mod endpoint;
mod files;
mod guard;
mod keeper;

pub(crate) use endpoint::Endpoint;
pub(crate) use guard::{GUARD, guard_main};
pub(crate) use keeper::Broker;
