//! The connection: one place that sends requests and reads answers.

use std::net::IpAddr;
use std::time::Duration;

use longshore_model::wire::problem::Problem;
use longshore_model::wire::rest::JobRequest;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;

use crate::error::Error;

/// Where the controller is, and who we are.
#[derive(Clone)]
pub struct ClientConfig {
    /// Such as `http://127.0.0.1:8080`.
    pub url: String,
    /// The bearer token.
    pub token: Option<String>,
}

impl std::fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.as_ref().map(|_| "***");
        f.debug_struct("ClientConfig").field("url", &self.url).field("token", &token).finish()
    }
}

/// The client. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    config: ClientConfig,
    retry_budget: Duration,
    stalled_after: Duration,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a download or an upload may make no progress. Altogether it may take as long as it needs.
const STALLED_AFTER: Duration = Duration::from_secs(60);
/// How long an unused connection is kept: less than the controller keeps it, so that no request is sent on one that it is closing.
const UNUSED_FOR: Duration = Duration::from_secs(20);
/// How long an answer may take beyond what the call itself waits for.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an answer for which room is made before it arrives.
const BODY_EXPECTED_MAX: usize = 256 * 1024 * 1024;
/// Bytes of an error's body that are read.
const PROBLEM_BYTES_MAX: usize = 256 * 1024;

impl Client {
    /// A client for the controller at `config.url`. Connects when first used.
    ///
    /// # Errors
    /// `Config` if the URL or the token cannot be.
    pub fn new(config: ClientConfig) -> Result<Self, Error> {
        let refused = |what: String| Error::Config { what };
        let text = config.url.trim_end_matches('/');
        let base = Url::parse(text).map_err(|error| refused(format!("{text:?} is not a URL: {error}")))?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(refused(format!("{text:?} is not a controller's URL: write it such as http://127.0.0.1:8080")));
        }
        if config.token.as_ref().is_some_and(|token| token.is_empty() || token.contains(|c: char| !c.is_ascii_graphic())) {
            return Err(refused("the bearer token is empty or has characters that a token never has".to_owned()));
        }
        // Whoever embeds the client may have chosen another provider first; then this changes nothing.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(UNUSED_FOR)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("longshore-client/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&base) {
            builder = builder.no_proxy();
        }
        if base.scheme() == "http" {
            // Reading the system's certificates takes longer than the rest of a short command.
            builder = builder.tls_certs_only(std::iter::empty());
        }
        let http = builder.build().map_err(|error| refused(format!("the HTTP client cannot be set up: {error}")))?;
        Ok(Self { http, base, config, retry_budget: Duration::from_secs(10), stalled_after: STALLED_AFTER })
    }

    /// The same client, repeating failed submissions for at most `budget`; zero for never.
    #[must_use]
    pub fn with_retry_budget(mut self, budget: Duration) -> Self {
        self.retry_budget = budget;
        self
    }

    /// The controller's address.
    #[must_use]
    pub fn url(&self) -> &str {
        self.config.url.trim_end_matches('/')
    }

    /// A submission of `operation` with `args` and nothing else said. Give it an idempotency key, so that it can be repeated safely.
    #[must_use]
    pub fn request(operation: impl Into<String>, args: serde_json::Value) -> JobRequest {
        JobRequest {
            operation: operation.into(),
            args,
            target: "_any".to_owned(),
            timeout: None,
            expires_in: None,
            not_before: None,
            retry: None,
            wait_for_agents: None,
            idempotency_key: None,
            concurrency_key: None,
            annotations: std::collections::BTreeMap::new(),
        }
    }

    /// A request below `/api/v1`, or of the root when the path begins with `//`.
    pub(crate) fn to(&self, method: Method, path: &str) -> RequestBuilder {
        let mut url = self.base.clone();
        let prefix = url.path().trim_end_matches('/').to_owned();
        match path.strip_prefix("//") {
            Some(root) => url.set_path(&format!("{prefix}/{root}")),
            None => url.set_path(&format!("{prefix}/api/v1{path}")),
        }
        let request = self.http.request(method, url);
        match &self.config.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends, and turns everything but success into an error. `patience` bounds the wait for the head of the answer.
    pub(crate) async fn send(&self, request: RequestBuilder, patience: Duration) -> Result<Response, Error> {
        let response = match tokio::time::timeout(patience, request.send()).await {
            Ok(sent) => sent.map_err(|error| Error::unreachable(self.url(), error))?,
            Err(_) => return Err(Error::silent(self.url(), patience)),
        };
        self.accepted(response).await
    }

    /// The answer, or the refusal in it.
    pub(crate) async fn accepted(&self, response: Response) -> Result<Response, Error> {
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await) }
    }

    /// Sends and reads a JSON answer. `patience` bounds the wait for its head.
    pub(crate) async fn json<T: DeserializeOwned>(&self, request: RequestBuilder, patience: Duration) -> Result<T, Error> {
        let mut response = self.send(request, patience).await?;
        // An answer with a large result may take a while; one that stands still may not.
        let mut bytes = Vec::with_capacity(
            response.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or_default().min(BODY_EXPECTED_MAX),
        );
        loop {
            match tokio::time::timeout(ANSWER_TIMEOUT, response.chunk()).await {
                Ok(Ok(Some(chunk))) => bytes.extend_from_slice(&chunk),
                Ok(Ok(None)) => break,
                Ok(Err(error)) => return Err(Error::unreachable(self.url(), error)),
                Err(_) => return Err(Error::silent(self.url(), ANSWER_TIMEOUT)),
            }
        }
        serde_json::from_slice(&bytes).map_err(|error| self.odd(format!("its answer is not what was expected: {error}")))
    }

    /// How long a failed call may be repeated.
    pub(crate) fn retry_budget(&self) -> Duration {
        self.retry_budget
    }

    /// How long a download or an upload may make no progress.
    pub(crate) fn stalled_after(&self) -> Duration {
        self.stalled_after
    }

    #[cfg(test)]
    pub(crate) fn with_stalled_after(self, stalled_after: Duration) -> Self {
        Self { stalled_after, ..self }
    }

    pub(crate) fn odd(&self, what: String) -> Error {
        Error::Protocol { url: self.url().to_owned(), what }
    }

    async fn refusal(&self, mut response: Response) -> Error {
        let status = response.status();
        let mut body = Vec::new();
        while let Ok(Ok(Some(chunk))) = tokio::time::timeout(ANSWER_TIMEOUT, response.chunk()).await {
            body.extend_from_slice(&chunk);
            if body.len() > PROBLEM_BYTES_MAX {
                break;
            }
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Error::Problem(Box::new(problem)),
            // What stands between us and the controller says this of its own.
            Err(_) if matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT) => {
                let source = format!("it, or a proxy before it, answered {status}").into();
                Error::Unreachable { url: self.url().to_owned(), nothing_sent: false, source }
            }
            Err(_) => self.odd(format!("it answered {status} without a problem document")),
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_urls_of_controllers_and_real_tokens_are_taken() {
        let client = |url: &str, token: Option<&str>| Client::new(ClientConfig { url: url.to_owned(), token: token.map(str::to_owned) });
        for url in ["http://127.0.0.1:8080", "http://127.0.0.1:8080/", "https://longshore.example/base/"] {
            assert!(client(url, Some("abc.def")).is_ok(), "{url}");
        }
        for url in ["", "127.0.0.1:8080", "nats://127.0.0.1:4222", "http://", "unix:///x"] {
            assert!(client(url, None).is_err(), "{url}");
        }
        assert!(client("http://localhost", Some("")).is_err());
        assert!(client("http://localhost", Some("a\nb")).is_err());
    }

    #[test]
    fn paths_are_below_the_base() {
        let config = ClientConfig { url: "https://longshore.example/base/".to_owned(), token: None };
        let client = Client::new(config).unwrap();
        let url = |path| client.to(Method::GET, path).build().unwrap().url().to_string();
        assert_eq!(url("/jobs"), "https://longshore.example/base/api/v1/jobs");
        assert_eq!(url("//readyz"), "https://longshore.example/base/readyz");
    }

    #[test]
    fn loopback_addresses_never_go_through_a_proxy() {
        for (url, expected) in [
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("http://localhost", true),
            ("http://10.0.0.1", false),
            ("http://x", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }

    #[test]
    fn tokens_hide_from_debug_output() {
        let config = ClientConfig { url: "http://localhost".to_owned(), token: Some("s3cret".to_owned()) };
        assert!(!format!("{:?}", Client::new(config).unwrap()).contains("s3cret"));
    }
}
