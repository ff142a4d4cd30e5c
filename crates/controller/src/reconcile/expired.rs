//! Executions that were not started, or not tried again, in time: expired for good, so that no agent that comes later runs them.

use std::time::Duration;

use jiff::Timestamp;
use longshore_model::job::Execution;
use longshore_model::limits::CLOCK_SKEW;
use longshore_model::wire::record::{Definition, Event, EventKind, SCHEMA};
use longshore_model::{ExecutionId, ExecutionState, JobId};
use longshore_store::{Appended, Error as StoreError};

use super::{CONFLICTS_MAX, Cursor, after, candidates, each};
use crate::app::{App, Standing, cancel, fold, standing};

/// One pass.
pub(super) async fn pass(app: App, cursor: Cursor, now: Timestamp) -> Result<Cursor, StoreError> {
    let (jobs, next) = candidates(&app, cursor, |entry| {
        entry.shares.iter().any(|share| is_late(&share.execution, entry.submitted_at, entry.expires_at, now))
    });
    for job in jobs {
        each("expired", job, expire(&app, job, now).await)?;
    }
    Ok(next)
}

async fn expire(app: &App, job: JobId, now: Timestamp) -> Result<(), StoreError> {
    let Some(record) = app.load(job).await? else { return Ok(()) };
    for (execution, state) in fold(&record).0 {
        if is_late(&state, record.definition.submitted_at, record.definition.expires_at, now) {
            expire_one(app, &record.definition, execution, now).await?;
        }
    }
    // Whoever is offered it from now on finds it ended; taking the offers back only saves the trouble.
    if let Some(record) = app.load(job).await?
        && fold(&record).is_final()
    {
        app.store.work.withdraw(&record.definition).await?;
    }
    Ok(())
}

async fn expire_one(app: &App, definition: &Definition, execution: ExecutionId, now: Timestamp) -> Result<(), StoreError> {
    let job = definition.id;
    for _ in 0..CONFLICTS_MAX {
        let Standing { execution: state, revision } = standing(app, job, execution).await?;
        if !is_late(&state, definition.submitted_at, definition.expires_at, now) {
            return Ok(());
        }
        let event = Event { schema: SCHEMA, at: now, kind: EventKind::Expired };
        match app.store.ledger.append(job, execution, revision, &event).await? {
            Appended::Conflict => app.metrics.write_refused(),
            Appended::Stored(_) => {
                app.store.ledger.answer(&cancel::expired(definition, execution, &state, now)).await?;
                tracing::info!(job.id = %job, %execution, "an execution was not started in time and expired");
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The expiry bounds the first start; a retry has as long again from when it is due, so that one that nobody makes ends as well.
fn is_late(execution: &Execution, submitted_at: Timestamp, expires_at: Timestamp, now: Timestamp) -> bool {
    match execution.state() {
        ExecutionState::Pending => now > after(expires_at, CLOCK_SKEW),
        ExecutionState::Retryable => {
            let span = Duration::try_from(expires_at.duration_since(submitted_at)).unwrap_or_default();
            execution.retry_not_before().is_some_and(|due| now > after(after(due, span), CLOCK_SKEW))
        }
        ExecutionState::Running
        | ExecutionState::Completed
        | ExecutionState::Failed
        | ExecutionState::Skipped
        | ExecutionState::Cancelled
        | ExecutionState::Expired
        | ExecutionState::Lost => false,
    }
}
