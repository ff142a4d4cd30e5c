//! Work that nobody can hear of: announced again.
//!
//! What waits must have its announcement, and one that was offered long ago and led to nothing (the broker's deliveries are used up, or
//! its agent died before it could claim) counts as missing. What runs has its agent's claim for an announcement, unless that agent has
//! been silent for longer than any claim lasts; then another must be able to hear of it and judge by the job's own policy. Every
//! announcement says which history it rests on, so that whoever takes it starts nothing if that has moved on.

use std::time::Duration;

use jiff::Timestamp;
use longshore_model::job::Execution;
use longshore_model::{ExecutionState, JobId};
use longshore_store::{Absence, Announcement, Error as StoreError, JobRecord};

use super::{Cursor, after, candidates, each};
use crate::app::{App, fold};

/// How long a job may be pending before somebody looks whether it was announced.
const PENDING_FOR: Duration = Duration::from_secs(5);
/// The same for a job for several, whose shares are written one by one: one that a crash left out is there within ten seconds.
const SHARES_PENDING_FOR: Duration = Duration::from_secs(3);
/// How long after its time a scheduled job, or a retry, is announced: an agent that was offered it too early has given it up.
const ON_TIME: Duration = Duration::from_secs(1);
/// How long after every claim on it must have lapsed an announcement counts as spent.
const SPENT_AFTER: Duration = Duration::from_secs(30);

/// One pass.
pub(super) async fn pass(app: App, cursor: Cursor, now: Timestamp) -> Result<Cursor, StoreError> {
    let (jobs, next) = candidates(&app, cursor, |entry| {
        let due = due(entry.stored_at, entry.not_before);
        entry.shares.iter().any(|share| {
            // Who waits for its turn under a concurrency key is another duty's.
            let is_ours = !entry.waits_for_turn(share);
            let pending_for = pending_for(entry.shares.len());
            is_ours && missing(&app, &share.execution, (entry.stored_at, due, pending_for), now).is_some()
        })
    });
    for job in jobs {
        each("unannounced", job, announce(&app, job, now).await)?;
    }
    Ok(next)
}

async fn announce(app: &App, job: JobId, now: Timestamp) -> Result<(), StoreError> {
    let Some(record) = app.load(job).await? else { return Ok(()) };
    for (id, execution) in fold(&record).0 {
        let Some(absence) = absence(app, &execution, &record, now) else { continue };
        let announcement = Announcement { execution: id, revision: record.announced_at(id), seen: record.revision(id), absence };
        if app.store.work.announce(&record.definition, announcement).await? {
            app.metrics.repaired("unannounced");
            tracing::warn!(job.id = %job, execution = %id, ?absence, "work was not announced, and is now");
        }
    }
    Ok(())
}

/// What counts as missing of work whose announcement may be missing.
pub(super) fn absence(app: &App, execution: &Execution, record: &JobRecord, now: Timestamp) -> Option<Absence> {
    let due = due(record.stored_at, record.definition.not_before);
    missing(app, execution, (record.stored_at, due, pending_for(record.definition.executions.len())), now)
}

fn pending_for(n_executions: usize) -> Duration {
    if n_executions > 1 { SHARES_PENDING_FOR } else { PENDING_FOR }
}

/// When a job could first have been started.
fn due(stored_at: Timestamp, not_before: Option<Timestamp>) -> Timestamp {
    not_before.map_or(stored_at, |at| at.max(stored_at))
}

/// Whether an announcement may be missing, and what counts as one: of a job that was stored, could first be started, and may wait for it, so.
fn missing(
    app: &App,
    execution: &Execution,
    (stored_at, due, pending_for): (Timestamp, Timestamp, Duration),
    now: Timestamp,
) -> Option<Absence> {
    let spent = |since: Timestamp| now > after(after(since, app.config.lease), SPENT_AFTER);
    let waits = |since: Timestamp, patience: Duration| {
        (now > after(since, patience)).then(|| if spent(since) { Absence::GoneOrSpent } else { Absence::Gone })
    };
    match execution.state() {
        ExecutionState::Pending if due > stored_at => waits(due, ON_TIME),
        ExecutionState::Pending => waits(due, pending_for),
        ExecutionState::Retryable => waits(execution.retry_not_before()?, ON_TIME),
        ExecutionState::Running => {
            let (holder, since) = (execution.holder()?.0, execution.started_at()?);
            let patience = app.config.lease.saturating_add(SPENT_AFTER);
            app.fleet().is_gone(holder, since, patience).then_some(Absence::GoneOrSpent)
        }
        ExecutionState::Completed
        | ExecutionState::Failed
        | ExecutionState::Skipped
        | ExecutionState::Cancelled
        | ExecutionState::Expired
        | ExecutionState::Lost => None,
    }
}
