//! One attempt: the work itself, with its claim extended, until it ends or is ended; and what is recorded of it then.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use longshore_exec::{Archive, Finished, Resumable, Task};
use longshore_model::job::{Execution, Job};
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Answer, Event, EventKind, Failure, Outcome, SCHEMA};
use longshore_store::{Appended, ExecutionRecord, Fence, Revision};
use tokio_util::sync::CancellationToken;

use crate::dispatcher::Key;
use crate::execution::{Context, Settled, Worker};
use crate::journal::Entry;
use crate::{output, resumption, transfer, turn};

/// A claim that the ledger has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt {
    /// From 1.
    pub(crate) number: u32,
    /// Of its `started`.
    pub(crate) revision: Revision,
    pub(crate) started_at: Timestamp,
    /// The job's policy allows no other.
    pub(crate) is_the_only_one: bool,
    /// What an earlier process left of it, if that began it.
    pub(crate) left: Option<Resumable>,
}

/// Why running work was ended from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Interruption {
    Cancelled {
        by: String,
    },
    /// Another attempt has begun, or an answer is there: this one must not write.
    Superseded,
    Stopping,
}

/// The ledger could not be read before this agent is to end.
struct Unknown;

impl Worker {
    /// The same as [`Self::run`] for an attempt that has a turn under a concurrency key: run if it still has it, and freed afterwards.
    pub(crate) async fn run_in_turn(mut self, job: &Job, attempt: Attempt, fence: Fence) -> Settled {
        let holds = loop {
            match fence.holds().await {
                Ok(holds) => break holds,
                Err(error) => {
                    if self.broker_fault("looking at a turn", &error).await.is_none() {
                        return Settled::Done;
                    }
                }
            }
        };
        let settled = if holds {
            self.run(job, attempt, Some(fence.revision)).await
        } else {
            tracing::warn!(job.id = %job.id, attempt = attempt.number, "not run: its turn was taken by another job");
            self.again(job, attempt, unfetched(turn::passed_over(), true), Duration::ZERO).await
        };
        fence.end(job).await;
        settled
    }

    /// Runs the work and records how it ended.
    pub(crate) async fn run(mut self, job: &Job, attempt: Attempt, fence: Option<Revision>) -> Settled {
        if attempt.left.is_none() {
            tracing::info!(job.id = %job.id, operation = job.call.operation().name(), attempt = attempt.number, "started");
        }
        let (mut finished, mut interruption) = self.perform(job, attempt, fence).await;
        tracing::info!(job.id = %job.id, outcome = ?finished.outcome, elapsed_ms = finished.duration.as_millis(), "ended");
        if interruption == Some(Interruption::Stopping) && finished.outcome == Outcome::Cancelled {
            // Somebody may have asked for the end of the job while it was ending with its agent: then that is how it ended.
            match self.look_until_known(attempt.number).await {
                Ok(found) => interruption = found.or(interruption),
                // The notes know of the work: the next start reads in the ledger what is to become of it.
                Err(Unknown) => return Settled::Done,
            }
        }
        match interruption {
            Some(Interruption::Superseded) => {
                tracing::warn!(job.id = %job.id, "ended without an answer: another attempt or answer is newer");
                self.ctx.journal.forget(self.key);
                Settled::Done
            }
            Some(Interruption::Stopping) if finished.outcome == Outcome::Cancelled => {
                let message = format!("the agent on {} was stopped while it ran", self.ctx.config.hostname());
                finished.failure = Some(Failure { code: ErrorCode::Interrupted, message });
                self.again(job, attempt, finished, Duration::ZERO).await
            }
            Some(Interruption::Cancelled { by }) if finished.outcome == Outcome::Cancelled => self.cancelled(attempt, finished, &by).await,
            Some(Interruption::Stopping | Interruption::Cancelled { .. }) | None if finished.transient => {
                let wait = job.retry.wait_after_with(attempt.number, &self.ctx.config.backoff).unwrap_or_default();
                self.again(job, attempt, finished, wait).await
            }
            Some(Interruption::Stopping | Interruption::Cancelled { .. }) | None => self.conclude(attempt, finished).await,
        }
    }

    /// Does the work, from fetching its bundle to storing its last output, with its claim extended, until it ends or is ended.
    async fn perform(&mut self, job: &Job, attempt: Attempt, fence: Option<Revision>) -> (Finished, Option<Interruption>) {
        let cancel = CancellationToken::new();
        let mut job = job.clone();
        // From here on in the clear, and only in this process and in what it starts.
        if let (Some(secrets), Ok(opened)) = (job.call.secrets_mut(), &mut self.checked) {
            *secrets = std::mem::take(opened);
        }
        let work = work(self.ctx.clone(), self.key, job, (attempt, fence, self.claim.token()), cancel.clone());
        tokio::pin!(work);
        let mut extend = tokio::time::interval(self.claim.extend_every());
        extend.reset();
        let mut interruption = None;
        loop {
            let is_to_extend = tokio::select! {
                biased;
                finished = &mut work => return (finished, interruption),
                () = self.signals.stop.cancelled(), if interruption.is_none() => {
                    interruption = Some(Interruption::Stopping);
                    cancel.cancel();
                    continue;
                }
                () = self.signals.recheck.notified() => false,
                _ = extend.tick() => true,
            };
            let stop = self.signals.stop.clone();
            let look = async {
                if is_to_extend {
                    self.claim.extend().await;
                }
                self.look_again(attempt.number).await
            };
            // A broker that is slow keeps neither the end of the work from being noted nor a stop from being heard.
            let interrupted = tokio::select! {
                biased;
                finished = &mut work => return (finished, interruption),
                () = stop.cancelled(), if interruption.is_none() => Some(Interruption::Stopping),
                looked = look => looked,
            };
            if let (None, Some(reason)) = (&interruption, interrupted) {
                interruption = Some(reason);
                cancel.cancel();
            }
        }
    }

    /// Whether the ledger ends this attempt. If it cannot be read, the next look will tell.
    async fn look_again(&self, attempt: u32) -> Option<Interruption> {
        let record = self.ctx.store.ledger.load_execution(self.key.0, self.key.1).await.ok()?;
        interruption(record.as_ref(), attempt)
    }

    /// The same, however long the broker is away, unless we are to stop.
    async fn look_until_known(&mut self, attempt: u32) -> Result<Option<Interruption>, Unknown> {
        loop {
            match self.ctx.store.ledger.load_execution(self.key.0, self.key.1).await {
                Err(error) if error.is_retryable() => self.broker_fault("reading the ledger", &error).await.ok_or(Unknown)?,
                looked => return Ok(looked.ok().and_then(|record| interruption(record.as_ref(), attempt))),
            }
        }
    }

    /// Records that it is to be tried again, and gives it back; or that it has failed, if its attempts are used up.
    pub(crate) async fn again(mut self, job: &Job, attempt: Attempt, mut finished: Finished, wait: Duration) -> Settled {
        let unknown = || Failure { code: ErrorCode::HostFault, message: "a fault of the host".to_owned() };
        let failure = finished.failure.clone().unwrap_or_else(unknown);
        finished.outcome = Outcome::Failed;
        if attempt.number >= job.retry.max_attempts() {
            if job.retry.max_attempts() > 1 {
                let message = format!("all {} attempts are used up; the last: {}", attempt.number, failure.message);
                finished.failure = Some(Failure { code: ErrorCode::DeadLetter, message });
            }
            return self.conclude(attempt, finished).await;
        }
        let now = self.ctx.now();
        let not_before = SignedDuration::try_from(wait).ok().and_then(|wait| now.checked_add(wait).ok()).unwrap_or(now);
        let kind = EventKind::Retrying { attempt: attempt.number, error: failure, not_before };
        match self.append(attempt.revision, &Event { schema: SCHEMA, at: now, kind }).await {
            Some(Appended::Stored(_)) => {
                tracing::info!(job.id = %job.id, attempt = attempt.number, wait_ms = wait.as_millis(), "to be tried again");
                self.ctx.journal.forget(self.key);
                self.wait(not_before).await
            }
            // Somebody else wrote in between: a cancel, most likely. Our own work has ended, so nothing can start twice.
            Some(Appended::Conflict) => match self.look_until_known(attempt.number).await {
                Ok(Some(Interruption::Cancelled { by })) => self.cancelled(attempt, finished, &by).await,
                Ok(Some(Interruption::Superseded | Interruption::Stopping) | None) | Err(Unknown) => {
                    self.claim.give_back(Duration::ZERO).await;
                    self.ctx.journal.forget(self.key);
                    Settled::Done
                }
            },
            // We are to stop, and the broker is away: the journal knows of the work, and the next start gives it back.
            None => Settled::Done,
        }
    }

    async fn cancelled(self, attempt: Attempt, mut finished: Finished, by: &str) -> Settled {
        finished.outcome = Outcome::Cancelled;
        finished.failure = Some(Failure::cancelled(by));
        self.conclude(attempt, finished).await
    }

    /// Stores what the work brought back, then its answer.
    async fn conclude(mut self, attempt: Attempt, mut finished: Finished) -> Settled {
        if finished.archive.is_some() && self.look_again(attempt.number).await == Some(Interruption::Superseded) {
            tracing::warn!(job.id = %self.key.0, "ended without an answer: what a newer attempt brings back is not to be replaced");
            self.ctx.journal.forget(self.key);
            return Settled::Done;
        }
        // Held to the end: what outlived a killed agent once is found again by the next until its answer is stored.
        let archive = finished.archive.take();
        if let Some(archive) = &archive
            && let Err(failure) = self.store_archive(archive).await
            && finished.outcome == Outcome::Completed
        {
            finished.outcome = Outcome::Failed;
            finished.failure = Some(failure);
        }
        let answer = Answer {
            agent: Some(self.ctx.config.id),
            hostname: Some(self.ctx.config.hostname()),
            changed: finished.changed,
            result: finished.result,
            error: finished.failure,
            cancel_verified: finished.cancel_verified,
            started_at: Some(attempt.started_at),
            duration_ms: Some(u64::try_from(finished.duration.as_millis()).unwrap_or(u64::MAX)),
            ..Answer::new(self.key.0, self.key.1, finished.outcome, attempt.number, self.ctx.now())
        };
        let answer = {
            let outbox = self.ctx.outbox.clone();
            self.meanwhile_extending(outbox.pack(answer)).await
        };
        if attempt.is_the_only_one || answer.result_object.is_some() {
            // Nobody will try again, or storing it takes a while: if we are killed right here, the next start must know that it was done.
            self.ctx.journal.note(self.key, &Entry { token: self.claim.token(), answer: Some(answer.clone()), unbegun: None });
        }
        let settled = self.answer(answer).await;
        drop(archive);
        settled
    }
}

/// Whether what the ledger has ends this attempt.
fn interruption(record: Option<&ExecutionRecord>, attempt: u32) -> Option<Interruption> {
    let Some(record) = record else { return Some(Interruption::Superseded) };
    let execution = Execution::fold(&record.events, record.answer.as_ref()).ok()?;
    if execution.is_answered() || execution.attempts() > attempt {
        return Some(Interruption::Superseded);
    }
    execution.cancel_requested_by().map(|by| Interruption::Cancelled { by: by.to_owned() })
}

impl Worker {
    async fn store_archive(&mut self, archive: &Archive) -> Result<(), Failure> {
        let (objects, key) = (self.ctx.store.objects.clone(), self.key);
        self.meanwhile_extending(transfer::store_archive(&objects, key, archive)).await
    }

    /// Waits for something of which nobody else shall take the work meanwhile.
    pub(crate) async fn meanwhile_extending<T>(&mut self, doing: impl Future<Output = T>) -> T {
        tokio::pin!(doing);
        let mut extend = tokio::time::interval(self.claim.extend_every());
        extend.reset();
        loop {
            tokio::select! {
                biased;
                done = &mut doing => return done,
                _ = extend.tick() => self.claim.extend().await,
            }
        }
    }
}

/// The work itself: bundle, execution, output. Ends soon after `cancel`.
async fn work(
    ctx: Arc<Context>,
    key: Key,
    job: Job,
    (attempt, fence, token): (Attempt, Option<Revision>, Option<String>),
    cancel: CancellationToken,
) -> Finished {
    if let Some(left) = attempt.left {
        return resumption::work(&ctx, key, left, cancel).await;
    }
    let Attempt { number: attempt, is_the_only_one, .. } = attempt;
    // The facts are the host's, and will be the same in a moment: nothing that they spoil is tried again.
    let job = match ctx.facts.fill(job) {
        Ok(job) => job,
        Err(failure) => return unfetched(failure, false),
    };
    let bundle = match job.call.bundle() {
        None => None,
        Some(sha256) => {
            let fetching = transfer::fetch_bundle(&ctx.store.objects, sha256, &ctx.bundles, key);
            match cancel.run_until_cancelled(tokio::time::timeout(job.timeout, fetching)).await {
                Some(Ok(Ok(bundle))) => Some(bundle),
                Some(Ok(Err(fault))) => return unfetched(fault.failure, fault.is_transient),
                Some(Err(_)) => {
                    let message = format!("the bundle {sha256} could not be fetched in time");
                    return unfetched(Failure { code: ErrorCode::TimedOut, message }, true);
                }
                // Nothing has been started, so nothing can be left.
                None => {
                    return Finished { outcome: Outcome::Cancelled, cancel_verified: Some(true), ..unfetched(cancelled_early(), false) };
                }
            }
        }
    };
    // From here on it has begun: whoever finds the note must not begin it again. So what cannot be noted is not begun.
    if is_the_only_one && !ctx.journal.note(key, &Entry { token, answer: None, unbegun: None }) {
        let message = "nothing was started: the agent could not write to its state directory".to_owned();
        return unfetched(Failure { code: ErrorCode::HostFault, message }, true);
    }
    let source = output::Source { job: job.id, execution: key.1, agent: ctx.config.id, attempt };
    let (sink, sending) = ctx.spools.open(source);
    let path = bundle.as_ref().map(|bundle| bundle.path().to_owned());
    let task = Task { job, execution: key.1, attempt, fence, hostname: ctx.config.hostname(), bundle: path };
    let finished = ctx.executor.run(task, sink, cancel).await;
    // Output first, so that a reader who sees the end has seen everything before it.
    sending.end_or_stall().await;
    finished
}

fn cancelled_early() -> Failure {
    Failure { code: ErrorCode::Cancelled, message: "cancelled before it was started".to_owned() }
}

pub(crate) fn unfetched(failure: Failure, transient: bool) -> Finished {
    Finished {
        outcome: Outcome::Failed,
        changed: None,
        result: None,
        failure: Some(failure),
        transient,
        cancel_verified: None,
        archive: None,
        duration: Duration::ZERO,
    }
}
