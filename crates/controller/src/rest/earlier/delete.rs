//! `DELETE /job/{id}`. The earlier API had no `force`; without it the refusal of a job that runs would be a dead end.

use axum::extract::State;
use axum::http::StatusCode;

use crate::app::{App, delete as app};
use crate::rest::auth::Authorized;
use crate::rest::extract::{Force, JobPath, Query};
use crate::rest::problem::Failed;
use crate::rest::refusals::StateRefusals;

/// Remove a job, in the earlier form.
#[utoipa::path(
    delete, path = "/job/{id}", tag = "earlier", operation_id = "earlier_delete_job", security(("bearer" = ["job:write", "target"])),
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
    Query(Force(running)): Query<Force>,
) -> Result<StatusCode, Failed> {
    app::delete(&app, &caller, id, running).await?;
    Ok(StatusCode::NO_CONTENT)
}
