//! What the earlier API took and gave. Not in `model`: nobody but these endpoints speaks it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use longshore_model::unit::Span;
use longshore_model::wire::rest::{ExecutionView, JobSummary, JobView};
use longshore_model::{ExecutionState, JobId, JobStatus};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::operation::earlier_name;

/// A submission in the earlier form.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EarlierCreateJob)]
pub(crate) struct CreateJob {
    /// What to do.
    pub(super) operation: Operation,
    /// `_any`, `_all`, a host name, an agent id, `KEY:VALUE`, or `_any@KEY:VALUE`.
    #[serde(default = "any")]
    #[schema(default = "_any")]
    pub(super) target_hostname: String,
}

fn any() -> String {
    "_any".to_owned()
}

/// An operation in a submission.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EarlierOperation)]
pub(crate) struct Operation {
    /// Such as `node.hostname.get`, `network.dns.update`, `network.ping.do`, `command.exec.execute`.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// Its arguments, with earlier or today's names.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(super) data: Option<Map<String, Value>>,
}

/// What a retry may say; may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EarlierRetryJob)]
pub(crate) struct RetryJob {
    /// Who should do it instead.
    #[serde(default)]
    pub(super) target_hostname: Option<String>,
}

/// A job that was accepted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EarlierCreatedJob)]
pub(crate) struct CreatedJob {
    /// The job.
    #[schema(value_type = String)]
    pub(super) job_id: JobId,
    /// Where it stands.
    status: Status,
    /// The revision of its definition in the bucket `job-queue`.
    revision: u64,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
}

impl CreatedJob {
    pub(super) fn new(job: &JobView, revision: u64) -> Self {
        Self { job_id: job.id, status: job.status.into(), revision, timestamp: job.submitted_at }
    }
}

/// Where a job stands, in earlier words: those that had no word for it are told the nearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = EarlierStatus)]
pub(crate) enum Status {
    /// Nobody has started it.
    Unprocessed,
    /// It runs, or waits for another attempt.
    Processing,
    /// Done.
    Completed,
    /// Failed, skipped, cancelled or expired; `error` says which.
    Failed,
    /// Some completed, some did not.
    PartialFailure,
}

impl Status {
    pub(super) const ALL: [Self; 5] = [Self::Unprocessed, Self::Processing, Self::Completed, Self::Failed, Self::PartialFailure];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Unprocessed => "unprocessed",
            Self::Processing => "processing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::PartialFailure => "partial_failure",
        }
    }

    pub(super) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// Our statuses that it is the earlier word for.
    pub(super) fn covers(self) -> impl Iterator<Item = JobStatus> {
        JobStatus::ALL.into_iter().filter(move |status| Self::from(*status) == self)
    }
}

impl From<JobStatus> for Status {
    fn from(status: JobStatus) -> Self {
        match status {
            JobStatus::Scheduled | JobStatus::Pending => Self::Unprocessed,
            JobStatus::Running | JobStatus::Retryable => Self::Processing,
            JobStatus::Completed => Self::Completed,
            JobStatus::PartialFailure => Self::PartialFailure,
            JobStatus::Failed | JobStatus::Skipped | JobStatus::Cancelled | JobStatus::Expired => Self::Failed,
        }
    }
}

impl From<ExecutionState> for Status {
    fn from(state: ExecutionState) -> Self {
        match state {
            ExecutionState::Pending => Self::Unprocessed,
            ExecutionState::Running | ExecutionState::Retryable => Self::Processing,
            ExecutionState::Completed => Self::Completed,
            ExecutionState::Failed
            | ExecutionState::Skipped
            | ExecutionState::Cancelled
            | ExecutionState::Expired
            | ExecutionState::Lost => Self::Failed,
        }
    }
}

/// A job.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EarlierJobDetail)]
pub(crate) struct JobDetail {
    /// The job.
    #[schema(value_type = String)]
    id: JobId,
    /// Where it stands.
    status: Status,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    created: Timestamp,
    /// What it does.
    operation: OperationDetail,
    /// What a job for one host gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    result: Option<Value>,
    /// What went wrong first.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Who has it, or who had it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
    /// When something happened to it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    updated_at: Option<Timestamp>,
    /// For a job for several hosts: what each gave that has ended, by its name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    responses: BTreeMap<String, HostResponse>,
    /// For a job for several hosts: where each stands, by its name or else its agent's id.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    worker_states: BTreeMap<String, WorkerState>,
}

/// What a job does.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EarlierOperationDetail)]
struct OperationDetail {
    /// Its earlier name.
    #[serde(rename = "type")]
    kind: String,
    /// Its arguments, with the names they have today; absent in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    data: Option<Value>,
}

/// What one of several hosts gave.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EarlierHostResponse)]
struct HostResponse {
    /// How it ended.
    status: Status,
    /// What the operation gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    data: Option<Value>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The host.
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
}

/// Where one of several hosts stands.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EarlierWorkerState)]
struct WorkerState {
    /// Where it stands.
    status: Status,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// How long it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<String>,
}

/// Jobs.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EarlierJobList)]
pub(crate) struct JobList {
    /// How many there are, over all pages.
    pub(super) total_items: u64,
    /// The page.
    pub(super) items: Vec<JobDetail>,
    /// Ask with this for the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_cursor: Option<String>,
}

impl From<JobView> for JobDetail {
    fn from(job: JobView) -> Self {
        let mut detail = Self {
            id: job.id,
            status: job.status.into(),
            created: job.submitted_at,
            operation: OperationDetail { kind: earlier_name(&job.operation).to_owned(), data: Some(job.args) },
            result: None,
            error: job.executions.iter().find_map(error_of),
            hostname: job.executions.iter().max_by_key(|execution| execution.finished_at).and_then(|execution| execution.hostname.clone()),
            updated_at: job.timeline.iter().map(|entry| entry.at).max(),
            responses: BTreeMap::new(),
            worker_states: BTreeMap::new(),
        };
        let is_for_one = job.executions.len() == 1;
        for execution in job.executions {
            if is_for_one {
                detail.result = execution.result;
                continue;
            }
            // Two agents may go by one host's name.
            let key = execution.hostname.clone().filter(|name| !detail.worker_states.contains_key(name));
            let key = key.unwrap_or_else(|| execution.id.to_string());
            let (status, error) = (Status::from(execution.state), error_of(&execution));
            let duration = execution.duration_ms.map(|ms| Span(std::time::Duration::from_millis(ms)).to_string());
            detail.worker_states.insert(key.clone(), WorkerState { status, error: error.clone(), duration });
            if execution.state.is_final() {
                let response = HostResponse { status, data: execution.result, error, hostname: execution.hostname };
                detail.responses.insert(key, response);
            }
        }
        detail
    }
}

/// What went wrong with an execution; of one that ended otherwise than by failing, how.
fn error_of(execution: &ExecutionView) -> Option<String> {
    let state = execution.state;
    let is_odd = Status::from(state) == Status::Failed;
    let error = execution.error.as_ref().map(|error| error.message.clone());
    let elsewhere = || {
        let large = execution.large_result.as_ref()?;
        let problem = large.problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
        Some(format!("its result of {} bytes is at {}{problem}", large.bytes, large.href))
    };
    error.or_else(|| (is_odd && state != ExecutionState::Failed).then(|| state.as_str().to_owned())).or_else(elsewhere)
}

impl From<JobSummary> for JobDetail {
    fn from(job: JobSummary) -> Self {
        let status = Status::from(job.status);
        let is_odd = status == Status::Failed && job.status != JobStatus::Failed;
        Self {
            id: job.id,
            status,
            created: job.submitted_at,
            operation: OperationDetail { kind: earlier_name(&job.operation).to_owned(), data: None },
            result: None,
            error: job.error.or_else(|| is_odd.then(|| job.status.as_str().to_owned())),
            hostname: job.hosts.into_iter().next(),
            updated_at: job.finished_at,
            responses: BTreeMap::new(),
            worker_states: BTreeMap::new(),
        }
    }
}
