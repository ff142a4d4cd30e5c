//! `PUT /api/v1/bundles/{sha256}`.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use longshore_model::wire::rest::BundleView;

use super::DigestPath;
use crate::app::{App, bundles};
use crate::rest::auth::Authorized;
use crate::rest::extract::content;
use crate::rest::problem::Failed;
use crate::rest::refusals::StateRefusals;

/// Upload a bundle: a directory as a tar file packed with zstd, named by the SHA-256 of the packed bytes.
///
/// A bundle that is stored already is not read again: `existed` says so. Safe to repeat.
#[utoipa::path(
    put, path = "/api/v1/bundles/{sha256}", tag = "bundles", operation_id = "put_bundle", security(("bearer" = ["workspace:execute"])),
    params(("sha256" = String, Path, pattern = "^[0-9a-f]{64}$", description = "64 lower-case hex digits.")),
    request_body(content_type = "application/zstd", description = "The packed directory, at most 4 GiB."),
    responses((status = 201, body = BundleView), (status = 200, body = BundleView, description = "It was there."), StateRefusals)
)]
pub(super) async fn put(
    State(app): State<App>,
    Authorized(caller): Authorized,
    DigestPath(sha256): DigestPath,
    body: Body,
) -> Result<(StatusCode, Json<BundleView>), Failed> {
    let view = bundles::put(&app, &caller, &sha256, content(body)).await?;
    Ok((if view.existed { StatusCode::OK } else { StatusCode::CREATED }, Json(view)))
}
