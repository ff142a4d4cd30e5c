//! Work that nobody can hear of: announced again.
//!
//! What waits must have its announcement, and one that was offered long ago and led to nothing (the broker's deliveries are used up, or
//! its agent died before it could claim) counts as missing. What runs has its agent's claim for an announcement, unless that agent is
//! gone; then another must be able to hear of it and judge by the job's own policy.

use std::time::Duration;

use jiff::Timestamp;
use longshore_model::job::Execution;
use longshore_model::{ExecutionState, JobId};
use longshore_store::{Absence, Error as StoreError};

use super::{Cursor, after, candidates};
use crate::app::{App, fold};

/// How long a job may be pending before somebody looks whether it was announced.
const PENDING_FOR: Duration = Duration::from_secs(10);
/// How long after a retry's time somebody looks whether it is still announced.
const RETRY_OVERDUE: Duration = Duration::from_secs(30);
/// How long after every claim on it must have lapsed an announcement counts as spent.
const SPENT_AFTER: Duration = Duration::from_secs(30);

/// One pass.
pub(super) async fn pass(app: App, cursor: Cursor, now: Timestamp) -> Result<Cursor, StoreError> {
    let (jobs, next) = candidates(&app, cursor, |entry| {
        entry.shares.iter().any(|share| missing(&app, &share.execution, due(entry.stored_at, entry.not_before), now).is_some())
    });
    for job in jobs {
        announce(&app, job, now).await?;
    }
    Ok(next)
}

async fn announce(app: &App, job: JobId, now: Timestamp) -> Result<(), StoreError> {
    let Some(record) = app.load(job).await? else { return Ok(()) };
    let due = due(record.stored_at, record.definition.not_before);
    let absences = fold(&record).0.into_iter().filter_map(|(_, execution)| missing(app, &execution, due, now));
    let Some(absence) = absences.max_by_key(|absence| *absence == Absence::GoneOrSpent) else { return Ok(()) };
    if app.store.work.announce(&record.definition, record.definition_revision, absence).await? {
        tracing::warn!(job.id = %job, ?absence, "a job was not announced, and is now");
    }
    Ok(())
}

/// When a job could first have been started. Before its time a scheduled job's announcement is with an agent that gives it back.
fn due(stored_at: Timestamp, not_before: Option<Timestamp>) -> Timestamp {
    not_before.map_or(stored_at, |at| at.max(stored_at))
}

/// Whether an announcement may be missing, and what counts as one.
fn missing(app: &App, execution: &Execution, due: Timestamp, now: Timestamp) -> Option<Absence> {
    let spent = |since: Timestamp| now > after(after(since, app.config.lease), SPENT_AFTER);
    let waits = |since: Timestamp, patience: Duration| {
        (now > after(since, patience)).then(|| if spent(since) { Absence::GoneOrSpent } else { Absence::Gone })
    };
    match execution.state() {
        ExecutionState::Pending => waits(due, PENDING_FOR),
        ExecutionState::Retryable => waits(execution.retry_not_before()?, RETRY_OVERDUE),
        ExecutionState::Running => {
            let (holder, since) = (execution.holder()?.0, execution.started_at()?);
            (spent(since) && app.fleet().is_gone(holder, since)).then_some(Absence::GoneOrSpent)
        }
        ExecutionState::Completed
        | ExecutionState::Failed
        | ExecutionState::Skipped
        | ExecutionState::Cancelled
        | ExecutionState::Expired
        | ExecutionState::Lost => None,
    }
}
