//! The header `Idempotency-Key`, and answers that say whether they are an earlier one's.

use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use longshore_model::wire::problem::{ErrorCode, FieldError};
use longshore_model::wire::rest::JobRequest;
use serde::Serialize;

use super::problem::Failed;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Puts the header's key into a submission.
pub(crate) fn take_key(headers: &HeaderMap, request: &mut JobRequest) -> Result<(), Failed> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(()) };
    let refused = |detail: &str| {
        let field = FieldError { pointer: "/idempotency_key".to_owned(), detail: detail.to_owned() };
        Failed::new(ErrorCode::Validation, format!("the header `Idempotency-Key` {detail}")).fields(vec![field])
    };
    let key = value.to_str().map_err(|_| refused("takes printable ASCII characters"))?;
    match &request.idempotency_key {
        Some(other) if other != key => return Err(refused("differs from the body's `idempotency_key`")),
        Some(_) | None => request.idempotency_key = Some(key.to_owned()),
    }
    Ok(())
}

/// The answer to a submission, with where its job is.
pub(crate) fn answer(status: StatusCode, location: &str, is_replayed: bool, body: impl Serialize) -> Response {
    answered(status, location, is_replayed, Json(body).into_response())
}

/// The same with a body that has been made.
pub(crate) fn answered(status: StatusCode, location: &str, is_replayed: bool, mut response: Response) -> Response {
    let location = HeaderValue::from_str(location).expect("ids are ASCII");
    *response.status_mut() = status;
    response.headers_mut().insert(header::LOCATION, location);
    if is_replayed {
        response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    response
}
