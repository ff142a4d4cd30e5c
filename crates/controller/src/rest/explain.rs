//! The API explains itself: its description, and what each problem means. No token needed.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use longshore_model::wire::problem::ErrorCode;

use super::problem::Failed;

/// This description.
#[utoipa::path(get, path = "/api/openapi.json", tag = "about", security(()), responses((status = 200, content_type = "application/json")))]
pub(super) async fn document() -> Response {
    // Anybody may ask for it, so it is made once.
    static TEXT: LazyLock<Bytes> = LazyLock::new(|| super::openapi().to_json().expect("the description is JSON").into());
    ([(header::CONTENT_TYPE, "application/json")], TEXT.clone()).into_response()
}

/// What a problem's code means and what to do.
#[utoipa::path(
    get, path = "/problems/{code}", tag = "about", security(()),
    params(("code" = String, Path, description = "The problem's code.")),
    responses((status = 200, content_type = "text/plain", body = String), (status = 404, description = "No such code."))
)]
pub(super) async fn explain(code: Result<Path<String>, PathRejection>) -> Result<Response, Failed> {
    let code = ErrorCode::ALL
        .iter()
        .find(|known| code.as_ref().is_ok_and(|Path(code)| known.as_str() == code))
        .ok_or_else(|| Failed::new(ErrorCode::NotFound, "there is no such problem code"))?;
    let text = format!("{code}: {}\n\n{}\n", code.title(), code.explanation());
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
}
