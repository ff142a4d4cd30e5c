//! `GET /api/v1/queue`.

use axum::Json;
use axum::extract::State;
use longshore_model::wire::rest::QueueView;

use crate::app::{App, list};
use crate::rest::auth::Authorized;
use crate::rest::problem::Failed;
use crate::rest::refusals::Refusals;

/// What there is to do: jobs by status, and the executions that wait for an agent or have one.
#[utoipa::path(get, path = "/api/v1/queue", tag = "status", operation_id = "get_queue", security(("bearer" = ["job:read"])), responses((status = 200, body = QueueView), Refusals))]
pub(super) async fn get(State(app): State<App>, Authorized(caller): Authorized) -> Result<Json<QueueView>, Failed> {
    Ok(Json(list::queue(&app, &caller)?))
}
