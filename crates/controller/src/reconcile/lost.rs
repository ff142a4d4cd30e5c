//! Executions whose agent did not answer in time. A late answer replaces this.

use std::time::Duration;

use jiff::Timestamp;
use longshore_model::job::Execution;
use longshore_model::wire::record::{Event, EventKind, SCHEMA};
use longshore_model::{ExecutionId, ExecutionState, JobId};
use longshore_store::{Appended, Error as StoreError};

use super::{CONFLICTS_MAX, Cursor, after, candidates, each};
use crate::app::{App, fold};
use crate::index::Share;

/// For staging, collecting, killing, skewed clocks, and the way to the ledger.
const GRACE: Duration = Duration::from_secs(30);

/// One pass. When an attempt began is read off the broker's clock: the agent's may be an hour wrong.
pub(super) async fn pass(app: App, cursor: Cursor, now: Timestamp) -> Result<Cursor, StoreError> {
    let lease = app.config.lease;
    let is_silent = |share: &Share, timeout: Duration| {
        share.execution.state() == ExecutionState::Running && now > after(after(share.changed_at, timeout), GRACE.saturating_add(lease))
    };
    let (jobs, next) = candidates(&app, cursor, |entry| entry.shares.iter().any(|share| is_silent(share, entry.timeout)));
    for job in jobs {
        let silent: Vec<(ExecutionId, u32)> = app.index().get(job).map_or_else(Vec::new, |entry| {
            let shares = entry.shares.iter().filter(|share| is_silent(share, entry.timeout));
            shares.map(|share| (share.id, share.execution.attempts())).collect()
        });
        for (execution, attempt) in silent {
            each("lost", job, give_up(&app, job, execution, attempt, now).await)?;
        }
    }
    Ok(next)
}

/// Records an attempt as lost, if it is still the newest one and runs, as far as the ledger knows.
async fn give_up(app: &App, job: JobId, execution: ExecutionId, attempt: u32, now: Timestamp) -> Result<(), StoreError> {
    for _ in 0..CONFLICTS_MAX {
        let Some(record) = app.load(job).await? else { return Ok(()) };
        let shares = fold(&record);
        let is_it = |state: &Execution| state.state() == ExecutionState::Running && state.attempts() == attempt;
        if !shares.0.iter().any(|(id, state)| *id == execution && is_it(state)) {
            return Ok(());
        }
        let event = Event { schema: SCHEMA, at: now, kind: EventKind::Lost { attempt } };
        match app.store.ledger.append(job, execution, record.revision(execution), &event).await? {
            Appended::Conflict => {}
            Appended::Stored(_) => {
                tracing::warn!(job.id = %job, %execution, attempt, "an agent did not answer in time");
                return Ok(());
            }
        }
    }
    Ok(())
}
