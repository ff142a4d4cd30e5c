//! `GET /api/v1/jobs/{id}`.

use axum::extract::State;
use axum::response::Response;
use longshore_model::wire::rest::JobView;

use super::query::Wait;
use crate::app::results::Shown;
use crate::app::{App, get as app};
use crate::rest::auth::Authorized;
use crate::rest::extract::{JobPath, Query};
use crate::rest::problem::Failed;
use crate::rest::refusals::JobRefusals;
use crate::rest::shown;

/// Read a job: its definition, status, executions with answers, and timeline.
///
/// Results of any size are shown in place as far as those of all executions fit together; of the others there is a `large_result`, which says
/// where to read them one by one.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}", tag = "jobs", operation_id = "get_job", security(("bearer" = ["job:read"])),
    params(
        ("id" = String, Path, description = "The job."),
        ("wait" = Option<String>, Query, example = "1s", description = "Answer as soon as the job has ended, at the latest after this long, such as `30s`; at most `5m`.")
    ),
    responses((status = 200, body = JobView), JobRefusals)
)]
pub(super) async fn get(
    State(app): State<App>,
    Authorized(caller): Authorized,
    JobPath(id): JobPath,
    Query(wait): Query<Wait>,
) -> Result<Response, Failed> {
    let Shown { job, room } = app::get(&app, &caller, id, wait.duration(app.config.job_timeout)).await?;
    shown::json(&app, job, room).await
}
