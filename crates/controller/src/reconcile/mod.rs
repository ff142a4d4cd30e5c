//! Background repair. Each duty reads candidates from the index, decides from the ledger, and writes under its guard, so that passes
//! may be repeated, stopped anywhere, and run beside another controller's.

mod dead_letters;
mod expired;
mod inboxes;
mod leftovers;
mod lost;
mod objects;
mod owed;
mod tidy;
mod turns;
mod unannounced;

use std::future::Future;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use longshore_model::JobId;
use longshore_store::Error as StoreError;
use tokio::task::JoinSet;

use crate::app::App;
use crate::index::Entry;

/// Jobs loaded in one pass.
const LOADS_MAX: usize = 256;
/// Index entries looked at in one pass, finished ones in between included: some milliseconds.
const SCAN_MAX: usize = 100_000;
/// How often a decision is made again because somebody else wrote first; the next pass tries anew.
const CONFLICTS_MAX: usize = 3;

/// Where a duty goes on in its next pass; `None` is the beginning.
type Cursor<P = JobId> = Option<P>;

/// Starts every duty.
pub(crate) fn spawn(app: &App, tasks: &mut JoinSet<()>) {
    let often = app.config.reconcile_every;
    tasks.spawn(every(often, app.clone(), "unannounced", unannounced::pass));
    tasks.spawn(every(often, app.clone(), "expired", expired::pass));
    tasks.spawn(every(often, app.clone(), "owed", owed::pass));
    tasks.spawn(every(often, app.clone(), "lost", lost::pass));
    tasks.spawn(every(often, app.clone(), "leftovers", leftovers::pass));
    tasks.spawn(every(often.max(inboxes::EVERY), app.clone(), "inboxes", inboxes::pass));
    tasks.spawn(every(often.max(objects::EVERY), app.clone(), "objects", objects::pass));
    tasks.spawn(every(often, app.clone(), "dead_letters", dead_letters::pass));
    tasks.spawn(every(often, app.clone(), "turns", turns::pass));
    tasks.spawn(tidy::run(app.clone()));
}

/// Runs a duty's passes until the controller drains. A pass that fails is tried again at the next turn.
async fn every<C, F, P>(period: Duration, app: App, duty: &'static str, pass: P)
where
    C: Clone,
    P: Fn(App, Cursor<C>, Timestamp) -> F,
    F: Future<Output = Result<Cursor<C>, StoreError>>,
{
    let mut turns = tokio::time::interval(period.max(Duration::from_millis(1)));
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut cursor = None;
    loop {
        tokio::select! {
            biased;
            () = app.drain.cancelled() => return,
            _ = turns.tick() => {}
        }
        if !app.index().is_caught_up() {
            continue;
        }
        let done = tokio::select! {
            biased;
            () = app.drain.cancelled() => return,
            done = pass(app.clone(), cursor.clone(), app.now()) => done,
        };
        match done {
            Ok(next) => cursor = next,
            Err(error) => {
                app.metrics.pass_failed(duty);
                tracing::warn!(duty, error = %crate::app::chain(&error), "a reconciler's pass failed and is tried again");
            }
        }
    }
}

/// Candidates among unfinished jobs, and where the next pass goes on.
fn candidates(app: &App, cursor: Cursor, is_wanted: impl Fn(&Entry) -> bool) -> (Vec<JobId>, Cursor) {
    app.index().unfinished(cursor, (LOADS_MAX, SCAN_MAX), is_wanted)
}

/// One job's outcome: a fault that passes ends the pass; a job that cannot be read is reported and passed over, so that one bad record
/// does not keep a duty from all others.
fn each(duty: &'static str, job: JobId, done: Result<(), StoreError>) -> Result<(), StoreError> {
    match done {
        Err(error) if !error.is_retryable() => {
            tracing::error!(duty, job.id = %job, error = %crate::app::chain(&error), "a job could not be looked after");
            Ok(())
        }
        done => done,
    }
}

/// `at` and then `by`.
fn after(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| at.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
