//! `GET /api/v1/dead-letters/{id}`.

use axum::Json;
use axum::extract::State;
use longshore_model::wire::rest::DeadLetterView;

use crate::app::{App, dead_letters as app};
use crate::rest::auth::Authorized;
use crate::rest::extract::JobPath;
use crate::rest::problem::Failed;
use crate::rest::refusals::JobRefusals;

/// Read one dead letter: which executions died, on which agent, after how many attempts and of what, and what was done about it.
#[utoipa::path(
    get, path = "/api/v1/dead-letters/{id}", tag = "dead letters", operation_id = "get_dead_letter", security(("bearer" = ["job:read"])),
    params(("id" = String, Path, description = "The job that died.")),
    responses((status = 200, body = DeadLetterView), JobRefusals)
)]
pub(super) async fn get(
    State(app): State<App>,
    Authorized(caller): Authorized,
    JobPath(id): JobPath,
) -> Result<Json<DeadLetterView>, Failed> {
    Ok(Json(app::get(&app, &caller, id).await?))
}
