//! `POST /api/v1/jobs/{id}/cancel`.

use axum::Json;
use axum::extract::State;
use longshore_model::wire::rest::CancelView;

use crate::app::{App, cancel as app};
use crate::rest::auth::Authorized;
use crate::rest::extract::JobPath;
use crate::rest::problem::Failed;
use crate::rest::refusals::LetterRefusals;

/// End a job before its time.
///
/// What has not started never will. What runs is stopped; the answer waits a few seconds for its agent. Safe to repeat, and harmless
/// for a job that has ended: `changed` says so.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/cancel", tag = "jobs", operation_id = "cancel_job", security(("bearer" = ["job:write", "target"])),
    params(("id" = String, Path, description = "The job.")),
    responses((status = 200, body = CancelView), LetterRefusals)
)]
pub(super) async fn cancel(
    State(app): State<App>,
    Authorized(caller): Authorized,
    JobPath(id): JobPath,
) -> Result<Json<CancelView>, Failed> {
    Ok(Json(app::cancel(&app, &caller, id).await?))
}
