//! Asking for a turn under a concurrency key, for whoever claims: an agent for itself, a gateway for its workers.
//!
//! Whose turn it is, and why a turn that was taken over does no harm, is said in `longshore_model::job::turn`. Nothing here waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use longshore_model::ExecutionId;
use longshore_model::job::turn::{Progress, ahead, first, progress, waiter};
use longshore_model::job::{Execution, Job};
use longshore_model::wire::record::SCHEMA;
use longshore_model::wire::turn::{Hold, Holder, Waiter};
use tokio::time::Instant;

use crate::{Error, ExecutionRecord, Ledger, Revision, Store, Turns};

/// Before somebody who waits for its turn asks again, for each who is before it; and at most.
const ASK_EVERY: Duration = Duration::from_millis(200);
const ASK_EVERY_MAX: Duration = Duration::from_secs(10);
/// Before the place of a job that is not there is given up: it is entered before its job is stored.
const JOB_WITHIN: Duration = Duration::from_secs(60);
/// Keys whose holders are watched; beyond that the watch begins anew.
const WATCHED_MAX: usize = 1024;

/// What one process knows of turns: holders that have not recorded their start, and since when it has seen them so.
#[derive(Debug, Default)]
pub struct Turnstile(Mutex<BTreeMap<String, (Revision, Instant)>>);

/// An attempt's turn.
#[derive(Clone)]
pub struct Fence {
    ledger: Arc<dyn Ledger>,
    turns: Arc<dyn Turns>,
    key: String,
    holder: Holder,
    /// Whether the end of this execution is the job's.
    is_alone: bool,
    /// Grows from holder to holder: what an attempt writes elsewhere can be refused by it.
    pub revision: Revision,
}

/// What became of asking.
pub enum Asked {
    /// It is this attempt's turn.
    Ours(Fence),
    /// So many are before it.
    After(usize),
}

impl Asked {
    /// How long somebody waits who has so many before it, until it asks again.
    #[must_use]
    pub fn wait(n_before: usize) -> Duration {
        ASK_EVERY.saturating_mul(u32::try_from(n_before.max(1)).unwrap_or(u32::MAX)).min(ASK_EVERY_MAX)
    }
}

impl Turnstile {
    /// Asks for the turn of an attempt at a job with this key. Safe to repeat.
    ///
    /// # Errors
    /// The broker did not answer; whether the turn was taken is unknown until it is asked for again.
    pub async fn ask(&self, store: &Store, job: &Job, key: &str, holder: Holder) -> Result<Asked, Error> {
        ask(store, self, job, key, holder).await
    }

    /// How long the turn at `revision` has been seen to stand still.
    fn still_for(&self, key: &str, revision: Revision) -> Duration {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= WATCHED_MAX {
            seen.clear();
        }
        let since = seen.entry(key.to_owned()).and_modify(|at| {
            if at.0 != revision {
                *at = (revision, Instant::now())
            }
        });
        since.or_insert((revision, Instant::now())).1.elapsed()
    }

    fn forget(&self, key: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

impl Fence {
    /// Whether it is still this attempt's turn, now that its start is recorded.
    ///
    /// # Errors
    /// The broker did not answer.
    pub async fn holds(&self) -> Result<bool, Error> {
        let turn = self.turns.turn(&self.key).await?;
        Ok(turn.hold.is_some_and(|hold| hold.holder == self.holder))
    }

    /// Frees the turn; and gives up the job's place, if its one execution has ended. A fault costs time only: who comes next finds in the
    /// ledger that the turn is over, and the controller removes those who wait no more.
    pub async fn end(self, job: &Job) {
        let Self { ledger, turns, key, holder, is_alone, revision: _ } = self;
        let ended = async {
            let turn = turns.turn(&key).await?;
            if turn.hold.is_some_and(|hold| hold.holder == holder) {
                turns.release(&key, turn.revision).await?;
            }
            if is_alone && ledger.load_execution(holder.job, holder.execution).await?.is_none_or(|record| record.answer.is_some()) {
                turns.leave(&key, job.id).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = ended.await {
            tracing::debug!(job.id = %job.id, %error, "a turn was not ended; who comes next finds out");
        }
    }
}

/// The turn of an attempt that an earlier process began, if it still has it.
///
/// # Errors
/// The broker did not answer.
pub async fn turn_kept(store: &Store, key: &str, holder: Holder) -> Result<Option<Fence>, Error> {
    let turn = store.turns.turn(key).await?;
    if turn.hold.is_none_or(|hold| hold.holder != holder) {
        return Ok(None);
    }
    let waiting = store.turns.waiting(key).await?;
    let is_alone = waiting.iter().any(|waiter| waiter.job == holder.job && waiter.execution.is_some());
    Ok(Some(Fence {
        ledger: store.ledger.clone(),
        turns: store.turns.clone(),
        key: key.to_owned(),
        holder,
        is_alone,
        revision: turn.revision,
    }))
}

async fn ask(store: &Store, seen: &Turnstile, job: &Job, key: &str, holder: Holder) -> Result<Asked, Error> {
    let turns = &store.turns;
    let now = store.clock.now();
    let waiting = turns.waiting(key).await?;
    let Some(n_before) = ahead(&waiting, job.id, now) else {
        // It lost its place with the records of who waits.
        if let Some(mut waiter) = waiter(job, now) {
            // A share looks like a job for this agent alone.
            waiter.execution = waiter.execution.filter(|execution| *execution == ExecutionId::Any);
            turns.enter(&waiter).await?;
            // Or its job was deleted just now: whoever deletes it removes its place once more when it is gone, so one of the two sees the other.
            if store.ledger.load_execution(holder.job, holder.execution).await?.is_none() {
                turns.leave(key, job.id).await?;
            }
        }
        return Ok(Asked::After(waiting.len()));
    };
    if n_before > 0 {
        if let Some(first) = first(&waiting, now)
            && has_left(store, first, now).await?
        {
            turns.leave(key, first.job).await?;
        }
        return Ok(Asked::After(n_before));
    }
    let is_alone = waiting.iter().any(|waiter| waiter.job == job.id && waiter.execution.is_some());
    let turn = turns.turn(key).await?;
    let over = match turn.hold {
        None => None,
        // Of this execution itself, whose attempts the ledger keeps apart. Whom an earlier try took it from is still to be looked at.
        Some(hold) if (hold.holder.job, hold.holder.execution) == (holder.job, holder.execution) => hold.over,
        Some(hold) if is_held(store, seen, key, &hold, turn.revision).await? => return Ok(Asked::After(1)),
        Some(hold) => Some(hold.holder),
    };
    let Some(revision) = turns.take(key, &Hold { schema: SCHEMA, holder, over }, turn.revision).await? else { return Ok(Asked::After(1)) };
    seen.forget(key);
    if let Some(former) = over
        && progress_of(store, former).await? == Progress::Runs
    {
        // It started between our look and our taking.
        turns.take(key, &Hold { schema: SCHEMA, holder: former, over: None }, revision).await?;
        return Ok(Asked::After(1));
    }
    Ok(Asked::Ours(Fence { ledger: store.ledger.clone(), turns: store.turns.clone(), key: key.to_owned(), holder, is_alone, revision }))
}

/// Whether whoever is first waits no more.
async fn has_left(store: &Store, first: &Waiter, now: Timestamp) -> Result<bool, Error> {
    let Some(execution) = first.execution else { return Ok(false) };
    let Some(record) = store.ledger.load_execution(first.job, execution).await? else { return Ok(is_forgotten(first, now)) };
    Ok(progress_in(&record, u32::MAX) == Progress::Over)
}

/// Whether the place of a job that is not there has been given up, rather than entered just before its job is stored.
#[must_use]
pub fn is_forgotten(waiter: &Waiter, now: Timestamp) -> bool {
    SignedDuration::try_from(JOB_WITHIN).ok().and_then(|within| waiter.since.checked_add(within).ok()).is_some_and(|until| now > until)
}

async fn is_held(store: &Store, seen: &Turnstile, key: &str, hold: &Hold, revision: Revision) -> Result<bool, Error> {
    if let Some(over) = hold.over
        && progress_of(store, over).await? == Progress::Runs
    {
        return Ok(true);
    }
    Ok(match progress_of(store, hold.holder).await? {
        Progress::Runs => true,
        Progress::Over => false,
        // Longer than a claim lasts without being extended.
        Progress::NotStarted => seen.still_for(key, revision) < store.work.lease_duration(),
    })
}

async fn progress_of(store: &Store, holder: Holder) -> Result<Progress, Error> {
    let record = store.ledger.load_execution(holder.job, holder.execution).await?;
    Ok(record.map_or(Progress::Over, |record| progress_in(&record, holder.attempt)))
}

fn progress_in(record: &ExecutionRecord, attempt: u32) -> Progress {
    match Execution::fold(&record.events, record.answer.as_ref()) {
        Ok(execution) => progress(Some(&execution), attempt),
        // A history that contradicts itself is nobody's to judge; only its answer ends it.
        Err(_) => {
            if record.answer.is_some() {
                Progress::Over
            } else {
                Progress::Runs
            }
        }
    }
}
