//! What a gateway does in the ledger for a worker: claims, in its name, and answers. Model's fold and `claim` decide, the ledger's guard holds.
//!
//! What differs from an agent of its own: the worker outlives the controller that speaks for it. So an execution that runs by the ledger and
//! that this process does not know is not interrupted but taken up, and its worker says what became of it.

use std::time::Duration;

use data_encoding::HEXLOWER;
use jiff::{SignedDuration, Timestamp};
use longshore_model::job::{Claim as Decision, Claimant, Execution, Job, claim};
use longshore_model::limits::RESULT_INLINE_BYTES_MAX;
use longshore_model::operation::{Call, Operation, has_secrets};
use longshore_model::wire::attached::FinishedFrame;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Answer, Definition, Event, EventKind, Failure, Outcome, ResultObject, SCHEMA};
use longshore_model::wire::turn::Holder;
use longshore_model::{AgentId, ExecutionId, ExecutionState, JobId};
use longshore_seal::TrustedKeys;
use longshore_store::{Answered, Appended, Asked, Delivery, Error as StoreError, Fence, Lease, Revision, result_name, turn_kept};
use sha2::{Digest as _, Sha256};

use super::frames::{Task, Told};
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

/// What was offered, and is the worker's.
pub(super) struct Taken {
    pub(super) job: Box<Job>,
    /// As it is stored, where the worker gets it so: of an operation.
    pub(super) definition: Option<Box<Definition>>,
    pub(super) attempt: Attempt,
    /// Its turn, if the job has a concurrency key.
    pub(super) fence: Option<Box<Fence>>,
}

/// What became of an offer.
pub(super) enum Claimed {
    /// To be dispatched.
    Started(Taken),
    /// It ran when this process first saw it; the worker may have it, have had it, or never have heard of it. Who wants its end, if somebody does.
    TakenUp(Taken, Option<String>),
    /// To be looked at again then.
    Later(Duration),
    /// Nothing to do.
    Over,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct End {
    pub(super) outcome: Outcome,
    pub(super) changed: Option<bool>,
    pub(super) result: Option<serde_json::Value>,
    pub(super) failure: Option<Failure>,
    pub(super) duration_ms: Option<u64>,
}

impl End {
    pub(super) fn of(outcome: Outcome, failure: Failure) -> Self {
        Self { outcome, changed: None, result: None, failure: Some(failure), duration_ms: None }
    }
}

/// What follows from the end of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Ending {
    /// It is answered.
    Answer { end: End, cancel_verified: Option<bool> },
    /// It was given up: the answer if somebody wanted its end, and another attempt otherwise, if the job's policy has one.
    Again {
        failure: Failure,
        wait: Duration,
        /// It is known that nothing of it runs any more.
        is_gone: bool,
        /// What it had given by then.
        result: Option<serde_json::Value>,
    },
}

impl Ending {
    /// Given up, with nothing to show for it.
    pub(super) fn given_up(failure: Failure, is_gone: bool) -> Self {
        Self::Again { failure, wait: Duration::ZERO, is_gone, result: None }
    }

    /// What a worker's word on an attempt at this job means. `version` is that of the package that it ran with, if it is known.
    pub(super) fn of(job: &Job, attempt: u32, told: Told, version: &str) -> Self {
        let Told { outcome, result, failure, duration_ms } = told;
        if let Call::PackageRun(run) = &job.call
            && run.secrets.is_empty()
        {
            let result = result.map(|mut result| {
                version.clone_into(&mut result.version);
                serde_json::to_value(result).expect("names are text")
            });
            return Self::Answer { end: End { outcome, changed: None, result, failure, duration_ms }, cancel_verified: None };
        }
        let Some(result) = result else {
            return Self::Answer { end: End { outcome, changed: None, result: None, failure, duration_ms }, cancel_verified: None };
        };
        let finished = match serde_json::from_value::<FinishedFrame>(result.output.into()) {
            Ok(finished) => finished,
            Err(error) => {
                let failure = Failure {
                    code: ErrorCode::HandlerFailed,
                    message: format!("the worker's result of an operation cannot be read: {error}"),
                };
                return Self::Answer { end: End::of(Outcome::Failed, failure), cancel_verified: None };
            }
        };
        let FinishedFrame { outcome, changed, result, error, transient, cancel_verified } = finished;
        let failure = || {
            let unknown = || Failure { code: ErrorCode::HostFault, message: "a fault of the host".to_owned() };
            error.clone().unwrap_or_else(unknown)
        };
        match outcome {
            Outcome::Cancelled => Self::Again { failure: failure(), wait: Duration::ZERO, is_gone: cancel_verified == Some(true), result },
            Outcome::Failed if transient => {
                Self::Again { failure: failure(), wait: job.retry.wait_after(attempt).unwrap_or_default(), is_gone: true, result }
            }
            Outcome::Completed | Outcome::Failed | Outcome::Skipped | Outcome::Expired => {
                Self::Answer { end: End { outcome, changed, result, failure: error, duration_ms }, cancel_verified }
            }
        }
    }
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
    let [execution] = definition.executions[..] else {
        tracing::error!(job.id = %definition.id, "an inbox has a job of another form than a share, which is dropped");
        done(&*lease).await;
        return (Claimed::Over, None);
    };
    let key = (definition.id, execution);
    // What is about packages goes in the session's own words, which have no place for secrets.
    let is_of_packages = Operation::by_name(&definition.operation).is_some_and(Operation::is_of_packages);
    let is_told_in_words = is_of_packages && !has_secrets(&definition.args);
    let kept = (!is_told_in_words).then(|| Box::new(definition.clone()));
    let job = match Job::try_from(definition) {
        Ok(job) => job,
        Err(error) => {
            tracing::error!(job.id = %key.0, error = %chain(&error), "this version cannot take the job");
            return (Claimed::Later(LATER), None);
        }
    };
    let taken = |attempt, fence: Option<Fence>| {
        let fence = fence.map(Box::new);
        Taken { job: Box::new(job.clone()), definition: kept.clone(), attempt, fence }
    };
    let claimed =
        decide(&app, &proxy, key, (&job, &taken), refusal.map(|refusal| refusal.to_string())).await.unwrap_or(Claimed::Later(LATER));
    match claimed {
        Claimed::Over => {
            done(&*lease).await;
            (Claimed::Over, None)
        }
        other @ (Claimed::Started(..) | Claimed::TakenUp(..) | Claimed::Later(_)) => (other, Some(lease)),
    }
}

async fn decide(
    app: &App,
    proxy: &Proxy,
    key: Key,
    (job, taken): (&Job, &(dyn Fn(Attempt, Option<Fence>) -> Taken + Sync)),
    untrusted: Option<String>,
) -> Option<Claimed> {
    let claimant = Claimant { agent: proxy.agent, is_holder_gone: false };
    loop {
        let Some((execution, revision)) = read(app, key).await? else { return Some(Claimed::Over) };
        let attempt = |number| Task { job: key.0, execution: key.1, attempt: number };
        let is_own = execution.holder().is_some_and(|(agent, _)| agent == proxy.agent);
        if is_own && execution.state() == ExecutionState::Running {
            let started_at = execution.started_at().unwrap_or_else(|| app.now());
            let cancel = execution.cancel_requested_by().map(str::to_owned);
            let task = attempt(execution.attempts());
            let fence = kept(app, job, task).await?;
            return Some(Claimed::TakenUp(taken(Attempt { task, started_at }, fence), cancel));
        }
        match claim(job, &execution, claimant, app.now()) {
            Decision::Start { attempt: number } => {
                if let Some(reason) = untrusted {
                    let message = format!("refused by the gateway for {}: {reason}", proxy.hostname);
                    return unstarted(app, proxy, key, &execution, Outcome::Failed, Failure { code: ErrorCode::Untrusted, message }).await;
                }
                if !presence::is_ours(&*app.store.registry, proxy.agent, &proxy.process).await {
                    return Some(Claimed::Later(SOON));
                }
                let fence = match ask(app, job, attempt(number)).await? {
                    None => None,
                    // Asking may have taken long: what was decided before may not be right any more.
                    Some(Asked::Ours(fence)) if claim(job, &execution, claimant, app.now()) != (Decision::Start { attempt: number }) => {
                        fence.end(job).await;
                        continue;
                    }
                    Some(Asked::Ours(fence)) => Some(fence),
                    Some(Asked::After(n_before)) => return Some(Claimed::Later(Asked::wait(n_before))),
                };
                let (agent, hostname) = (proxy.agent, proxy.hostname.clone());
                let kind = EventKind::Started { attempt: number, agent, hostname, delivery: None };
                if let Appended::Stored(_) = append(app, key, revision, kind).await? {
                    let attempt = Attempt { task: attempt(number), started_at: app.now() };
                    if holds(app, fence.as_ref()).await? {
                        return Some(Claimed::Started(taken(attempt, fence)));
                    }
                    tracing::warn!(job.id = %key.0, attempt = number, "not handed out: its turn was taken by another job");
                    let message = "its turn under the concurrency key was taken by another job before it could start".to_owned();
                    let ending = Ending::given_up(Failure { code: ErrorCode::Interrupted, message }, true);
                    conclude(app, proxy, job, attempt, ending).await;
                    return Some(Claimed::Later(SOON));
                }
                if let Some(fence) = fence {
                    fence.end(job).await;
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

/// The turn of an attempt; the inner `None` if its job needs none, the outer if the controller ends or it cannot be asked for.
async fn ask(app: &App, job: &Job, task: Task) -> Option<Option<Asked>> {
    let Some(concurrency_key) = &job.concurrency_key else { return Some(None) };
    let holder = Holder { job: task.job, execution: task.execution, attempt: task.attempt };
    loop {
        match app.gateway.turns().ask(&app.store, job, concurrency_key, holder).await {
            Ok(asked) => return Some(Some(asked)),
            Err(error) if error.is_retryable() => pause(app, "asking for a turn", &error).await?,
            Err(error) => {
                tracing::error!(job.id = %task.job, error = %chain(&error), "a turn cannot be asked for");
                return None;
            }
        }
    }
}

/// Whether an attempt that has started still has its turn, if it needs one.
async fn holds(app: &App, fence: Option<&Fence>) -> Option<bool> {
    let Some(fence) = fence else { return Some(true) };
    loop {
        match fence.holds().await {
            Ok(holds) => return Some(holds),
            Err(error) => pause(app, "looking at a turn", &error).await?,
        }
    }
}

/// The turn of an attempt that another process began.
async fn kept(app: &App, job: &Job, task: Task) -> Option<Option<Fence>> {
    let Some(concurrency_key) = &job.concurrency_key else { return Some(None) };
    let holder = Holder { job: task.job, execution: task.execution, attempt: task.attempt };
    loop {
        match turn_kept(&app.store, concurrency_key, holder).await {
            Ok(fence) => return Some(fence),
            Err(error) => pause(app, "looking at a turn", &error).await?,
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
                // Given up when somebody wanted its end: that is its end.
                Ending::Again { is_gone, result, .. } if let Some(by) = execution.cancel_requested_by() => {
                    (End { result, ..cancelled(by) }, Some(is_gone))
                }
                // What is lost never starts again; its late answer replaces that.
                Ending::Again { failure, wait, .. }
                    if number < job.retry.max_attempts() && execution.state() == ExecutionState::Running =>
                {
                    let now = app.now();
                    let not_before = SignedDuration::try_from(wait).ok().and_then(|wait| now.checked_add(wait).ok()).unwrap_or(now);
                    match append(app, key, revision, EventKind::Retrying { attempt: number, error: failure, not_before }).await? {
                        Appended::Stored(_) => return Some(()),
                        Appended::Conflict => continue,
                    }
                }
                Ending::Again { failure, result, .. } => (End { result, ..used_up(number, failure) }, None),
            };
            return store(app, answer(app, proxy, attempt, end, cancel_verified)).await;
        }
    };
    ended.await.is_some()
}

/// The end of what somebody cancelled.
pub(super) fn cancelled(by: &str) -> End {
    End::of(Outcome::Cancelled, Failure::cancelled(by))
}

fn used_up(attempt: u32, failure: Failure) -> End {
    let failure = if attempt > 1 {
        Failure { code: ErrorCode::DeadLetter, message: format!("all {attempt} attempts are used up; the last: {}", failure.message) }
    } else {
        failure
    };
    End::of(Outcome::Failed, failure)
}

fn answer(app: &App, proxy: &Proxy, attempt: Attempt, end: End, cancel_verified: Option<bool>) -> Answer {
    let Task { job, execution, attempt: number } = attempt.task;
    let now = app.now();
    let elapsed = u64::try_from(now.duration_since(attempt.started_at).as_millis()).unwrap_or_default();
    Answer {
        agent: Some(proxy.agent),
        hostname: Some(proxy.hostname.clone()),
        changed: end.changed,
        result: end.result,
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
