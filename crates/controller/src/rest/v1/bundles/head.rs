//! `HEAD /api/v1/bundles/{sha256}`.

use axum::extract::State;
use axum::http::{HeaderName, StatusCode};

use super::DigestPath;
use crate::app::{App, bundles};
use crate::rest::auth::Authorized;
use crate::rest::problem::Failed;
use crate::rest::refusals::JobRefusals;

const BUNDLE_SIZE: HeaderName = HeaderName::from_static("bundle-size");

/// Whether a bundle is stored, so that it need not be sent.
#[utoipa::path(
    head, path = "/api/v1/bundles/{sha256}", tag = "bundles", operation_id = "head_bundle", security(("bearer" = ["workspace:execute"])),
    params(("sha256" = String, Path, pattern = "^[0-9a-f]{64}$", description = "64 lower-case hex digits.")),
    responses((status = 200, description = "It is.", headers(("Bundle-Size" = u64, description = "Its packed size."))), JobRefusals)
)]
pub(super) async fn head(
    State(app): State<App>,
    Authorized(caller): Authorized,
    DigestPath(sha256): DigestPath,
) -> Result<(StatusCode, [(HeaderName, String); 1]), Failed> {
    let view = bundles::find(&app, &caller, &sha256).await?;
    Ok((StatusCode::OK, [(BUNDLE_SIZE, view.size.to_string())]))
}
