//! `DELETE /api/v1/dead-letters/{id}`.

use axum::extract::State;
use axum::http::StatusCode;

use crate::app::{App, dead_letters as app};
use crate::rest::auth::Authorized;
use crate::rest::extract::JobPath;
use crate::rest::problem::Failed;
use crate::rest::refusals::LetterRefusals;

/// Note that a dead letter needs nothing more. The job stays. Safe to repeat.
#[utoipa::path(
    delete, path = "/api/v1/dead-letters/{id}", tag = "dead letters", operation_id = "discard_dead_letter", security(("bearer" = ["job:write", "target"])),
    params(("id" = String, Path, description = "The job that died.")),
    responses((status = 204, description = "It is discarded, now or before."), LetterRefusals)
)]
pub(super) async fn discard(State(app): State<App>, Authorized(caller): Authorized, JobPath(id): JobPath) -> Result<StatusCode, Failed> {
    app::discard(&app, &caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
