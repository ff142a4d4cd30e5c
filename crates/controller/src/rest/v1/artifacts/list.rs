//! `GET /api/v1/jobs/{id}/artifacts`.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use longshore_model::wire::rest::ArtifactList;
use tokio_util::io::ReaderStream;

use crate::app::{App, artifacts};
use crate::rest::auth::Authorized;
use crate::rest::extract::{Fields, FromQuery, JobPath, Query};
use crate::rest::problem::Failed;
use crate::rest::refusals::JobRefusals;

/// Which form.
pub(crate) enum Format {
    List,
    Archive,
}

impl FromQuery for Format {
    fn from_fields(fields: &mut Fields) -> Result<Self, Failed> {
        let format = fields.read("format", |text| match text {
            "list" => Ok(Self::List),
            "archive" => Ok(Self::Archive),
            _ => Err("takes `list` or `archive`"),
        })?;
        Ok(format.unwrap_or(Self::List))
    }
}

/// List what a job brought back, or download all of it.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}/artifacts", tag = "artifacts", operation_id = "list_artifacts",
    params(
        ("id" = String, Path, description = "The job."),
        ("format" = Option<String>, Query, description = "`list`, or `archive` for a tar file packed with zstd.")
    ),
    responses((status = 200, content((ArtifactList = "application/json"), (String = "application/zstd"))), JobRefusals)
)]
pub(super) async fn list(
    State(app): State<App>,
    Authorized(caller): Authorized,
    JobPath(id): JobPath,
    Query(format): Query<Format>,
) -> Result<Response, Failed> {
    match format {
        Format::List => Ok(Json::<ArtifactList>(artifacts::list(&app, &caller, id).await?).into_response()),
        Format::Archive => {
            let archive = artifacts::archive(&app, &caller, id).await?;
            let headers = [
                (header::CONTENT_TYPE, "application/zstd".to_owned()),
                (header::CONTENT_LENGTH, archive.size.to_string()),
                (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{id}.tar.zst\"")),
            ];
            Ok((headers, Body::from_stream(ReaderStream::new(archive.content))).into_response())
        }
    }
}
