//! `POST /api/v1/agents/{agent}/drain` and `…/undrain`.

use axum::extract::State;
use longshore_model::wire::rest::{AgentView, DrainRequest};

use crate::app::{App, drain as app};
use crate::rest::auth::Authorized;
use crate::rest::extract::{AgentPath, OptionalJson};
use crate::rest::problem::Failed;
use crate::rest::refusals::StateRefusals;

/// Tell an agent to take no new work.
///
/// What runs on it goes on; what waits for it waits. Stays so over its restarts. Safe to repeat. The answer shows the agent as it stands:
/// it is `drained` once nothing runs on it any more.
#[utoipa::path(
    post, path = "/api/v1/agents/{agent}/drain", tag = "agents", operation_id = "drain_agent", security(("bearer" = ["agent:write", "target"])),
    params(("agent" = String, Path, description = "An agent's id or its host's name.")),
    request_body = DrainRequest,
    responses((status = 200, body = AgentView), StateRefusals)
)]
pub(super) async fn drain(
    State(app): State<App>,
    Authorized(caller): Authorized,
    AgentPath(agent): AgentPath,
    OptionalJson(request): OptionalJson<DrainRequest>,
) -> Result<axum::Json<AgentView>, Failed> {
    Ok(axum::Json(app::want(&app, &caller, &agent, true, request.reason).await?))
}

/// Tell an agent to take work again.
#[utoipa::path(
    post, path = "/api/v1/agents/{agent}/undrain", tag = "agents", operation_id = "undrain_agent", security(("bearer" = ["agent:write", "target"])),
    params(("agent" = String, Path, description = "An agent's id or its host's name.")),
    responses((status = 200, body = AgentView), StateRefusals)
)]
pub(super) async fn undrain(
    State(app): State<App>,
    Authorized(caller): Authorized,
    AgentPath(agent): AgentPath,
) -> Result<axum::Json<AgentView>, Failed> {
    Ok(axum::Json(app::want(&app, &caller, &agent, false, None).await?))
}
