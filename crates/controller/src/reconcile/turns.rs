//! Who waits for a turn under a concurrency key: those who wait no more are removed, and those whose turn is near are announced.
//!
//! An agent that is offered work far from its turn leaves it to the ledger, so that a long queue fills no broker; here it comes back.

use std::collections::BTreeMap;

use jiff::Timestamp;
use longshore_model::limits::TURNS_OFFERED_MAX;
use longshore_model::wire::turn::Waiter;
use longshore_model::{ExecutionId, ExecutionState};
use longshore_store::{Absence, Announcement, Error as StoreError, is_forgotten};

use super::{Cursor, LOADS_MAX, each, unannounced};
use crate::app::{App, fold};

/// One pass. It begins at the beginning every time: who is first matters most.
pub(super) async fn pass(app: App, _: Cursor, now: Timestamp) -> Result<Cursor, StoreError> {
    let mut near: BTreeMap<String, usize> = BTreeMap::new();
    let mut n_announced = 0;
    for waiter in app.store.turns.everyone().await? {
        if waits_no_more(&app, &waiter, now) {
            app.store.turns.leave(&waiter.key, waiter.job).await?;
            continue;
        }
        if waiter.not_before.is_some_and(|at| at > now) {
            continue;
        }
        let n_before = near.entry(waiter.key.clone()).or_default();
        *n_before += 1;
        // One agent's work stays in its inbox, and a few of each key are enough: the others come nearer.
        if *n_before <= TURNS_OFFERED_MAX && waiter.execution == Some(ExecutionId::Any) && n_announced < LOADS_MAX {
            n_announced += 1;
            each("turns", waiter.job, announce(&app, &waiter, now).await)?;
        }
    }
    Ok(None)
}

fn waits_no_more(app: &App, waiter: &Waiter, now: Timestamp) -> bool {
    match app.index().get(waiter.job) {
        Some(entry) => entry.status(now).is_final(),
        None => is_forgotten(waiter, now),
    }
}

async fn announce(app: &App, waiter: &Waiter, now: Timestamp) -> Result<(), StoreError> {
    let is_pending = app
        .index()
        .get(waiter.job)
        .is_some_and(|entry| entry.shares.iter().all(|share| share.execution.state() == ExecutionState::Pending));
    if !is_pending {
        return Ok(());
    }
    let Some(record) = app.load(waiter.job).await? else { return Ok(()) };
    for (id, execution) in fold(&record).0 {
        if execution.state() == ExecutionState::Pending {
            let absence = unannounced::absence(app, &execution, &record, now).unwrap_or(Absence::Gone);
            let announcement = Announcement { execution: id, revision: record.announced_at(id), seen: record.revision(id), absence };
            if app.store.work.announce(&record.definition, announcement).await? {
                tracing::debug!(job.id = %waiter.job, "its turn is near: announced again");
            }
        }
    }
    Ok(())
}
