//! `GET /metrics`.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use longshore_model::wire::problem::ErrorCode;

use super::auth::Authorized;
use super::problem::Failed;
use super::refusals::Refusals;
use crate::app::App;
use crate::metrics;

const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Counters and gauges for monitoring, in the text form of OpenMetrics 1.0.
#[utoipa::path(
    get, path = "/metrics", tag = "health", operation_id = "metrics", security(("bearer" = ["agent:read", "job:read"])),
    responses((status = 200, content_type = "application/openmetrics-text", body = String), Refusals)
)]
pub(super) async fn metrics(State(app): State<App>, Authorized(_caller): Authorized) -> Result<Response, Failed> {
    let text = metrics::text(&app).map_err(|_| Failed::new(ErrorCode::Internal, "the metrics cannot be written"))?;
    Ok(([(header::CONTENT_TYPE, MEDIA_TYPE)], text).into_response())
}
