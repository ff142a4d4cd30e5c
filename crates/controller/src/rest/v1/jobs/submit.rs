//! `POST /api/v1/jobs`.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use longshore_model::wire::problem::{ErrorCode, FieldError};
use longshore_model::wire::rest::{JobRequest, JobView};

use super::query::Wait;
use crate::app::{App, get, submit as app};
use crate::rest::auth::Authorized;
use crate::rest::extract::{Json, Query};
use crate::rest::problem::Failed;
use crate::rest::refusals::SubmitRefusals;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Submit a job.
///
/// The answer is sent when the job is stored durably; with `wait`, when it has ended or the time is up.
#[utoipa::path(
    post, path = "/api/v1/jobs", tag = "jobs", operation_id = "submit_job",
    params(
        ("wait" = Option<String>, Query, description = "Wait up to this long for the job's end, such as `30s`; at most `5m`. Without a value as long as `controller.api.job_timeout`."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same as the body's `idempotency_key`.")
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
    headers: HeaderMap,
    Json(mut request): Json<JobRequest>,
) -> Result<Response, Failed> {
    take_key(&headers, &mut request)?;
    let mut submitted = app::submit(&app, &caller, request).await?;
    let id = submitted.record.definition.id;
    let is_replayed = submitted.ticket.is_none();
    let (status, job) = match wait.duration(app.config.job_timeout) {
        None => (if is_replayed { StatusCode::OK } else { StatusCode::CREATED }, submitted.view(&app)),
        Some(wait) => {
            let ended = match submitted.ticket.take() {
                Some(ticket) => get::when_first_final(&app, ticket, &submitted.record, wait).await,
                None => get::when_final(&app, id, wait).await,
            };
            // Accepted is accepted: a broker that goes away now must not hide the id.
            let job = ended.unwrap_or_else(|error| {
                tracing::warn!(job.id = %id, error = %crate::app::chain(&error), "a submission could not wait for its end");
                submitted.view(&app)
            });
            (if job.status.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED }, job)
        }
    };
    let location = HeaderValue::from_str(&format!("/api/v1/jobs/{id}")).expect("ids are ASCII");
    let mut response = (status, [(header::LOCATION, location)], axum::Json(job)).into_response();
    if is_replayed {
        response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

fn take_key(headers: &HeaderMap, request: &mut JobRequest) -> Result<(), Failed> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(()) };
    let refused = |detail: &str| {
        let field = FieldError { pointer: "/idempotency_key".to_owned(), detail: detail.to_owned() };
        Failed::new(ErrorCode::Validation, format!("the header `Idempotency-Key` {detail}")).fields(vec![field])
    };
    let key = value.to_str().map_err(|_| refused("takes printable ASCII characters"))?;
    match &request.idempotency_key {
        Some(other) if other != key => return Err(refused("differs from the body's `idempotency_key`")),
        Some(_) | None => request.idempotency_key = Some(key.to_owned()),
    }
    Ok(())
}
