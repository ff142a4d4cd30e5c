//! `GET /api/v1/agents`.

use axum::Json;
use axum::extract::State;
use longshore_model::wire::rest::AgentList;

use crate::app::{App, status};
use crate::rest::auth::Authorized;
use crate::rest::problem::Failed;
use crate::rest::refusals::Refusals;

/// The agents, sorted by host name.
#[utoipa::path(get, path = "/api/v1/agents", tag = "agents", operation_id = "list_agents", security(("bearer" = ["agent:read"])), responses((status = 200, body = AgentList), Refusals))]
pub(super) async fn list(State(app): State<App>, Authorized(caller): Authorized) -> Result<Json<AgentList>, Failed> {
    Ok(Json(AgentList { items: status::agents(&app, &caller)? }))
}
