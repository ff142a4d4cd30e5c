//! The accepted job, with everything parsed.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::id::{ExecutionId, JobId};
use crate::operation::{Call, CallError};
use crate::retry::{RetryPolicy, RetryPolicyError};
use crate::target::{ParseTargetError, Target};
use crate::wire::record::{Definition, SCHEMA};
use crate::wire::secret::Secret;

/// A job as it was accepted. Never changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its identity.
    pub id: JobId,
    /// What to do.
    pub call: Call,
    /// Who should do it, as the submitter said it.
    pub target: Target,
    /// The frozen set of who answers; never empty.
    pub executions: Vec<ExecutionId>,
    /// Of one attempt.
    pub timeout: Duration,
    /// Earliest start.
    pub not_before: Option<Timestamp>,
    /// Never started after this.
    pub expires_at: Timestamp,
    /// How often and how far apart.
    pub retry: RetryPolicy,
    /// Of all executions with this key at most one runs at a time.
    pub concurrency_key: Option<String>,
    /// Short strings for people and searches.
    pub annotations: BTreeMap<String, String>,
    /// The submitter.
    pub submitted_by: String,
    /// When, by the controller's clock.
    pub submitted_at: Timestamp,
    /// The job this one repeats.
    pub retry_of: Option<JobId>,
    /// The job that its secrets were sealed for, where that is another.
    pub sealed_for: Option<JobId>,
}

/// A stored definition that this version cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDefinition {
    /// Written by a newer version.
    #[error("its record has schema {0}, and this version reads up to {SCHEMA}")]
    Schema(u32),
    /// Nobody is to answer.
    #[error("its set of executions is empty")]
    NoExecutions,
    /// The operation or its arguments.
    #[error("its operation cannot be read")]
    Call(#[from] CallError),
    /// Secrets that are not sealed.
    #[error("its secrets are not sealed")]
    ClearSecrets,
    /// The target.
    #[error("its target cannot be read")]
    Target(#[from] ParseTargetError),
    /// The retry policy.
    #[error("its retry policy cannot be read")]
    Retry(#[from] RetryPolicyError),
}

impl From<&Job> for Definition {
    fn from(job: &Job) -> Self {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self {
            schema: SCHEMA,
            id: job.id,
            operation: job.call.operation().name().to_owned(),
            args: job.call.args_json(),
            target: job.target.to_string(),
            executions: job.executions.clone(),
            timeout_ms: millis(job.timeout),
            not_before: job.not_before,
            expires_at: job.expires_at,
            max_attempts: job.retry.max_attempts(),
            backoff_ms: job.retry.backoff().iter().copied().map(millis).collect(),
            concurrency_key: job.concurrency_key.clone(),
            usual_backoff: job.retry.is_backoff_usual(),
            annotations: job.annotations.clone(),
            submitted_by: job.submitted_by.clone(),
            submitted_at: job.submitted_at,
            retry_of: job.retry_of,
            sealed_for: job.sealed_for,
            // The key is the submission's matter, and that of whoever stores it.
            key_sha256: None,
            // So is the fleet, which only whoever made the set knows.
            fleet_revision: None,
            signature: None,
        }
    }
}

impl TryFrom<Definition> for Job {
    type Error = InvalidDefinition;

    fn try_from(record: Definition) -> Result<Self, InvalidDefinition> {
        if record.schema > SCHEMA {
            return Err(InvalidDefinition::Schema(record.schema));
        }
        if record.executions.is_empty() {
            return Err(InvalidDefinition::NoExecutions);
        }
        let retry = RetryPolicy::new(record.max_attempts, record.backoff_ms.into_iter().map(Duration::from_millis).collect())?;
        let call = Call::parse(&record.operation, record.args)?;
        if call.secrets().is_some_and(|secrets| secrets.values().any(|secret| matches!(secret, Secret::Plain(_)))) {
            return Err(InvalidDefinition::ClearSecrets);
        }
        Ok(Self {
            id: record.id,
            call,
            target: record.target.parse()?,
            executions: record.executions,
            timeout: Duration::from_millis(record.timeout_ms),
            not_before: record.not_before,
            expires_at: record.expires_at,
            concurrency_key: record.concurrency_key,
            retry: if record.usual_backoff { retry.with_usual_backoff() } else { retry },
            annotations: record.annotations,
            submitted_by: record.submitted_by,
            submitted_at: record.submitted_at,
            retry_of: record.retry_of,
            sealed_for: record.sealed_for,
        })
    }
}
