//! Executions that ended by an event whose writer did not get to write the answer.

use jiff::Timestamp;
use longshore_model::{ExecutionState, JobId};
use longshore_store::{Answered, Error as StoreError};

use super::{Cursor, LOADS_MAX, each};
use crate::app::{App, cancel, fold};

/// One pass.
pub(super) async fn pass(app: App, cursor: Cursor, now: Timestamp) -> Result<Cursor, StoreError> {
    let jobs = app.index().owing(cursor, LOADS_MAX);
    for job in &jobs {
        each("owed", *job, answer(&app, *job, now).await)?;
    }
    Ok(jobs.last().copied().filter(|_| jobs.len() == LOADS_MAX))
}

async fn answer(app: &App, job: JobId, now: Timestamp) -> Result<(), StoreError> {
    let Some(record) = app.load(job).await? else { return Ok(()) };
    for (id, execution) in fold(&record).0 {
        if execution.is_answered() {
            continue;
        }
        let answer = match execution.state() {
            ExecutionState::Cancelled => {
                cancel::cancelled(&record.definition, id, &execution, execution.cancel_requested_by().unwrap_or("an unknown caller"), now)
            }
            ExecutionState::Expired => cancel::expired(&record.definition, id, &execution, now),
            ExecutionState::Pending
            | ExecutionState::Running
            | ExecutionState::Retryable
            | ExecutionState::Completed
            | ExecutionState::Failed
            | ExecutionState::Skipped
            | ExecutionState::Lost => continue,
        };
        // Another controller, or whoever owes it, may have been first.
        if app.store.ledger.answer(&answer).await? == Answered::Stored {
            app.metrics.repaired("owed");
            tracing::info!(job.id = %job, execution = %id, "an answer that was owed is written");
        }
    }
    if let Some(record) = app.load(job).await?
        && fold(&record).is_final()
    {
        app.store.work.withdraw(&record.definition).await?;
    }
    Ok(())
}
