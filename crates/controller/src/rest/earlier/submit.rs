//! `POST /job`.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::operation;
use super::wire::{CreateJob, CreatedJob};
use crate::app::{App, submit as app};
use crate::rest::audit::Known;
use crate::rest::auth::Authorized;
use crate::rest::extract::Json;
use crate::rest::idempotency;
use crate::rest::problem::Failed;
use crate::rest::refusals::SubmitRefusals;

/// Submit a job, in the earlier form.
#[utoipa::path(
    post, path = "/job", tag = "earlier", operation_id = "earlier_submit_job", security(("bearer" = ["operation", "target"])),
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, description = "The same key with the same request gives the first job again.")),
    request_body = CreateJob,
    responses(
        (status = 201, body = CreatedJob, description = "Accepted.", headers(("Location" = String, description = "Where the job is."))),
        (status = 200, body = CreatedJob, description = "The job of an earlier submission with the same key, with the header `Idempotent-Replayed: true`."),
        SubmitRefusals
    )
)]
pub(super) async fn submit(
    State(app): State<App>,
    Authorized(caller): Authorized,
    known: Known,
    headers: HeaderMap,
    Json(request): Json<CreateJob>,
) -> Result<Response, Failed> {
    let refused = |error: crate::app::Error| Failed::from(error).at(operation::place);
    let mut request = operation::request(request).map_err(refused)?;
    known.asks(&request.operation, Some(&request.target));
    idempotency::take_key(&headers, &mut request)?;
    let submitted = app::submit(&app, &caller, request).await.map_err(refused)?;
    let status = if submitted.is_replayed() { StatusCode::OK } else { StatusCode::CREATED };
    Ok(answer(status, &app, &submitted))
}

/// A job that was made.
pub(super) fn answer(status: StatusCode, app: &App, submitted: &app::Submitted) -> Response {
    let job = CreatedJob::new(&submitted.view(app), submitted.record.definition_revision);
    idempotency::answer(status, &format!("/job/{}", job.job_id), submitted.is_replayed(), job)
}
