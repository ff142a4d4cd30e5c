//! Ending a job before its time. What has not started never will; what runs is told to stop, and its agent's answer says whether
//! every process is known to be gone.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use jiff::Timestamp;
use longshore_model::access::Caller;
use longshore_model::job::Execution;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Answer, Definition, Event, EventKind, Failure, Outcome, SCHEMA};
use longshore_model::wire::rest::CancelView;
use longshore_model::{AgentId, ExecutionId, ExecutionState, JobId};
use longshore_store::{Appended, Error as StoreError, JobRecord, Revision};
use tokio::time::Instant;

use super::{App, Error, Standing, fold, job_view, permit, permit_targets, shown_to, standing};

/// How long a cancel waits for the answer of what runs.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Executions that are ended at once.
const AT_ONCE: usize = 64;
/// How long a decision is made again because somebody else wrote first. A leader that the broker's servers have just chosen may refuse a write
/// as coming after one that is not stored yet, and that nobody can read.
const DECIDE_WITHIN: Duration = Duration::from_secs(10);
/// Before it is made again the first time; twice as long each time, to half a second.
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// What was done to one execution.
enum Done {
    /// It had ended.
    Nothing,
    /// It never started and never will.
    Ended,
    /// Its agent was told to stop it.
    Asked,
    /// Its agent had been told before, and was reminded.
    Reminded,
}

/// What a cancel did to a job.
#[derive(Default)]
pub(super) struct Ended {
    /// Executions that never started and never will.
    unstarted: usize,
    /// Those whose agents were told now.
    asked: Vec<ExecutionId>,
    /// Those whose agents had been told before.
    reminded: Vec<ExecutionId>,
}

/// Ends a job, or says that there was nothing to end. Safe to repeat.
pub(crate) async fn cancel(app: &App, caller: &Caller, id: JobId) -> Result<CancelView, Error> {
    permit(caller, "job:write")?;
    let record = app.load(id).await?.ok_or_else(|| Error::no_job(id))?;
    permit_targets(app, caller, &record.definition.target, &record.definition.executions)?;
    let ended = end(app, &caller.name, id, ANSWER_WITHIN).await?;
    let record = app.load(id).await?.ok_or_else(|| Error::no_job(id))?;
    let job = job_view(&record, app.index().retries_of(id), app.now());
    let changed = ended.unstarted + ended.asked.len() > 0;
    Ok(CancelView { job: shown_to(caller, job), changed, revision: took_effect_at(&record), message: ended.message(&record) })
}

/// Ends every execution, waiting up to `patience` for those that run.
pub(super) async fn end(app: &App, by: &str, id: JobId, patience: Duration) -> Result<Ended, Error> {
    let mut ticket = app.waiters.register(id);
    let record = app.load(id).await?.ok_or_else(|| Error::no_job(id))?;
    let mut ended = Ended::default();
    let definition = &record.definition;
    let each = definition.executions.iter().map(|execution| async move { (*execution, end_one(app, by, definition, *execution).await) });
    let mut done = stream::iter(each.collect::<Vec<_>>()).buffered(AT_ONCE);
    while let Some((execution, done)) = done.next().await {
        match done? {
            Done::Nothing => {}
            Done::Ended => ended.unstarted += 1,
            Done::Asked => ended.asked.push(execution),
            Done::Reminded => ended.reminded.push(execution),
        }
    }
    let runs = !(ended.asked.is_empty() && ended.reminded.is_empty());
    // Withdrawing takes back every announcement, also of what an agent holds: only when nothing runs.
    if ended.unstarted > 0 && !runs {
        app.store.work.withdraw(&record.definition).await?;
        tracing::info!(job.id = %id, caller = by, "job cancelled");
    }
    if runs {
        tracing::info!(job.id = %id, caller = by, "the end of a running job was asked for");
        let settled = async {
            while !app.index().get(id).is_some_and(crate::index::Entry::is_settled) {
                ticket.changed().await;
            }
        };
        // What became of it is read from the ledger in either case.
        let _ = tokio::time::timeout(patience, settled).await;
    }
    Ok(ended)
}

/// Where the ledger has the end of what had not started, and the request of the end of what ran; or a start, if one came later in an
/// execution that ended before the cancel reached it. So nothing is recorded after it that starts.
fn took_effect_at(record: &JobRecord) -> Option<Revision> {
    let is_cancel = |kind: &EventKind| match kind {
        EventKind::Cancelled { .. } | EventKind::CancelRequested { .. } => true,
        EventKind::Started { .. } | EventKind::Retrying { .. } | EventKind::Expired | EventKind::Lost { .. } => false,
    };
    let cancelled = record.events.iter().filter(|(.., event)| is_cancel(&event.kind)).map(|(revision, ..)| *revision).max()?;
    let is_start = |kind: &EventKind| matches!(kind, EventKind::Started { .. });
    let started = record.events.iter().filter(|(.., event)| is_start(&event.kind)).map(|(revision, ..)| *revision).max();
    started.max(Some(cancelled))
}

impl Ended {
    /// What happened, in words, by how the record tells that it went on. Of several executions the one speaks of which the least is known.
    fn message(&self, record: &JobRecord) -> String {
        let told = |id: &ExecutionId| self.asked.contains(id) || self.reminded.contains(id);
        let words = |(id, execution): &(ExecutionId, Execution)| match execution.state() {
            ExecutionState::Pending | ExecutionState::Running | ExecutionState::Retryable if self.asked.is_empty() => {
                (4, "the agent had been told to stop the job and was reminded; it has not answered yet".to_owned())
            }
            ExecutionState::Pending | ExecutionState::Running | ExecutionState::Retryable => {
                (4, "the agent was told to stop the job; it has not answered yet".to_owned())
            }
            ExecutionState::Lost => {
                (3, "the agent was told to stop the job and did not answer in time; whether it stopped is not known".to_owned())
            }
            ExecutionState::Cancelled if record.answer_of(*id).and_then(|answer| answer.cancel_verified) == Some(true) => {
                (0, "the job was stopped".to_owned())
            }
            ExecutionState::Cancelled => (2, "the job was cancelled; whether all of its processes are gone is not known".to_owned()),
            state @ (ExecutionState::Completed | ExecutionState::Failed | ExecutionState::Skipped | ExecutionState::Expired) => {
                (1, format!("the job ended by itself before it was stopped: {}", state.as_str()))
            }
        };
        let told = fold(record).0.iter().filter(|(id, _)| told(id)).map(words).max();
        told.map_or_else(
            || if self.unstarted > 0 { "the job was cancelled before it started" } else { "the job had ended already" }.to_owned(),
            |(_, message)| message,
        )
    }
}

async fn end_one(app: &App, by: &str, definition: &Definition, execution: ExecutionId) -> Result<Done, Error> {
    let id = definition.id;
    let deadline = Instant::now() + DECIDE_WITHIN;
    let mut pause = PAUSE;
    loop {
        let Standing { execution: state, revision } = standing(app, id, execution).await?;
        let (kind, holder) = match state.state() {
            ExecutionState::Pending | ExecutionState::Retryable => (EventKind::Cancelled { by: by.to_owned() }, None),
            ExecutionState::Running => {
                let holder = state.holder().map(|(agent, _)| agent);
                if state.cancel_requested_by().is_some() {
                    signal(app, holder, id).await;
                    return Ok(Done::Reminded);
                }
                (EventKind::CancelRequested { by: by.to_owned() }, holder)
            }
            ExecutionState::Completed
            | ExecutionState::Failed
            | ExecutionState::Skipped
            | ExecutionState::Cancelled
            | ExecutionState::Expired
            | ExecutionState::Lost => return Ok(Done::Nothing),
        };
        let now = app.now();
        let is_end = matches!(kind, EventKind::Cancelled { .. });
        let event = Event { schema: SCHEMA, at: now, kind };
        match app.store.ledger.append(id, execution, revision, &event).await? {
            Appended::Conflict => {
                app.metrics.write_refused();
                if Instant::now() >= deadline {
                    return Err(Error::Contended { job: id });
                }
                // A deleted job's conflicts never end.
                if state.state() == ExecutionState::Pending && app.load(id).await?.is_none() {
                    return Err(Error::no_job(id));
                }
                // Two who meet do not meet again.
                let jitter = pause.mul_f64(f64::from(now.subsec_nanosecond().unsigned_abs() % 1000) / 1000.0);
                tokio::time::sleep(pause / 2 + jitter / 2).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            Appended::Stored(_) if is_end => {
                match app.store.ledger.answer(&cancelled(definition, execution, &state, by, now)).await {
                    Ok(_) => {}
                    // The event is what ends it. The answer is owed, and written when there is room.
                    Err(error @ StoreError::Full { .. }) => {
                        tracing::warn!(job.id = %id, error = %super::chain(&error), "the answer of a cancelled job is written later");
                    }
                    Err(error) => return Err(error.into()),
                }
                return Ok(Done::Ended);
            }
            Appended::Stored(_) => {
                signal(app, holder, id).await;
                return Ok(Done::Asked);
            }
        }
    }
}

/// The answer of an execution that was ended before an attempt started.
pub(crate) fn cancelled(definition: &Definition, execution: ExecutionId, state: &Execution, by: &str, now: Timestamp) -> Answer {
    unstarted(definition, execution, state, Outcome::Cancelled, Failure::cancelled(by), now)
}

/// The answer of an execution that was not started in time.
pub(crate) fn expired(definition: &Definition, execution: ExecutionId, state: &Execution, now: Timestamp) -> Answer {
    unstarted(definition, execution, state, Outcome::Expired, not_in_time(definition), now)
}

/// Why an execution expired.
pub(super) fn not_in_time(definition: &Definition) -> Failure {
    Failure { code: ErrorCode::Expired, message: format!("not started by {}", definition.expires_at) }
}

fn unstarted(
    definition: &Definition,
    execution: ExecutionId,
    state: &Execution,
    outcome: Outcome,
    failure: Failure,
    now: Timestamp,
) -> Answer {
    Answer {
        agent: state.holder().map(|(agent, _)| agent),
        hostname: state.holder().map(|(_, hostname)| hostname.to_owned()),
        changed: (state.attempts() == 0).then_some(false),
        error: Some(failure),
        started_at: state.started_at(),
        ..Answer::new(definition.id, execution, outcome, state.attempts(), now)
    }
}

/// A hint: the agent also finds the request in the ledger.
async fn signal(app: &App, holder: Option<AgentId>, id: JobId) {
    let Some(agent) = holder else { return };
    if let Err(error) = app.store.work.signal_cancel(agent, id).await {
        tracing::warn!(job.id = %id, agent.id = %agent, error = %super::chain(&error), "the agent could not be told of a cancel");
    }
}
