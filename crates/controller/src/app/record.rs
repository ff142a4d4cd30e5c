//! A job's record, folded: what decisions are made from and what people are shown.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use longshore_model::access::Caller;
use longshore_model::job::{Execution, Tally, status};
use longshore_model::operation::shown_args;
use longshore_model::unit::Span;
use longshore_model::wire::record::{Answer, Event};
use longshore_model::wire::rest::{ExecutionView, JobView, TimelineEntry};
use longshore_model::{ExecutionId, ExecutionState, JobId, JobStatus};
use longshore_store::{Error as StoreError, JobRecord, Revision};

use super::{App, cancel, results};
use crate::timeline;

/// Every execution's folded state, in the definition's order.
pub(crate) struct Shares(pub(crate) Vec<(ExecutionId, Execution)>);

impl Shares {
    pub(crate) fn status(&self, not_before: Option<Timestamp>, now: Timestamp) -> JobStatus {
        status(self.0.iter().map(|(_, execution)| execution.state()), not_before, now)
    }

    pub(crate) fn is_final(&self) -> bool {
        self.0.iter().all(|(_, execution)| execution.state().is_final())
    }

    /// Whether nothing more is expected: every execution has its answer, or is lost.
    pub(crate) fn is_settled(&self) -> bool {
        self.0.iter().all(|(_, execution)| execution.is_answered() || execution.state() == ExecutionState::Lost)
    }
}

/// Folds a record. What contradicts the history is logged and skipped, as everywhere.
pub(crate) fn fold(record: &JobRecord) -> Shares {
    // One pass over everything: a job may have thousands of executions.
    let mut told: BTreeMap<ExecutionId, (Vec<&Event>, Option<&Answer>)> = BTreeMap::new();
    for (_, id, event) in &record.events {
        told.entry(*id).or_default().0.push(event);
    }
    for answer in &record.answers {
        told.entry(answer.execution).or_default().1 = Some(answer);
    }
    let executions = record.definition.executions.iter().map(|id| {
        let (events, answer) = told.remove(id).unwrap_or_default();
        (*id, fold_one(record.definition.id, *id, events, answer))
    });
    Shares(executions.collect())
}

fn fold_one<'a>(job: JobId, id: ExecutionId, events: impl IntoIterator<Item = &'a Event>, answer: Option<&Answer>) -> Execution {
    let mut execution = Execution::default();
    let mut refused: Vec<_> = events.into_iter().filter_map(|event| execution.apply(event).err()).collect();
    refused.extend(answer.and_then(|answer| execution.apply_answer(answer).err()));
    for error in refused {
        tracing::error!(job.id = %job, execution = %id, %error, "a record contradicts the job's history and was skipped");
    }
    execution
}

/// One execution as the ledger has it, and the revision that the next append must name.
pub(crate) struct Standing {
    pub(crate) execution: Execution,
    pub(crate) revision: Revision,
}

/// Reads where one execution stands. One that is not there has not been shared yet, or was deleted: then nothing that is appended counts.
pub(crate) async fn standing(app: &App, job: JobId, id: ExecutionId) -> Result<Standing, StoreError> {
    let record = app.store.ledger.load_execution(job, id).await?;
    Ok(record.map_or_else(
        || Standing { execution: Execution::default(), revision: 0 },
        |record| Standing { execution: fold_one(job, id, &record.events, record.answer.as_ref()), revision: record.revision },
    ))
}

/// One line of a job's timeline, with where it stands in the ledger: events in the first sequence, answers in none that a load tells.
pub(crate) struct Line {
    pub(crate) place: Place,
    pub(crate) entry: TimelineEntry,
}

/// What a line is, so that a stream tells each once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Queue(u64),
    Answer(ExecutionId),
    Deletion,
}

/// Everything that happened, oldest first: the ledger's order for events, then the answers by when they were given.
pub(crate) fn lines(record: &JobRecord, now: Timestamp) -> Vec<Line> {
    let definition = &record.definition;
    let mut states: BTreeMap<ExecutionId, Execution> = definition.executions.iter().map(|id| (*id, Execution::default())).collect();
    let mut tally: Tally = states.values().map(Execution::state).collect();
    let status_of = |tally: &Tally| tally.status(definition.not_before, now);
    let mut lines =
        vec![Line { place: Place::Queue(record.definition_revision), entry: timeline::submitted(definition, status_of(&tally)) }];
    for (revision, execution, event) in &record.events {
        if let Some(state) = states.get_mut(execution) {
            let before = state.state();
            // Refusals were logged by the fold; the line is shown all the same, as it is on record.
            let _ = state.apply(event);
            tally.change(before, state.state());
        }
        let entry = timeline::happened(definition.id, *execution, event, Some(status_of(&tally)));
        lines.push(Line { place: Place::Queue(*revision), entry });
    }
    let mut answers: Vec<_> = record.answers.iter().collect();
    answers.sort_by_key(|answer| (answer.finished_at, answer.execution));
    for answer in answers {
        if let Some(state) = states.get_mut(&answer.execution) {
            let before = state.state();
            let _ = state.apply_answer(answer);
            tally.change(before, state.state());
        }
        lines.push(Line { place: Place::Answer(answer.execution), entry: timeline::answered(answer, Some(status_of(&tally))) });
    }
    lines
}

/// One job with everything known of it.
pub(crate) fn job_view(record: &JobRecord, retried_by: Vec<JobId>, now: Timestamp) -> JobView {
    let definition = &record.definition;
    let shares = fold(record);
    JobView {
        id: definition.id,
        status: shares.status(definition.not_before, now),
        operation: definition.operation.clone(),
        args: shown_args(&definition.args),
        target: definition.target.clone(),
        submitted_by: definition.submitted_by.clone(),
        submitted_at: definition.submitted_at,
        not_before: definition.not_before,
        expires_at: definition.expires_at,
        timeout: Span(Duration::from_millis(definition.timeout_ms)).to_string(),
        max_attempts: definition.max_attempts,
        concurrency_key: definition.concurrency_key.clone(),
        fleet_revision: definition.fleet_revision,
        annotations: definition.annotations.clone(),
        retry_of: definition.retry_of,
        retried_by,
        executions: shares.0.iter().map(|(id, execution)| execution_view(record, *id, execution)).collect(),
        timeline: lines(record, now).into_iter().map(|line| line.entry).collect(),
    }
}

/// The job as somebody may see it who may change it: without `job:read`, neither what it was given nor what it gave.
pub(crate) fn shown_to(caller: &Caller, mut job: JobView) -> JobView {
    if !caller.may("job:read") {
        job.args = serde_json::json!({});
        job.annotations.clear();
        for execution in &mut job.executions {
            (execution.result, execution.large_result, execution.error) = (None, None, None);
        }
        for entry in &mut job.timeline {
            entry.detail = None;
        }
    }
    job
}

fn execution_view(record: &JobRecord, id: ExecutionId, execution: &Execution) -> ExecutionView {
    let answer = record.answer_of(id);
    let holder = execution.holder();
    // What an event ended has its answer a little later. Nothing that a reader saw changes with that.
    let has_expired = execution.state() == ExecutionState::Expired;
    let never_ran = (has_expired || execution.state() == ExecutionState::Cancelled) && execution.attempts() == 0;
    ExecutionView {
        id,
        state: execution.state(),
        agent: holder.map(|(agent, _)| agent),
        hostname: holder.map(|(_, hostname)| hostname.to_owned()),
        attempts: execution.attempts(),
        cancel_requested: execution.cancel_requested_by().is_some(),
        changed: answer.and_then(|answer| answer.changed).or(never_ran.then_some(false)),
        result: answer.and_then(|answer| answer.result.clone()),
        large_result: answer.and_then(|answer| results::stand_in(record.definition.id, id, answer)),
        error: execution.last_failure().cloned().or_else(|| has_expired.then(|| cancel::not_in_time(&record.definition))),
        cancel_verified: answer.and_then(|answer| answer.cancel_verified),
        started_at: execution.started_at(),
        finished_at: execution.ended_at(),
        duration_ms: answer.and_then(|answer| answer.duration_ms),
    }
}
