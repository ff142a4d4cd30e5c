//! What a job's executions brought back: the list from their answers, the archive of one as it is stored, or one file out of it.
//!
//! A file is found by comparing names as text while the archive streams by; nothing is unpacked to a file system.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longshore_model::JobId;
use longshore_model::access::Caller;
use longshore_model::limits::ARTIFACTS_LISTED_MAX;
use longshore_model::wire::record::Answer;
use longshore_model::wire::rest::{ArtifactArchive, ArtifactFile, ArtifactList};
use longshore_model::wire::result::{ArchiveInfo, WorkspaceResult};
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
/// Hosts that a refusal names.
const HOSTS_NAMED: usize = 10;
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

/// What the list of a job's artifacts has; of one agent if it is named.
pub(crate) async fn list(app: &App, caller: &Caller, id: JobId, agent: Option<&str>) -> Result<ArtifactList, Error> {
    permit(caller, "job:read")?;
    let record = app.load(id).await?.ok_or_else(|| Error::no_job(id))?;
    let mut list = ArtifactList { items: Vec::new(), archives: Vec::new(), archive_bytes: None, unlisted: 0 };
    for answer in answers(&record, agent)? {
        // One at a time: a job may have thousands of executions.
        let Some(WorkspaceResult { files, archive, .. }) = result(app, answer).await? else { continue };
        let listed = files.created.len() + files.modified.len();
        if let Some(ArchiveInfo { size, .. }) = archive {
            *list.archive_bytes.get_or_insert(0) += size;
            let (execution, hostname) = (answer.execution, answer.hostname.clone());
            list.archives.push(ArtifactArchive { execution, agent: answer.agent, hostname, bytes: size, files: listed + files.unlisted });
        }
        let room = ARTIFACTS_LISTED_MAX - list.items.len();
        list.unlisted += files.unlisted + listed.saturating_sub(room);
        let of = |file| ArtifactFile { file, execution: answer.execution, hostname: answer.hostname.clone() };
        list.items.extend(files.created.into_iter().chain(files.modified).take(room).map(of));
    }
    list.items.sort_by(|a, b| (&a.file.path, &a.hostname, a.execution).cmp(&(&b.file.path, &b.hostname, b.execution)));
    Ok(list)
}

/// The archive of what an execution brought back: of the only one, or of the agent that is named.
pub(crate) async fn archive(app: &App, caller: &Caller, id: JobId, agent: Option<&str>) -> Result<Archive, Error> {
    permit(caller, "job:read")?;
    let nothing = || Error::NotFound { what: format!("archive of job {id}: it brought nothing back") };
    let record = app.load(id).await?.ok_or_else(|| Error::no_job(id))?;
    let mut with_archive = Vec::new();
    for answer in answers(&record, agent)? {
        if result(app, answer).await?.is_some_and(|result| result.archive.is_some()) {
            with_archive.push(answer);
        }
        if with_archive.len() > HOSTS_NAMED {
            break;
        }
    }
    let execution = match with_archive.as_slice() {
        [] => return Err(nothing()),
        [one] => one.execution,
        several => return Err(Error::SeveralHosts { names: names(several) }),
    };
    let name = archive_name(id, execution);
    let info = app.store.objects.info(&name).await?.ok_or_else(nothing)?;
    let content = app.store.objects.get(&name).await?.ok_or_else(nothing)?;
    Ok(Archive { size: info.size, content: Box::pin(Patient::new(content, IDLE_MAX, std::future::pending())) })
}

/// One file out of the archive.
pub(crate) async fn file(app: &App, caller: &Caller, id: JobId, agent: Option<&str>, path: String) -> Result<File, Error> {
    let absent = || Error::NotFound { what: format!("file {path:?} among the artifacts of job {id}") };
    let archive = match archive(app, caller, id, agent).await {
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

/// The answers of a job, in the order of its executions; those of one agent, by its id or its host's name, if it is named.
fn answers<'a>(record: &'a JobRecord, agent: Option<&str>) -> Result<Vec<&'a Answer>, Error> {
    let Some(name) = agent else {
        let mut all: Vec<&Answer> = record.answers.iter().collect();
        all.sort_by_key(|answer| answer.execution);
        return Ok(all);
    };
    let by_id = |answer: &&Answer| answer.agent.is_some_and(|agent| agent.to_string() == name) || answer.execution.to_string() == name;
    if let Some(one) = record.answers.iter().find(by_id) {
        return Ok(vec![one]);
    }
    let found: Vec<&Answer> = record.answers.iter().filter(|answer| answer.hostname.as_deref() == Some(name)).collect();
    match found.as_slice() {
        [] => Err(Error::NotFound { what: format!("answer of {name:?} to job {}", record.definition.id) }),
        [_] => Ok(found),
        several => Err(Error::SeveralHosts { names: names(several) }),
    }
}

/// Hosts with their agents' ids, the first of them.
fn names(answers: &[&Answer]) -> String {
    let name = |answer: &&Answer| {
        let agent = answer.agent.map_or_else(|| answer.execution.to_string(), |agent| agent.to_string());
        answer.hostname.as_ref().map_or_else(|| agent.clone(), |host| format!("{host} ({agent})"))
    };
    let named: Vec<String> = answers.iter().take(HOSTS_NAMED).map(name).collect();
    if answers.len() > HOSTS_NAMED { format!("{} and more", named.join(", ")) } else { named.join(", ") }
}

/// What a workspace job's answer says; `None` if it is of another operation or says nothing.
async fn result(app: &App, answer: &Answer) -> Result<Option<WorkspaceResult>, Error> {
    Ok(serde_json::from_value(super::results::whole(app, answer).await?).ok())
}
