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

/// Whose, and which form.
pub(crate) struct Asked {
    agent: Option<String>,
    format: Format,
}

impl FromQuery for Asked {
    fn from_fields(fields: &mut Fields) -> Result<Self, Failed> {
        let agent = agent(fields)?;
        let format = fields.read("format", |text| match text {
            "list" => Ok(Format::List),
            "archive" => Ok(Format::Archive),
            _ => Err("takes `list` or `archive`"),
        })?;
        Ok(Self { agent, format: format.unwrap_or(Format::List) })
    }
}

/// The agent that is meant, by its id or its host's name.
pub(super) fn agent(fields: &mut Fields) -> Result<Option<String>, Failed> {
    fields.read("agent", |text| if text.is_empty() { Err("takes a host's name or an agent's id") } else { Ok(text.to_owned()) })
}

/// List what a job's hosts brought back, or download all that one of them did.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}/artifacts", tag = "artifacts", operation_id = "list_artifacts", security(("bearer" = ["job:read"])),
    params(
        ("id" = String, Path, description = "The job."),
        ("agent" = Option<String>, Query, description = "Only what this one brought back: its host's name or its id. An archive of a job of several needs it."),
        ("format" = Option<String>, Query, description = "`list`, or `archive` for a tar file packed with zstd.")
    ),
    responses((status = 200, content((ArtifactList = "application/json"), (String = "application/zstd"))), JobRefusals)
)]
pub(super) async fn list(
    State(app): State<App>,
    Authorized(caller): Authorized,
    JobPath(id): JobPath,
    Query(Asked { agent, format }): Query<Asked>,
) -> Result<Response, Failed> {
    match format {
        Format::List => Ok(Json::<ArtifactList>(artifacts::list(&app, &caller, id, agent.as_deref()).await?).into_response()),
        Format::Archive => {
            let archive = artifacts::archive(&app, &caller, id, agent.as_deref()).await?;
            let headers = [
                (header::CONTENT_TYPE, "application/zstd".to_owned()),
                (header::CONTENT_LENGTH, archive.size.to_string()),
                (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{id}.tar.zst\"")),
            ];
            Ok((headers, Body::from_stream(ReaderStream::new(archive.content))).into_response())
        }
    }
}
