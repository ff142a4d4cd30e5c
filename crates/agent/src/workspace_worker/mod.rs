//! The stand-alone door of workspace jobs: a worker that talks to a broker alone and belongs to no fleet.
//!
//! ```text
//!   pull ─► hold the name ─► source, results, definition ─► stage ─► steps ─► bring back ─► result.json ─► respond ─► done
//!             │ busy            │ stored for this message ────────────────────────────────────────────────► respond ─► done
//!             ▼                 │ can never work ───────────────────────────────────────────────────────► respond ─► refuse
//!          give back ◄──────────┴──────────────── a fault of this host, or told to stop
//! ```
//!
//! [`serve()`] takes requests, [`delivery`] carries one from its claim to its end at the broker, [`job`] does what it asks for, with a
//! broker or without.
//!
//! The invariant guarded here: a request is done only when its response is with the broker, its response is published only when its
//! manifest is on disk, and what a manifest answers for is not run again.

mod delivery;
mod dry_run;
mod job;
mod manifest;
mod serve;

use std::path::PathBuf;
use std::time::Duration;

use longshore_exec::workspace::Runner;

pub use dry_run::{DryRun, dry_run};
pub use serve::{Ended, serve};

/// What a worker needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// What it goes by.
    pub worker: String,
    /// Where the jobs' directories are.
    pub jobs_dir: PathBuf,
    /// Where workspaces are made.
    pub workspaces_dir: PathBuf,
    /// What responses are published to, and with `.ID` after it.
    pub output_subject: String,
    /// How long a job may take that does not say so itself.
    pub timeout: Duration,
    /// Jobs at once; one unless it stays.
    pub max_jobs: usize,
    /// Whether it goes on after a job.
    pub stay: bool,
    /// How long one that does not stay waits for a job.
    pub idle_max: Duration,
    /// What runs the steps.
    pub runner: Runner,
}

/// Why a worker could not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker is not there, or does not serve it.
    #[error("the broker does not serve requests")]
    Broker(#[from] longshore_store::Error),
    /// The directory of workspaces cannot be used.
    #[error("cannot look for what was left")]
    Workspaces(#[from] longshore_exec::workspace::HoldError),
}
