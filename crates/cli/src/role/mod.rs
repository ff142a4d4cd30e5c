//! The long-running roles: broker, controller, agent, and all of them in one.
//!
//! Each reads its settings, takes its data directory, starts its component, tells that it is ready, and ends on a signal: the first asks it
//! to finish or hand back what it holds, the second ends it now.

pub(crate) mod agent;
pub(crate) mod agent_flags;
mod broker;
mod broker_flags;
pub(crate) mod controller;
pub(crate) mod data;
pub(crate) mod job_keys;
pub(crate) mod keys;
pub(crate) mod logging;
pub(crate) mod mapping;
pub(crate) mod nats;
mod shutdown;
pub(crate) mod start;
pub(crate) mod worker;
pub(crate) mod worker_settings;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;

use broker_flags::BrokerFlags;
use clap::Args;
pub(crate) use mapping::supervisor;
pub(crate) use shutdown::{Signals, Tokens};

use crate::app::Flag;
use crate::failure::Failure;

/// What this program does when it is called by itself: nothing of the command line, no threads.
pub(crate) fn hidden(first: Option<&OsStr>) -> Option<ExitCode> {
    match first?.to_str()? {
        "__supervise" => Some(longshore_exec::process::supervisor::supervise_main()),
        #[cfg(feature = "wasm")]
        longshore_exec::package::host::WASM_HOST => Some(longshore_exec::package::host::wasm_host_main()),
        broker::GUARD => Some(broker::guard_main()),
        _ => None,
    }
}

/// What every role that uses a broker takes: where that is, if it does not run it itself, and where its own files are.
#[derive(Debug, Clone, Args)]
pub(crate) struct RoleFlags {
    #[command(flatten)]
    broker: BrokerFlags,
    /// Where keys, identities and work are kept; `~/.local/state/longshore` unless given.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl RoleFlags {
    fn flags(&self) -> Result<Vec<Flag>, Failure> {
        self.broker.flags()
    }
}
