//! Results that are too large for their answers: they are in the object store, and are read from there when somebody wants to see them.
//!
//! In a job they are shown in place as far as they fit together, and as a path otherwise. What is in memory at once is bounded over all
//! readers; each is believed only when its digest is the answer's.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use data_encoding::HEXLOWER;
use longshore_model::access::Caller;
use longshore_model::limits::RESULT_BYTES_MAX;
use longshore_model::wire::record::{Answer, ResultObject};
use longshore_model::wire::rest::{JobView, LargeResult};
use longshore_model::{ExecutionId, JobId};
use longshore_store::{JobRecord, ObjectReader, result_name};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

use super::patience::{IDLE_MAX, Patient};
use super::{App, Error, chain, permit};

/// Bytes of JSON of large results in memory at once, over all readers: enough for the largest. Decoded and encoded again each takes up to
/// three times its size for a moment.
const IN_MEMORY_BYTES_MAX: u64 = RESULT_BYTES_MAX;
/// The same, as places to wait for.
pub(super) const IN_MEMORY_KIB_MAX: usize = (IN_MEMORY_BYTES_MAX / 1024) as usize;
/// How long a reader waits for its room.
const ROOM_WITHIN: Duration = Duration::from_secs(10);

/// A job as it is shown, and the room in memory that its large results take up until the answer is sent.
pub(crate) struct Shown {
    pub(crate) job: JobView,
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

/// What an execution shows of a large result before it is read.
pub(super) fn stand_in(job: JobId, execution: ExecutionId, answer: &Answer) -> Option<LargeResult> {
    let ResultObject { bytes, sha256 } = answer.result_object.clone()?;
    Some(LargeResult { bytes, sha256, href: format!("/api/v1/jobs/{job}/executions/{execution}/result"), problem: None })
}

/// Puts large results in their places: all of a job's that fit together into what one may have, in the order of its executions.
///
/// Never fails: one that cannot be read says why.
pub(super) async fn fill(app: &App, record: &JobRecord, mut job: JobView) -> Shown {
    let mut left = RESULT_BYTES_MAX;
    let wanted: Vec<usize> = (0..job.executions.len())
        .filter(|place| {
            let fits = job.executions[*place].large_result.as_ref().and_then(|large| left.checked_sub(large.bytes));
            left = fits.unwrap_or(left);
            fits.is_some()
        })
        .collect();
    if wanted.is_empty() {
        return Shown { job, room: None };
    }
    let room = room(app, RESULT_BYTES_MAX - left).await;
    for place in wanted {
        let execution = &mut job.executions[place];
        let Some(answer) = record.answer_of(execution.id) else { continue };
        let read = match &room {
            Some(_) => read(app, answer).await,
            None => Err("too many large results are being read at the moment; ask again, or read it alone".to_owned()),
        };
        match (read, &mut execution.large_result) {
            (Ok(result), _) => (execution.result, execution.large_result) = (Some(result), None),
            (Err(problem), Some(large)) => large.problem = Some(problem),
            (Err(_), None) => {}
        }
    }
    Shown { job, room }
}

/// An answer's result, wherever it is; null if it has none. What the caller makes of it has to be small.
pub(super) async fn whole(app: &App, answer: &Answer) -> Result<Value, Error> {
    let Some(object) = &answer.result_object else { return Ok(answer.result.clone().unwrap_or_default()) };
    let _room = room(app, object.bytes).await.ok_or(Error::Busy)?;
    read(app, answer).await.map_err(|problem| Error::Result { problem })
}

async fn room(app: &App, bytes: u64) -> Option<OwnedSemaphorePermit> {
    let kib = u32::try_from(bytes.div_ceil(1024)).ok()?;
    tokio::time::timeout(ROOM_WITHIN, Arc::clone(&app.large_results).acquire_many_owned(kib)).await.ok()?.ok()
}

/// Reads a large result into memory, for which the caller has the room.
async fn read(app: &App, answer: &Answer) -> Result<Value, String> {
    let Some(object) = &answer.result_object else { return Ok(answer.result.clone().unwrap_or_default()) };
    let mut content = open(app, answer, object).await?;
    let mut bytes = Vec::with_capacity(usize::try_from(object.bytes).unwrap_or_default());
    content.read_to_end(&mut bytes).await.map_err(|error| format!("it could not be read from the object store: {error}"))?;
    let decoding = tokio::task::spawn_blocking(move || serde_json::from_slice(&bytes));
    let decoded = decoding.await.map_err(io::Error::other).and_then(|decoded| decoded.map_err(io::Error::from));
    decoded.map_err(|error| format!("it is not JSON: {error}"))
}

/// A result as JSON.
pub(crate) enum Content {
    Small(Value),
    Large { bytes: u64, content: ObjectReader },
}

/// Reads one execution's result, whatever its size, without having it in memory.
pub(crate) async fn get(app: &App, caller: &Caller, id: JobId, execution: ExecutionId) -> Result<Content, Error> {
    permit(caller, "job:read")?;
    let nothing = || Error::NotFound { what: format!("result of execution {execution} of job {id}") };
    let Some(answer) = app.store.ledger.load_answer(id, execution).await? else {
        app.load(id).await?.ok_or_else(|| Error::no_job(id))?;
        return Err(nothing());
    };
    match &answer.result_object {
        None => answer.result.map(Content::Small).ok_or_else(nothing),
        Some(object) => {
            let content = open(app, &answer, object).await.map_err(|problem| Error::Result { problem })?;
            Ok(Content::Large { bytes: object.bytes, content })
        }
    }
}

/// Opens a large result. Reading fails at the end if it is not what the answer says; what is known to be something else is not opened.
async fn open(app: &App, answer: &Answer, object: &ResultObject) -> Result<ObjectReader, String> {
    let name = result_name(answer.job, answer.execution, answer.attempts);
    let unread = |error: longshore_store::Error| format!("it could not be read from the object store: {}", chain(&error));
    let gone = || "it is not in the object store any more: it was removed, or is older than `nats.objects.max_age`".to_owned();
    let stored = app.store.objects.info(&name).await.map_err(unread)?.ok_or_else(gone)?;
    if (stored.size, &stored.sha256) != (object.bytes, &object.sha256) {
        return Err(format!(
            "the object store has something else in its place: SHA-256 {} of {} bytes, not {} of {}",
            stored.sha256, stored.size, object.sha256, object.bytes
        ));
    }
    let content = app.store.objects.get(&name).await.map_err(unread)?.ok_or_else(gone)?;
    let content = Box::pin(Patient::new(content, IDLE_MAX, std::future::pending()));
    Ok(Box::pin(Checked { content, hash: Sha256::new(), left: object.bytes, sha256: object.sha256.clone() }))
}

/// Passes content on whose size and digest are known, and fails where it is another.
struct Checked {
    content: ObjectReader,
    hash: Sha256,
    left: u64,
    sha256: String,
}

impl AsyncRead for Checked {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        std::task::ready!(self.content.as_mut().poll_read(cx, buffer))?;
        let read = &buffer.filled()[before..];
        let damaged = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, format!("its content is damaged: {what}")));
        let (n_read, is_end) = (read.len() as u64, read.is_empty());
        let Some(left) = self.left.checked_sub(n_read) else {
            // What goes with an error was not read.
            buffer.set_filled(before);
            return Poll::Ready(damaged("there is more than its answer says"));
        };
        self.left = left;
        self.hash.update(read);
        if is_end && buffer.remaining() > 0 {
            let is_whole = self.left == 0 && HEXLOWER.encode(&self.hash.finalize_reset()) == self.sha256;
            // Once told, the end stays the end.
            self.hash = Sha256::new();
            self.sha256 = if is_whole { HEXLOWER.encode(&Sha256::new().finalize()) } else { String::new() };
            return Poll::Ready(if is_whole { Ok(()) } else { damaged("its digest is not its answer's") });
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[tokio::test]
    async fn only_what_has_the_digest_and_the_size_is_passed_on_as_whole() {
        let sha256 = HEXLOWER.encode(&Sha256::digest("hello"));
        for (content, expected) in [("hello", true), ("hell", false), ("hellö", false), ("jello", false), ("hello!", false)] {
            let content: ObjectReader = Box::pin(Cursor::new(content));
            let mut checked = Checked { content, hash: Sha256::new(), left: 5, sha256: sha256.clone() };
            let mut read = Vec::new();
            assert_eq!(checked.read_to_end(&mut read).await.is_ok(), expected);
            assert_eq!(checked.read(&mut [0]).await.is_ok(), expected, "asked again it says the same");
        }
    }
}
