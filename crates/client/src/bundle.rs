//! Uploads and downloads: bundles in, artifacts out.

use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, TryStream, TryStreamExt};
use longshore_model::JobId;
use longshore_model::wire::problem::{ErrorCode, Problem};
use longshore_model::wire::rest::{ArtifactList, BundleView};
use reqwest::{Body, Method, RequestBuilder, StatusCode, header};
use tokio::sync::watch;

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
            // An answer to HEAD has no body: the reason is known, or asked for with a call that has one.
            StatusCode::FORBIDDEN => {
                let problem = Problem::new(ErrorCode::Forbidden, 403, "the token does not grant workspace:execute");
                Err(Error::Problem(Box::new(problem)))
            }
            StatusCode::UNAUTHORIZED => {
                self.operations().await?;
                Err(self.odd("it refused a token that it takes elsewhere".to_owned()))
            }
            _ => self.accepted(response).await.map(|_| true),
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
        let (progress, progressed) = watch::channel(());
        let request = self
            .to(Method::PUT, &format!("/bundles/{sha256}"))
            .header(header::CONTENT_TYPE, "application/zstd")
            .header(header::CONTENT_LENGTH, size)
            .body(Body::wrap_stream(body.inspect_ok(move |_| progress.send_replace(()))));
        let response = tokio::select! {
            sent = request.send() => sent.map_err(|error| Error::unreachable(self.url(), error))?,
            after = stall(progressed, self.stalled_after()) => return Err(Error::silent(self.url(), after)),
        };
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

    /// Everything one execution of a job brought back, as a tar packed with zstd; of the only one unless `agent` names one, by its id or its
    /// host's name.
    ///
    /// # Errors
    /// There is no such job, it brought nothing back, several did and none is named, or the controller could not be reached; the stream fails if the connection breaks.
    pub async fn artifact_archive(
        &self,
        id: JobId,
        agent: Option<&str>,
    ) -> Result<impl Stream<Item = Result<Bytes, Error>> + Send + use<>, Error> {
        let request = self
            .to(Method::GET, &format!("/jobs/{id}/artifacts"))
            .query(&[("format", "archive")])
            .query(&agent.map(|agent| ("agent", agent)).into_iter().collect::<Vec<_>>());
        self.download(request).await
    }

    /// The body of an answer as it arrives. It may take as long as it needs, but not make no progress.
    pub(crate) async fn download(&self, request: RequestBuilder) -> Result<impl Stream<Item = Result<Bytes, Error>> + Send + use<>, Error> {
        let response = self.send(request, ANSWER_TIMEOUT).await?;
        let url = self.url().to_owned();
        let patience = self.stalled_after();
        Ok(futures::stream::unfold(Some(response), move |response| {
            let url = url.clone();
            async move {
                let mut response = response?;
                match tokio::time::timeout(patience, response.chunk()).await {
                    Ok(Ok(chunk)) => Some((Ok(chunk?), Some(response))),
                    Ok(Err(error)) => Some((Err(Error::unreachable(&url, error)), None)),
                    Err(_) => Some((Err(Error::silent(&url, patience)), None)),
                }
            }
        }))
    }
}

/// Ends when nothing was taken of an upload for `patience`; after its last piece the answer has its own time besides. Gives how long it was.
async fn stall(mut progressed: watch::Receiver<()>, patience: Duration) -> Duration {
    loop {
        match tokio::time::timeout(patience, progressed.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => {
                tokio::time::sleep(patience + ANSWER_TIMEOUT).await;
                return patience + ANSWER_TIMEOUT;
            }
            Err(_) => return patience,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;
    use crate::client::ClientConfig;

    const SHORT: Duration = Duration::from_millis(100);

    /// A server that says `answer` to every request once it has its head, and then nothing.
    async fn server(answer: &'static str) -> (Client, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
                open.push(stream);
            }
        });
        (Client::new(ClientConfig { url, token: None }).unwrap().with_stalled_after(SHORT), tasks)
    }

    #[tokio::test]
    async fn whether_a_bundle_is_there_is_only_said_by_who_knows() {
        for (answer, expected, is_retryable) in [
            ("HTTP/1.1 200 OK\r\n\r\n", Ok(true), false),
            ("HTTP/1.1 404 Not Found\r\n\r\n", Ok(false), false),
            ("HTTP/1.1 403 Forbidden\r\n\r\n", Err(Some(ErrorCode::Forbidden)), false),
            ("HTTP/1.1 502 Bad Gateway\r\n\r\n", Err(None), true),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n", Err(None), true),
            ("HTTP/1.1 504 Gateway Timeout\r\n\r\n", Err(None), true),
            ("HTTP/1.1 418 Teapot\r\n\r\n", Err(None), false),
        ] {
            let (client, _tasks) = server(answer).await;
            let found = client.bundle_exists(&"0".repeat(64)).await;
            assert_eq!(found.as_ref().is_err_and(Error::is_retryable), is_retryable, "{answer}");
            assert_eq!(found.map_err(|error| error.code()), expected, "{answer}");
        }
    }

    #[tokio::test]
    async fn a_download_that_stalls_ends_with_an_error() {
        let (client, _tasks) = server("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").await;
        let chunks: Vec<_> = client.artifact_archive(JobId::from_bits(1), None).await.unwrap().collect().await;
        assert_eq!(chunks[0].as_ref().unwrap(), "abc");
        assert!(matches!(&chunks[1..], [Err(error)] if error.is_retryable()));
    }

    #[tokio::test]
    async fn an_upload_that_nobody_takes_ends_with_an_error() {
        let (client, _tasks) = server("").await;
        let endless = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![0; 1 << 20])));
        let stored = client.put_bundle(&"0".repeat(64), 1 << 40, endless).await;
        assert!(stored.is_err_and(|error| error.is_retryable()));
    }
}
