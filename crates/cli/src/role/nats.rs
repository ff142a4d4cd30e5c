//! `longshore nats start`: the broker alone.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::broker::Broker;
use super::data::DataDir;
use super::shutdown::{Signals, Tokens};
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;

/// Run the broker alone.
#[derive(Debug, Subcommand)]
pub(crate) enum Nats {
    /// Run a nats-server, started again when it dies.
    Start(Start),
}

/// Run a nats-server.
#[derive(Debug, Args)]
pub(crate) struct Start {
    /// Where everything is kept.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Port to listen on; a free one unless given, kept for the next start.
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// The nats-server program.
    #[arg(long, value_name = "FILE")]
    nats_server: Option<PathBuf>,
}

impl Nats {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        let Self::Start(start) = self;
        let mut flags = Vec::new();
        flags.extend(start.port.map(|port| ("nats.server.port", "--port", port.to_string())));
        flags.extend(start.nats_server.map(|path| ("nats.server.binary", "--nats-server", path.display().to_string())));
        let settings = app.settings(flags)?.settings;
        let mut signals = Signals::catch()?;
        let data = DataDir::take(start.data)?;
        let broker = tokio::select! {
            broker = Broker::start(&settings.nats, data.path()) => broker?,
            exit = signals.next() => return Ok(exit),
        };
        let endpoint = &broker.endpoint;
        let document = json!({ "nats_url": endpoint.url(), "token_file": endpoint.token_file, "pid": broker.pid() });
        super::start::tell(app, &document, || {
            format!("nats-server {} at {}, token in {}", broker.version, endpoint.url(), endpoint.token_file.display())
        })?;
        // There is nothing to drain: a broker that is asked to end ends.
        let tokens = Tokens::default();
        let (exit, ()) = signals.guide(&app.out, &tokens, async { tokens.drain.cancelled().await }).await;
        broker.stop().await;
        Ok(exit)
    }
}
