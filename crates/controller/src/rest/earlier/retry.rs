//! `POST /job/{id}/retry`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use longshore_model::Target;

use super::wire::{CreatedJob, RetryJob};
use super::{operation, submit};
use crate::app::{App, Error, retry as app};
use crate::rest::auth::Authorized;
use crate::rest::extract::{JobPath, OptionalJson};
use crate::rest::problem::Failed;
use crate::rest::refusals::StateRefusals;

/// Repeat a job that has ended, in the earlier form.
#[utoipa::path(
    post, path = "/job/{id}/retry", tag = "earlier", operation_id = "earlier_retry_job", security(("bearer" = ["job:write", "operation", "target"])),
    params(("id" = String, Path, description = "The job to repeat.")),
    request_body(content = Option<RetryJob>, description = "May be left out."),
    responses((status = 201, body = CreatedJob, headers(("Location" = String, description = "Where the new job is."))), StateRefusals)
)]
pub(super) async fn retry(
    State(app): State<App>,
    Authorized(caller): Authorized,
    JobPath(id): JobPath,
    OptionalJson(request): OptionalJson<RetryJob>,
) -> Result<Response, Failed> {
    let refused = |error: Error| Failed::from(error).at(operation::place);
    let what = match request.target_hostname {
        None => app::Repeat::All,
        Some(target) => match target.parse::<Target>() {
            Ok(target) => app::Repeat::For(target),
            Err(error) => return Err(refused(Error::field("/target", error.to_string()))),
        },
    };
    let repeated = app::repeat(&app, &caller, id, what).await.map_err(refused)?;
    Ok(submit::answer(StatusCode::CREATED, &app, &repeated))
}
