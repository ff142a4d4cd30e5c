//! Records as people read them: one [`TimelineEntry`] for each thing that was written down.

use jiff::Timestamp;
use longshore_model::wire::record::{Answer, Definition, Event, EventKind};
use longshore_model::wire::rest::TimelineEntry;
use longshore_model::{ExecutionId, JobId, JobStatus};

fn entry(job: JobId, execution: Option<ExecutionId>, at: Timestamp, event: &str) -> TimelineEntry {
    TimelineEntry { job, execution, at, event: event.to_owned(), attempt: None, hostname: None, outcome: None, detail: None, status: None }
}

/// The acceptance of a job.
pub(crate) fn submitted(definition: &Definition, status: JobStatus) -> TimelineEntry {
    TimelineEntry {
        detail: Some(definition.submitted_by.clone()),
        status: Some(status),
        ..entry(definition.id, None, definition.submitted_at, "submitted")
    }
}

/// An event of one execution; `status` is the job's after it.
pub(crate) fn happened(job: JobId, execution: ExecutionId, event: &Event, status: Option<JobStatus>) -> TimelineEntry {
    let base = |word: &str| TimelineEntry { status, ..entry(job, Some(execution), event.at, word) };
    match &event.kind {
        EventKind::Started { attempt, agent: _, hostname, delivery: _ } => {
            TimelineEntry { attempt: Some(*attempt), hostname: Some(hostname.clone()), ..base("started") }
        }
        EventKind::Retrying { attempt, error, not_before: _ } => {
            TimelineEntry { attempt: Some(*attempt), detail: Some(error.message.clone()), ..base("retrying") }
        }
        EventKind::CancelRequested { by } => TimelineEntry { detail: Some(by.clone()), ..base("cancel_requested") },
        EventKind::Cancelled { by } => TimelineEntry { detail: Some(by.clone()), ..base("cancelled") },
        EventKind::Expired => base("expired"),
        EventKind::Lost { attempt } => TimelineEntry { attempt: Some(*attempt), ..base("lost") },
    }
}

/// The answer of one execution; `status` is the job's after it.
pub(crate) fn answered(answer: &Answer, status: Option<JobStatus>) -> TimelineEntry {
    TimelineEntry {
        attempt: (answer.attempts > 0).then_some(answer.attempts),
        hostname: answer.hostname.clone(),
        outcome: Some(answer.outcome),
        detail: answer.error.as_ref().map(|failure| failure.message.clone()),
        status,
        ..entry(answer.job, Some(answer.execution), answer.finished_at, "answered")
    }
}

/// The end of a job's records.
pub(crate) fn deleted(job: JobId, at: Timestamp) -> TimelineEntry {
    entry(job, None, at, "deleted")
}
