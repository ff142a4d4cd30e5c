//! What a gateway does in the ledger for a worker: claims, in its name, and answers. Model's fold and `claim` decide, the ledger's guard holds.
//!
//! What differs from an agent of its own: the worker outlives the controller that speaks for it. So an execution that runs by the ledger and
//! that this process does not know is not interrupted but taken up, and its worker says what became of it.

use std::time::Duration;

use data_encoding::HEXLOWER;
use jiff::{SignedDuration, Timestamp};
use longshore_model::job::{Claim as Decision, Claimant, Execution, Job, claim};
use longshore_model::limits::RESULT_INLINE_BYTES_MAX;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Answer, Event, EventKind, Failure, Outcome, ResultObject, SCHEMA};
use longshore_model::{AgentId, ExecutionId, ExecutionState, JobId};
use longshore_seal::TrustedKeys;
use longshore_store::{Answered, Appended, Delivery, Error as StoreError, Lease, Revision, result_name};
use sha2::{Digest as _, Sha256};

use super::frames::{End, Task};
use super::presence;
use crate::app::{App, chain};

/// Between tries while the broker is away.
const PAUSE: Duration = Duration::from_millis(250);
/// When work that cannot be taken now is looked at again.
const LATER: Duration = Duration::from_secs(30);

/// When whose worker it is, is asked again.
const SOON: Duration = Duration::from_secs(1);

/// A piece of work: a job, and whose part of it.
pub(super) type Key = (JobId, ExecutionId);

/// Whom the gateway speaks for.
#[derive(Debug, Clone)]
pub(super) struct Proxy {
    pub(super) agent: AgentId,
    pub(super) hostname: String,
    /// By which the registry says that it is this gateway that does.
    pub(super) process: String,
}

/// An attempt that the ledger has, and that is this worker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) task: Task,
    pub(super) started_at: Timestamp,
}

/// What became of an offer.
pub(super) enum Claimed {
    /// To be dispatched.
    Started(Box<Job>, Attempt),
    /// It ran when this process first saw it; the worker may have it, have had it, or never have heard of it.
    TakenUp(Box<Job>, Attempt, Option<String>),
    /// To be looked at again then.
    Later(Duration),
    /// Nothing to do.
    Over,
}

/// How an attempt ends.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Ending {
    /// For good.
    Answer { end: End, cancel_verified: Option<bool> },
    /// In passing: another attempt follows, if the job's policy has one.
    Again { failure: Failure, wait: Duration },
}

/// Waits before another try; `None` if the controller ends.
async fn pause(app: &App, doing: &str, error: &StoreError) -> Option<()> {
    tracing::debug!(doing, %error, "the broker is away; trying again");
    app.drain.run_until_cancelled(tokio::time::sleep(PAUSE)).await
}

/// Reads an execution, however long the broker is away; the outer `None` if the controller ends, or it cannot be read.
async fn read(app: &App, (job, execution): Key) -> Option<Option<(Execution, Revision)>> {
    loop {
        match app.store.ledger.load_execution(job, execution).await {
            Ok(None) => return Some(None),
            Ok(Some(record)) => match Execution::fold(&record.events, record.answer.as_ref()) {
                Ok(folded) => return Some(Some((folded, record.revision))),
                Err(refused) => {
                    tracing::error!(job.id = %job, %refused, "the ledger contradicts itself");
                    return None;
                }
            },
            Err(error) if error.is_retryable() => pause(app, "reading the ledger", &error).await?,
            Err(error) => {
                tracing::error!(job.id = %job, error = %chain(&error), "an execution cannot be read");
                return None;
            }
        }
    }
}

async fn append(app: &App, (job, execution): Key, after: Revision, kind: EventKind) -> Option<Appended> {
    let event = Event { schema: SCHEMA, at: app.now(), kind };
    loop {
        match app.store.ledger.append(job, execution, after, &event).await {
            Ok(appended) => {
                if appended == Appended::Conflict {
                    app.metrics.write_refused();
                }
                return Some(appended);
            }
            Err(error) if error.is_retryable() => pause(app, "recording an event", &error).await?,
            Err(error) => {
                tracing::error!(job.id = %job, error = %chain(&error), "an event cannot be recorded");
                return None;
            }
        }
    }
}

async fn done(lease: &dyn Lease) {
    if let Err(error) = lease.done().await {
        tracing::debug!(%error, "an inbox entry stays until it is looked at again");
    }
}

/// Ends an offer whose execution has ended. One that waits for another attempt stays.
///
/// # Errors
/// The broker did not answer; the offer stays.
pub(super) async fn settle(app: &App, task: Task, lease: &dyn Lease) -> Result<(), StoreError> {
    let record = app.store.ledger.load_execution(task.job, task.execution).await?;
    if record.is_none_or(|record| record.answer.is_some()) { lease.done().await } else { Ok(()) }
}

/// Decides on what was offered to the worker. Nothing starts unless the worker is this controller's own, by the registry, when it is asked.
pub(super) async fn take(app: App, proxy: Proxy, delivery: Delivery) -> (Claimed, Option<Box<dyn Lease>>) {
    let Delivery { definition, lease, .. } = delivery;
    let trusted = app.config.job_signer.as_ref().and_then(|signer| TrustedKeys::parse(&signer.trusted_key()).ok());
    let refusal = trusted.and_then(|keys| keys.check(&definition, proxy.agent, &[]).err());
    let [execution] = definition.executions[..] else { return (Claimed::Over, None) };
    let key = (definition.id, execution);
    let job = match Job::try_from(definition) {
        Ok(job) => job,
        Err(error) => {
            tracing::error!(job.id = %key.0, error = %chain(&error), "this version cannot take the job");
            return (Claimed::Later(LATER), None);
        }
    };
    let claimed = decide(&app, &proxy, key, job, refusal.map(|refusal| refusal.to_string())).await.unwrap_or(Claimed::Later(LATER));
    match claimed {
        Claimed::Over => {
            done(&*lease).await;
            (Claimed::Over, None)
        }
        other @ (Claimed::Started(..) | Claimed::TakenUp(..) | Claimed::Later(_)) => (other, Some(lease)),
    }
}

async fn decide(app: &App, proxy: &Proxy, key: Key, job: Job, untrusted: Option<String>) -> Option<Claimed> {
    let claimant = Claimant { agent: proxy.agent, is_holder_gone: false };
    loop {
        let Some((execution, revision)) = read(app, key).await? else { return Some(Claimed::Over) };
        let attempt = |number| Task { job: key.0, execution: key.1, attempt: number };
        let is_own = execution.holder().is_some_and(|(agent, _)| agent == proxy.agent);
        if is_own && execution.state() == ExecutionState::Running {
            let started_at = execution.started_at().unwrap_or_else(|| app.now());
            let cancel = execution.cancel_requested_by().map(str::to_owned);
            return Some(Claimed::TakenUp(Box::new(job), Attempt { task: attempt(execution.attempts()), started_at }, cancel));
        }
        match claim(&job, &execution, claimant, app.now()) {
            Decision::Start { attempt: number } => {
                if let Some(reason) = untrusted {
                    let message = format!("refused by the gateway for {}: {reason}", proxy.hostname);
                    return unstarted(app, proxy, key, &execution, Outcome::Failed, Failure { code: ErrorCode::Untrusted, message }).await;
                }
                if !presence::is_ours(&*app.store.registry, proxy.agent, &proxy.process).await {
                    return Some(Claimed::Later(SOON));
                }
                let (agent, hostname) = (proxy.agent, proxy.hostname.clone());
                let kind = EventKind::Started { attempt: number, agent, hostname, delivery: None };
                if let Appended::Stored(_) = append(app, key, revision, kind).await? {
                    return Some(Claimed::Started(Box::new(job), Attempt { task: attempt(number), started_at: app.now() }));
                }
            }
            Decision::Wait { until } => {
                let wait = Duration::try_from(until.duration_since(app.now())).unwrap_or_default();
                return Some(Claimed::Later(wait.clamp(Duration::from_millis(50), LATER)));
            }
            Decision::Drop(_) => return Some(Claimed::Over),
            Decision::Lose { attempt } => {
                if let Appended::Stored(_) = append(app, key, revision, EventKind::Lost { attempt }).await? {
                    return Some(Claimed::Over);
                }
            }
            Decision::Finish { outcome, failure } => return unstarted(app, proxy, key, &execution, outcome, failure).await,
        }
    }
}

/// Ends what is not to be started.
async fn unstarted(app: &App, proxy: &Proxy, key: Key, execution: &Execution, outcome: Outcome, failure: Failure) -> Option<Claimed> {
    let is_its_own = !matches!(outcome, Outcome::Cancelled | Outcome::Expired);
    let answer = Answer {
        agent: is_its_own.then_some(proxy.agent),
        hostname: is_its_own.then(|| proxy.hostname.clone()),
        error: Some(failure),
        started_at: execution.started_at(),
        ..Answer::new(key.0, key.1, outcome, execution.attempts(), app.now())
    };
    store(app, answer).await.map(|()| Claimed::Over)
}

/// Records how an attempt ended. True when it is stored, whether by this call or before it; false if the controller ends first, or it cannot be.
pub(super) async fn conclude(app: &App, proxy: &Proxy, job: &Job, attempt: Attempt, ending: Ending) -> bool {
    let key = (attempt.task.job, attempt.task.execution);
    let number = attempt.task.attempt;
    let ended = async {
        loop {
            let Some((execution, revision)) = read(app, key).await? else { return Some(()) };
            let is_own = execution.holder().is_some_and(|(agent, _)| agent == proxy.agent);
            if execution.is_answered() || !is_own || execution.attempts() != number || execution.state() == ExecutionState::Retryable {
                tracing::info!(job.id = %key.0, attempt = number, "a worker's word on an attempt that is over was dropped");
                return Some(());
            }
            let (end, cancel_verified) = match ending.clone() {
                Ending::Answer { end, cancel_verified } => (end, cancel_verified),
                // Handed back when somebody wanted its end: that is its end.
                Ending::Again { .. } if let Some(by) = execution.cancel_requested_by() => (cancelled(by), Some(true)),
                // What is lost never starts again; its late answer replaces that.
                Ending::Again { failure, wait } if number < job.retry.max_attempts() && execution.state() == ExecutionState::Running => {
                    let now = app.now();
                    let not_before = SignedDuration::try_from(wait).ok().and_then(|wait| now.checked_add(wait).ok()).unwrap_or(now);
                    match append(app, key, revision, EventKind::Retrying { attempt: number, error: failure, not_before }).await? {
                        Appended::Stored(_) => return Some(()),
                        Appended::Conflict => continue,
                    }
                }
                Ending::Again { failure, .. } => (used_up(number, failure), None),
            };
            return store(app, answer(app, proxy, attempt, end, cancel_verified)).await;
        }
    };
    ended.await.is_some()
}

/// The end of what somebody cancelled.
pub(super) fn cancelled(by: &str) -> End {
    End { outcome: Outcome::Cancelled, result: None, failure: Some(Failure::cancelled(by)), duration_ms: None }
}

fn used_up(attempt: u32, failure: Failure) -> End {
    let failure = if attempt > 1 {
        Failure { code: ErrorCode::DeadLetter, message: format!("all {attempt} attempts are used up; the last: {}", failure.message) }
    } else {
        failure
    };
    End { outcome: Outcome::Failed, result: None, failure: Some(failure), duration_ms: None }
}

fn answer(app: &App, proxy: &Proxy, attempt: Attempt, end: End, cancel_verified: Option<bool>) -> Answer {
    let Task { job, execution, attempt: number } = attempt.task;
    let now = app.now();
    let elapsed = u64::try_from(now.duration_since(attempt.started_at).as_millis()).unwrap_or_default();
    Answer {
        agent: Some(proxy.agent),
        hostname: Some(proxy.hostname.clone()),
        result: end.result.map(|result| serde_json::to_value(result).expect("names are text")),
        error: end.failure,
        cancel_verified,
        started_at: Some(attempt.started_at),
        duration_ms: Some(end.duration_ms.unwrap_or(elapsed)),
        ..Answer::new(job, execution, end.outcome, number, now)
    }
}

/// Stores an answer, and before it its result where that is too large for a record; `None` if the controller ends first, or it cannot be.
async fn store(app: &App, mut answer: Answer) -> Option<()> {
    let inline_max = RESULT_INLINE_BYTES_MAX.min(app.store.broker.record_bytes_max() / 2);
    if let Some(result) = &answer.result
        && let json = serde_json::to_vec(result).expect("a value is JSON")
        && json.len() > inline_max
    {
        let name = result_name(answer.job, answer.execution, answer.attempts);
        let object = ResultObject { bytes: json.len() as u64, sha256: HEXLOWER.encode(&Sha256::digest(&json)) };
        let bytes = bytes::Bytes::from(json);
        while let Err(error) = app.store.objects.put(&name, Box::pin(std::io::Cursor::new(bytes.clone()))).await {
            if !error.is_retryable() {
                tracing::error!(job.id = %answer.job, error = %chain(&error), "a result cannot be stored");
                let message = format!("it was done, but its result of {} bytes could not be stored: {error}", object.bytes);
                answer.error = Some(Failure { code: ErrorCode::HostFault, message });
                answer.outcome = Outcome::Failed;
                break;
            }
            pause(app, "storing a result", &error).await?;
        }
        answer.result = None;
        answer.result_object = (answer.outcome != Outcome::Failed || answer.error.is_none()).then_some(object);
    }
    loop {
        match app.store.ledger.answer(&answer).await {
            Ok(Answered::Stored) => return Some(()),
            Ok(Answered::Exists) => {
                tracing::info!(job.id = %answer.job, "another answer was first; this one was dropped");
                return Some(());
            }
            Err(error) if error.is_retryable() => pause(app, "storing an answer", &error).await?,
            Err(error) => {
                tracing::error!(job.id = %answer.job, error = %chain(&error), "an answer cannot be stored");
                return None;
            }
        }
    }
}

/// The attempt that a worker speaks of and that this process does not know: the ledger's, if it is the worker's and runs.
pub(super) async fn look_up(app: &App, proxy: &Proxy, task: Task) -> Option<Option<(Box<Job>, Attempt)>> {
    let Some((execution, _)) = read(app, (task.job, task.execution)).await? else { return Some(None) };
    let is_own = execution.holder().is_some_and(|(agent, _)| agent == proxy.agent);
    let is_open = matches!(execution.state(), ExecutionState::Running | ExecutionState::Lost) && !execution.is_answered();
    if !is_own || !is_open || execution.attempts() != task.attempt {
        return Some(None);
    }
    let job = loop {
        match app.store.ledger.load(task.job).await {
            Ok(record) => break record.and_then(|record| Job::try_from(record.definition).ok()),
            Err(error) if error.is_retryable() => pause(app, "reading the ledger", &error).await?,
            Err(_) => break None,
        }
    };
    let started_at = execution.started_at().unwrap_or_else(|| app.now());
    Some(job.map(|job| (Box::new(job), Attempt { task, started_at })))
}

/// Who asked for the end of an attempt, or whether it is over.
pub(super) enum Wanted {
    GoesOn,
    CancelledBy(String),
    Over,
}

/// What the ledger wants of a running attempt; a fault is told as nothing new.
pub(super) async fn wanted(app: &App, task: Task) -> Wanted {
    let Ok(record) = app.store.ledger.load_execution(task.job, task.execution).await else { return Wanted::GoesOn };
    let Some(record) = record else { return Wanted::Over };
    let Ok(execution) = Execution::fold(&record.events, record.answer.as_ref()) else { return Wanted::GoesOn };
    if execution.is_answered() || execution.attempts() != task.attempt {
        return Wanted::Over;
    }
    execution.cancel_requested_by().map_or(Wanted::GoesOn, |by| Wanted::CancelledBy(by.to_owned()))
}
