//! Uploads: a directory, packed, named by its SHA-256 and stored only if it has it.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures::{Stream, StreamExt as _};
use jiff::{SignedDuration, Timestamp};
use longshore_model::access::Caller;
use longshore_model::job::Submission;
use longshore_model::limits::BUNDLE_BYTES_MAX;
use longshore_model::wire::rest::BundleView;
use longshore_store::{ObjectInfo, ObjectReader, bundle_name};
use sha2::{Digest, Sha256};
use tokio::sync::RwLockReadGuard;
use tokio_util::io::StreamReader;

use super::patience::{IDLE_MAX, Patient};
use super::{App, Error, permit};

/// An object for a reader beside the API; fails if the store brings nothing for long.
pub(crate) fn patient(content: ObjectReader) -> Patient {
    Patient::new(content, IDLE_MAX, std::future::pending())
}

/// How long an upload may make no progress.
const STALLED_FOR: Duration = Duration::from_secs(60);

/// Which part of its time a bundle counts as fresh for.
const FRESH_PART: u32 = 8;

/// Makes sure that the bundle which a submission names is there for as long as the job may need it, and keeps it from being deleted until
/// the job is in the index.
pub(super) async fn hold<'a>(app: &'a App, submission: &Submission) -> Result<Option<RwLockReadGuard<'a, ()>>, Error> {
    let Some(sha256) = submission.call.bundle() else { return Ok(None) };
    let held = app.bundles.read().await;
    let refused = |detail: String| Err(Error::field("/args/bundle", detail));
    let Some(info) = app.store.objects.info(&bundle_name(sha256)).await? else {
        return refused("no such bundle is stored: upload it with PUT /api/v1/bundles/SHA256 first".to_owned());
    };
    let (kept, needed) = (after(info.stored_at, app.config.objects_retention), submission.outlives());
    if kept < needed {
        return refused(format!(
            "it is kept until {kept}, and the job may need it until {needed}: shorten `expires_in`, or upload it again"
        ));
    }
    Ok(Some(held))
}

fn after(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| at.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}

/// What is known of a stored bundle.
pub(crate) async fn find(app: &App, caller: &Caller, sha256: &str) -> Result<BundleView, Error> {
    permit(caller, "workspace:execute")?;
    stored(app, sha256).await?.ok_or_else(|| Error::NotFound { what: format!("bundle {sha256}") })
}

/// Stores a bundle, unless it is there already; then `content` is not read.
pub(crate) async fn put(
    app: &App,
    caller: &Caller,
    sha256: &str,
    content: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Result<BundleView, Error> {
    permit(caller, "workspace:execute")?;
    if let Some(view) = stored(app, sha256).await? {
        return Ok(view);
    }
    let verdict = Arc::new(Mutex::new(None));
    let checked = checked(content, sha256.to_owned(), Arc::clone(&verdict));
    // In a task of its own: a client that goes away ends the content, and the store then removes what it had taken of it.
    let (objects, name) = (Arc::clone(&app.store.objects), bundle_name(sha256));
    let storing = app.streams.spawn(async move { objects.put(&name, Box::pin(StreamReader::new(checked))).await });
    let outcome = storing.await.map_err(|error| Error::Upload(io::Error::other(error)))?;
    // The store saw a broken stream; why it broke was noted.
    if let Some(refused) = verdict.lock().expect("no holder of this lock panics").take() {
        return Err(refused);
    }
    let info = outcome?;
    tracing::info!(bundle = sha256, size_bytes = info.size, caller = %caller.name, "bundle stored");
    Ok(BundleView { sha256: sha256.to_owned(), size: info.size, existed: false })
}

/// One that is old counts as absent, so that an upload stores it anew: a job that names it must find it for as long as it may run.
async fn stored(app: &App, sha256: &str) -> Result<Option<BundleView>, Error> {
    let info = app.store.objects.info(&bundle_name(sha256)).await?;
    let is_fresh = |info: &ObjectInfo| app.now() < after(info.stored_at, app.config.objects_retention / FRESH_PART);
    Ok(info.filter(is_fresh).map(|info| BundleView { sha256: sha256.to_owned(), size: info.size, existed: true }))
}

struct Checker<S> {
    content: std::pin::Pin<Box<S>>,
    hash: Sha256,
    bytes: u64,
    announced: String,
    verdict: Arc<Mutex<Option<Error>>>,
    is_over: bool,
}

/// Passes the content on. Breaks the stream instead of ending it when the digest is another than announced, so that nothing under
/// this name ever becomes visible that does not have it.
pub(crate) fn checked<S>(
    content: S,
    announced: String,
    verdict: Arc<Mutex<Option<Error>>>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let checker = Checker { content: Box::pin(content), hash: Sha256::new(), bytes: 0, announced, verdict, is_over: false };
    Box::pin(futures::stream::unfold(checker, |mut checker| async move { checker.next().await.map(|item| (item, checker)) }))
}

impl<S: Stream<Item = io::Result<Bytes>>> Checker<S> {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.is_over {
            return None;
        }
        let Ok(arrived) = tokio::time::timeout(STALLED_FOR, self.content.next()).await else {
            return Some(self.refuse(Error::Upload(io::ErrorKind::TimedOut.into())));
        };
        match arrived {
            Some(Ok(chunk)) => {
                self.bytes += chunk.len() as u64;
                if self.bytes > BUNDLE_BYTES_MAX {
                    return Some(self.refuse(Error::TooLarge { max: BUNDLE_BYTES_MAX }));
                }
                self.hash.update(&chunk);
                Some(Ok(chunk))
            }
            Some(Err(error)) => Some(self.refuse(Error::Upload(error))),
            None => {
                self.is_over = true;
                let found = HEXLOWER.encode(&self.hash.finalize_reset());
                if found == self.announced {
                    return None;
                }
                let announced = self.announced.clone();
                Some(self.refuse(Error::DigestMismatch { announced, found }))
            }
        }
    }

    fn refuse(&mut self, error: Error) -> io::Result<Bytes> {
        self.is_over = true;
        let broken = io::Error::other(error.to_string());
        *self.verdict.lock().expect("no holder of this lock panics") = Some(error);
        Err(broken)
    }
}
