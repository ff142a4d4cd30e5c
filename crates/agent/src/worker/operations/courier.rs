//! Bundles down and archives up, over HTTP/1.1 to the controller that the worker is attached to, beside its session: bounded, with their digests
//! checked at the end that takes them, and tried again while the controller is away.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures::TryStreamExt as _;
use http_body_util::{BodyExt as _, Empty, Limited, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use longshore_exec::Archive;
use longshore_model::limits::BUNDLE_BYTES_MAX;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::Failure;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

use crate::worker::dial::Dialer;

/// Between tries while the controller is away.
const PAUSE: Duration = Duration::from_secs(1);
/// How long nothing may come.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How long an archive may take once it is begun, whatever the deadline of trying is.
const BRING_WITHIN: Duration = Duration::from_secs(3600);
/// Bytes of a refusal that are read.
const REFUSAL_BYTES_MAX: usize = 16 << 10;
/// What says of an archive what it hashes to.
const DIGEST: &str = "longshore-sha256";

/// A file that is removed when this is dropped.
pub(super) struct LocalFile(PathBuf);

impl LocalFile {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for LocalFile {
    fn drop(&mut self) {
        let _none_is_well = std::fs::remove_file(&self.0);
    }
}

/// Why something did not get through.
enum Fault {
    /// Worth another try.
    Passing(String),
    /// For good.
    Final(String),
}

type Body = BoxBody<Bytes, io::Error>;

pub(super) struct Courier {
    dialer: Dialer,
}

impl Courier {
    pub(super) fn new(dialer: Dialer) -> Self {
        Self { dialer }
    }

    /// Fetches the bundle of the pass's job. The fault says whether another attempt may succeed. Cancel-safe: nothing stays.
    pub(super) async fn fetch(
        &self,
        pass: Option<&str>,
        sha256: &str,
        to: PathBuf,
        deadline: Instant,
    ) -> Result<LocalFile, (Failure, bool)> {
        let fault = |message: String, is_transient| (Failure { code: ErrorCode::Staging, message }, is_transient);
        let Some(pass) = pass else {
            return Err(fault("the controller gave no pass for the bundle".to_owned(), false));
        };
        loop {
            let why = match timeout_at(deadline, self.fetch_once(pass, sha256, &to)).await {
                Ok(Ok(file)) => return Ok(file),
                Ok(Err(Fault::Final(why))) => return Err(fault(format!("the bundle {sha256} could not be fetched: {why}"), false)),
                Ok(Err(Fault::Passing(why))) => why,
                Err(_) => "it took too long".to_owned(),
            };
            if Instant::now() + PAUSE >= deadline {
                let code = ErrorCode::TimedOut;
                return Err((Failure { code, message: format!("the bundle {sha256} could not be fetched in time: {why}") }, true));
            }
            tracing::debug!(why, sha256, "a bundle could not be fetched; trying again");
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn fetch_once(&self, pass: &str, sha256: &str, to: &Path) -> Result<LocalFile, Fault> {
        let full = |error: io::Error| Fault::Passing(format!("it cannot be kept: {error}"));
        let mut driving = JoinSet::new();
        let empty = Empty::new().map_err(|never| match never {}).boxed();
        let answer = self.ask(&mut driving, Method::GET, "bundle", pass, (empty, 0), None).await?;
        let file = LocalFile(to.to_owned());
        if let Some(dir) = to.parent() {
            tokio::fs::create_dir_all(dir).await.map_err(full)?;
        }
        let mut out = tokio::fs::File::create(to).await.map_err(full)?;
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        let mut body = answer.into_body();
        loop {
            let frame = timeout(IDLE_MAX, body.frame()).await.map_err(|_| Fault::Passing("nothing more came".to_owned()))?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| Fault::Passing(error.to_string()))?;
            let Ok(data) = frame.into_data() else { continue };
            bytes += data.len() as u64;
            if bytes > BUNDLE_BYTES_MAX {
                return Err(Fault::Final(format!("it has more than {BUNDLE_BYTES_MAX} bytes")));
            }
            hash.update(&data);
            out.write_all(&data).await.map_err(full)?;
        }
        out.flush().await.map_err(full)?;
        let found = HEXLOWER.encode(&hash.finalize());
        if found != sha256 {
            return Err(Fault::Final(format!("it has the digest {found}: it was damaged or replaced")));
        }
        Ok(file)
    }

    /// Brings what a job made. Tried again until `deadline`, or soon after `stop`.
    pub(super) async fn bring(
        &self,
        pass: Option<&str>,
        archive: &Archive,
        deadline: Instant,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let fault =
            |message: String| Failure { code: ErrorCode::Collecting, message: format!("the archive could not be stored: {message}") };
        let Some(pass) = pass else { return Err(fault("the controller gave no pass for it".to_owned())) };
        loop {
            let why = match timeout(BRING_WITHIN, self.bring_once(pass, archive)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(Fault::Final(why))) => return Err(fault(why)),
                Ok(Err(Fault::Passing(why))) => why,
                Err(_) => "it took too long".to_owned(),
            };
            if Instant::now() >= deadline {
                return Err(fault(why));
            }
            tracing::debug!(why, "an archive could not be stored; trying again");
            if stop.is_cancelled() || stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
                // What was made is worth one more try.
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn bring_once(&self, pass: &str, archive: &Archive) -> Result<(), Fault> {
        let file = tokio::fs::File::open(archive.path()).await.map_err(|error| Fault::Final(format!("it cannot be read: {error}")))?;
        let size = file.metadata().await.map_err(|error| Fault::Final(format!("it cannot be read: {error}")))?.len();
        let body = StreamBody::new(ReaderStream::with_capacity(file, 128 << 10).map_ok(Frame::data));
        let mut driving = JoinSet::new();
        let digest = Some(archive.info().sha256.as_str());
        self.ask(&mut driving, Method::PUT, "archive", pass, (http_body_util::BodyExt::boxed(body), size), digest).await.map(drop)
    }

    /// One request on a connection of its own; `driving` moves its bytes as long as it lives. Another answer than 2xx is a fault.
    async fn ask(
        &self,
        driving: &mut JoinSet<()>,
        method: Method,
        what: &str,
        pass: &str,
        (body, size): (Body, u64),
        digest: Option<&str>,
    ) -> Result<Response<Incoming>, Fault> {
        let passing = |error: &dyn std::fmt::Display| Fault::Passing(error.to_string());
        let stream = self.dialer.open().await.map_err(|fault| Fault::Passing(fault.reason))?;
        let shaken = hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(|error| passing(&error))?;
        driving.spawn(async move {
            // A broken connection is seen by whoever waits for the answer.
            let _seen_there = connection.await;
        });
        let (host, path) = self.dialer.place();
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{path}/{what}"))
            .header(HOST, host)
            .header(AUTHORIZATION, format!("Bearer {pass}"));
        if let Some(digest) = digest {
            request = request.header(CONTENT_LENGTH, size).header(DIGEST, digest);
        }
        let request = request.body(body).map_err(|error| Fault::Final(error.to_string()))?;
        let answer = sender.send_request(request).await.map_err(|error| passing(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let text = timeout(IDLE_MAX, Limited::new(answer.into_body(), REFUSAL_BYTES_MAX).collect()).await;
        let text = text.ok().and_then(Result::ok).map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
        let detail = serde_json::from_str::<serde_json::Value>(&text).ok().and_then(|problem| Some(problem["detail"].as_str()?.to_owned()));
        let why = format!("the controller answered {status}{}", detail.map(|detail| format!(": {detail}")).unwrap_or_default());
        let is_passing = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        Err(if is_passing { Fault::Passing(why) } else { Fault::Final(why) })
    }
}
