//! `GET /api/v1/jobs/{id}/executions/{execution}/result`.

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use longshore_model::wire::problem::ErrorCode;
use longshore_model::{ExecutionId, JobId};
use tokio_util::io::ReaderStream;

use crate::app::{App, results};
use crate::rest::auth::Authorized;
use crate::rest::extract::{JobPath, path_of};
use crate::rest::problem::Failed;
use crate::rest::refusals::JobRefusals;

/// One execution of a job.
pub(crate) struct ExecutionPath(JobId, ExecutionId);

impl<S: Send + Sync> FromRequestParts<S> for ExecutionPath {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        let JobPath(job) = JobPath::from_request_parts(parts, state).await?;
        let segments = path_of::<Vec<(String, String)>, S>(parts, state).await?;
        let execution = segments.into_iter().find(|(name, _)| name == "execution").map(|(_, execution)| execution).unwrap_or_default();
        let absent = |_| Failed::new(ErrorCode::NotFound, "there is no such execution: it is `any`, or the agent's id");
        Ok(Self(job, execution.parse().map_err(absent)?))
    }
}

/// Read the result of one execution, whatever its size.
///
/// An answer that breaks off was damaged in the object store.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}/executions/{execution}/result", tag = "jobs", operation_id = "get_result", security(("bearer" = ["job:read"])),
    params(
        ("id" = String, Path, description = "The job."),
        ("execution" = String, Path, description = "`any`, or the agent's id.")
    ),
    responses((status = 200, content_type = "application/json", body = Object), JobRefusals)
)]
pub(super) async fn get(
    State(app): State<App>,
    Authorized(caller): Authorized,
    ExecutionPath(id, execution): ExecutionPath,
) -> Result<Response, Failed> {
    match results::get(&app, &caller, id, execution).await? {
        results::Content::Small(result) => Ok(Json(result).into_response()),
        results::Content::Large { bytes, content } => {
            let headers = [(header::CONTENT_TYPE, "application/json".to_owned()), (header::CONTENT_LENGTH, bytes.to_string())];
            Ok((headers, Body::from_stream(ReaderStream::with_capacity(content, 128 * 1024))).into_response())
        }
    }
}
