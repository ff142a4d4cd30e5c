//! What a job brought back: the list from its answers, the archive as it is stored, or one file out of it.
//!
//! A file is found by comparing names as text while the archive streams by; nothing is unpacked to a file system.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longshore_model::access::Caller;
use longshore_model::wire::rest::ArtifactList;
use longshore_model::wire::result::WorkspaceResult;
use longshore_model::{ExecutionId, JobId};
use longshore_store::{JobRecord, ObjectReader, archive_name};
use tokio::sync::{mpsc, oneshot};
use tokio_util::io::SyncIoBridge;

use super::patience::{IDLE_MAX, Patient};
use super::search::{READER_STALLED_AFTER, Reader, search};
use super::{App, Error, permit};

/// Chunks that may wait for the reader.
const CHUNKS_WAITING: usize = 8;
/// Searches at once: each has a thread and a window of memory.
pub(super) const SEARCHES_MAX: usize = 16;
/// How long a search waits for its turn.
const TURN_WITHIN: Duration = Duration::from_secs(10);

/// An archive, packed.
pub(crate) struct Archive {
    pub(crate) size: u64,
    pub(crate) content: ObjectReader,
}

/// One file.
pub(crate) struct File {
    pub(crate) size: u64,
    pub(crate) content: mpsc::Receiver<io::Result<Bytes>>,
}

/// What the list of a job's artifacts has.
pub(crate) async fn list(app: &App, caller: &Caller, id: JobId) -> Result<ArtifactList, Error> {
    permit(caller, "job:read")?;
    let record = app.load(id).await?.ok_or_else(|| Error::no_job(id))?;
    let mut list = ArtifactList { items: Vec::new(), archive_bytes: None, unlisted: 0 };
    for (_, result) in results(app, &record).await? {
        list.items.extend(result.files.created);
        list.items.extend(result.files.modified);
        list.unlisted += result.files.unlisted;
        if let Some(archive) = result.archive {
            *list.archive_bytes.get_or_insert(0) += archive.size;
        }
    }
    list.items.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(list)
}

/// The archive of what a job brought back.
pub(crate) async fn archive(app: &App, caller: &Caller, id: JobId) -> Result<Archive, Error> {
    permit(caller, "job:read")?;
    let nothing = || Error::NotFound { what: format!("archive of job {id}: it brought nothing back") };
    let record = app.load(id).await?.ok_or_else(|| Error::no_job(id))?;
    let with_archive =
        results(app, &record).await?.into_iter().find(|(_, result)| result.archive.is_some()).map(|(execution, _)| execution);
    let name = archive_name(id, with_archive.ok_or_else(nothing)?);
    let info = app.store.objects.info(&name).await?.ok_or_else(nothing)?;
    let content = app.store.objects.get(&name).await?.ok_or_else(nothing)?;
    Ok(Archive { size: info.size, content: Box::pin(Patient::new(content, IDLE_MAX, std::future::pending())) })
}

/// One file out of the archive.
pub(crate) async fn file(app: &App, caller: &Caller, id: JobId, path: String) -> Result<File, Error> {
    let absent = || Error::NotFound { what: format!("file {path:?} among the artifacts of job {id}") };
    let archive = match archive(app, caller, id).await {
        Err(Error::NotFound { what }) if what.starts_with("archive") => return Err(absent()),
        other => other?,
    };
    let turn = tokio::time::timeout(TURN_WITHIN, Arc::clone(&app.searches).acquire_owned()).await.map_err(|_| Error::Busy)?;
    let wanted = path.clone().into_bytes();
    let (found_tx, found) = oneshot::channel();
    let (tx, content) = mpsc::channel(CHUNKS_WAITING);
    let gone = tx.clone();
    let packed = SyncIoBridge::new(Patient::new(archive.content, IDLE_MAX, async move { gone.closed().await }));
    let reader = Reader { found: found_tx, content: tx, stalled_after: READER_STALLED_AFTER };
    app.streams.spawn_blocking(move || {
        search(packed, &wanted, reader);
        drop(turn);
    });
    match found.await {
        Ok(Ok(Some(size))) => Ok(File { size, content }),
        Ok(Ok(None)) => Err(absent()),
        Ok(Err(error)) => Err(Error::Archive(error)),
        Err(_) => Err(Error::Archive(io::Error::other("the search was given up"))),
    }
}

async fn results(app: &App, record: &JobRecord) -> Result<Vec<(ExecutionId, WorkspaceResult)>, Error> {
    let mut results = Vec::new();
    for answer in &record.answers {
        if let Ok(result) = serde_json::from_value(super::results::whole(app, answer).await?) {
            results.push((answer.execution, result));
        }
    }
    Ok(results)
}
