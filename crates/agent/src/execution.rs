//! One piece of work from its delivery to its stored answer.
//!
//! ```text
//!   delivered ─► fold the ledger ─► decide ─┬─► wait, drop, lose, finish without running
//!                    ▲                      └─► record `started` ─► run ─┬─► store logs, archive, answer ─► done
//!                    └── somebody else wrote first ──┘                   ├─► record `retrying` ─► give back
//!                                                                        └─► superseded: write nothing
//! ```
//!
//! While it runs the claim is extended, and the ledger is read again at every extension, at every hint and after every reconnect: a cancel
//! or a newer attempt ends it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use longshore_exec::{Executor, Finished, Task};
use longshore_model::job::{Claim as Decision, Claimant, DropReason, Execution, InvalidDefinition, Job, claim};
use longshore_model::operation::CallError;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Answer, Event, EventKind, Failure, Outcome, SCHEMA};
use longshore_store::{Answered, Appended, Delivery, Error, Revision, Store};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::claims::Claim;
use crate::dispatcher::Key;
use crate::journal::{Entry, Journal};
use crate::{Config, output, transfer};

/// Between tries while the broker is away.
const PAUSE: Duration = Duration::from_millis(250);
/// How long an answer waits for the output before it; longer only if the broker is away, and then the answer waits as well.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(30);

/// What every worker shares.
pub(crate) struct Context {
    pub(crate) config: Arc<Config>,
    pub(crate) store: Store,
    pub(crate) executor: Executor,
    pub(crate) journal: Journal,
    pub(crate) bundles: PathBuf,
}

/// What a running worker listens to.
#[derive(Clone)]
pub(crate) struct Signals {
    /// The ledger may say something new about this job.
    pub(crate) recheck: Arc<Notify>,
    /// End now and hand back.
    pub(crate) stop: CancellationToken,
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Nothing more to do here.
    Done,
    /// To be offered again at this time, where the broker does not do it by itself.
    Waiting(Timestamp),
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

/// The work as it stands: what the ledger says, and at which revision.
struct Standing {
    execution: Execution,
    revision: Revision,
}

struct Worker {
    ctx: Arc<Context>,
    key: Key,
    claim: Claim,
    signals: Signals,
}

/// Carries one delivery to its end.
pub(crate) async fn carry(ctx: Arc<Context>, key: Key, delivery: Delivery, signals: Signals) -> Settled {
    let Delivery { definition, revision, is_first, lease } = delivery;
    let claim = Claim::new(lease, ctx.store.work.lease_duration());
    let worker = Worker { ctx, key, claim, signals };
    let fresh = is_first.then(|| Standing { execution: Execution::default(), revision });
    let settled = match Job::try_from(definition) {
        Ok(job) => worker.settle(&job, fresh).await,
        Err(invalid) => worker.refuse(&invalid).await,
    };
    tracing::debug!(job.id = %key.0, ?settled, "worker ended");
    settled
}

impl Worker {
    async fn settle(mut self, job: &Job, mut known: Option<Standing>) -> Settled {
        loop {
            let standing = match known.take() {
                Some(standing) => standing,
                None => match self.read().await {
                    Some(standing) => standing,
                    None => return Settled::Done,
                },
            };
            let claimant = Claimant { agent: self.ctx.config.id, is_running_it: false };
            match claim(job, &standing.execution, claimant, Timestamp::now()) {
                Decision::Start { attempt } => {
                    if !self.claim.is_valid() {
                        tracing::info!(job.id = %job.id, "claim lapsed before work began; leaving it to whoever has it now");
                        return Settled::Done;
                    }
                    if let Some(revision) = self.start(attempt, standing.revision).await {
                        return self.run(job, attempt, revision).await;
                    }
                    if self.signals.stop.is_cancelled() {
                        return Settled::Done;
                    }
                }
                Decision::Wait { until } => {
                    self.claim.give_back(from_now(until)).await;
                    return Settled::Waiting(until);
                }
                Decision::Drop(DropReason::RunningHere) => return Settled::Done,
                Decision::Drop(DropReason::Ended | DropReason::Lost) => {
                    self.claim.done().await;
                    return Settled::Done;
                }
                Decision::Lose { attempt } => {
                    let event = Event { schema: SCHEMA, at: Timestamp::now(), kind: EventKind::Lost { attempt } };
                    if let Some(Appended::Stored(_)) = self.append(standing.revision, &event).await {
                        tracing::warn!(job.id = %job.id, attempt, "recorded as lost: its agent went away while it ran");
                        self.claim.done().await;
                        return Settled::Done;
                    }
                    if self.signals.stop.is_cancelled() {
                        return Settled::Done;
                    }
                }
                Decision::Finish { outcome, failure } => {
                    let answer = self.unstarted(&standing.execution, outcome, failure);
                    return self.answer(answer).await;
                }
            }
        }
    }

    /// A definition that this version cannot read ends here, by name.
    async fn refuse(self, invalid: &InvalidDefinition) -> Settled {
        let outcome = match invalid {
            InvalidDefinition::Call(CallError::UnknownOperation { .. }) => Outcome::Skipped,
            InvalidDefinition::Call(CallError::Args(_))
            | InvalidDefinition::Schema(_)
            | InvalidDefinition::NoExecutions
            | InvalidDefinition::Target(_)
            | InvalidDefinition::Retry(_) => Outcome::Failed,
        };
        let message = format!("this agent (version {}) cannot take the job: {invalid}", env!("CARGO_PKG_VERSION"));
        let answer = self.unstarted(&Execution::default(), outcome, Failure { code: ErrorCode::Validation, message });
        self.answer(answer).await
    }

    /// The ledger's word on this work; `None` if it was deleted, or we are to stop.
    async fn read(&mut self) -> Option<Standing> {
        loop {
            match self.ctx.store.ledger.load(self.key.0).await {
                Ok(Some(record)) => {
                    let folded = Execution::fold(record.events_of(self.key.1), record.answer_of(self.key.1));
                    let execution = folded
                        .inspect_err(|refused| tracing::error!(job.id = %self.key.0, %refused, "the ledger contradicts itself"))
                        .ok()?;
                    return Some(Standing { execution, revision: record.revision(self.key.1) });
                }
                Ok(None) => {
                    self.claim.done().await;
                    return None;
                }
                Err(error) => self.broker_fault("reading the ledger", &error).await?,
            }
        }
    }

    /// Waits before another try; `None` if we are to stop.
    async fn broker_fault(&mut self, doing: &str, error: &Error) -> Option<()> {
        tracing::debug!(job.id = %self.key.0, doing, %error, "the broker is away; trying again");
        self.signals.stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await?;
        self.claim.extend().await;
        Some(())
    }

    /// Appends an event; `None` if we are to stop before the outcome is known.
    async fn append(&mut self, after: Revision, event: &Event) -> Option<Appended> {
        loop {
            match self.ctx.store.ledger.append(self.key.0, self.key.1, after, event).await {
                Ok(appended) => return Some(appended),
                Err(error) => self.broker_fault("recording an event", &error).await?,
            }
        }
    }

    /// Records the claim. Gives its revision if it is ours.
    async fn start(&mut self, attempt: u32, after: Revision) -> Option<Revision> {
        // Noted first: if we are killed right after the ledger has it, the next start gives the work back at once.
        self.ctx.journal.note(self.key, &Entry { token: self.claim.token(), answer: None });
        let kind = EventKind::Started { attempt, agent: self.ctx.config.id, hostname: self.ctx.config.hostname.clone() };
        let event = Event { schema: SCHEMA, at: Timestamp::now(), kind };
        match self.append(after, &event).await? {
            Appended::Stored(revision) => Some(revision),
            Appended::Conflict => None,
        }
    }

    async fn run(mut self, job: &Job, attempt: u32, revision: Revision) -> Settled {
        tracing::info!(job.id = %job.id, operation = job.call.operation().name(), attempt, "started");
        let started_at = Timestamp::now();
        let (finished, interruption) = self.perform(job, attempt).await;
        tracing::info!(job.id = %job.id, attempt, outcome = ?finished.outcome, elapsed_ms = finished.duration.as_millis(), "ended");
        match interruption {
            Some(Interruption::Superseded) => {
                tracing::warn!(job.id = %job.id, attempt, "ended without an answer: another attempt or answer is newer");
                self.ctx.journal.forget(self.key);
                Settled::Done
            }
            Some(Interruption::Stopping) if finished.outcome == Outcome::Cancelled => {
                let failure = Failure {
                    code: ErrorCode::Interrupted,
                    message: format!("the agent on {} was stopped while it ran", self.ctx.config.hostname),
                };
                self.try_again_or_fail(job, attempt, revision, started_at, finished, failure, Duration::ZERO).await
            }
            Some(Interruption::Cancelled { by }) if finished.outcome == Outcome::Cancelled => {
                let failure = Failure { code: ErrorCode::Cancelled, message: format!("cancelled by {by}") };
                let answer = self.ran(attempt, started_at, finished, Outcome::Cancelled, Some(failure));
                self.answer(answer).await
            }
            Some(Interruption::Stopping | Interruption::Cancelled { .. }) | None if finished.transient => {
                let failure =
                    finished.failure.clone().unwrap_or(Failure { code: ErrorCode::HostFault, message: "a fault of the host".to_owned() });
                let wait = job.retry.wait_after(attempt).unwrap_or_default();
                self.try_again_or_fail(job, attempt, revision, started_at, finished, failure, wait).await
            }
            Some(Interruption::Stopping | Interruption::Cancelled { .. }) | None => {
                let finished = self.keep_archive(finished).await;
                let (outcome, failure) = (finished.outcome, finished.failure.clone());
                let answer = self.ran(attempt, started_at, finished, outcome, failure);
                self.answer(answer).await
            }
        }
    }

    /// Runs the work with its claim extended, until it ends or is ended.
    async fn perform(&mut self, job: &Job, attempt: u32) -> (Finished, Option<Interruption>) {
        let bundle = match job.call.bundle() {
            None => None,
            Some(sha256) => match transfer::fetch_bundle(&self.ctx.store.objects, sha256, &self.ctx.bundles, self.key).await {
                Ok(bundle) => Some(bundle),
                Err(fault) => return (unfetched(fault), None),
            },
        };
        let source = output::Source { job: job.id, execution: self.key.1, agent: self.ctx.config.id, attempt };
        let (sink, pump) = output::open(source, self.ctx.store.logs.clone());
        let task = Task {
            job: job.clone(),
            execution: self.key.1,
            attempt,
            hostname: self.ctx.config.hostname.clone(),
            bundle: bundle.as_ref().map(|bundle| bundle.path().to_owned()),
        };
        let cancel = CancellationToken::new();
        let executor = self.ctx.executor.clone();
        let running = executor.run(task, sink, cancel.clone());
        tokio::pin!(running);
        let mut extend = tokio::time::interval(self.claim.extend_every());
        extend.reset();
        let mut interruption = None;
        let finished = loop {
            let interrupted = tokio::select! {
                finished = &mut running => break finished,
                () = self.signals.recheck.notified() => self.look_again(attempt).await,
                _ = extend.tick() => {
                    self.claim.extend().await;
                    self.look_again(attempt).await
                }
                () = self.signals.stop.cancelled(), if interruption.is_none() => Some(Interruption::Stopping),
            };
            if let (None, Some(reason)) = (&interruption, interrupted) {
                interruption = Some(reason);
                cancel.cancel();
            }
        };
        // Output first, so that a reader who sees the end has seen everything before it.
        let _ = tokio::time::timeout(OUTPUT_PATIENCE, pump).await;
        (finished, interruption)
    }

    /// Whether the ledger ends this attempt. If it cannot be read, the next look will tell.
    async fn look_again(&self, attempt: u32) -> Option<Interruption> {
        let record = self.ctx.store.ledger.load(self.key.0).await.ok()?;
        let Some(record) = record else { return Some(Interruption::Superseded) };
        let execution = Execution::fold(record.events_of(self.key.1), record.answer_of(self.key.1)).ok()?;
        if execution.is_answered() || execution.attempts() > attempt {
            return Some(Interruption::Superseded);
        }
        execution.cancel_requested_by().map(|by| Interruption::Cancelled { by: by.to_owned() })
    }

    #[expect(clippy::too_many_arguments, reason = "one call's facts, each of its own type")]
    async fn try_again_or_fail(
        mut self,
        job: &Job,
        attempt: u32,
        revision: Revision,
        started_at: Timestamp,
        finished: Finished,
        failure: Failure,
        wait: Duration,
    ) -> Settled {
        if attempt >= job.retry.max_attempts() {
            let failure = if job.retry.max_attempts() == 1 {
                failure
            } else {
                Failure {
                    code: ErrorCode::DeadLetter,
                    message: format!("all {attempt} attempts are used up; the last: {}", failure.message),
                }
            };
            let answer = self.ran(attempt, started_at, finished, Outcome::Failed, Some(failure));
            return self.answer(answer).await;
        }
        let now = Timestamp::now();
        let not_before = SignedDuration::try_from(wait).ok().and_then(|wait| now.checked_add(wait).ok()).unwrap_or(now);
        let event = Event { schema: SCHEMA, at: now, kind: EventKind::Retrying { attempt, error: failure, not_before } };
        match self.ctx.store.ledger.append(self.key.0, self.key.1, revision, &event).await {
            Ok(Appended::Stored(_)) => {
                tracing::info!(job.id = %job.id, attempt, wait_ms = wait.as_millis(), "to be tried again");
                self.claim.give_back(wait).await;
                self.ctx.journal.forget(self.key);
                Settled::Waiting(not_before)
            }
            // A cancel came in between: fold and decide again. As our own work has ended, that cannot start it twice.
            Ok(Appended::Conflict) => match self.look_again(attempt).await {
                Some(Interruption::Cancelled { by }) => {
                    let failure = Failure { code: ErrorCode::Cancelled, message: format!("cancelled by {by}") };
                    let mut answer = self.ran(attempt, started_at, finished, Outcome::Cancelled, Some(failure));
                    answer.cancel_verified = Some(true);
                    self.answer(answer).await
                }
                Some(Interruption::Superseded | Interruption::Stopping) | None => {
                    self.ctx.journal.forget(self.key);
                    Settled::Done
                }
            },
            Err(error) => match self.broker_fault("recording a retry", &error).await {
                Some(()) => {
                    Box::pin(self.try_again_or_fail(job, attempt, revision, started_at, finished, event_failure(event), wait)).await
                }
                // The journal knows of it: the next start gives it back.
                None => Settled::Done,
            },
        }
    }

    /// Stores what the work brought back before anybody is told of its end.
    async fn keep_archive(&self, mut finished: Finished) -> Finished {
        if let Some(archive) = finished.archive.take()
            && let Err(failure) = transfer::store_archive(&self.ctx.store.objects, self.key, &archive).await
        {
            finished.outcome = Outcome::Failed;
            finished.failure.get_or_insert(failure);
        }
        finished
    }

    /// Stores the answer, however long the broker is away, and ends the claim.
    async fn answer(mut self, mut answer: Answer) -> Settled {
        let mut noted = false;
        loop {
            match self.ctx.store.ledger.answer(&answer).await {
                Ok(Answered::Stored) => break,
                Ok(Answered::Exists) => {
                    tracing::warn!(job.id = %answer.job, "another answer was first; this one was dropped");
                    break;
                }
                Err(Error::TooLarge { bytes, max }) if answer.result.is_some() => {
                    answer.result = None;
                    answer.outcome = Outcome::Failed;
                    let message = format!("the result has {bytes} bytes, more than the {max} an answer may have; its output is in the log");
                    answer.error = Some(Failure { code: ErrorCode::TooLarge, message });
                }
                Err(error) if error.is_retryable() => {
                    if !noted {
                        // From here on the answer survives us.
                        self.ctx.journal.note(self.key, &Entry { token: self.claim.token(), answer: Some(answer.clone()) });
                        noted = true;
                    }
                    if self.broker_fault("storing an answer", &error).await.is_none() {
                        return Settled::Done;
                    }
                }
                Err(error) => {
                    tracing::error!(job.id = %answer.job, %error, "the answer cannot be stored");
                    self.ctx.journal.note(self.key, &Entry { token: self.claim.token(), answer: Some(answer) });
                    return Settled::Done;
                }
            }
        }
        self.claim.done().await;
        self.ctx.journal.forget(self.key);
        Settled::Done
    }

    fn unstarted(&self, execution: &Execution, outcome: Outcome, failure: Failure) -> Answer {
        Answer {
            schema: SCHEMA,
            job: self.key.0,
            execution: self.key.1,
            outcome,
            agent: Some(self.ctx.config.id),
            hostname: Some(self.ctx.config.hostname.clone()),
            attempts: execution.attempts(),
            changed: None,
            result: None,
            error: Some(failure),
            cancel_verified: None,
            started_at: execution.started_at(),
            finished_at: Timestamp::now(),
            duration_ms: None,
        }
    }

    fn ran(&self, attempt: u32, started_at: Timestamp, finished: Finished, outcome: Outcome, failure: Option<Failure>) -> Answer {
        Answer {
            schema: SCHEMA,
            job: self.key.0,
            execution: self.key.1,
            outcome,
            agent: Some(self.ctx.config.id),
            hostname: Some(self.ctx.config.hostname.clone()),
            attempts: attempt,
            changed: finished.changed,
            result: finished.result,
            error: failure,
            cancel_verified: finished.cancel_verified,
            started_at: Some(started_at),
            finished_at: Timestamp::now(),
            duration_ms: Some(u64::try_from(finished.duration.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

fn unfetched(fault: transfer::FetchFault) -> Finished {
    Finished {
        outcome: Outcome::Failed,
        changed: None,
        result: None,
        failure: Some(fault.failure),
        transient: fault.is_transient,
        cancel_verified: None,
        archive: None,
        duration: Duration::ZERO,
    }
}

fn event_failure(event: Event) -> Failure {
    match event.kind {
        EventKind::Retrying { error, .. } => error,
        EventKind::Started { .. }
        | EventKind::CancelRequested { .. }
        | EventKind::Cancelled { .. }
        | EventKind::Expired
        | EventKind::Lost { .. } => Failure { code: ErrorCode::Internal, message: "unknown".to_owned() },
    }
}

/// How long until then; zero if it has passed.
pub(crate) fn from_now(until: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default()
}
