//! Who waits for a turn under a concurrency key: those who wait no more are removed, and those whose turn is near are announced.
//!
//! An agent that is offered work far from its turn leaves it to the ledger, so that a long queue fills no broker; here it comes back. A
//! round goes over all who wait, in the order in which they entered, in as many passes as it takes.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use jiff::Timestamp;
use longshore_model::limits::TURNS_OFFERED_MAX;
use longshore_model::wire::turn::Waiter;
use longshore_model::{ExecutionId, ExecutionState, JobId};
use longshore_store::{Absence, Announcement, Error as StoreError, Revision, is_forgotten};

use super::{Cursor, LOADS_MAX, each, unannounced};
use crate::app::{App, fold};

/// What one pass may do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Waiters looked at: some pages of them.
    pub(super) waiters: usize,
    /// Jobs loaded, or removed from those who wait.
    pub(super) jobs: usize,
    /// Keys whose waiters are counted from page to page. Beyond that counting begins anew: a few are announced that are not near.
    pub(super) keys: usize,
}

const BOUNDS: Bounds = Bounds { waiters: 10_000, jobs: 4 * LOADS_MAX, keys: 100_000 };

/// How far a round has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Walk {
    /// The place of the last one who was looked at.
    after: Revision,
    /// How many wait under each key up to there, by a hash of it.
    n_waiting: BTreeMap<u64, usize>,
}

impl Walk {
    /// Counts one who waits under a key. Gives whether few enough do so before.
    fn is_near(&mut self, key: &str, keys: usize) -> bool {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        if self.n_waiting.len() >= keys {
            self.n_waiting.clear();
        }
        let n_waiting = self.n_waiting.entry(hasher.finish()).or_default();
        *n_waiting += 1;
        *n_waiting <= TURNS_OFFERED_MAX
    }
}

/// One pass.
pub(super) async fn pass(app: App, cursor: Cursor<Walk>, now: Timestamp) -> Result<Cursor<Walk>, StoreError> {
    pass_within(app, cursor, now, BOUNDS).await
}

pub(super) async fn pass_within(app: App, cursor: Cursor<Walk>, now: Timestamp, bounds: Bounds) -> Result<Cursor<Walk>, StoreError> {
    let mut walk = cursor.unwrap_or_default();
    let (mut n_waiters, mut n_jobs) = (0, 0);
    loop {
        let page = app.store.turns.page(walk.after).await?;
        for (place, waiter) in page.items {
            if n_waiters >= bounds.waiters || n_jobs >= bounds.jobs {
                return Ok(Some(walk));
            }
            n_waiters += 1;
            walk.after = place;
            if waits_no_more(&app, &waiter, now) {
                n_jobs += 1;
                app.store.turns.leave(&waiter.key, waiter.job).await?;
            // One agent's work stays in its inbox, and a few of each key are enough: the others come nearer.
            } else if waiter.not_before.is_none_or(|at| at <= now)
                && walk.is_near(&waiter.key, bounds.keys)
                && waiter.execution == Some(ExecutionId::Any)
                && is_pending(&app, waiter.job)
            {
                n_jobs += 1;
                each("turns", waiter.job, announce(&app, waiter.job, now).await)?;
            }
        }
        match page.next {
            Some(next) => walk.after = next,
            None => return Ok(None),
        }
    }
}

fn waits_no_more(app: &App, waiter: &Waiter, now: Timestamp) -> bool {
    match app.index().get(waiter.job) {
        Some(entry) => entry.status(now).is_final(),
        None => is_forgotten(waiter, now),
    }
}

fn is_pending(app: &App, job: JobId) -> bool {
    let is_pending = |entry: &crate::index::Entry| entry.shares.iter().all(|share| share.execution.state() == ExecutionState::Pending);
    app.index().get(job).is_some_and(is_pending)
}

async fn announce(app: &App, job: JobId, now: Timestamp) -> Result<(), StoreError> {
    let Some(record) = app.load(job).await? else { return Ok(()) };
    for (id, execution) in fold(&record).0 {
        if execution.state() == ExecutionState::Pending {
            let absence = unannounced::absence(app, &execution, &record, now).unwrap_or(Absence::Gone);
            let announcement = Announcement { execution: id, revision: record.announced_at(id), seen: record.revision(id), absence };
            if app.store.work.announce(&record.definition, announcement).await? {
                tracing::debug!(job.id = %job, "its turn is near: announced again");
            }
        }
    }
    Ok(())
}
