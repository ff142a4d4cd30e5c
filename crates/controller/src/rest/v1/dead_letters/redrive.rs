//! `POST /api/v1/dead-letters/{id}/redrive`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use longshore_model::wire::rest::JobView;

use crate::app::{App, dead_letters as app};
use crate::rest::auth::Authorized;
use crate::rest::extract::JobPath;
use crate::rest::idempotency;
use crate::rest::problem::Failed;
use crate::rest::refusals::StateRefusals;

/// Submit what died again, as a new job for exactly those executions.
///
/// Safe to repeat: every call gives the same job, also after a call whose answer was lost.
#[utoipa::path(
    post, path = "/api/v1/dead-letters/{id}/redrive", tag = "dead letters", operation_id = "redrive_dead_letter", security(("bearer" = ["job:write", "operation", "target"])),
    params(("id" = String, Path, description = "The job that died.")),
    responses(
        (status = 201, body = JobView, description = "Accepted.", headers(("Location" = String, description = "Where the new job is."))),
        (status = 200, body = JobView, description = "The job of an earlier call."),
        StateRefusals
    )
)]
pub(super) async fn redrive(State(app): State<App>, Authorized(caller): Authorized, JobPath(id): JobPath) -> Result<Response, Failed> {
    let app::Redrive { job, is_new } = app::redrive(&app, &caller, id).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(idempotency::answer(status, &format!("/api/v1/jobs/{}", job.id), false, job))
}
