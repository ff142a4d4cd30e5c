//! What surrounds every request: its id, its span, its line in the log, and the form of every error.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Response, header};
use axum::response::IntoResponse as _;
use futures::FutureExt as _;
use longshore_model::wire::problem::{ErrorCode, Problem};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::problem::{self, Failed};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The id that a request has, for whoever records it.
#[derive(Clone)]
pub(super) struct RequestId(pub(super) String);

/// Gives the request its id, and errors their form.
pub(super) async fn observe<F>(mut request: Request, answer: impl FnOnce(Request) -> F) -> Response<Body>
where
    F: Future<Output = Response<Body>>,
{
    let id = request_id(&request);
    request.extensions_mut().insert(RequestId(id.clone()));
    let span = tracing::info_span!("request", request.id = %id, method = %request.method(), path = request.uri().path());
    let started = Instant::now();
    let mut response = answer(request).instrument(span.clone()).await;
    let elapsed_ms = started.elapsed().as_millis();
    span.in_scope(|| tracing::debug!(status = response.status().as_u16(), elapsed_ms, "answered"));
    if response.status().is_client_error() || response.status().is_server_error() {
        response = as_problem(response, &id);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

fn request_id(request: &Request) -> String {
    let is_sound = |text: &&str| !text.is_empty() && text.len() <= REQUEST_ID_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    let given = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(is_sound);
    given.map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}

/// Writes the problem a handler failed with, or the one of the status. Other headers, such as `Allow`, stay.
fn as_problem(mut response: Response<Body>, id: &str) -> Response<Body> {
    let mut problem = match response.extensions_mut().remove::<Box<Problem>>() {
        Some(problem) => *problem,
        None => problem::of_status(response.status()),
    };
    problem.request_id = Some(id.to_owned());
    let body = serde_json::to_vec(&problem).expect("a problem has string keys only");
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(problem::MEDIA_TYPE));
    Response::from_parts(parts, Body::from(body))
}

/// A panic of ours ends its request with a problem, not its connection.
pub(super) async fn catch_panics(answer: impl Future<Output = Response<Body>>) -> Response<Body> {
    // Nothing of the request is used after it.
    AssertUnwindSafe(answer).catch_unwind().await.unwrap_or_else(|payload| panicked(&*payload))
}

fn panicked(payload: &(dyn Any + Send)) -> Response<Body> {
    let message = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
    tracing::error!(panic = message.unwrap_or("without words"), "a handler panicked");
    Failed::new(ErrorCode::Internal, "the controller could not do it; its log has the details under the request id").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_problem_with_the_requests_id_and_no_details() {
        let response = panicked(&"the secret cause".to_owned());
        let response = as_problem(response, "r-1");
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()[header::CONTENT_TYPE], problem::MEDIA_TYPE);
        let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        let found: Problem = serde_json::from_slice(&body).unwrap();
        assert_eq!((found.code, found.request_id.as_deref()), (ErrorCode::Internal, Some("r-1")));
        assert!(!found.detail.contains("secret"));
    }

    #[tokio::test]
    async fn a_handler_that_panics_ends_its_request_and_nothing_else() {
        let explode = async |_| -> Response<Body> {
            std::future::ready(()).await;
            panic!("the secret cause")
        };
        let response = observe(Request::default(), |request| catch_panics(explode(request))).await;
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()[header::CONTENT_TYPE], problem::MEDIA_TYPE);
        assert!(response.headers().contains_key(REQUEST_ID));
    }
}
