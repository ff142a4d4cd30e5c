//! `POST /api/v1/jobs`.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use longshore_model::wire::rest::{JobRequest, JobView};

use super::query::Wait;
use crate::app::results::Shown;
use crate::app::{App, submit as app};
use crate::rest::audit::Known;
use crate::rest::auth::Authorized;
use crate::rest::extract::{Json, Query};
use crate::rest::idempotency;
use crate::rest::problem::Failed;
use crate::rest::refusals::SubmitRefusals;
use crate::rest::shown;

/// Submit a job.
///
/// The answer is sent when the job is stored durably; with `wait`, when it has ended or the time is up.
#[utoipa::path(
    post, path = "/api/v1/jobs", tag = "jobs", operation_id = "submit_job", security(("bearer" = ["operation", "target"])),
    params(
        ("wait" = Option<String>, Query, example = "1s", description = "Wait up to this long for the job's end, such as `30s`; at most `5m`. Without a value as long as `controller.api.job_timeout`."),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, description = "The same as the body's `idempotency_key`.")
    ),
    request_body = JobRequest,
    responses(
        (status = 201, body = JobView, description = "Accepted.", headers(("Location" = String, description = "Where the job is."))),
        (status = 200, body = JobView, description = "With `wait`: accepted and ended. Or the job of an earlier submission with the same key, with the header `Idempotent-Replayed: true`."),
        (status = 202, body = JobView, description = "With `wait`: accepted, and not ended when the time was up."),
        SubmitRefusals
    )
)]
pub(super) async fn submit(
    State(app): State<App>,
    Authorized(caller): Authorized,
    Query(wait): Query<Wait>,
    known: Known,
    headers: HeaderMap,
    Json(mut request): Json<JobRequest>,
) -> Result<Response, Failed> {
    known.asks(&request.operation, Some(&request.target));
    idempotency::take_key(&headers, &mut request)?;
    let submitted = app::submit(&app, &caller, request).await?;
    let id = submitted.record.definition.id;
    let is_replayed = submitted.is_replayed();
    let (status, Shown { job, room }) = match wait.duration(app.config.job_timeout) {
        None => (if is_replayed { StatusCode::OK } else { StatusCode::CREATED }, Shown { job: submitted.view(&app), room: None }),
        Some(wait) => {
            let shown = submitted.when_ended(&app, wait).await;
            (if shown.job.status.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED }, shown)
        }
    };
    let body = shown::json(&app, job, room).await?;
    Ok(idempotency::answered(status, &format!("/api/v1/jobs/{id}"), is_replayed, body))
}
