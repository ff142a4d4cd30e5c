//! `GET /api/v1/agents/{agent}`.

use axum::Json;
use axum::extract::State;
use longshore_model::wire::rest::AgentDetail;

use crate::app::{App, agents as app};
use crate::rest::auth::Authorized;
use crate::rest::extract::AgentPath;
use crate::rest::problem::Failed;
use crate::rest::refusals::JobRefusals;

/// One agent, with the history of its drains.
#[utoipa::path(
    get, path = "/api/v1/agents/{agent}", tag = "agents", operation_id = "get_agent", security(("bearer" = ["agent:read"])),
    params(("agent" = String, Path, description = "An agent's id or its host's name.")),
    responses((status = 200, body = AgentDetail), JobRefusals)
)]
pub(super) async fn show(
    State(app): State<App>,
    Authorized(caller): Authorized,
    AgentPath(agent): AgentPath,
) -> Result<Json<AgentDetail>, Failed> {
    Ok(Json(app::show(&app, &caller, &agent).await?))
}
