//! `GET /api/v1/status`.

use axum::Json;
use axum::extract::State;
use longshore_model::wire::rest::StatusView;

use crate::app::{App, status};
use crate::rest::auth::Authorized;
use crate::rest::problem::Failed;
use crate::rest::refusals::Refusals;

/// Whether the system is healthy, with the broker, the agents and the jobs by status.
#[utoipa::path(get, path = "/api/v1/status", tag = "status", operation_id = "get_status", security(("bearer" = ["job:read"])), responses((status = 200, body = StatusView), Refusals))]
pub(super) async fn get(State(app): State<App>, Authorized(caller): Authorized) -> Result<Json<StatusView>, Failed> {
    Ok(Json(status::status(&app, &caller)?))
}
