//! Executions that were not started in time: expired for good, so that no agent that comes later runs them.

use jiff::Timestamp;
use longshore_model::job::Execution;
use longshore_model::limits::CLOCK_SKEW;
use longshore_model::wire::record::{Event, EventKind, SCHEMA};
use longshore_model::{ExecutionId, ExecutionState, JobId};
use longshore_store::{Appended, Error as StoreError};

use super::{CONFLICTS_MAX, Cursor, after, candidates};
use crate::app::{App, cancel, fold};

/// One pass.
pub(super) async fn pass(app: App, cursor: Cursor, now: Timestamp) -> Result<Cursor, StoreError> {
    let (jobs, next) = candidates(&app, cursor, |entry| entry.shares.iter().any(|share| is_late(&share.execution, entry.expires_at, now)));
    for job in jobs {
        expire(&app, job, now).await?;
    }
    Ok(next)
}

async fn expire(app: &App, job: JobId, now: Timestamp) -> Result<(), StoreError> {
    let Some(record) = app.load(job).await? else { return Ok(()) };
    for execution in &record.definition.executions {
        expire_one(app, job, *execution, now).await?;
    }
    // Whoever is offered it from now on finds it ended; taking the offers back only saves the trouble.
    if let Some(record) = app.load(job).await?
        && fold(&record).is_final()
    {
        app.store.work.withdraw(&record.definition).await?;
    }
    Ok(())
}

async fn expire_one(app: &App, job: JobId, execution: ExecutionId, now: Timestamp) -> Result<(), StoreError> {
    for _ in 0..CONFLICTS_MAX {
        let Some(record) = app.load(job).await? else { return Ok(()) };
        let shares = fold(&record);
        let Some((_, state)) = shares.0.iter().find(|(id, state)| *id == execution && is_late(state, record.definition.expires_at, now))
        else {
            return Ok(());
        };
        let event = Event { schema: SCHEMA, at: now, kind: EventKind::Expired };
        match app.store.ledger.append(job, execution, record.revision(execution), &event).await? {
            Appended::Conflict => {}
            Appended::Stored(_) => {
                app.store.ledger.answer(&cancel::expired(&record, execution, state, now)).await?;
                tracing::info!(job.id = %job, %execution, "an execution was not started in time and expired");
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A retry is due when it is due: the expiry bounds the first start only.
fn is_late(execution: &Execution, expires_at: Timestamp, now: Timestamp) -> bool {
    execution.state() == ExecutionState::Pending && execution.attempts() == 0 && now > after(expires_at, CLOCK_SKEW)
}
