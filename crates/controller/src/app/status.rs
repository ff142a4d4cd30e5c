//! How the system is: readiness, health, the agents, the catalogue.

use std::collections::BTreeMap;

use longshore_model::access::Caller;
use longshore_model::operation::Operation;
use longshore_model::unit::Span;
use longshore_model::wire::rest::{AgentCondition, AgentView, BrokerView, OperationView, StatusView};

use super::{App, Error, permit};

/// What is missing before requests can be served; `None` when nothing is.
pub(crate) fn missing(app: &App) -> Option<&'static str> {
    if !app.store.broker.is_connected() {
        Some("the broker is not connected")
    } else if !app.index().is_caught_up() {
        Some("the index is being built")
    } else if !app.fleet().is_current() {
        Some("the fleet is not known yet")
    } else if !app.letters().is_current() {
        Some("the dead letters are not known yet")
    } else {
        None
    }
}

/// The whole picture.
pub(crate) fn status(app: &App, caller: &Caller) -> Result<StatusView, Error> {
    permit(caller, "job:read")?;
    let (agents, alarms) = {
        let (fleet, now) = (app.fleet(), app.now());
        (fleet.views(now), fleet.alarms(now))
    };
    let may_see_agents = caller.may("agent:read");
    Ok(StatusView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        healthy: missing(app).is_none() && agents.iter().any(|agent| agent.state == AgentCondition::Ready),
        broker: BrokerView {
            connected: app.store.broker.is_connected(),
            version: app.store.broker.version(),
            durability: app.config.durability.clone(),
        },
        // Half an index would look like the whole.
        jobs: if app.index().is_caught_up() { app.index().counts() } else { BTreeMap::new() },
        agents: if may_see_agents { agents } else { Vec::new() },
        alarms: if may_see_agents { alarms } else { Vec::new() },
    })
}

/// The agents, sorted by host name.
pub(crate) fn agents(app: &App, caller: &Caller) -> Result<Vec<AgentView>, Error> {
    permit(caller, "agent:read")?;
    Ok(app.fleet().views(app.now()))
}

/// The catalogue, sorted by name.
pub(crate) fn operations(caller: &Caller) -> Result<Vec<OperationView>, Error> {
    permit(caller, "job:read")?;
    let view = |operation: Operation| {
        let spec = operation.spec();
        OperationView {
            name: spec.name.to_owned(),
            kind: spec.kind.as_str().to_owned(),
            summary: spec.summary.to_owned(),
            permission: spec.permission.to_owned(),
            timeout: Span(spec.timeout).to_string(),
            retry_safe: spec.retry_safe,
            args_schema: operation.args_schema(),
            result_schema: operation.result_schema(),
        }
    };
    Ok(Operation::ALL.into_iter().map(view).collect())
}
