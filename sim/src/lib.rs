//! The seeded simulation: real agents and real controllers over the in-memory twin, with a broker in between that misbehaves, in one thread
//! and on a clock that stands still. One number decides everything that happens, so what went wrong once goes wrong again.
//!
//! [`run()`] plays one seed and checks what came of it against what the simulation saw with its own eyes. [`Bug`] names faults that can be
//! planted, so that the checks are checked.

mod agents;
mod broker;
mod check;
mod clients;
mod controllers;
mod history;
mod host;
mod plant;
mod readers;
mod rng;
mod run;
mod world;

pub use check::Violation;
pub use plant::Bug;
pub use run::{Counts, Options, Report, compare_clocks, run};
