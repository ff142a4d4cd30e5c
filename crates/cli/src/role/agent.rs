//! `longshore agent`: run one here, and see which there are.

use clap::{Args, Subcommand};
use longshore_client::ErrorCode;
use serde_json::json;

use super::agent_flags::{AgentFlags, LOCAL_BROKER, WorkerFlags};
use super::broker_flags::connect;
use super::data::DataDir;
use super::shutdown::{Signals, Tokens};
use super::{RoleFlags, mapping};
use crate::app::{App, Flag};
use crate::command::{agent, drain};
use crate::exit::Exit;
use crate::failure::Failure;

/// The agents of the fleet; run one here.
#[derive(Debug, Subcommand)]
pub(crate) enum Agent {
    /// Run an agent on this host.
    Start(Box<Start>),
    /// List the agents.
    #[command(visible_alias = "ls")]
    List,
    /// One agent: what it runs, what its host is short of, and who drained it when.
    Show(agent::Which),
    /// What an agent knows of its host. Arguments of jobs may name it: `@fact.hostname`.
    Facts(agent::Which),
    /// What this host has to keep jobs within, and why the rest is not used.
    Doctor,
    /// Tell an agent to take no new work, and wait until it has finished what it has.
    Drain(drain::Drain),
    /// Tell an agent to take work again.
    Undrain(drain::Undrain),
    /// Remove what an agent that is gone left behind.
    #[command(visible_alias = "rm")]
    Remove(agent::Which),
}

/// Run an agent on this host.
#[derive(Debug, Args)]
pub(crate) struct Start {
    #[command(flatten)]
    role: RoleFlags,
    #[command(flatten)]
    pub(super) own: AgentFlags,
}

/// The same by its earlier name.
#[derive(Debug, Args)]
pub(crate) struct WorkerStart {
    #[command(flatten)]
    role: RoleFlags,
    #[command(flatten)]
    pub(super) own: WorkerFlags,
}

impl Agent {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        let performed = match self {
            Self::List => agent::list(app).await,
            Self::Show(which) => agent::show(app, which).await,
            Self::Facts(which) => agent::facts(app, which).await,
            Self::Doctor => agent::doctor(app).await,
            Self::Remove(which) => agent::remove(app, which).await,
            Self::Drain(drain) => drain.perform(app).await,
            Self::Undrain(undrain) => undrain.perform(app).await,
            Self::Start(start) => start.perform(app).await,
        };
        performed.map_err(|failure| failure.hint_instead(ErrorCode::NotFound, "see which there are:     longshore agent list"))
    }
}

impl Start {
    async fn perform(self, app: &App) -> Result<Exit, Failure> {
        run(app, self.role, self.own.flags()?).await
    }
}

impl WorkerStart {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        run(app, self.role, self.own.flags()).await
    }
}

async fn run(app: &App, role: RoleFlags, own: Vec<Flag>) -> Result<Exit, Failure> {
    let flags = [role.flags()?, own].concat();
    let mut settings = app.settings(flags)?.settings;
    settings.nats.url.get_or_insert_with(|| LOCAL_BROKER.to_owned());
    let mut signals = Signals::catch()?;
    let data = DataDir::take(role.data)?;
    let config = mapping::agent(&settings, data.path())?;
    let store_config = mapping::store(&settings, None, &settings.agent.client_name)?;
    let store = tokio::select! {
        store = connect(&store_config) => store?,
        exit = signals.next() => return Ok(exit),
    };
    let (id, hostname) = (config.id, config.hostname());
    // Who has the same identity may be waited for.
    let agent = tokio::select! {
        agent = ready(config, store) => agent?,
        exit = signals.next() => return Ok(exit),
    };
    super::start::tell(app, &json!({ "agent": id, "hostname": hostname }), || format!("agent {hostname} ({id}) is ready"))?;
    let tokens = Tokens::default();
    let (exit, ended) = signals.guide(&app.out, &tokens, agent.run(tokens.drain.clone(), tokens.stop.clone())).await;
    ended.map_err(|error| Failure::new(Exit::Failed, "the agent ended").caused_by(&error))?;
    Ok(exit)
}

/// Prepares an agent and makes it known.
pub(crate) async fn ready(config: longshore_agent::Config, store: longshore_store::Store) -> Result<longshore_agent::Agent, Failure> {
    let failed = |error: longshore_agent::Error| Failure::new(Exit::Failed, "the agent cannot start").caused_by(&error);
    let agent = longshore_agent::Agent::new(config, store).map_err(failed)?;
    agent.join().await.map_err(failed)?;
    Ok(agent)
}
