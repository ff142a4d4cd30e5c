//! What the ledger keeps of a job. Every form carries `schema`; the golden files beside the tests must keep loading.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::agent::FleetRevision;
use super::problem::ErrorCode;
use crate::id::{AgentId, ExecutionId, JobId};

/// The newest version of the records below.
pub const SCHEMA: u32 = 1;

/// A job as it was accepted; never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// Version of this form.
    pub schema: u32,
    /// The job.
    pub id: JobId,
    /// Its operation's name.
    pub operation: String,
    /// Its arguments, already checked.
    pub args: serde_json::Value,
    /// Who should do it, as the submitter said it.
    pub target: String,
    /// The frozen set of who answers.
    pub executions: Vec<ExecutionId>,
    /// Time-out of one attempt, in milliseconds.
    pub timeout_ms: u64,
    /// Earliest start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Never started after this.
    pub expires_at: Timestamp,
    /// The most attempts.
    pub max_attempts: u32,
    /// Waits between attempts, in milliseconds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backoff_ms: Vec<u64>,
    /// Of all executions with this key at most one runs at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<String>,
    /// Whether the submission said nothing of the waits, so that an agent's own usual ones take their place. Records of before this field
    /// do not say, and keep theirs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub usual_backoff: bool,
    /// Short strings for people and searches.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Who submitted it: the token's subject.
    pub submitted_by: String,
    /// When, by the controller's clock.
    pub submitted_at: Timestamp,
    /// The job this one repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<JobId>,
    /// The job that its secrets were sealed for, where that is another: a repeat has what the first one had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_for: Option<JobId>,
    /// Hash of the idempotency key it came with, under which its reservation is. Records of before this field do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_sha256: Option<String>,
    /// The fleet that the set of executions was made from. Records of before this field do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet_revision: Option<FleetRevision>,
    /// Who vouches for all of the above. Absent where the controller signs nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
}

/// A controller's word for a definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Id of the key.
    pub key: String,
    /// Ed25519 over the definition, base64.
    pub value: String,
    /// In the share of one execution of several: that it is one of the set that was signed. Each step is `l` or `r`, for the side, and a
    /// hash.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proof: Vec<String>,
}

/// One line of an execution's append-only history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Line")]
pub struct Event {
    /// Version of this form.
    pub schema: u32,
    /// When, by the writer's clock.
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened to an execution.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventKind {
    /// An agent claimed it and started work.
    Started {
        /// Which attempt, from 1.
        attempt: u32,
        /// Who.
        agent: AgentId,
        /// Its host's name.
        hostname: String,
        /// The delivery that it rests on, in the broker's words: who is offered the work later learns by it whether this one's claim is
        /// over. Records of before this field, and of addressed work, do not say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        delivery: Option<String>,
    },
    /// The attempt failed in passing; another follows.
    Retrying {
        /// The attempt that failed.
        attempt: u32,
        /// Why.
        error: Failure,
        /// When the next may start.
        not_before: Timestamp,
    },
    /// Somebody asked for its end while it ran.
    CancelRequested {
        /// Who.
        by: String,
    },
    /// Somebody ended it before it started; its answer follows.
    Cancelled {
        /// Who.
        by: String,
    },
    /// It was not started in time; its answer follows.
    Expired,
    /// Its agent did not answer in time. A late answer replaces this.
    Lost {
        /// The attempt that went silent.
        attempt: u32,
    },
}

/// An event as it is read: all kinds at once, so that no field has to be kept aside until its kind is known.
#[derive(Deserialize)]
struct Line {
    schema: u32,
    at: Timestamp,
    #[serde(rename = "type")]
    word: Word,
    attempt: Option<u32>,
    agent: Option<AgentId>,
    hostname: Option<String>,
    delivery: Option<String>,
    error: Option<Failure>,
    not_before: Option<Timestamp>,
    by: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Started,
    Retrying,
    CancelRequested,
    Cancelled,
    Expired,
    Lost,
}

/// A record's kind needs a field that it does not have.
#[derive(Debug, thiserror::Error)]
#[error("missing field `{0}`")]
struct Missing(&'static str);

impl TryFrom<Line> for Event {
    type Error = Missing;

    fn try_from(line: Line) -> Result<Self, Missing> {
        let Line { schema, at, word, attempt, agent, hostname, delivery, error, not_before, by } = line;
        let attempt = || attempt.ok_or(Missing("attempt"));
        let by = || by.ok_or(Missing("by"));
        let kind = match word {
            Word::Started => EventKind::Started {
                attempt: attempt()?,
                agent: agent.ok_or(Missing("agent"))?,
                hostname: hostname.ok_or(Missing("hostname"))?,
                delivery,
            },
            Word::Retrying => EventKind::Retrying {
                attempt: attempt()?,
                error: error.ok_or(Missing("error"))?,
                not_before: not_before.ok_or(Missing("not_before"))?,
            },
            Word::CancelRequested => EventKind::CancelRequested { by: by()? },
            Word::Cancelled => EventKind::Cancelled { by: by()? },
            Word::Expired => EventKind::Expired,
            Word::Lost => EventKind::Lost { attempt: attempt()? },
        };
        Ok(Self { schema, at, kind })
    }
}

/// The final record of an execution. Written once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Version of this form.
    pub schema: u32,
    /// The job.
    pub job: JobId,
    /// The execution.
    pub execution: ExecutionId,
    /// How it ended.
    pub outcome: Outcome,
    /// Who answered; absent when it never started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// The answering host's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Attempts that were started.
    pub attempts: u32,
    /// Whether it changed the host, where the operation can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<bool>,
    /// What the operation gave; also beside an error, where there is something to give.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<serde_json::Value>,
    /// Where `result` is instead, if it is too large for this record. Readers of before this field see an answer without a result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_object: Option<ResultObject>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// For a cancelled execution that had started: whether every process is known to be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_verified: Option<bool>,
    /// When the last attempt started, by the agent's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended, by the writer's clock.
    pub finished_at: Timestamp,
    /// How long the last attempt ran, by a clock that never goes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
}

impl Answer {
    /// One that says nothing more.
    #[must_use]
    pub fn new(job: JobId, execution: ExecutionId, outcome: Outcome, attempts: u32, finished_at: Timestamp) -> Self {
        Self {
            schema: SCHEMA,
            job,
            execution,
            outcome,
            agent: None,
            hostname: None,
            attempts,
            changed: None,
            result: None,
            result_object: None,
            error: None,
            cancel_verified: None,
            started_at: None,
            finished_at,
            duration_ms: None,
        }
    }
}

/// A result in the object store. Its name follows from the job, the execution and the attempt that answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultObject {
    /// Bytes of its JSON.
    pub bytes: u64,
    /// SHA-256 of its JSON, lower-case hex.
    pub sha256: String,
}

/// How an execution ended. `lost` is not here: it is the absence of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It did what was asked.
    Completed,
    /// It did not.
    Failed,
    /// The operation does not exist on that platform.
    Skipped,
    /// Somebody ended it.
    Cancelled,
    /// It was not started in time.
    Expired,
}

/// What went wrong with an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Failure {
    /// The stable code.
    pub code: ErrorCode,
    /// What failed, and why.
    pub message: String,
}

impl Failure {
    /// Why an execution ended that somebody asked to end.
    #[must_use]
    pub fn cancelled(by: &str) -> Self {
        Self { code: ErrorCode::Cancelled, message: format!("cancelled by {by}") }
    }
}

/// What an idempotency key stands for. Written once, and once more when its job is deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// Version of this form.
    pub schema: u32,
    /// The job the first submission made, or was about to make.
    pub job: JobId,
    /// SHA-256 of the submission's canonical body, lower-case hex; with secrets in it, an HMAC under a key that only controllers have.
    pub body_sha256: String,
    /// Whether the job was deleted: the key makes no other. Readers of before this field make the job again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events are written by one set of words and read by another: each kind, with all that it may hold, comes back as it was.
    #[test]
    fn every_kind_of_event_is_read_as_it_was_written() {
        let (by, at) = ("ada".to_owned(), Timestamp::UNIX_EPOCH);
        let agent = AgentId::from_bits(7);
        let started = |delivery: Option<&str>| EventKind::Started {
            attempt: 3,
            agent,
            hostname: "web-01".to_owned(),
            delivery: delivery.map(str::to_owned),
        };
        let kinds = [
            started(None),
            started(Some("7.3.100")),
            EventKind::Retrying { attempt: 2, error: Failure::cancelled("bob"), not_before: at },
            EventKind::CancelRequested { by: by.clone() },
            EventKind::Cancelled { by },
            EventKind::Expired,
            EventKind::Lost { attempt: u32::MAX },
        ];
        // Whoever adds a kind adds it above: the compiler leads here.
        let place = |kind: &EventKind| match kind {
            EventKind::Started { .. } => 0,
            EventKind::Retrying { .. } => 1,
            EventKind::CancelRequested { .. } => 2,
            EventKind::Cancelled { .. } => 3,
            EventKind::Expired => 4,
            EventKind::Lost { .. } => 5,
        };
        assert_eq!(kinds.iter().map(place).collect::<std::collections::BTreeSet<_>>().len(), 6);
        for kind in kinds {
            let event = Event { schema: SCHEMA, at, kind };
            let text = serde_json::to_string(&event).unwrap();
            assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event, "{text}");
        }
    }
}
