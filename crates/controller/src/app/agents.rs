//! One agent: as it stands, what it knows of its host, and removing what one that is gone left behind.

use longshore_model::access::Caller;
use longshore_model::wire::rest::{AgentDetail, DrainChange, FactsView};
use longshore_model::{AgentId, HostName};
use longshore_store::RegistryEvent;

use super::{App, Error, permit, permit_targets};
use crate::fleet::NoTarget;

/// The agent, and what people wanted of it.
pub(crate) async fn show(app: &App, caller: &Caller, name: &HostName) -> Result<AgentDetail, Error> {
    permit(caller, "agent:read")?;
    let agent = known(app, name)?.map_err(|_| unknown(name))?;
    let states = app.store.registry.states_of(agent).await?;
    let change = |state: longshore_model::wire::agent::AgentState| DrainChange {
        drained: state.drained,
        by: state.by,
        at: state.at,
        reason: state.reason,
    };
    let drains = states.into_iter().map(change).collect();
    let view = app.fleet().views(app.now()).into_iter().find(|view| view.id == agent);
    Ok(AgentDetail { agent: view.ok_or_else(|| unknown(name))?, drains })
}

/// What an agent told of its host last. Of one that the controller has never heard, by its id, for as long as that is kept.
pub(crate) async fn facts(app: &App, caller: &Caller, name: &HostName) -> Result<FactsView, Error> {
    permit(caller, "agent:read")?;
    let agent = known(app, name)?.or_else(|by_id| by_id.ok_or_else(|| unknown(name)))?;
    let record = app.store.facts.of(agent).await?;
    let record =
        record.ok_or_else(|| Error::NotFound { what: format!("record of what the agent {:?} knows of its host", name.as_str()) })?;
    Ok(FactsView { agent: record.agent, gathered_at: record.gathered_at, facts: record.facts })
}

/// Removes everything that is kept for an agent that does not run. What it had not finished ends by itself: what ran is called lost, and
/// what waited expires, or is done by the agent if that comes back in time.
pub(crate) async fn remove(app: &App, caller: &Caller, name: &HostName) -> Result<(), Error> {
    permit(caller, "agent:write")?;
    let (agent, is_known) = match known(app, name)? {
        Ok(agent) => (agent, true),
        Err(by_id) => (by_id.ok_or_else(|| unknown(name))?, false),
    };
    permit_targets(app, caller, name.as_str(), &[agent.into()])?;
    let hostname = app.fleet().heartbeat(agent).map_or_else(|| agent.to_string(), |heartbeat| heartbeat.hostname.clone());
    // The registry's own word: the watch may be a moment behind.
    if app.fleet().is_online(agent) || app.store.registry.newest(agent).await?.heartbeat.is_some() {
        return Err(Error::AgentOnline { hostname });
    }
    if !is_known && app.store.facts.of(agent).await?.is_none() && app.store.registry.state_of(agent).await?.is_none() {
        return Err(unknown(name));
    }
    app.store.registry.forget(agent).await?;
    tracing::info!(agent.id = %agent, %hostname, caller = %caller.name, "an agent was removed with everything that was kept for it");
    // Read your writes: the watch tells the same a moment later.
    app.fleet_mut().take(RegistryEvent::Removed(agent));
    Ok(())
}

/// The agent of this name, or else the id that the name is, if it is one.
fn known(app: &App, name: &HostName) -> Result<Result<AgentId, Option<AgentId>>, Error> {
    let fleet = app.fleet();
    if !fleet.is_current() {
        return Err(NoTarget::NotCurrent.into());
    }
    match fleet.find(name) {
        Ok(agent) => Ok(Ok(agent)),
        Err(NoTarget::Unknown { .. }) => Ok(Err(name.as_str().parse().ok())),
        Err(refused) => Err(refused.into()),
    }
}

fn unknown(name: &HostName) -> Error {
    Error::NotFound { what: format!("agent {:?}", name.as_str()) }
}
