//! The index: every retained job in memory, fed by the store's feed, so that no list ever scans keys.
//!
//! It answers lists and counts, and hints at what the reconcilers should look at; nothing is decided from it. Sets by status are kept
//! as facts arrive, so counts cost nothing and rare statuses are found without a scan. A record that contradicts what is known is
//! logged once and skipped: one odd job must not blind the controller.

mod entry;
mod filter;
mod follow;
mod orphans;
mod query;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use longshore_model::job::{Applied, Refused};
use longshore_model::wire::record::{Answer, Definition, Event};
use longshore_model::{ExecutionId, JobId, JobStatus};
use longshore_store::Revision;

pub(crate) use entry::{Entry, Share};
pub(crate) use filter::{Filter, Moment};
pub(crate) use follow::follow;
use orphans::{Orphan, Orphans};

/// Deleted jobs remembered, so that their late records are not kept aside.
const DELETED_KEPT: usize = 10_000;
/// What a record did to a job, for those who follow events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Effect {
    pub(crate) status: Option<JobStatus>,
    pub(crate) is_settled: bool,
}

/// The index.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Index {
    jobs: BTreeMap<JobId, Entry>,
    /// The job's status when a fact of it arrived last, by [`JobStatus`].
    by_status: [BTreeSet<JobId>; JobStatus::ALL.len()],
    /// When scheduled jobs become pending.
    scheduled: BTreeSet<(Timestamp, JobId)>,
    owed: BTreeSet<JobId>,
    dead: BTreeSet<JobId>,
    bundles: BTreeMap<String, usize>,
    retries: BTreeMap<JobId, BTreeSet<JobId>>,
    orphans: Orphans,
    /// Deleted jobs that records came of since.
    late: BTreeSet<JobId>,
    deleted: HashSet<JobId>,
    deleted_order: VecDeque<JobId>,
    is_caught_up: bool,
}

impl Index {
    /// Whether everything that was stored before this controller came is in.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.is_caught_up
    }

    pub(crate) fn caught_up(&mut self) {
        self.is_caught_up = true;
    }

    /// Takes a definition. Safe to repeat: the feed tells what a submission has inserted already.
    pub(crate) fn define(&mut self, definition: &Definition, stored_at: Timestamp, now: Timestamp) -> Effect {
        let id = definition.id;
        // A deleted job's id comes back only when the repeat of its submission met the delete.
        if self.deleted.remove(&id) {
            self.deleted_order.retain(|deleted| *deleted != id);
        }
        if let Some(entry) = self.jobs.get_mut(&id) {
            entry.stored_at = stored_at;
            return self.effect(id, now);
        }
        let mut entry = Entry::new(definition, stored_at);
        for orphan in self.orphans.take(id) {
            let applied = match &orphan {
                Orphan::Event(execution, event, at) => entry.apply(*execution, event, *at),
                Orphan::Answer(answer, place) => entry.apply_answer(answer, *place),
            };
            note_refusal(&mut entry, applied);
        }
        if let Some(bundle) = &entry.bundle {
            *self.bundles.entry(bundle.clone()).or_default() += 1;
        }
        if let Some(of) = entry.retry_of {
            self.retries.entry(of).or_default().insert(id);
        }
        self.jobs.insert(id, entry);
        self.file(id, now);
        self.effect(id, now)
    }

    /// Takes an event that the broker stored at `at`.
    pub(crate) fn happen(&mut self, id: JobId, execution: ExecutionId, event: &Event, at: Timestamp, now: Timestamp) -> Effect {
        if !self.jobs.contains_key(&id) {
            self.keep_aside(id, Orphan::Event(execution, event.clone(), at));
        }
        self.change(id, now, |entry| entry.apply(execution, event, at))
    }

    /// Takes an answer that stands at `place`.
    pub(crate) fn answer(&mut self, answer: &Answer, place: Revision, now: Timestamp) -> Effect {
        if !self.jobs.contains_key(&answer.job) {
            self.keep_aside(answer.job, Orphan::Answer(Box::new(answer.clone()), place));
        }
        self.change(answer.job, now, |entry| entry.apply_answer(answer, place))
    }

    /// Forgets a job.
    pub(crate) fn delete(&mut self, id: JobId) {
        self.forget(id);
        if self.deleted.insert(id) {
            self.deleted_order.push_back(id);
        }
        if self.deleted_order.len() > DELETED_KEPT
            && let Some(oldest) = self.deleted_order.pop_front()
        {
            self.deleted.remove(&oldest);
            self.late.remove(&oldest);
        }
    }

    /// Moves scheduled jobs whose time has come to pending, and forgets jobs whose records the stores have dropped by age.
    pub(crate) fn pass_time(&mut self, retention: Duration, now: Timestamp) {
        while let Some((at, id)) = self.scheduled.first().copied().filter(|(at, _)| *at <= now) {
            self.scheduled.remove(&(at, id));
            self.file(id, now);
        }
        let kept = SignedDuration::try_from(retention).unwrap_or(SignedDuration::MAX);
        while let Some((id, entry)) = self.jobs.first_key_value()
            && now.duration_since(entry.stored_at) > kept
        {
            let id = *id;
            self.forget(id);
        }
    }

    /// Whether a scheduled job's time has come, so that [`Self::pass_time`] is due.
    pub(crate) fn is_stale(&self, now: Timestamp) -> bool {
        self.scheduled.first().is_some_and(|(at, _)| *at <= now)
    }

    /// Up to `limit` jobs that have records, but no definition that was told: of a deleted job, most likely, whose agent answered since.
    pub(crate) fn leftovers(&self, limit: usize) -> Vec<JobId> {
        self.late.iter().copied().chain(self.orphans.jobs()).take(limit).collect()
    }

    /// Forgets what came of a job that is gone.
    pub(crate) fn forget_leftovers(&mut self, id: JobId) {
        self.late.remove(&id);
        self.orphans.take(id);
    }

    fn keep_aside(&mut self, id: JobId, orphan: Orphan) {
        if self.deleted.contains(&id) {
            self.late.insert(id);
        } else {
            self.orphans.keep(id, orphan);
        }
    }

    fn change(&mut self, id: JobId, now: Timestamp, apply: impl FnOnce(&mut Entry) -> Result<Applied, Refused>) -> Effect {
        if let Some(entry) = self.jobs.get_mut(&id) {
            let applied = apply(entry);
            note_refusal(entry, applied);
            self.file(id, now);
        }
        self.effect(id, now)
    }

    fn effect(&self, id: JobId, now: Timestamp) -> Effect {
        let entry = self.jobs.get(&id);
        Effect { status: entry.map(|entry| entry.status(now)), is_settled: entry.is_some_and(Entry::is_settled) }
    }

    fn file(&mut self, id: JobId, now: Timestamp) {
        let Some(entry) = self.jobs.get_mut(&id) else { return };
        let (status, owes, is_dead, due) = (entry.status(now), entry.owes_answers(), entry.is_dead(), entry.not_before);
        let before = entry.filed.replace(status);
        if before != Some(status) {
            if let Some(before) = before {
                self.by_status[before as usize].remove(&id);
            }
            self.by_status[status as usize].insert(id);
        }
        match due {
            Some(at) if status == JobStatus::Scheduled => self.scheduled.insert((at, id)),
            Some(at) => self.scheduled.remove(&(at, id)),
            None => false,
        };
        if owes {
            self.owed.insert(id);
        } else {
            self.owed.remove(&id);
        }
        if is_dead {
            self.dead.insert(id);
        } else {
            self.dead.remove(&id);
        }
    }

    fn forget(&mut self, id: JobId) {
        self.orphans.take(id);
        let Some(entry) = self.jobs.remove(&id) else { return };
        if let Some(status) = entry.filed {
            self.by_status[status as usize].remove(&id);
        }
        self.owed.remove(&id);
        self.dead.remove(&id);
        if let Some(at) = entry.not_before {
            self.scheduled.remove(&(at, id));
        }
        if let Some(bundle) = entry.bundle
            && let Some(count) = self.bundles.get_mut(&bundle)
        {
            *count -= 1;
            if *count == 0 {
                self.bundles.remove(&bundle);
            }
        }
        if let Some(of) = entry.retry_of
            && let Some(jobs) = self.retries.get_mut(&of)
        {
            jobs.remove(&id);
            if jobs.is_empty() {
                self.retries.remove(&of);
            }
        }
    }
}

fn note_refusal(entry: &mut Entry, applied: Result<Applied, Refused>) {
    if let Err(refused) = applied
        && !std::mem::replace(&mut entry.is_odd, true)
    {
        tracing::error!(job.id = %entry.id, error = %refused, "a record contradicts the job's history and was skipped");
    }
}

#[cfg(test)]
mod tests;
