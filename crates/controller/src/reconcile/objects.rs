//! Large results and archives that nothing leads to: their agent was gone between the upload and the answer and another answer was first, or
//! their job was deleted, or dropped by its age, before they came.
//!
//! What has no answer yet is left alone, also when its agent is lost: its answer may still come, and leads to it. An upload in progress is
//! no object yet; one that broke off with its process leaves pieces, which go after an hour. An answer is written once and a job that is gone stays so, hence what is found here is true for good, and two passes do no
//! more than one.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use longshore_store::{Error as StoreError, ObjectOwner, Revision};

use super::{Cursor, after, each};
use crate::app::App;

/// From one page of the object store to the next. What is left costs room and nothing else, and of each result the ledger is asked.
pub(super) const EVERY: Duration = Duration::from_secs(10 * 60);
/// Before an object is looked at. Who stored it asks at once, itself, whether it is needed.
const SETTLED_AFTER: Duration = Duration::from_secs(10 * 60);
/// An upload that got nothing for so long has broken off: who sends nothing for a minute is not waited for.
const BROKEN_OFF_AFTER: Duration = Duration::from_secs(60 * 60);

/// One pass: a page of the object store.
pub(super) async fn pass(app: App, cursor: Cursor<Revision>, now: Timestamp) -> Result<Cursor<Revision>, StoreError> {
    if cursor.is_none() {
        let swept = app.store.objects.sweep(before(now, BROKEN_OFF_AFTER)).await?;
        if swept > 0 {
            tracing::info!(uploads = swept, "pieces of uploads that broke off are removed");
        }
    }
    let page = app.store.objects.page(cursor.unwrap_or(0)).await?;
    for (name, info) in page.items {
        if now > after(info.stored_at, SETTLED_AFTER)
            && let Some(owner) = ObjectOwner::of(&name)
            && is_suspect(&app, owner)
        {
            each("objects", owner.job, remove(&app, &name, owner).await)?;
        }
    }
    Ok(page.next)
}

fn before(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| at.checked_sub(by).ok()).unwrap_or(Timestamp::MIN)
}

/// Whether, as far as the index knows, its job is gone or its execution has an answer; an archive goes with its job.
fn is_suspect(app: &App, owner: ObjectOwner) -> bool {
    let index = app.index();
    let Some(entry) = index.get(owner.job) else { return true };
    owner.attempt.is_some() && entry.answered_at(owner.execution).is_some()
}

async fn remove(app: &App, name: &str, owner: ObjectOwner) -> Result<(), StoreError> {
    if let Some(record) = app.store.ledger.load_execution(owner.job, owner.execution).await? {
        let is_of_another =
            |attempt| record.answer.as_ref().is_some_and(|answer| answer.result_object.is_none() || answer.attempts != attempt);
        if !owner.attempt.is_some_and(is_of_another) {
            return Ok(());
        }
    }
    app.store.objects.delete(name).await?;
    app.metrics.repaired("objects");
    tracing::info!(job.id = %owner.job, object = name, "an object that nothing leads to is removed");
    Ok(())
}

#[cfg(test)]
mod tests;
