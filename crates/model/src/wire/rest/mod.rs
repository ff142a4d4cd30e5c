//! What the REST API takes and gives.

mod artifacts;
mod fleet;
mod large;

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::agent::FleetRevision;
use super::audit::AuditRecord;
use super::dead_letter::DeadExecution;
use super::record::{Failure, Outcome};
use crate::job::{ExecutionState, JobStatus};
use crate::operation::shown_args;

pub use artifacts::{ArtifactArchive, ArtifactFile, ArtifactList};
pub use fleet::{
    AgentCondition, AgentDetail, AgentList, AgentView, AlarmView, BrokerView, DrainChange, DrainRequest, DrainView, FactsView, HealthView,
    StatusView,
};
pub use large::LargeResult;

/// A submission: `POST /api/v1/jobs`.
#[derive(Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"operation": "node.hostname.get", "target": "_any"}))]
pub struct JobRequest {
    /// Such as `node.hostname.get`; `GET /api/v1/operations` lists them.
    pub operation: String,
    /// Arguments, as the operation's schema says.
    #[serde(default = "empty_object")]
    #[schema(value_type = Object)]
    pub args: serde_json::Value,
    /// `_any`, `_all`, a host name, an agent id, `KEY:VALUE`, or `_any@KEY:VALUE`.
    #[serde(default = "any")]
    #[schema(default = "_any")]
    pub target: String,
    /// Of one attempt, such as `30s`; the operation's own unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Not started by then: `expired`, and never starts later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(default = "1h")]
    pub expires_in: Option<String>,
    /// Earliest start: RFC 3339, or a duration from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<String>,
    /// Attempts. Operations that change state get one unless this says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryRequest>,
    /// Accept the job although its agents are offline or drained, and let it wait for them for this long; without it such a job is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_for_agents: Option<String>,
    /// The same key with the same body gives the first job again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Of all executions in the fleet with the same key at most one runs at a time; the others wait in the order of submission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<String>,
    /// Up to 32 short strings, searchable.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

// Its arguments may hold secrets.
impl fmt::Debug for JobRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = Self { args: shown_args(&self.args), ..self.clone() };
        f.write_str(&serde_json::to_string(&shown).map_err(|_| fmt::Error)?)
    }
}

impl JobRequest {
    /// A submission that says no more than this.
    #[must_use]
    pub fn new(operation: impl Into<String>, args: serde_json::Value, target: impl Into<String>) -> Self {
        Self {
            operation: operation.into(),
            args,
            target: target.into(),
            timeout: None,
            expires_in: None,
            not_before: None,
            retry: None,
            wait_for_agents: None,
            idempotency_key: None,
            concurrency_key: None,
            annotations: BTreeMap::new(),
        }
    }
}

fn empty_object() -> serde_json::Value {
    serde_json::Value::Object(serde_json::Map::new())
}

fn any() -> String {
    "_any".to_owned()
}

/// A retry policy in a submission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryRequest {
    /// 1 to 100.
    pub max_attempts: u32,
    /// Waits between attempts, such as `["30s", "2m"]`; the standard ones unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Vec<String>>,
}

/// One job with everything known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobView {
    /// The job.
    #[schema(value_type = String)]
    pub id: crate::JobId,
    /// Where it stands.
    pub status: JobStatus,
    /// Its operation.
    pub operation: String,
    /// Its arguments.
    #[schema(value_type = Object)]
    pub args: serde_json::Value,
    /// Who should do it, as the submitter said it.
    pub target: String,
    /// Who submitted it.
    pub submitted_by: String,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    pub submitted_at: Timestamp,
    /// Earliest start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub not_before: Option<Timestamp>,
    /// Never started after this.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// Time-out of one attempt.
    pub timeout: String,
    /// The most attempts.
    pub max_attempts: u32,
    /// Of all executions with this key at most one runs at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<String>,
    /// Short strings for people and searches.
    pub annotations: BTreeMap<String, String>,
    /// The job this one repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub retry_of: Option<crate::JobId>,
    /// Jobs that repeat this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub retried_by: Vec<crate::JobId>,
    /// How far the registry was followed when the set of who answers was frozen: it is everybody meant by the target who was there then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet_revision: Option<FleetRevision>,
    /// One for each agent that answers.
    pub executions: Vec<ExecutionView>,
    /// What happened, oldest first.
    pub timeline: Vec<TimelineEntry>,
}

/// One agent's share of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExecutionView {
    /// `any`, or the agent's id.
    #[schema(value_type = String)]
    pub id: crate::ExecutionId,
    /// Where it stands.
    pub state: ExecutionState,
    /// Who has it, or had it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub agent: Option<crate::AgentId>,
    /// That agent's host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Attempts that were started.
    pub attempts: u32,
    /// Whether somebody asked for its end.
    #[serde(default)]
    pub cancel_requested: bool,
    /// Whether it changed the host, where the operation can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<bool>,
    /// What the operation gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub result: Option<serde_json::Value>,
    /// Where the result is, if it is too large to be shown beside the others, or could not be read just now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub large_result: Option<LargeResult>,
    /// What went wrong, the last time it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// For a cancelled execution that had started: whether every process is known to be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_verified: Option<bool>,
    /// When the last attempt started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
    /// How long the last attempt ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
}

/// What hosts answered: the typed doors under `/api/v1/nodes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeResults {
    /// The job that asks them.
    #[schema(value_type = String)]
    pub job_id: crate::JobId,
    /// A row for each agent that answers or is yet to answer.
    pub results: Vec<NodeResult>,
}

/// What one host answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeResult {
    /// The host's name, as the result says it or else as its agent does; absent while nobody has taken the work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The agent that has it or had it last, or is to have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub agent: Option<crate::AgentId>,
    /// Where its execution stands.
    pub status: ExecutionState,
    /// Whether it changed the host, where the operation can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<bool>,
    /// What went wrong, the last time it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// Where the result is, if it is too large to be shown beside the others, or could not be read just now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub large_result: Option<LargeResult>,
    /// The fields of the operation's result.
    #[serde(flatten)]
    pub fields: BTreeMap<String, serde_json::Value>,
}

impl NodeResult {
    /// Fields of every row, which a result's own never replace; but for `hostname`, which means the same in both and is newer in a result.
    pub const OWN_FIELDS: [&str; 6] = ["hostname", "agent", "status", "changed", "error", "large_result"];
}

impl From<ExecutionView> for NodeResult {
    fn from(execution: ExecutionView) -> Self {
        let mut fields: BTreeMap<_, _> = match execution.result {
            Some(serde_json::Value::Object(fields)) => fields.into_iter().collect(),
            Some(_) | None => BTreeMap::new(),
        };
        let told = fields.get("hostname").and_then(serde_json::Value::as_str).map(str::to_owned);
        fields.retain(|name, _| !Self::OWN_FIELDS.contains(&name.as_str()));
        Self {
            hostname: told.or(execution.hostname),
            agent: execution.agent.or(execution.id.agent()),
            status: execution.state,
            changed: execution.changed,
            error: execution.error,
            large_result: execution.large_result,
            fields,
        }
    }
}

impl From<JobView> for NodeResults {
    fn from(job: JobView) -> Self {
        Self { job_id: job.id, results: job.executions.into_iter().map(NodeResult::from).collect() }
    }
}

/// What there is to do: `GET /api/v1/queue`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueView {
    /// Jobs by status, over everything retained.
    pub jobs: BTreeMap<String, u64>,
    /// Executions whose time has come and that no agent works on, also those that wait for another attempt.
    pub waiting: u64,
    /// Executions that an agent has claimed.
    pub claimed: u64,
}

/// One thing that happened to a job. Also the data of the event streams.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TimelineEntry {
    /// The job.
    #[schema(value_type = String)]
    pub job: crate::JobId,
    /// The execution; absent for the submission itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub execution: Option<crate::ExecutionId>,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// `submitted`, `started`, `retrying`, `cancel_requested`, `cancelled`, `expired`, `lost`, `answered`, `deleted`.
    pub event: String,
    /// Which attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Who.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// For `answered`: how it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// What went wrong, or who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The whole job's status after this, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<JobStatus>,
}

/// A job in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobSummary {
    /// The job.
    #[schema(value_type = String)]
    pub id: crate::JobId,
    /// Where it stands.
    pub status: JobStatus,
    /// Its operation.
    pub operation: String,
    /// Who should do it.
    pub target: String,
    /// Hosts that had it, sorted; of many the first 16.
    pub hosts: Vec<String>,
    /// How many executions it has.
    #[serde(default)]
    pub executions: usize,
    /// Attempts that were started, over all executions.
    pub attempts: u32,
    /// Who submitted it.
    pub submitted_by: String,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    pub submitted_at: Timestamp,
    /// When the last execution ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
    /// The first error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Short strings for people and searches.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A page of jobs, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobList {
    /// The page.
    pub items: Vec<JobSummary>,
    /// Ask with this for the next page; absent at the end.
    pub next_cursor: Option<String>,
    /// How many jobs there are in each status, over everything retained, whatever the filter.
    pub counts: BTreeMap<String, u64>,
}

/// The answer to a cancel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CancelView {
    /// The job as it is now. A token without `job:read` is not told its arguments, annotations, results and errors.
    pub job: JobView,
    /// Whether this call changed anything; false for a job that had ended or was being cancelled already.
    pub changed: bool,
    /// Where in the ledger it took effect: no attempt of this job that is recorded after this revision starts. The same for every repeat; of
    /// several executions that of the last one. Absent for a job that ended without being cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// What happened, in words.
    pub message: String,
}

/// Which executions a retry repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryOnly {
    /// All of them.
    #[default]
    All,
    /// Those that did not complete.
    Failed,
}

/// The body of a retry; may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryJobRequest {
    /// Which executions.
    #[serde(default)]
    pub only: RetryOnly,
}

/// One piece of live output, as the log stream gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogView {
    /// The execution.
    #[schema(value_type = String)]
    pub execution: crate::ExecutionId,
    /// Who ran it.
    #[schema(value_type = String)]
    pub agent: crate::AgentId,
    /// Which attempt.
    pub attempt: u32,
    /// Which step, from 0.
    pub step: u32,
    /// Counts up by one within an attempt; a hole is a gap.
    pub seq: u64,
    /// When it was read.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// Which output.
    pub stream: super::log::LogStream,
    /// Output is missing before this: dropped at a bound of the agent's or of the store's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<super::log::LogGap>,
    /// The output as text, if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The output in base64, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

/// A stored bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BundleView {
    /// SHA-256 of the packed bundle, lower-case hex.
    pub sha256: String,
    /// Packed size.
    pub size: u64,
    /// Whether it was stored before.
    pub existed: bool,
}

/// One operation of the catalogue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OperationView {
    /// `category.noun.verb`.
    pub name: String,
    /// `query` or `modify`.
    pub kind: String,
    /// What it does.
    pub summary: String,
    /// What a token needs to submit it.
    pub permission: String,
    /// Time-out of one attempt unless the submission says otherwise.
    pub timeout: String,
    /// Whether it may be run again blindly.
    pub retry_safe: bool,
    /// JSON Schema of the arguments.
    #[schema(value_type = Object)]
    pub args_schema: serde_json::Value,
    /// JSON Schema of the result.
    #[schema(value_type = Object)]
    pub result_schema: serde_json::Value,
}

/// The catalogue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OperationList {
    /// Sorted by name.
    pub items: Vec<OperationView>,
}

/// What was done about a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterCondition {
    /// Nothing yet.
    Open,
    /// What died was submitted again as another job.
    Redriven,
    /// Somebody said that it needs nothing more.
    Discarded,
}

impl DeadLetterCondition {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Open, Self::Redriven, Self::Discarded];

    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Redriven => "redriven",
            Self::Discarded => "discarded",
        }
    }

    /// The one with this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|condition| condition.as_str() == word)
    }
}

/// A job whose attempts are used up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterView {
    /// The job, which is the letter's id too.
    #[schema(value_type = String)]
    pub id: crate::JobId,
    /// What was done about it.
    pub state: DeadLetterCondition,
    /// The job's operation.
    pub operation: String,
    /// Who should have done it.
    pub target: String,
    /// Who submitted it.
    pub submitted_by: String,
    /// When the last execution died.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// How many executions died.
    pub dead: usize,
    /// The one that died last.
    pub last: DeadExecution,
    /// The first 64 that died; absent in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub executions: Vec<DeadExecution>,
    /// The job that does it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub redriven_as: Option<crate::JobId>,
    /// Who redrove or discarded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_by: Option<String>,
    /// When that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub closed_at: Option<Timestamp>,
}

/// A page of dead letters, those of the newest jobs first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterList {
    /// The page.
    pub items: Vec<DeadLetterView>,
    /// Ask with this for the next page; absent at the end.
    pub next_cursor: Option<String>,
}

/// A page of the audit trail, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditList {
    /// The page.
    pub items: Vec<AuditRecord>,
    /// Ask with this for the next page; absent at the end.
    pub next_cursor: Option<String>,
}
