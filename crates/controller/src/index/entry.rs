//! What the index keeps of one job: what lists show and filter by, and every execution's folded state.

use std::time::Duration;

use jiff::Timestamp;
use longshore_model::job::{Applied, Execution, Refused, Tally};
use longshore_model::wire::dead_letter::DeadExecution;
use longshore_model::wire::record::{Answer, Definition, Event, EventKind};
use longshore_model::wire::rest::JobSummary;
use longshore_model::{ExecutionId, ExecutionState, JobId, JobStatus};
use longshore_store::Revision;

use super::texts::{TextId, Texts};
use crate::letters::redrive_key;

/// Hosts that a line of a list names.
const SUMMARY_HOSTS_MAX: usize = 16;

/// One job.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) id: JobId,
    pub(super) operation: TextId,
    pub(super) target: TextId,
    pub(super) submitted_by: TextId,
    pub(crate) submitted_at: Timestamp,
    pub(crate) stored_at: Timestamp,
    pub(crate) not_before: Option<Timestamp>,
    pub(crate) expires_at: Timestamp,
    pub(crate) timeout: Duration,
    pub(crate) max_attempts: u32,
    /// In the order of their keys.
    pub(super) annotations: Box<[(TextId, TextId)]>,
    pub(crate) retry_of: Option<JobId>,
    /// Whether it was made by the redrive of the job that it repeats.
    pub(crate) is_redrive: bool,
    pub(crate) bundle: Option<Box<str>>,
    /// Whether its executions wait for their turn under a concurrency key.
    pub(crate) has_turns: bool,
    /// Sorted by their ids. Changed by [`Self::change`] only.
    pub(crate) shares: Box<[Share]>,
    tally: Tally,
    /// How many are neither answered nor lost, owe an answer, used their attempts up.
    n_unsettled: u32,
    n_owing: u32,
    n_dead: u32,
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
    /// What a search looks at: the name of the host that has or had it, and what went wrong.
    pub(super) host: Option<TextId>,
    pub(super) failure: Option<TextId>,
}

impl Share {
    pub(super) fn texts(&self) -> impl Iterator<Item = TextId> {
        self.host.into_iter().chain(self.failure)
    }

    /// Takes over what the execution says, and gives back what it said before.
    fn settle_texts(&mut self, texts: &mut Texts) {
        texts.replace(&mut self.host, self.execution.holder().map(|(_, hostname)| hostname));
        texts.replace(&mut self.failure, self.execution.last_failure().map(|failure| failure.message.as_str()));
    }

    fn is_settled(&self) -> bool {
        self.execution.is_answered() || self.execution.state() == ExecutionState::Lost
    }

    fn owes_answer(&self) -> bool {
        !self.execution.is_answered() && matches!(self.execution.state(), ExecutionState::Cancelled | ExecutionState::Expired)
    }

    fn is_dead(&self, max_attempts: u32) -> bool {
        DeadExecution::is_dead(&self.execution, max_attempts)
    }
}

impl Entry {
    pub(super) fn new(definition: &Definition, stored_at: Timestamp, texts: &mut Texts) -> Self {
        let share = |id: &ExecutionId| Share {
            id: *id,
            execution: Execution::default(),
            changed_at: stored_at,
            answered_at: None,
            host: None,
            failure: None,
        };
        let mut shares: Box<[Share]> = definition.executions.iter().map(share).collect();
        shares.sort_unstable_by_key(|share| share.id);
        Self {
            id: definition.id,
            operation: texts.take(&definition.operation),
            target: texts.take(&definition.target),
            submitted_by: texts.take(&definition.submitted_by),
            submitted_at: definition.submitted_at,
            stored_at,
            not_before: definition.not_before,
            expires_at: definition.expires_at,
            timeout: Duration::from_millis(definition.timeout_ms),
            max_attempts: definition.max_attempts,
            annotations: definition.annotations.iter().map(|(key, value)| (texts.take(key), texts.take(value))).collect(),
            retry_of: definition.retry_of,
            is_redrive: definition.retry_of.is_some_and(|of| definition.key_sha256.as_ref() == Some(&redrive_key(of))),
            bundle: definition.args.get("bundle").and_then(serde_json::Value::as_str).map(Box::from),
            has_turns: definition.concurrency_key.is_some(),
            tally: shares.iter().map(|share| share.execution.state()).collect(),
            n_unsettled: u32::try_from(shares.len()).unwrap_or(u32::MAX),
            n_owing: 0,
            n_dead: 0,
            shares,
            filed: None,
            is_odd: false,
        }
    }

    /// Gives the texts back; it is not to be looked at any more.
    pub(super) fn release(&self, texts: &mut Texts) {
        self.texts().chain(self.shares.iter().flat_map(Share::texts)).for_each(|text| texts.release(text));
    }

    /// What is the same for all shares.
    pub(super) fn texts(&self) -> impl Iterator<Item = TextId> {
        let annotations = self.annotations.iter().flat_map(|(key, value)| [*key, *value]);
        [self.operation, self.target, self.submitted_by].into_iter().chain(annotations)
    }

    /// Whether this share of one of many is announced by its turn alone.
    pub(crate) fn waits_for_turn(&self, share: &Share) -> bool {
        self.has_turns && share.id == ExecutionId::Any && share.execution.state() == ExecutionState::Pending
    }

    /// Where this execution's share is.
    pub(super) fn share_of(&self, execution: ExecutionId) -> Option<usize> {
        self.shares.binary_search_by_key(&execution, |share| share.id).ok()
    }

    /// Folds an event that the broker stored at `at`; one of an execution that the job does not have is no change.
    pub(super) fn apply(&mut self, execution: ExecutionId, event: &Event, at: Timestamp, texts: &mut Texts) -> Result<Applied, Refused> {
        self.change(execution, texts, |share| {
            let applied = share.execution.apply(event)?;
            // A cancel, however often it is asked for, does not give an attempt more time.
            let moves_on = matches!(event.kind, EventKind::Started { .. } | EventKind::Retrying { .. } | EventKind::Lost { .. });
            if applied == Applied::Changed && moves_on {
                share.changed_at = share.changed_at.max(at);
            }
            Ok(applied)
        })
    }

    /// Folds an answer that stands at `place`.
    pub(super) fn apply_answer(&mut self, answer: &Answer, place: Revision, texts: &mut Texts) -> Result<Applied, Refused> {
        self.change(answer.execution, texts, |share| {
            share.answered_at.get_or_insert(place);
            share.execution.apply_answer(answer)
        })
    }

    /// Changes one share, and the counts with it: a job may have thousands, and thousands of changes.
    fn change(
        &mut self,
        execution: ExecutionId,
        texts: &mut Texts,
        apply: impl FnOnce(&mut Share) -> Result<Applied, Refused>,
    ) -> Result<Applied, Refused> {
        let max_attempts = self.max_attempts;
        let Some(place) = self.share_of(execution) else { return Ok(Applied::Duplicate) };
        let share = &mut self.shares[place];
        let counted =
            |share: &Share| [u32::from(!share.is_settled()), u32::from(share.owes_answer()), u32::from(share.is_dead(max_attempts))];
        let (state, before) = (share.execution.state(), counted(share));
        let applied = apply(share);
        share.settle_texts(texts);
        let after = counted(share);
        self.tally.change(state, share.execution.state());
        for (count, (before, after)) in
            [&mut self.n_unsettled, &mut self.n_owing, &mut self.n_dead].into_iter().zip(before.into_iter().zip(after))
        {
            *count = *count + after - before;
        }
        applied
    }

    /// Where the answer of an execution stands.
    pub(crate) fn answered_at(&self, execution: ExecutionId) -> Option<Revision> {
        self.share_of(execution).and_then(|share| self.shares[share].answered_at)
    }

    pub(crate) fn status(&self, now: Timestamp) -> JobStatus {
        self.tally.status(self.not_before, now)
    }

    /// Whether nothing more is expected: every execution has its answer, or is lost.
    pub(crate) fn is_settled(&self) -> bool {
        self.n_unsettled == 0
    }

    /// Whether an execution ended without its answer having been written.
    pub(crate) fn owes_answers(&self) -> bool {
        self.n_owing > 0
    }

    /// Whether an execution used its attempts up.
    pub(crate) fn is_dead(&self) -> bool {
        self.n_dead > 0
    }

    pub(super) fn summary(&self, now: Timestamp, texts: &Texts) -> JobSummary {
        let text = |id: TextId| texts.get(id).to_owned();
        let status = self.status(now);
        let executions = || self.shares.iter().map(|share| &share.execution);
        let mut hosts: Vec<String> = executions().filter_map(|of| of.holder().map(|(_, hostname)| hostname.to_owned())).collect();
        hosts.sort_unstable();
        hosts.dedup();
        hosts.truncate(SUMMARY_HOSTS_MAX);
        JobSummary {
            id: self.id,
            status,
            operation: text(self.operation),
            target: text(self.target),
            hosts,
            executions: self.shares.len(),
            attempts: executions().map(Execution::attempts).sum(),
            submitted_by: text(self.submitted_by),
            submitted_at: self.submitted_at,
            finished_at: status.is_final().then(|| executions().filter_map(Execution::ended_at).max()).flatten(),
            error: executions().find_map(|of| of.last_failure().map(|failure| failure.message.clone())),
            annotations: self.annotations.iter().map(|(key, value)| (text(*key), text(*value))).collect(),
        }
    }
}
