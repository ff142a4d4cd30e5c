//! `DELETE /api/v1/jobs/{id}`.

use axum::extract::State;
use axum::http::StatusCode;

use crate::app::{App, delete as app};
use crate::rest::auth::Authorized;
use crate::rest::extract::{Fields, FromQuery, JobPath, Query};
use crate::rest::problem::Failed;
use crate::rest::refusals::StateRefusals;

/// What to do with a job that has not ended.
pub(crate) struct DeleteQuery(app::Running);

impl FromQuery for DeleteQuery {
    fn from_fields(fields: &mut Fields) -> Result<Self, Failed> {
        let is_forced = fields.flag("force")?.unwrap_or(false);
        Ok(Self(if is_forced { app::Running::CancelFirst } else { app::Running::Refuse }))
    }
}

/// Remove a job with its events, answers, logs and artifacts.
#[utoipa::path(
    delete, path = "/api/v1/jobs/{id}", tag = "jobs", operation_id = "delete_job",
    params(
        ("id" = String, Path, description = "The job."),
        ("force" = Option<bool>, Query, description = "Cancel it first if it has not ended.")
    ),
    responses((status = 204, description = "Nothing of it is left."), StateRefusals)
)]
pub(super) async fn delete(
    State(app): State<App>,
    Authorized(caller): Authorized,
    JobPath(id): JobPath,
    Query(DeleteQuery(running)): Query<DeleteQuery>,
) -> Result<StatusCode, Failed> {
    app::delete(&app, &caller, id, running).await?;
    Ok(StatusCode::NO_CONTENT)
}
