//! One piece of work from its delivery to its stored answer.
//!
//! ```text
//!   delivered ─► fold the ledger ─► decide ─┬─► wait, drop, lose, finish without running
//!                    ▲                      └─► record `started` ─► run ─┬─► store logs, archive, answer ─► done
//!                    └── somebody else wrote first ──┘      (attempt.rs) ├─► record `retrying` ─► give back
//!                                                                        └─► superseded: write nothing
//! ```
//!
//! While it runs the claim is extended, and the ledger is read again at every extension, at every hint and after every reconnect: a cancel
//! or a newer attempt ends it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use longshore_model::job::{Claim as Decision, Claimant, DropReason, Execution, InvalidDefinition, Job, claim};
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Answer, Event, EventKind, Failure, Outcome, SCHEMA};
use longshore_model::wire::secret::Secrets;
use longshore_model::{AgentId, ExecutionId, ExecutionState};
use longshore_store::{Answered, Appended, Asked, Before, Delivery, Error, Revision, Store, Turnstile};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::attempt::Attempt;
use crate::claims::Claim;
use crate::dispatcher::Key;
use crate::facts::Known;
use crate::heartbeat::Load;
use crate::host::{Host, Notes};
use crate::journal::{Entry, Unbegun};
use crate::outbox::Outbox;
use crate::output::Spools;
use crate::trust;

/// Between tries while the broker is away.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest wait that is left to the broker.
const WAIT_AT_BROKER_MAX: Duration = Duration::from_secs(20);
/// Before work that this agent cannot take is offered again.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// What every worker shares.
pub(crate) struct Context {
    pub(crate) config: Arc<Config>,
    pub(crate) store: Store,
    pub(crate) executor: Arc<dyn Host>,
    pub(crate) journal: Arc<dyn Notes>,
    pub(crate) outbox: Outbox,
    pub(crate) spools: Spools,
    pub(crate) bundles: PathBuf,
    pub(crate) facts: Known,
    /// Answers that the ledger does not have yet: an earlier process's, and those it would not take.
    pub(crate) owed: Mutex<BTreeMap<Key, Answer>>,
    pub(crate) turns: Turnstile,
    pub(crate) load: Arc<Load>,
}

impl Context {
    /// What time it is for this agent.
    pub(crate) fn now(&self) -> Timestamp {
        self.store.clock.now()
    }
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

/// The work as it stands: what the ledger says, and at which revision.
struct Standing {
    execution: Execution,
    revision: Revision,
    /// What the newest attempt rests on.
    delivery: Option<String>,
}

pub(crate) struct Worker {
    pub(crate) ctx: Arc<Context>,
    pub(crate) key: Key,
    pub(crate) claim: Claim,
    pub(crate) signals: Signals,
    /// What the job may be run with, or why it may not.
    pub(crate) checked: Result<Secrets, Failure>,
}

/// Carries one delivery to its end.
pub(crate) async fn carry(ctx: Arc<Context>, key: Key, delivery: Delivery, signals: Signals) -> Settled {
    let Delivery { definition, revision, before, received, lease } = delivery;
    let claim = Claim::new(lease, ctx.store.work.lease_duration(), received);
    let owed = ctx.owed.lock().expect("no holder of this lock panics").remove(&key);
    let checked = trust::check(&ctx.config, &definition);
    if let Err(failure) = &checked {
        tracing::warn!(job.id = %key.0, code = %failure.code, reason = failure.message, "a job is refused, and nothing of it is started");
    }
    let worker = Worker { ctx, key, claim, signals, checked };
    let settled = match (owed, Job::try_from(definition)) {
        // An earlier process did the work; only its answer is missing.
        (Some(answer), _) => worker.answer(answer).await,
        (None, Ok(job)) => worker.settle(&job, before, revision).await,
        (None, Err(invalid)) => match worker.checked.clone() {
            // Not a newer version's: nobody vouches for it.
            Err(failure) => worker.reject(failure).await,
            Ok(_) => worker.refuse(&invalid).await,
        },
    };
    tracing::debug!(job.id = %key.0, ?settled, "worker ended");
    settled
}

impl Worker {
    async fn settle(mut self, job: &Job, before: Before, definition: Revision) -> Settled {
        let nothing = || Standing { execution: Execution::default(), revision: definition, delivery: None };
        let mut known = (before == Before::Nothing).then(nothing);
        loop {
            let standing = match known.take() {
                Some(standing) => standing,
                None => match self.read().await {
                    Some(standing) => standing,
                    None => {
                        self.leave_if_deleted(job).await;
                        return Settled::Done;
                    }
                },
            };
            let Some(is_holder_gone) = self.is_holder_gone(before, &standing).await else { return Settled::Done };
            if !self.claim.is_valid() {
                tracing::info!(job.id = %job.id, "claim lapsed before work began; leaving it to whoever has it now");
                return Settled::Done;
            }
            let claimant = Claimant { agent: self.ctx.config.id, is_holder_gone };
            let decision = claim(job, &standing.execution, claimant, self.ctx.now());
            // Where somebody else had the last word, that stands; where this agent would go on, now or later, it does not.
            let refusal = self.checked.as_ref().err().filter(|_| match &decision {
                Decision::Start { .. } | Decision::Wait { .. } => true,
                Decision::Drop(_) | Decision::Lose { .. } | Decision::Finish { .. } => false,
            });
            if let Some(failure) = refusal {
                let answer = self.unstarted(&standing.execution, Outcome::Failed, failure.clone());
                return self.answer(answer).await;
            }
            match decision {
                Decision::Start { attempt } => {
                    let fence = match &job.concurrency_key {
                        None => None,
                        Some(key) => match self.ask_for_turn(job, key, attempt).await {
                            // Asking may have taken as long as the claim holds: what was decided before may not be right any more.
                            Some(Asked::Ours(fence)) if claim(job, &standing.execution, claimant, self.ctx.now()) != decision => {
                                fence.end(job).await;
                                continue;
                            }
                            Some(Asked::Ours(fence)) => Some(fence),
                            Some(Asked::After(n_before)) => return self.wait_for_turn(n_before).await,
                            None => return Settled::Done,
                        },
                    };
                    if let Some(revision) = self.start(job, attempt, standing.revision).await {
                        if attempt > 1 && !self.is_still_wanted(attempt).await {
                            if let Some(fence) = fence {
                                fence.end(job).await;
                            }
                            return Settled::Done;
                        }
                        let is_the_only_one = job.retry.max_attempts() == 1;
                        let attempt = Attempt { number: attempt, revision, started_at: self.ctx.now(), is_the_only_one, left: None };
                        return match fence {
                            None => self.run(job, attempt, None).await,
                            Some(fence) => self.run_in_turn(job, attempt, fence).await,
                        };
                    }
                    if self.signals.stop.is_cancelled() {
                        return Settled::Done;
                    }
                }
                Decision::Wait { until } => return self.wait(until).await,
                Decision::Drop(DropReason::Ended | DropReason::Lost | DropReason::HeldElsewhere) => {
                    self.claim.done().await;
                    self.ctx.journal.forget(self.key);
                    return Settled::Done;
                }
                Decision::Lose { attempt } => {
                    let event = Event { schema: SCHEMA, at: self.ctx.now(), kind: EventKind::Lost { attempt } };
                    match self.append(standing.revision, &event).await {
                        Some(Appended::Conflict) => {}
                        Some(Appended::Stored(_)) => {
                            tracing::warn!(job.id = %job.id, attempt, "recorded as lost: its agent went away while it ran");
                            self.claim.done().await;
                            return Settled::Done;
                        }
                        // We are to stop, or it cannot be written: deciding again at once would only end here again.
                        None => return Settled::Done,
                    }
                }
                Decision::Finish { outcome, failure } => {
                    let answer = self.unstarted(&standing.execution, outcome, failure);
                    return self.answer(answer).await;
                }
            }
        }
    }

    /// Whether this delivery proves that the holder of the newest attempt is gone; `None` if we are to stop before that is known.
    ///
    /// It proves it of the very attempt that was announced again with it, or that rests on the delivery before it. Another may have begun
    /// since, on an offer of its own.
    async fn is_holder_gone(&mut self, before: Before, standing: &Standing) -> Option<bool> {
        if before == Before::Announcement(standing.revision) {
            return Some(true);
        }
        let is_others = |(agent, _): (AgentId, &str)| agent != self.ctx.config.id;
        let is_held = standing.execution.state() == ExecutionState::Running && standing.execution.holder().is_some_and(is_others);
        let Some(earlier) = standing.delivery.as_deref().filter(|_| is_held) else { return Some(false) };
        loop {
            match self.claim.follows(earlier).await {
                Ok(follows) => return Some(follows),
                Err(error) if error.is_retryable() => self.broker_fault("looking at an earlier claim", &error).await?,
                Err(error) => {
                    tracing::error!(job.id = %self.key.0, %error, "an earlier claim cannot be looked at");
                    return Some(false);
                }
            }
        }
    }

    /// Gives the work back until its time. The broker keeps what it was given back as pending, and only so many of those: a long wait
    /// is left to the controller, which announces the work when it is due.
    pub(crate) async fn wait(self, until: Timestamp) -> Settled {
        let wait = from(self.ctx.now(), until);
        if wait > WAIT_AT_BROKER_MAX && self.key.1 == ExecutionId::Any {
            self.claim.done().await;
        } else {
            self.claim.give_back(wait).await;
        }
        Settled::Waiting(until)
    }

    /// Answers for a definition that cannot be read and that nobody vouches for, unless somebody else has it.
    async fn reject(mut self, failure: Failure) -> Settled {
        let Some(Standing { execution, .. }) = self.read().await else { return Settled::Done };
        match execution.state() {
            ExecutionState::Pending | ExecutionState::Retryable => {
                let answer = self.unstarted(&execution, Outcome::Failed, failure);
                self.answer(answer).await
            }
            ExecutionState::Running
            | ExecutionState::Completed
            | ExecutionState::Failed
            | ExecutionState::Skipped
            | ExecutionState::Cancelled
            | ExecutionState::Expired
            | ExecutionState::Lost => {
                self.claim.done().await;
                self.ctx.journal.forget(self.key);
                Settled::Done
            }
        }
    }

    /// A definition that this version cannot read may be another agent's, of a newer version.
    async fn refuse(self, invalid: &InvalidDefinition) -> Settled {
        tracing::error!(job.id = %self.key.0, error = %invalid, "this version cannot take the job; handing it back");
        self.claim.give_back(REFUSED_FOR).await;
        let until = SignedDuration::try_from(REFUSED_FOR).ok().and_then(|wait| self.ctx.now().checked_add(wait).ok());
        Settled::Waiting(until.unwrap_or(Timestamp::MAX))
    }

    /// The ledger's word on this work; `None` if it was deleted, or we are to stop.
    async fn read(&mut self) -> Option<Standing> {
        loop {
            match self.ctx.store.ledger.load_execution(self.key.0, self.key.1).await {
                Ok(Some(record)) => {
                    let folded = Execution::fold(&record.events, record.answer.as_ref());
                    let execution = folded
                        .inspect_err(|refused| tracing::error!(job.id = %self.key.0, %refused, "the ledger contradicts itself"))
                        .ok()?;
                    let delivery = execution.rests_on(&record.events).map(str::to_owned);
                    return Some(Standing { execution, revision: record.revision, delivery });
                }
                Ok(None) => {
                    self.claim.done().await;
                    self.ctx.journal.forget(self.key);
                    return None;
                }
                Err(error) if error.is_retryable() => self.broker_fault("reading the ledger", &error).await?,
                Err(error) => {
                    tracing::error!(job.id = %self.key.0, %error, "the job cannot be read; handing it back");
                    self.claim.give_back(REFUSED_FOR).await;
                    return None;
                }
            }
        }
    }

    /// Waits before another try; `None` if we are to stop.
    pub(crate) async fn broker_fault(&mut self, doing: &str, error: &Error) -> Option<()> {
        tracing::debug!(job.id = %self.key.0, doing, %error, "the broker is away; trying again");
        self.signals.stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await?;
        self.claim.extend().await;
        Some(())
    }

    /// Appends an event; `None` if we are to stop before the outcome is known, or it cannot be written at all.
    pub(crate) async fn append(&mut self, after: Revision, event: &Event) -> Option<Appended> {
        loop {
            match self.ctx.store.ledger.append(self.key.0, self.key.1, after, event).await {
                Ok(appended) => {
                    self.note(appended);
                    return Some(appended);
                }
                Err(error) if error.is_retryable() => self.broker_fault("recording an event", &error).await?,
                Err(error) => {
                    tracing::error!(job.id = %self.key.0, %error, "an event cannot be recorded");
                    return None;
                }
            }
        }
    }

    /// Counts what was refused because the history had moved on.
    fn note(&self, appended: Appended) {
        if appended == Appended::Conflict {
            self.ctx.load.refused_writes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records the claim. Gives its revision if it is ours.
    async fn start(&mut self, job: &Job, attempt: u32, after: Revision) -> Option<Revision> {
        // Noted first: if we are killed right after the ledger has it, the next start gives the work back at once, or begins it.
        let unbegun = (job.retry.max_attempts() == 1).then(|| Unbegun { attempt, place: self.ctx.executor.process().place });
        self.ctx.journal.note(self.key, &Entry { token: self.claim.token(), answer: None, unbegun });
        let (agent, hostname, delivery) = (self.ctx.config.id, self.ctx.config.hostname(), self.claim.delivery());
        let kind = EventKind::Started { attempt, agent, hostname, delivery };
        let event = Event { schema: SCHEMA, at: self.ctx.now(), kind };
        while self.claim.is_valid() {
            match self.ctx.store.ledger.append(self.key.0, self.key.1, after, &event).await {
                Ok(Appended::Stored(revision)) => return Some(revision),
                Ok(Appended::Conflict) => {
                    self.note(Appended::Conflict);
                    return None;
                }
                // Tried again only under a valid claim: a start that is recorded late could be somebody else's turn.
                Err(error) => self.broker_fault("recording a start", &error).await?,
            }
        }
        None
    }

    /// Whether there is no answer, once a start is recorded: that is guarded against other events only, and a holder whose claim has lapsed
    /// may live, and answer at any time. What is answered is done with; what cannot be read stays as it is.
    async fn is_still_wanted(&mut self, attempt: u32) -> bool {
        let Some(standing) = self.read().await else { return false };
        if !standing.execution.is_answered() {
            return true;
        }
        tracing::info!(job.id = %self.key.0, attempt, "not run: the answer of an earlier attempt came just before its start");
        self.claim.done().await;
        self.ctx.journal.forget(self.key);
        false
    }

    /// Stores the answer, however long the broker is away, and ends the claim.
    pub(crate) async fn answer(mut self, mut answer: Answer) -> Settled {
        let mut noted = false;
        let outbox = self.ctx.outbox.clone();
        loop {
            match self.meanwhile_extending(outbox.deliver(&answer)).await {
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
                        self.ctx.journal.note(self.key, &Entry { token: self.claim.token(), answer: Some(answer.clone()), unbegun: None });
                        noted = true;
                    }
                    if self.broker_fault("storing an answer", &error).await.is_none() {
                        return Settled::Done;
                    }
                }
                Err(error) => {
                    tracing::error!(job.id = %answer.job, %error, "the answer cannot be stored");
                    self.ctx.journal.note(self.key, &Entry { token: self.claim.token(), answer: Some(answer.clone()), unbegun: None });
                    // When the work is offered again it must not be taken for interrupted: it was done.
                    self.ctx.owed.lock().expect("no holder of this lock panics").insert(self.key, answer);
                    return Settled::Done;
                }
            }
        }
        self.claim.done().await;
        self.ctx.journal.forget(self.key);
        Settled::Done
    }

    fn unstarted(&self, execution: &Execution, outcome: Outcome, failure: Failure) -> Answer {
        // What somebody else ended is not this agent's by its being offered.
        let (agent, hostname) = if matches!(outcome, Outcome::Cancelled | Outcome::Expired) {
            execution.holder().map(|(agent, hostname)| (agent, hostname.to_owned())).unzip()
        } else {
            (Some(self.ctx.config.id), Some(self.ctx.config.hostname()))
        };
        Answer {
            agent,
            hostname,
            error: Some(failure),
            started_at: execution.started_at(),
            ..Answer::new(self.key.0, self.key.1, outcome, execution.attempts(), self.ctx.now())
        }
    }
}

/// How long it is from `now` until then; zero if it has passed.
pub(crate) fn from(now: Timestamp, until: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(now)).unwrap_or_default()
}
