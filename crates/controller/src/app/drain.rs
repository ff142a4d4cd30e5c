//! Telling an agent to take no new work, and to take it again.
//!
//! The wish is kept whether or not the agent lives: one that was drained stays so over its restarts, until somebody says otherwise. From
//! the moment it is stored nothing is addressed to the agent; work that was before stays in its inbox and waits.

use longshore_model::HostName;
use longshore_model::access::Caller;
use longshore_model::limits::ANNOTATION_BYTES_MAX;
use longshore_model::wire::agent::AgentState;
use longshore_model::wire::record::SCHEMA;
use longshore_model::wire::rest::AgentView;
use longshore_store::RegistryEvent;

use super::{App, Error, permit, permit_targets};
use crate::fleet::NoTarget;

/// Stores the wish, and gives the agent as it stands. Safe to repeat: who said it first stays on record.
pub(crate) async fn want(app: &App, caller: &Caller, name: &HostName, drained: bool, reason: Option<String>) -> Result<AgentView, Error> {
    permit(caller, "agent:write")?;
    let is_sound = |reason: &String| reason.len() <= ANNOTATION_BYTES_MAX && !reason.chars().any(char::is_control);
    if reason.as_ref().is_some_and(|reason| !is_sound(reason)) {
        return Err(Error::field("/reason", "takes up to 256 bytes without control characters"));
    }
    let agent = match app.fleet().find(name) {
        Err(NoTarget::Unknown { .. }) => return Err(Error::NotFound { what: format!("agent {:?}", name.as_str()) }),
        found => found?,
    };
    permit_targets(app, caller, name.as_str(), &[agent.into()])?;
    if app.store.registry.state_of(agent).await?.is_some_and(|state| state.drained) != drained {
        let state = AgentState { schema: SCHEMA, agent, drained, at: app.now(), by: caller.name.clone(), reason };
        app.store.registry.set_state(&state).await?;
        tracing::info!(agent.id = %agent, caller = %caller.name, drained, "an agent is to take work, or not");
        // Read your writes: the watch tells the same a moment later.
        app.fleet_mut().take(RegistryEvent::State(state));
    }
    let view = app.fleet().views(app.now()).into_iter().find(|view| view.id == agent);
    view.ok_or_else(|| Error::NotFound { what: format!("agent {agent}") })
}
