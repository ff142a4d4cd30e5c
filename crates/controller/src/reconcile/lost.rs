//! Executions whose agent did not answer in time. A late answer replaces this.
//!
//! An agent that lives may fetch a bundle for as long as the job's time-out before the work begins, and store what it brought back for
//! long after its end. So silence alone counts only after all of that; sooner if the agent's process is gone.

use std::time::Duration;

use jiff::Timestamp;
use longshore_model::job::Execution;
use longshore_model::wire::record::{Event, EventKind, SCHEMA};
use longshore_model::{ExecutionId, ExecutionState, JobId};
use longshore_store::{Appended, Error as StoreError};

use super::{CONFLICTS_MAX, Cursor, after, candidates, each};
use crate::app::{App, Standing, standing};
use crate::index::Share;

/// For staging, collecting, killing, skewed clocks, and the way to the ledger.
const GRACE: Duration = Duration::from_secs(30);
/// How long an agent may be busy with unpacking, collecting and storing, beyond the time-outs of its fetch and of its work: its own bound
/// for storing, and as long again for what has none.
const STAGING_AND_COLLECTING: Duration = Duration::from_secs(30 * 60);

/// One pass. When an attempt began is read off the broker's clock: the agent's may be an hour wrong.
pub(super) async fn pass(app: App, cursor: Cursor, now: Timestamp) -> Result<Cursor, StoreError> {
    let lease = app.config.lease;
    let is_silent = |share: &Share, timeout: Duration| {
        let busy_until = after(after(share.changed_at, timeout), GRACE.saturating_add(lease));
        let excused_until = after(after(busy_until, timeout), STAGING_AND_COLLECTING);
        share.execution.state() == ExecutionState::Running && now > busy_until && (now > excused_until || is_gone(&app, &share.execution))
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

/// Whether the process that runs this attempt is known to be gone, and not just for a moment.
fn is_gone(app: &App, execution: &Execution) -> bool {
    let (Some((agent, _)), Some(since)) = (execution.holder(), execution.started_at()) else { return true };
    app.fleet().is_gone(agent, since, app.config.lease)
}

/// Records an attempt as lost, if it is still the newest one and runs, as far as the ledger knows.
async fn give_up(app: &App, job: JobId, execution: ExecutionId, attempt: u32, now: Timestamp) -> Result<(), StoreError> {
    for _ in 0..CONFLICTS_MAX {
        let Standing { execution: state, revision } = standing(app, job, execution).await?;
        if state.state() != ExecutionState::Running || state.attempts() != attempt {
            return Ok(());
        }
        let event = Event { schema: SCHEMA, at: now, kind: EventKind::Lost { attempt } };
        match app.store.ledger.append(job, execution, revision, &event).await? {
            Appended::Conflict => app.metrics.write_refused(),
            Appended::Stored(_) => {
                app.metrics.repaired("lost");
                tracing::warn!(job.id = %job, %execution, attempt, "an agent did not answer in time");
                return Ok(());
            }
        }
    }
    Ok(())
}
