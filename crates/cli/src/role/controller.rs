//! `longshore controller start`: the controller alone.

use std::net::SocketAddr;

use clap::{Args, Subcommand};
use longshore_controller::Controller as Component;
use longshore_store::Store;
use serde_json::json;

use super::broker_flags::connect;
use super::data::DataDir;
use super::shutdown::{Signals, Tokens};
use super::{RoleFlags, keys, mapping};
use crate::app::App;
use crate::exit::Exit;
use crate::failure::{Failure, chain};

/// Run the controller alone.
#[derive(Debug, Subcommand)]
pub(crate) enum Controller {
    /// Serve the REST API of a fleet.
    Start(Start),
}

/// Serve the REST API.
#[derive(Debug, Args)]
pub(crate) struct Start {
    #[command(flatten)]
    role: RoleFlags,
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
}

impl Controller {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        let Self::Start(start) = self;
        let mut flags = start.role.flags()?;
        flags.extend(start.listen.map(|listen| ("controller.api.listen", "--listen", listen)));
        let settings = app.settings(flags)?.settings;
        let mut signals = Signals::catch()?;
        let data = DataDir::take(start.role.data)?;
        let key = keys::signing_key(&settings, data.path())?;
        let token_file = keys::admin_token(&key, data.path())?;
        let config = mapping::controller(&settings, data.path(), key, "unknown")?;
        let store_config = mapping::store(&settings, None, "longshore-controller")?;
        let bound = async { bind(config, connect(&store_config).await?).await };
        let controller = tokio::select! {
            bound = bound => bound?,
            exit = signals.next() => return Ok(exit),
        };
        let url = url(controller.local_addr());
        let mut document = json!({ "url": url, "token_file": token_file });
        if let Some(address) = controller.secured_addr() {
            document["tls_address"] = address.to_string().into();
        }
        let ready = controller.ready();
        let tokens = Tokens::default();
        let serving = signals.guide(&app.out, &tokens, controller.run(tokens.drain.clone()));
        tokio::pin!(serving);
        let (exit, ended) = tokio::select! {
            ended = &mut serving => ended,
            () = ready => {
                super::start::tell(app, &document, || format!("controller at {url}, token in {}", token_file.display()))?;
                serving.await
            }
        };
        ended.map_err(|error| Failure::new(Exit::Failed, "the controller ended").caused_by(&error))?;
        Ok(exit)
    }
}

/// Takes the address.
pub(crate) async fn bind(config: longshore_controller::Config, store: Store) -> Result<Component, Failure> {
    let address = config.listen;
    Component::bind(config, store).await.map_err(|error| {
        let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), chain);
        Failure::new(Exit::Failed, format!("the controller cannot listen on {address}"))
            .because(cause)
            .hint("another address:     --listen 127.0.0.1:0 takes a free port")
    })
}

/// What clients on this host use.
pub(crate) fn url(address: SocketAddr) -> String {
    let ip = if address.ip().is_unspecified() { std::net::IpAddr::from([127, 0, 0, 1]) } else { address.ip() };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}
