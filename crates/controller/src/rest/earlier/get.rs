//! `GET /job/{id}`.

use axum::extract::State;
use axum::response::Response;

use super::wire::JobDetail;
use crate::app::results::Shown;
use crate::app::{App, get as app};
use crate::rest::auth::Authorized;
use crate::rest::extract::JobPath;
use crate::rest::problem::Failed;
use crate::rest::refusals::JobRefusals;
use crate::rest::shown;

/// Read a job, in the earlier form.
#[utoipa::path(
    get, path = "/job/{id}", tag = "earlier", operation_id = "earlier_get_job", security(("bearer" = ["job:read"])),
    params(("id" = String, Path, description = "The job.")),
    responses((status = 200, body = JobDetail), JobRefusals)
)]
pub(super) async fn get(State(app): State<App>, Authorized(caller): Authorized, JobPath(id): JobPath) -> Result<Response, Failed> {
    let Shown { job, room } = app::get(&app, &caller, id, None).await?;
    shown::json(&app, JobDetail::from(job), room).await
}
