//! Who calls: the bearer token, checked before anything else of a request is looked at.

use axum::extract::FromRequestParts;
use axum::http::{header, request::Parts};
use longshore_model::access::Caller;
use longshore_model::wire::problem::ErrorCode;

use super::audit::Known;
use super::problem::Failed;
use crate::app::App;
use crate::token;

/// A caller with a valid token. Handlers take it first.
pub(crate) struct Authorized(pub(crate) Caller);

impl FromRequestParts<App> for Authorized {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failed> {
        let refused = |detail: String| Failed::new(ErrorCode::Unauthenticated, detail);
        let header = parts.headers.get(header::AUTHORIZATION).ok_or_else(|| refused("the request has no token".to_owned()))?;
        let (scheme, token) = header.to_str().ok().and_then(|text| text.split_once(' ')).unwrap_or_default();
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(refused("the `Authorization` header is not `Bearer TOKEN`".to_owned()));
        }
        match token::verify(&app.config.signing_key, &app.config.roles, token.trim(), app.now()) {
            Ok(caller) => {
                if let Some(known) = parts.extensions.get::<Known>() {
                    known.tell(&caller.name);
                }
                Ok(Self(caller))
            }
            Err(error) => Err(refused(error.to_string())),
        }
    }
}
