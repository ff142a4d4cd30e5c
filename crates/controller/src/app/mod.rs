//! Use cases, one a file. They take parsed values and a [`Caller`], check what it may, decide from the
//! ledger, and write under its guard. No HTTP here.

pub(crate) mod agents;
pub(crate) mod artifacts;
pub(crate) mod audit;
pub(crate) mod bundles;
pub(crate) mod cancel;
pub(crate) mod dead_letters;
pub(crate) mod delete;
pub(crate) mod drain;
mod error;
pub(crate) mod events;
pub(crate) mod get;
pub(crate) mod list;
pub(crate) mod logs;
mod patience;
mod record;
pub(crate) mod results;
pub(crate) mod retry;
mod search;
mod state;
pub(crate) mod status;
pub(crate) mod stream;
pub(crate) mod submit;

pub(crate) use error::Error;
pub(crate) use longshore_model::wire::problem::chain;
pub(crate) use record::{Place, Standing, fold, job_view, lines, shown_to, standing};
pub(crate) use state::App;

use longshore_model::access::Caller;
use longshore_model::operation::Call;
use longshore_model::wire::agent::FleetRevision;
use longshore_model::{ExecutionId, Target};

use crate::fleet::{Needs, Waits};

/// Refuses a caller that lacks a permission.
pub(crate) fn permit(caller: &Caller, permission: &'static str) -> Result<(), Error> {
    if caller.may(permission) { Ok(()) } else { Err(Error::Forbidden { permission }) }
}

/// Refuses a caller whose token is for other targets than these executions. All of them must be allowed.
pub(crate) fn permit_targets(app: &App, caller: &Caller, target: &str, executions: &[ExecutionId]) -> Result<(), Error> {
    let (is_any, group) = match target.parse() {
        Ok(Target::AnyOf(group)) => (true, Some(group)),
        Ok(Target::Any) => (true, None),
        Ok(Target::All | Target::Host(_) | Target::Group(_)) | Err(_) => (false, None),
    };
    let fleet = app.fleet();
    let is_refused = |execution: &&ExecutionId| match execution {
        ExecutionId::Any => !caller.reaches_any(group.as_ref()),
        // Whom the controller has chosen for somebody who may have it done by anybody.
        ExecutionId::Agent(_) if is_any && caller.reaches_any(group.as_ref()) => false,
        // Of an agent that is not known no more than its id is.
        ExecutionId::Agent(agent) => !match fleet.heartbeat(*agent) {
            Some(heartbeat) => caller.reaches(*agent, &heartbeat.hostname, &heartbeat.labels),
            None => caller.reaches(*agent, "", &[]),
        },
    };
    let name = |execution: &ExecutionId| match execution {
        ExecutionId::Any => target.to_owned(),
        ExecutionId::Agent(agent) => fleet.heartbeat(*agent).map_or_else(|| agent.to_string(), |heartbeat| heartbeat.hostname.clone()),
    };
    let refused: Vec<String> = executions.iter().filter(is_refused).take(REFUSED_NAMED).map(name).collect();
    if refused.is_empty() { Ok(()) } else { Err(Error::ForbiddenTargets { names: refused.join(", ") }) }
}

/// Who is to answer a job.
pub(crate) struct Frozen {
    pub(crate) executions: Vec<ExecutionId>,
    /// The fleet that they are of.
    pub(crate) fleet_revision: FleetRevision,
}

/// Who a target means now.
pub(crate) fn resolve(app: &App, caller: &Caller, target: &Target, call: &Call, waits: Waits) -> Result<Frozen, Error> {
    let needs = Needs::of(call, app.store.clock.unique());
    let fleet = app.fleet();
    let executions = fleet.resolve(target, needs, waits).map_err(|refused| refused.told_to(caller))?;
    Ok(Frozen { executions, fleet_revision: fleet.seen() })
}

/// These, if each of them can do work now.
pub(crate) fn again(app: &App, executions: Vec<ExecutionId>) -> Result<Frozen, Error> {
    let fleet = app.fleet();
    fleet.check(&executions)?;
    Ok(Frozen { executions, fleet_revision: fleet.seen() })
}

/// Names of targets that a refusal lists.
const REFUSED_NAMED: usize = 10;

#[cfg(test)]
mod tests;
