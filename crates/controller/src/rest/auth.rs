//! Who calls: the bearer token, checked before anything else of a request is looked at. What it may call is said in `access`.

use axum::extract::FromRequestParts;
use axum::http::{HeaderMap, header, request::Parts};
use longshore_model::access::Caller;
use longshore_model::wire::problem::ErrorCode;

use super::access;
use super::problem::Failed;
use crate::app::App;

/// A caller with a valid token, who was let in.
pub(crate) struct Authorized(pub(crate) Caller);

impl FromRequestParts<App> for Authorized {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Failed> {
        access::taken(&mut parts.extensions).map(Self)
    }
}

/// Who the token of these headers stands for.
pub(super) fn caller(app: &App, headers: &HeaderMap) -> Result<Caller, Failed> {
    let refused = |detail: String| Failed::new(ErrorCode::Unauthenticated, detail);
    let header = headers.get(header::AUTHORIZATION).ok_or_else(|| refused("the request has no token".to_owned()))?;
    let (scheme, token) = header.to_str().ok().and_then(|text| text.split_once(' ')).unwrap_or_default();
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(refused("the `Authorization` header is not `Bearer TOKEN`".to_owned()));
    }
    app.keyring.verify(&app.config.roles, token.trim(), app.now()).map_err(|error| refused(error.to_string()))
}
