//! `GET /api/v1/agents/{agent}/facts`.

use axum::Json;
use axum::extract::State;
use longshore_model::wire::rest::FactsView;

use crate::app::{App, agents as app};
use crate::rest::auth::Authorized;
use crate::rest::extract::AgentPath;
use crate::rest::problem::Failed;
use crate::rest::refusals::JobRefusals;

/// What an agent knows of its host.
///
/// Arguments of jobs may name each value: `@fact.interface.primary` stands for `facts.interface.primary`. Kept for a while after the agent
/// went (`nats.facts.ttl`).
#[utoipa::path(
    get, path = "/api/v1/agents/{agent}/facts", tag = "agents", operation_id = "get_agent_facts", security(("bearer" = ["agent:read"])),
    params(("agent" = String, Path, description = "An agent's id or its host's name.")),
    responses((status = 200, body = FactsView), JobRefusals)
)]
pub(super) async fn facts(
    State(app): State<App>,
    Authorized(caller): Authorized,
    AgentPath(agent): AgentPath,
) -> Result<Json<FactsView>, Failed> {
    Ok(Json(app::facts(&app, &caller, &agent).await?))
}
