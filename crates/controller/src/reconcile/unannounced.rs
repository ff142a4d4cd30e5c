//! Jobs that nobody was told of: announced again where their announcement is missing.
//!
//! Only what waits. A running execution's announcement is its agent's claim; a second one would start it twice.

use std::time::Duration;

use jiff::Timestamp;
use longshore_model::job::Execution;
use longshore_model::{ExecutionState, JobId};
use longshore_store::Error as StoreError;

use super::{Cursor, after, candidates};
use crate::app::{App, fold};

/// How long a job may be pending before somebody looks whether it was announced.
const PENDING_FOR: Duration = Duration::from_secs(10);
/// How long after a retry's time somebody looks whether it is still announced.
const RETRY_OVERDUE: Duration = Duration::from_secs(30);

/// One pass.
pub(super) async fn pass(app: App, cursor: Cursor, now: Timestamp) -> Result<Cursor, StoreError> {
    let (jobs, next) = candidates(&app, cursor, |entry| {
        entry.shares.iter().any(|share| waits(&share.execution, due(entry.stored_at, entry.not_before), now))
    });
    for job in jobs {
        announce(&app, job, now).await?;
    }
    Ok(next)
}

async fn announce(app: &App, job: JobId, now: Timestamp) -> Result<(), StoreError> {
    let Some(record) = app.load(job).await? else { return Ok(()) };
    if !fold(&record).0.iter().any(|(_, execution)| waits(execution, due(record.stored_at, record.definition.not_before), now)) {
        return Ok(());
    }
    if app.store.work.announce(&record.definition, record.definition_revision).await? {
        tracing::warn!(job.id = %job, "a job was not announced, and is now");
    }
    Ok(())
}

/// When a job could first have been started. Before its time a scheduled job's announcement is with an agent that gives it back.
fn due(stored_at: Timestamp, not_before: Option<Timestamp>) -> Timestamp {
    not_before.map_or(stored_at, |at| at.max(stored_at))
}

fn waits(execution: &Execution, due: Timestamp, now: Timestamp) -> bool {
    match execution.state() {
        ExecutionState::Pending => now > after(due, PENDING_FOR),
        ExecutionState::Retryable => execution.retry_not_before().is_some_and(|at| now > after(at, RETRY_OVERDUE)),
        ExecutionState::Running
        | ExecutionState::Completed
        | ExecutionState::Failed
        | ExecutionState::Skipped
        | ExecutionState::Cancelled
        | ExecutionState::Expired
        | ExecutionState::Lost => false,
    }
}
