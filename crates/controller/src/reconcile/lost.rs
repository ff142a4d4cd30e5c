//! Executions whose agent did not answer in time. A late answer replaces this.

use std::time::Duration;

use jiff::Timestamp;
use longshore_model::job::Execution;
use longshore_model::wire::record::{Event, EventKind, SCHEMA};
use longshore_model::{ExecutionId, ExecutionState, JobId};
use longshore_store::{Appended, Error as StoreError};

use super::{CONFLICTS_MAX, Cursor, after, candidates, each};
use crate::app::{App, fold};

/// For staging, collecting, killing, skewed clocks, and the way to the ledger.
const GRACE: Duration = Duration::from_secs(30);

/// One pass.
pub(super) async fn pass(app: App, cursor: Cursor, now: Timestamp) -> Result<Cursor, StoreError> {
    let lease = app.config.lease;
    let (jobs, next) =
        candidates(&app, cursor, |entry| entry.shares.iter().any(|share| is_silent(&share.execution, entry.timeout, lease, now)));
    for job in jobs {
        each("lost", job, look(&app, job, now).await)?;
    }
    Ok(next)
}

async fn look(app: &App, job: JobId, now: Timestamp) -> Result<(), StoreError> {
    let Some(record) = app.load(job).await? else { return Ok(()) };
    for execution in &record.definition.executions {
        give_up(app, job, *execution, now).await?;
    }
    Ok(())
}

async fn give_up(app: &App, job: JobId, execution: ExecutionId, now: Timestamp) -> Result<(), StoreError> {
    for _ in 0..CONFLICTS_MAX {
        let Some(record) = app.load(job).await? else { return Ok(()) };
        let timeout = Duration::from_millis(record.definition.timeout_ms);
        let shares = fold(&record);
        let Some((_, state)) = shares.0.iter().find(|(id, state)| *id == execution && is_silent(state, timeout, app.config.lease, now))
        else {
            return Ok(());
        };
        let event = Event { schema: SCHEMA, at: now, kind: EventKind::Lost { attempt: state.attempts() } };
        match app.store.ledger.append(job, execution, record.revision(execution), &event).await? {
            Appended::Conflict => {}
            Appended::Stored(_) => {
                tracing::warn!(job.id = %job, %execution, attempt = state.attempts(), "an agent did not answer in time");
                return Ok(());
            }
        }
    }
    Ok(())
}

fn is_silent(execution: &Execution, timeout: Duration, lease: Duration, now: Timestamp) -> bool {
    execution.state() == ExecutionState::Running
        && execution.started_at().is_some_and(|started| now > after(after(started, timeout), GRACE.saturating_add(lease)))
}
