//! `GET /job/{id}`.

use axum::Json;
use axum::extract::State;

use super::wire::JobDetail;
use crate::app::{App, get as app};
use crate::rest::auth::Authorized;
use crate::rest::extract::JobPath;
use crate::rest::problem::Failed;
use crate::rest::refusals::JobRefusals;

/// Read a job, in the earlier form.
#[utoipa::path(
    get, path = "/job/{id}", tag = "earlier", operation_id = "earlier_get_job",
    params(("id" = String, Path, description = "The job.")),
    responses((status = 200, body = JobDetail), JobRefusals)
)]
pub(super) async fn get(State(app): State<App>, Authorized(caller): Authorized, JobPath(id): JobPath) -> Result<Json<JobDetail>, Failed> {
    Ok(Json(app::get(&app, &caller, id, None).await?.into()))
}
