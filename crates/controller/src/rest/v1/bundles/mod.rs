//! `/api/v1/bundles/{sha256}`.

mod head;
mod put;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use longshore_model::operation::is_sha256;
use longshore_model::wire::problem::{ErrorCode, FieldError};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::rest::extract::path_of;
use crate::rest::problem::Failed;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(put::put, head::head))
}

/// The digest a path names.
pub(crate) struct DigestPath(String);

impl<S: Send + Sync> FromRequestParts<S> for DigestPath {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        let sha256 = path_of::<String, S>(parts, state).await?;
        if is_sha256(&sha256) {
            return Ok(Self(sha256));
        }
        let detail = "a bundle is named by its SHA-256: 64 lower-case hex digits";
        let field = FieldError { pointer: "/sha256".to_owned(), detail: detail.to_owned() };
        Err(Failed::new(ErrorCode::BadRequest, detail).fields(vec![field]))
    }
}
