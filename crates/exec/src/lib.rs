//! Doing things on a host: the only crate that starts programs, writes workspaces, or reads the machine.
//!
//! [`Executor::run`] performs one attempt of one job and always gives a [`Finished`]. Programs run below a supervisor
//! ([`process`]) that takes the whole tree down with it; workspace jobs ([`bundle`] for their contents, or [`workspace`] for a
//! directory on a shared drive) leave nothing behind on any ending. This crate knows nothing of brokers, sessions or records.

pub mod bundle;
mod carrier;
mod doctor;
mod drive;
mod executor;
mod facts;
mod files;
mod finished;
mod machine;
pub mod package;
pub mod process;
mod provider;
mod secrets;
mod strain;
pub mod workspace;

pub use doctor::{Facility, facilities};
pub use drive::{Pulse, Unfinished, Watch};
pub use executor::{Config, Executor, OpenError, Output, Resumable, SupervisorCommand, Task};
pub use finished::{Archive, Finished};
pub use machine::Machine;
pub use strain::Strain;

/// The host's name as the kernel has it now.
#[must_use]
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
