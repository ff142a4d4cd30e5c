//! Which web pages of others may call the API from a browser: those of the origins that are configured, and else none.
//!
//! A page may say who it is by a bearer token only, which no browser sends of itself; so there is nothing to forge a request with.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long a browser may remember what it was told.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);

const METHODS: [Method; 5] = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE];
/// Headers that a page may send.
const TAKEN: [&str; 6] = ["accept", "authorization", "content-type", "idempotency-key", "last-event-id", "x-request-id"];
/// Headers that a page may read, beside those that it always may.
const SHOWN: [&str; 6] = ["bundle-size", "idempotent-replayed", "link", "location", "retry-after", "x-request-id"];

/// Every origin.
const ANY: &str = "*";

/// Whether this can stand in a list of origins: `*`, or a scheme, a host and perhaps a port, as a browser sends it.
///
/// # Errors
/// What it should look like.
pub fn is_origin(text: &str) -> Result<(), String> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or_default();
    let is_host = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-:[]".contains(c);
    if text == ANY || (!host.is_empty() && host.chars().all(is_host)) {
        return Ok(());
    }
    Err(format!(
        "{text:?} is no origin: it takes `*`, or a scheme and a host in lower case such as `https://ops.example:8443`, without a path"
    ))
}

/// Tells browsers whose pages may call the API. Without origins there is nothing to tell: nobody's may.
pub(crate) fn layer(origins: &[String]) -> Option<CorsLayer> {
    let allowed = match origins {
        [] => return None,
        origins if origins.iter().any(|origin| origin == ANY) => AllowOrigin::any(),
        origins => AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok())),
    };
    let layer = CorsLayer::new().allow_origin(allowed).allow_methods(METHODS).allow_headers(TAKEN.map(HeaderName::from_static));
    Some(layer.expose_headers(SHOWN.map(HeaderName::from_static)).max_age(REMEMBERED_FOR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_what_browsers_send() {
        for text in ["*", "https://ops.example", "http://localhost:3000", "https://192.0.2.1:8443", "http://[::1]:80"] {
            assert_eq!(is_origin(text), Ok(()), "{text}");
        }
        for text in [
            "",
            "null",
            "ops.example",
            "https://",
            "https://ops.example/",
            "https://*.example",
            "https://Ops.example",
            "ftp://x",
            "https://a b",
        ] {
            assert!(is_origin(text).is_err(), "{text}");
        }
    }
}
