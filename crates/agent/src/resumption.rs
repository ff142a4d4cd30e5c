//! Work that an earlier process of this agent began and that outlived it: found in the ledger, and gone on with. So is an attempt whose start is
//! recorded and of which that process did not get to do anything, where no other may be started in its place.
//!
//! The invariant guarded here: only the newest attempt, started by this agent and not answered, is gone on with; it is not started again,
//! and records nothing but its end.

use std::sync::Arc;
use std::time::Duration;

use longshore_exec::{Finished, Resumable};
use longshore_model::ExecutionState;
use longshore_model::job::{Execution, Job};
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{EventKind, Failure};
use longshore_model::wire::secret::Secrets;
use longshore_model::wire::turn::Holder;
use longshore_store::{Error, Lease, Store};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::attempt::{Attempt, unfetched};
use crate::claims::Claim;
use crate::dispatcher::Key;
use crate::execution::{Context, Settled, Signals, Worker};
use crate::{output, trust, turn};

/// Between tries while the broker is away.
const PAUSE: Duration = Duration::from_millis(250);

/// What is to be gone on with.
pub(crate) struct Kept {
    pub(crate) key: Key,
    pub(crate) attempt: Attempt,
    job: Job,
    /// What it is to be run with, if it has not begun.
    secrets: Secrets,
    lease: Box<dyn Lease>,
}

/// What an earlier process left of an execution.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Remains<'a> {
    /// These attempts.
    Attempts(&'a [Resumable]),
    /// Nothing of this attempt, of which it had done nothing.
    Unbegun(u32),
}

/// What of one execution is still this agent's, if anything; `token` is what was noted of its claim.
pub(crate) async fn find(config: &Config, store: &Store, key: Key, remains: Remains<'_>, token: Option<&str>) -> Option<Kept> {
    if matches!(remains, Remains::Attempts([])) {
        return None;
    }
    let until = Instant::now() + store.work.lease_duration() / 4;
    loop {
        match look(config, store, key, remains, token).await {
            Err(error) if error.is_retryable() && Instant::now() < until => tokio::time::sleep(PAUSE).await,
            Err(error) => {
                tracing::warn!(%error, job.id = %key.0, "whose the work of an earlier process is cannot be read");
                return None;
            }
            Ok(found) => return found,
        }
    }
}

async fn look(config: &Config, store: &Store, key: Key, remains: Remains<'_>, token: Option<&str>) -> Result<Option<Kept>, Error> {
    let (job, execution) = key;
    let Some(record) = store.ledger.load_execution(job, execution).await? else { return Ok(None) };
    let Some(definition) = store.ledger.load(job).await?.map(|record| record.definition) else { return Ok(None) };
    let Ok(folded) = Execution::fold(&record.events, record.answer.as_ref()) else { return Ok(None) };
    let is_ours = folded.state() == ExecutionState::Running && folded.holder().is_some_and(|(agent, _)| agent == config.id);
    if !is_ours {
        return Ok(None);
    }
    let (left, secrets) = match remains {
        Remains::Attempts(left) => match left.iter().find(|left| left.attempt == folded.attempts()) {
            // Whatever it is run with it has.
            Some(left) => (Some(*left), Secrets::default()),
            None => return Ok(None),
        },
        Remains::Unbegun(attempt) => match trust::check(config, &definition) {
            Ok(secrets) if attempt == folded.attempts() && folded.cancel_requested_by().is_none() => (None, secrets),
            // Whoever is offered it answers.
            Ok(_) | Err(_) => return Ok(None),
        },
    };
    let started_at = record.events.iter().rev().find_map(|event| matches!(event.kind, EventKind::Started { .. }).then_some(event.at));
    let (Some(started_at), Ok(job)) = (started_at, Job::try_from(definition.clone())) else { return Ok(None) };
    let Some(lease) = store.work.resume(config.id, &definition, token).await? else { return Ok(None) };
    let is_the_only_one = job.retry.max_attempts() == 1;
    if left.is_none() && !is_the_only_one {
        // Another attempt may follow, and somebody may be about to start it.
        return Ok(None);
    }
    let attempt = Attempt { number: folded.attempts(), revision: record.revision, started_at, is_the_only_one, left };
    Ok(Some(Kept { key, attempt, job, secrets, lease }))
}

/// Carries what was kept to its stored answer.
pub(crate) async fn carry_on(ctx: Arc<Context>, kept: Kept, signals: Signals) -> Settled {
    let Kept { key, attempt, job, secrets, lease } = kept;
    let lasts = ctx.store.work.lease_duration();
    // Work that goes on was without an agent for less than its patience, and its claim was a quarter old by then at most. What has ended, or was
    // never begun, may have been left at any time, and its claim counts as lapsed.
    let age = if attempt.left.is_some_and(|left| left.runs) { lasts.mul_f64(0.75) } else { lasts };
    let now = Instant::now();
    let mut claim = Claim::new(lease, lasts, now.checked_sub(age).unwrap_or(now));
    claim.extend().await;
    let worker = Worker { ctx: ctx.clone(), key, claim, signals, checked: Ok(secrets) };
    let Some(concurrency_key) = &job.concurrency_key else { return worker.run(&job, attempt, None).await };
    let holder = Holder { job: key.0, execution: key.1, attempt: attempt.number };
    match longshore_store::turn_kept(&ctx.store, concurrency_key, holder).await {
        Ok(Some(fence)) => {
            let settled = worker.run(&job, attempt, Some(fence.revision)).await;
            fence.end(&job).await;
            settled
        }
        Ok(None) | Err(_) => {
            if let Some(left) = attempt.left {
                ctx.executor.discard(left).await;
            }
            worker.again(&job, attempt, unfetched(turn::passed_over(), true), Duration::ZERO).await
        }
    }
}

/// The work itself, as far as it is still to be done. Ends soon after `cancel`.
pub(crate) async fn work(ctx: &Context, key: Key, left: Resumable, cancel: CancellationToken) -> Finished {
    let source = output::Source { job: key.0, execution: key.1, agent: ctx.config.id, attempt: left.attempt };
    // What is known of it is passed over.
    let (sink, sending) = ctx.spools.open(source);
    let finished = ctx.executor.resume(left, sink, cancel).await;
    // Output first, so that a reader who sees the end has seen everything before it.
    sending.end_or_stall().await;
    finished.unwrap_or_else(|| {
        let message = "the agent was killed while it ran, and nothing of it is left".to_owned();
        unfetched(Failure { code: ErrorCode::Interrupted, message }, true)
    })
}
