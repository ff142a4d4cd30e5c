//! Whether the process lives, and whether it can serve. No token needed, no secrets told.

use axum::Json;
use axum::extract::State;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::rest::HealthView;

use super::problem::Failed;
use super::refusals::NotReady;
use crate::app::{App, status};

fn ok() -> Json<HealthView> {
    Json(HealthView { status: "ok".to_owned() })
}

/// The process lives.
#[utoipa::path(get, path = "/livez", tag = "health", security(()), responses((status = 200, body = HealthView)))]
pub(super) async fn livez() -> Json<HealthView> {
    ok()
}

/// Requests can be served: the broker is connected and the index is complete.
#[utoipa::path(get, path = "/readyz", tag = "health", security(()), responses((status = 200, body = HealthView), NotReady))]
pub(super) async fn readyz(State(app): State<App>) -> Result<Json<HealthView>, Failed> {
    match status::missing(&app) {
        None => Ok(ok()),
        Some(missing) => Err(Failed::new(ErrorCode::Unavailable, missing).retryable()),
    }
}
