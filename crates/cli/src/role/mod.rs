//! The long-running roles: broker, controller, agent, and all of them in one.
//!
//! Each reads its settings, takes its data directory, starts its component, tells that it is ready, and ends on a signal: the first asks it
//! to finish or hand back what it holds, the second ends it now.

pub(crate) mod agent;
pub(crate) mod agent_flags;
mod broker;
pub(crate) mod controller;
pub(crate) mod data;
pub(crate) mod keys;
pub(crate) mod logging;
mod mapping;
pub(crate) mod nats;
mod shutdown;
pub(crate) mod start;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::app::Flag;

/// What this program does when it is called by itself: nothing of the command line, no threads.
pub(crate) fn hidden(first: Option<&OsStr>) -> Option<ExitCode> {
    match first?.to_str()? {
        "__supervise" => Some(longshore_exec::process::supervisor::supervise_main()),
        broker::GUARD => Some(broker::guard_main()),
        _ => None,
    }
}

/// What every role that uses a broker takes: where that is, if it does not run it itself, and where its own files are.
#[derive(Debug, Clone, Args)]
pub(crate) struct RoleFlags {
    /// Address of the broker, several comma separated.
    #[arg(long, value_name = "URL")]
    nats_url: Option<String>,
    /// File with the broker's token.
    #[arg(long, value_name = "FILE")]
    nats_token_file: Option<PathBuf>,
    /// Where keys, identities and work are kept; `~/.local/state/longshore` unless given.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl RoleFlags {
    fn flags(&self) -> Vec<Flag> {
        let mut flags = Vec::new();
        flags.extend(self.nats_url.iter().map(|url| ("nats.url", "--nats-url", url.clone())));
        if let Some(path) = &self.nats_token_file {
            let secret = serde_json::json!({ "file": path }).to_string();
            flags.push(("nats.auth.type", "--nats-token-file", "token".to_owned()));
            flags.push(("nats.auth.token", "--nats-token-file", secret));
        }
        flags
    }
}
