//! `GET /api/v1/jobs/{id}/artifacts/{path}`.

use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};

use crate::app::{App, artifacts};
use crate::rest::auth::Authorized;
use crate::rest::extract::{Fields, FromQuery, JobPath, Query, path_of};
use crate::rest::problem::Failed;
use crate::rest::refusals::JobRefusals;
use crate::rest::sse;

/// The rest of the path: a name to compare, never one to open.
pub(crate) struct ArtifactPath(String);

impl<S: Send + Sync> FromRequestParts<S> for ArtifactPath {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        let segments = path_of::<Vec<(String, String)>, S>(parts, state).await?;
        Ok(Self(segments.into_iter().find(|(name, _)| name == "path").map(|(_, path)| path).unwrap_or_default()))
    }
}

/// Whose.
pub(crate) struct Of {
    agent: Option<String>,
}

impl FromQuery for Of {
    fn from_fields(fields: &mut Fields) -> Result<Self, Failed> {
        Ok(Self { agent: super::list::agent(fields)? })
    }
}

/// Download one file that a job brought back.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}/artifacts/{*path}", tag = "artifacts", operation_id = "get_artifact", security(("bearer" = ["job:read"])),
    params(
        ("id" = String, Path, description = "The job."),
        ("path" = String, Path, description = "The file's path in the workspace."),
        ("agent" = Option<String>, Query, description = "Whose, if several hosts brought something back: a host's name or an agent's id.")
    ),
    responses((status = 200, content_type = "application/octet-stream"), JobRefusals)
)]
pub(super) async fn file(
    State(app): State<App>,
    Authorized(caller): Authorized,
    JobPath(id): JobPath,
    ArtifactPath(path): ArtifactPath,
    Query(Of { agent }): Query<Of>,
) -> Result<Response, Failed> {
    let file = artifacts::file(&app, &caller, id, agent.as_deref(), path).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, file.size.to_string()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    Ok((headers, Body::from_stream(sse::stream(file.content))).into_response())
}
