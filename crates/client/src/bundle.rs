//! Uploads and downloads: bundles in, artifacts out.

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStream};
use longshore_model::JobId;
use longshore_model::wire::rest::{ArtifactList, BundleView};
use reqwest::{Body, Method, StatusCode, header};

use crate::client::{ANSWER_TIMEOUT, Client};
use crate::error::Error;

impl Client {
    /// Whether the bundle with this digest (lower-case hex of SHA-256) is stored.
    ///
    /// # Errors
    /// The controller could not be reached, or refused.
    pub async fn bundle_exists(&self, sha256: &str) -> Result<bool, Error> {
        let request = self.to(Method::HEAD, &format!("/bundles/{sha256}"));
        let response = tokio::time::timeout(ANSWER_TIMEOUT, request.send())
            .await
            .map_err(|_| Error::silent(self.url(), ANSWER_TIMEOUT))?
            .map_err(|error| Error::unreachable(self.url(), error))?;
        match response.status() {
            status if status.is_success() => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            // An answer to HEAD has no body, so the reason is asked for with a call that has one.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.operations().await.map(|_| false),
            status => Err(self.odd(format!("it answered {status}"))),
        }
    }

    /// Stores a bundle of `size` bytes. Safe to repeat with a fresh `body`; nothing is stored unless the digest is right.
    ///
    /// # Errors
    /// The digest does not match, the store is full, or the controller could not be reached.
    pub async fn put_bundle<S>(&self, sha256: &str, size: u64, body: S) -> Result<BundleView, Error>
    where
        S: TryStream + Send + 'static,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        Bytes: From<S::Ok>,
    {
        let request = self
            .to(Method::PUT, &format!("/bundles/{sha256}"))
            .header(header::CONTENT_TYPE, "application/zstd")
            .header(header::CONTENT_LENGTH, size)
            .body(Body::wrap_stream(body));
        // How long an upload takes is the network's matter; a stalled one is ended by the server.
        let response = request.send().await.map_err(|error| Error::unreachable(self.url(), error))?;
        let response = self.accepted(response).await?;
        response.json().await.map_err(|error| self.odd(format!("its answer is not what was expected: {error}")))
    }

    /// What a job brought back.
    ///
    /// # Errors
    /// There is no such job, or the controller could not be reached.
    pub async fn artifacts(&self, id: JobId) -> Result<ArtifactList, Error> {
        self.json(self.to(Method::GET, &format!("/jobs/{id}/artifacts")), ANSWER_TIMEOUT).await
    }

    /// Everything a job brought back, as one tar packed with zstd.
    ///
    /// # Errors
    /// There is no such job, it brought nothing back, or the controller could not be reached; the stream fails if the connection breaks.
    pub async fn artifact_archive(&self, id: JobId) -> Result<impl Stream<Item = Result<Bytes, Error>> + Send + use<>, Error> {
        let request = self.to(Method::GET, &format!("/jobs/{id}/artifacts")).query(&[("format", "archive")]);
        let response = self.send(request, ANSWER_TIMEOUT).await?;
        let url = self.url().to_owned();
        Ok(response.bytes_stream().map(move |chunk| chunk.map_err(|error| Error::unreachable(&url, error))))
    }
}
