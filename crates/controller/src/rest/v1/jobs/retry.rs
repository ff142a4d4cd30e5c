//! `POST /api/v1/jobs/{id}/retry`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use longshore_model::wire::rest::{JobView, RetryJobRequest};

use crate::app::{App, retry as app};
use crate::rest::auth::Authorized;
use crate::rest::extract::{JobPath, OptionalJson};
use crate::rest::idempotency;
use crate::rest::problem::Failed;
use crate::rest::refusals::StateRefusals;

/// Repeat a job that has ended, as a new job with the same operation, arguments and target.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/retry", tag = "jobs", operation_id = "retry_job", security(("bearer" = ["job:write", "operation", "target"])),
    params(("id" = String, Path, description = "The job to repeat.")),
    request_body(content = Option<RetryJobRequest>, description = "May be left out."),
    responses((status = 201, body = JobView, headers(("Location" = String, description = "Where the new job is."))), StateRefusals)
)]
pub(super) async fn retry(
    State(app): State<App>,
    Authorized(caller): Authorized,
    JobPath(id): JobPath,
    OptionalJson(request): OptionalJson<RetryJobRequest>,
) -> Result<Response, Failed> {
    let job = app::retry(&app, &caller, id, request).await?;
    Ok(idempotency::answer(StatusCode::CREATED, &format!("/api/v1/jobs/{}", job.id), false, job))
}
