//! The long-running roles: broker, controller, agent, and all of them in one.
//!
//! Each reads its settings, takes its data directory, starts its component, tells that it is ready, and ends on a signal: the first asks it
//! to finish or hand back what it holds, the second ends it now.

pub(crate) mod agent;
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

/// How a role finds a broker that it does not run itself.
#[derive(Debug, Clone, Args)]
pub(crate) struct BrokerFlags {
    /// Address of the broker, several comma separated.
    #[arg(long, value_name = "URL")]
    nats_url: Option<String>,
    /// File with the broker's token.
    #[arg(long, value_name = "FILE")]
    nats_token_file: Option<PathBuf>,
}

impl BrokerFlags {
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
