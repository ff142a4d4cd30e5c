//! What the index keeps of one job: what lists show and filter by, and every execution's folded state.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use longshore_model::job::{Applied, Execution, Refused, status};
use longshore_model::wire::dead_letter::DeadExecution;
use longshore_model::wire::record::{Answer, Definition, Event, EventKind};
use longshore_model::wire::rest::JobSummary;
use longshore_model::{ExecutionId, ExecutionState, JobId, JobStatus};
use longshore_store::Revision;

use crate::letters::redrive_key;

/// One job.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) id: JobId,
    pub(crate) operation: String,
    pub(crate) target: String,
    pub(crate) submitted_by: String,
    pub(crate) submitted_at: Timestamp,
    pub(crate) stored_at: Timestamp,
    pub(crate) not_before: Option<Timestamp>,
    pub(crate) expires_at: Timestamp,
    pub(crate) timeout: Duration,
    pub(crate) max_attempts: u32,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) retry_of: Option<JobId>,
    /// Whether it was made by the redrive of the job that it repeats.
    pub(crate) is_redrive: bool,
    pub(crate) bundle: Option<String>,
    pub(crate) shares: Vec<Share>,
    /// The status it is filed under: its own when a fact of it arrived last.
    pub(super) filed: Option<JobStatus>,
    /// Whether a record of it was refused; said in the log once.
    pub(crate) is_odd: bool,
}

/// One execution.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Share {
    pub(crate) id: ExecutionId,
    pub(crate) execution: Execution,
    /// When the broker stored what its newest attempt began or ended with, or the job: the one clock that hosts share.
    pub(crate) changed_at: Timestamp,
    /// Where the answer stands in the ledger's second sequence.
    pub(crate) answered_at: Option<Revision>,
}

impl Entry {
    pub(crate) fn new(definition: &Definition, stored_at: Timestamp) -> Self {
        let share = |id: &ExecutionId| Share { id: *id, execution: Execution::default(), changed_at: stored_at, answered_at: None };
        Self {
            id: definition.id,
            operation: definition.operation.clone(),
            target: definition.target.clone(),
            submitted_by: definition.submitted_by.clone(),
            submitted_at: definition.submitted_at,
            stored_at,
            not_before: definition.not_before,
            expires_at: definition.expires_at,
            timeout: Duration::from_millis(definition.timeout_ms),
            max_attempts: definition.max_attempts,
            annotations: definition.annotations.clone(),
            retry_of: definition.retry_of,
            is_redrive: definition.retry_of.is_some_and(|of| definition.key_sha256.as_ref() == Some(&redrive_key(of))),
            bundle: definition.args.get("bundle").and_then(serde_json::Value::as_str).map(str::to_owned),
            shares: definition.executions.iter().map(share).collect(),
            filed: None,
            is_odd: false,
        }
    }

    /// Folds an event that the broker stored at `at`; one of an execution that the job does not have is no change.
    pub(crate) fn apply(&mut self, execution: ExecutionId, event: &Event, at: Timestamp) -> Result<Applied, Refused> {
        let Some(share) = self.share_mut(execution) else { return Ok(Applied::Duplicate) };
        let applied = share.execution.apply(event)?;
        // A cancel, however often it is asked for, does not give an attempt more time.
        let moves_on = matches!(event.kind, EventKind::Started { .. } | EventKind::Retrying { .. } | EventKind::Lost { .. });
        if applied == Applied::Changed && moves_on {
            share.changed_at = share.changed_at.max(at);
        }
        Ok(applied)
    }

    /// Folds an answer that stands at `place`.
    pub(crate) fn apply_answer(&mut self, answer: &Answer, place: Revision) -> Result<Applied, Refused> {
        let Some(share) = self.share_mut(answer.execution) else { return Ok(Applied::Duplicate) };
        share.answered_at.get_or_insert(place);
        share.execution.apply_answer(answer)
    }

    fn share_mut(&mut self, execution: ExecutionId) -> Option<&mut Share> {
        self.shares.iter_mut().find(|share| share.id == execution)
    }

    /// Where the answer of an execution stands.
    pub(crate) fn answered_at(&self, execution: ExecutionId) -> Option<Revision> {
        self.shares.iter().find(|share| share.id == execution).and_then(|share| share.answered_at)
    }

    pub(crate) fn status(&self, now: Timestamp) -> JobStatus {
        status(self.shares.iter().map(|share| share.execution.state()), self.not_before, now)
    }

    /// Whether nothing more is expected: every execution has its answer, or is lost.
    pub(crate) fn is_settled(&self) -> bool {
        self.shares.iter().all(|share| share.execution.is_answered() || share.execution.state() == ExecutionState::Lost)
    }

    /// Whether an execution ended without its answer having been written.
    pub(crate) fn owes_answers(&self) -> bool {
        self.shares.iter().any(|share| {
            let execution = &share.execution;
            !execution.is_answered() && matches!(execution.state(), ExecutionState::Cancelled | ExecutionState::Expired)
        })
    }

    /// Whether an execution used its attempts up.
    pub(crate) fn is_dead(&self) -> bool {
        self.shares.iter().any(|share| DeadExecution::is_dead(&share.execution, self.max_attempts))
    }

    /// Whether this host name or agent id has or had a share of it.
    pub(crate) fn is_of_host(&self, host: &str) -> bool {
        self.shares.iter().any(|share| match share.execution.holder() {
            Some((agent, hostname)) => hostname == host || agent.to_string() == host,
            None => share.id.to_string() == host,
        })
    }

    /// Whether a list that searches for `needle` (lower case) shows it.
    pub(crate) fn has_text(&self, needle: &str) -> bool {
        let has = |text: &str| text.to_lowercase().contains(needle);
        self.id.to_string().contains(needle)
            || has(&self.operation)
            || has(&self.target)
            || has(&self.submitted_by)
            || self.annotations.iter().any(|(key, value)| has(key) || has(value))
            || self.shares.iter().any(|share| {
                share.execution.holder().is_some_and(|(_, hostname)| has(hostname))
                    || share.execution.last_failure().is_some_and(|failure| has(&failure.message))
            })
    }

    pub(crate) fn summary(&self, now: Timestamp) -> JobSummary {
        let status = self.status(now);
        let executions = || self.shares.iter().map(|share| &share.execution);
        let mut hosts: Vec<String> = executions().filter_map(|of| of.holder().map(|(_, hostname)| hostname.to_owned())).collect();
        hosts.sort_unstable();
        hosts.dedup();
        JobSummary {
            id: self.id,
            status,
            operation: self.operation.clone(),
            target: self.target.clone(),
            hosts,
            attempts: executions().map(Execution::attempts).sum(),
            submitted_by: self.submitted_by.clone(),
            submitted_at: self.submitted_at,
            finished_at: status.is_final().then(|| executions().filter_map(Execution::ended_at).max()).flatten(),
            error: executions().find_map(|of| of.last_failure().map(|failure| failure.message.clone())),
            annotations: self.annotations.clone(),
        }
    }
}
