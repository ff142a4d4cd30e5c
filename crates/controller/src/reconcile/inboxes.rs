//! What is addressed to agents and needs them no more: the execution has its answer, or its job is gone. An agent takes such an entry out itself,
//! unless it died just before and does not come back, or its job was deleted before the broker had announced it.
//!
//! What is lost stays: its agent may come back, and answer for it. An answer is written once and a job that is gone stays so, hence what
//! is found here is true for good, and two passes do no more than one.

use std::time::Duration;

use jiff::Timestamp;
use longshore_model::ExecutionId;
use longshore_store::{Addressed, Error as StoreError, Revision};

use super::{Cursor, each};
use crate::app::App;

/// From one page of the inboxes to the next. What is left costs room and nothing else.
pub(super) const EVERY: Duration = Duration::from_secs(60);

/// One pass: a page of the inboxes.
pub(super) async fn pass(app: App, cursor: Cursor<Revision>, _: Timestamp) -> Result<Cursor<Revision>, StoreError> {
    let page = app.store.work.addressed(cursor.unwrap_or(0)).await?;
    for entry in page.items {
        if is_suspect(&app, entry) {
            each("inboxes", entry.job, take_out(&app, entry).await)?;
        }
    }
    Ok(page.next)
}

/// Whether, as far as the index knows, its job is gone or its execution has an answer.
fn is_suspect(app: &App, entry: Addressed) -> bool {
    let index = app.index();
    index.get(entry.job).is_none_or(|known| known.answered_at(ExecutionId::Agent(entry.agent)).is_some())
}

async fn take_out(app: &App, entry: Addressed) -> Result<(), StoreError> {
    let record = app.store.ledger.load_execution(entry.job, entry.agent.into()).await?;
    if record.is_none_or(|record| record.answer.is_some()) {
        app.store.work.take_out(entry).await?;
        app.metrics.repaired("inboxes");
        tracing::info!(job.id = %entry.job, agent.id = %entry.agent, "what needs its agent no more is taken out of its inbox");
    }
    Ok(())
}
