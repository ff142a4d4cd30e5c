//! A turn under a concurrency key, around an attempt: asked for before its start is recorded, looked at again after, freed at its end.
//!
//! Whose turn it is, and why a turn that was taken over does no harm, is said in `longshore_model::job::turn`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use longshore_model::ExecutionId;
use longshore_model::job::turn::{Progress, ahead, first, progress, waiter};
use longshore_model::job::{Execution, Job};
use longshore_model::limits::TURNS_OFFERED_MAX;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Failure, SCHEMA};
use longshore_model::wire::turn::{Hold, Holder};
use longshore_store::{Error, Revision};
use tokio::time::Instant;

use crate::execution::{Context, Settled, Worker};

/// Before somebody who waits for its turn asks again, for each who is before it; and at most.
const ASK_EVERY: Duration = Duration::from_millis(200);
const ASK_EVERY_MAX: Duration = Duration::from_secs(10);
/// Keys whose holders are watched; beyond that the watch begins anew.
const WATCHED_MAX: usize = 1024;

/// Holders that have not recorded their start, and since when this process has seen them so.
#[derive(Default)]
pub(crate) struct Watch(Mutex<BTreeMap<String, (Revision, Instant)>>);

impl Watch {
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

/// An attempt's turn.
#[derive(Clone)]
pub(crate) struct Fence {
    ctx: Arc<Context>,
    key: String,
    holder: Holder,
    /// Whether the end of this execution is the job's.
    is_alone: bool,
    /// Grows from holder to holder: what an attempt writes elsewhere can be refused by it.
    pub(crate) revision: Revision,
}

/// What became of asking.
pub(crate) enum Asked {
    /// It is this attempt's turn.
    Ours(Fence),
    /// So many are before it.
    After(usize),
}

impl Worker {
    /// Asks for the turn of an attempt whose job has this key; `None` if we are to stop, or cannot ask.
    pub(crate) async fn ask_for_turn(&mut self, job: &Job, key: &str, attempt: u32) -> Option<Asked> {
        let holder = Holder { job: self.key.0, execution: self.key.1, attempt };
        loop {
            match ask(&self.ctx, job, key, holder).await {
                Ok(asked) => return Some(asked),
                Err(error) if error.is_retryable() && self.claim.is_valid() => self.broker_fault("asking for a turn", &error).await?,
                Err(error) => {
                    tracing::error!(job.id = %self.key.0, %error, "a turn cannot be asked for; handing the work back");
                    self.claim.give_back(ASK_EVERY_MAX).await;
                    return None;
                }
            }
        }
    }

    /// Leaves the queue for a turn, if the job is gone. Asking may have entered it again after whoever deleted it had removed its place, and
    /// have broken off before it found that out.
    pub(crate) async fn leave_if_deleted(&self, job: &Job) {
        let Some(key) = job.concurrency_key.as_deref().filter(|_| !self.signals.stop.is_cancelled()) else { return };
        let left = async {
            if self.ctx.store.ledger.load_execution(self.key.0, self.key.1).await?.is_none() {
                self.ctx.store.turns.leave(key, job.id).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = left.await {
            tracing::debug!(job.id = %job.id, %error, "a deleted job's place is left for the controller to remove");
        }
    }

    /// Waits for a turn. What is far from it leaves the broker: the controller announces it when it comes near.
    pub(crate) async fn wait_for_turn(self, n_before: usize) -> Settled {
        if n_before >= TURNS_OFFERED_MAX && self.key.1 == ExecutionId::Any {
            self.claim.done().await;
            return Settled::Done;
        }
        let wait = ASK_EVERY.saturating_mul(u32::try_from(n_before.max(1)).unwrap_or(u32::MAX)).min(ASK_EVERY_MAX);
        let until = SignedDuration::try_from(wait).ok().and_then(|wait| self.ctx.now().checked_add(wait).ok());
        self.wait(until.unwrap_or(Timestamp::MAX)).await
    }
}

impl Fence {
    /// Whether it is still this attempt's turn, now that its start is recorded.
    pub(crate) async fn holds(&self) -> Result<bool, Error> {
        let turn = self.ctx.store.turns.turn(&self.key).await?;
        Ok(turn.hold.is_some_and(|hold| hold.holder == self.holder))
    }

    /// Frees the turn; and gives up the job's place, if its one execution has ended. A fault costs time only: who comes next finds in the
    /// ledger that the turn is over, and the controller removes those who wait no more.
    pub(crate) async fn end(self, job: &Job) {
        let Self { ctx, key, holder, is_alone, revision: _ } = self;
        let ended = async {
            let turn = ctx.store.turns.turn(&key).await?;
            if turn.hold.is_some_and(|hold| hold.holder == holder) {
                ctx.store.turns.release(&key, turn.revision).await?;
            }
            if is_alone && ctx.store.ledger.load_execution(holder.job, holder.execution).await?.is_none_or(|record| record.answer.is_some())
            {
                ctx.store.turns.leave(&key, job.id).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = ended.await {
            tracing::debug!(job.id = %job.id, %error, "a turn was not ended; who comes next finds out");
        }
    }
}

/// The turn of an attempt that an earlier process of this agent began, if it still has it.
pub(crate) async fn kept(ctx: &Arc<Context>, key: &str, holder: Holder) -> Result<Option<Fence>, Error> {
    let turn = ctx.store.turns.turn(key).await?;
    if turn.hold.is_none_or(|hold| hold.holder != holder) {
        return Ok(None);
    }
    let waiting = ctx.store.turns.waiting(key).await?;
    let is_alone = waiting.iter().any(|waiter| waiter.job == holder.job && waiter.execution.is_some());
    Ok(Some(Fence { ctx: Arc::clone(ctx), key: key.to_owned(), holder, is_alone, revision: turn.revision }))
}

/// Why an attempt that has started does not run.
pub(crate) fn passed_over() -> Failure {
    let message = "its turn under the concurrency key was taken by another job before it could start".to_owned();
    Failure { code: ErrorCode::Interrupted, message }
}

async fn ask(ctx: &Arc<Context>, job: &Job, key: &str, holder: Holder) -> Result<Asked, Error> {
    let turns = &ctx.store.turns;
    let now = ctx.now();
    let waiting = turns.waiting(key).await?;
    let Some(n_before) = ahead(&waiting, job.id, now) else {
        // It lost its place with the records of who waits.
        if let Some(mut waiter) = waiter(job, now) {
            // A share looks like a job for this agent alone.
            waiter.execution = waiter.execution.filter(|execution| *execution == ExecutionId::Any);
            turns.enter(&waiter).await?;
            // Or its job was deleted just now: whoever deletes it removes its place once more when it is gone, so one of the two sees the other.
            if ctx.store.ledger.load_execution(holder.job, holder.execution).await?.is_none() {
                turns.leave(key, job.id).await?;
            }
        }
        return Ok(Asked::After(waiting.len()));
    };
    if n_before > 0 {
        if let Some(first) = first(&waiting, now)
            && let Some(execution) = first.execution
            && progress_of(ctx, Holder { job: first.job, execution, attempt: u32::MAX }).await? == Progress::Over
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
        Some(hold) if is_held(ctx, key, &hold, turn.revision).await? => return Ok(Asked::After(1)),
        Some(hold) => Some(hold.holder),
    };
    let Some(revision) = turns.take(key, &Hold { schema: SCHEMA, holder, over }, turn.revision).await? else { return Ok(Asked::After(1)) };
    ctx.turns.forget(key);
    if let Some(former) = over
        && progress_of(ctx, former).await? == Progress::Runs
    {
        // It started between our look and our taking.
        turns.take(key, &Hold { schema: SCHEMA, holder: former, over: None }, revision).await?;
        return Ok(Asked::After(1));
    }
    Ok(Asked::Ours(Fence { ctx: Arc::clone(ctx), key: key.to_owned(), holder, is_alone, revision }))
}

async fn is_held(ctx: &Context, key: &str, hold: &Hold, revision: Revision) -> Result<bool, Error> {
    if let Some(over) = hold.over
        && progress_of(ctx, over).await? == Progress::Runs
    {
        return Ok(true);
    }
    Ok(match progress_of(ctx, hold.holder).await? {
        Progress::Runs => true,
        Progress::Over => false,
        // Longer than a claim lasts without being extended.
        Progress::NotStarted => ctx.turns.still_for(key, revision) < ctx.store.work.lease_duration(),
    })
}

async fn progress_of(ctx: &Context, holder: Holder) -> Result<Progress, Error> {
    let Some(record) = ctx.store.ledger.load_execution(holder.job, holder.execution).await? else { return Ok(Progress::Over) };
    match Execution::fold(&record.events, record.answer.as_ref()) {
        Ok(execution) => Ok(progress(Some(&execution), holder.attempt)),
        // A history that contradicts itself is nobody's to judge; only its answer ends it.
        Err(_) => Ok(if record.answer.is_some() { Progress::Over } else { Progress::Runs }),
    }
}
