//! The index: every retained job in memory, fed by the store's feed, so that no list ever scans keys.
//!
//! It answers lists and counts, and hints at what the reconcilers should look at; nothing is decided from it. Jobs stand in blocks of
//! neighbours that know what occurs in them, kept as facts arrive: counts cost nothing, and what is rare is found without a scan. A record that contradicts what is known is
//! logged once and skipped: one odd job must not blind the controller.

mod blocks;
mod entry;
mod filter;
mod follow;
mod orphans;
mod query;
mod search;
mod texts;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use longshore_model::job::{Applied, Refused};
use longshore_model::wire::record::{Answer, Definition, Event};
use longshore_model::{ExecutionId, JobId, JobStatus};
use longshore_store::Revision;

use blocks::{Blocks, Place};
pub(crate) use entry::{Entry, Share};
pub(crate) use filter::{Filter, Moment};
pub(crate) use follow::follow;
use orphans::{Orphan, Orphans};
use texts::Texts;

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
    /// Filed under the status that each had when a fact of it arrived last.
    jobs: Blocks,
    texts: Texts,
    /// When scheduled jobs become pending.
    scheduled: BTreeSet<(Timestamp, JobId)>,
    owed: BTreeSet<JobId>,
    dead: BTreeSet<JobId>,
    bundles: BTreeMap<Box<str>, usize>,
    retries: BTreeMap<JobId, BTreeSet<JobId>>,
    orphans: Orphans,
    /// Deleted jobs that records came of since.
    late: BTreeSet<JobId>,
    deleted: HashSet<JobId>,
    deleted_order: VecDeque<JobId>,
    /// Jobs with a record that contradicts their history, since the controller runs.
    n_contradictory: u64,
    is_caught_up: bool,
}

impl Index {
    /// Jobs that had a record which contradicts their history, since the controller runs.
    pub(crate) fn n_contradictory(&self) -> u64 {
        self.n_contradictory
    }

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
        if let Some(place) = self.jobs.find(id) {
            let entry = self.jobs.at_mut(place);
            entry.stored_at = stored_at;
            return effect(entry, now);
        }
        let mut entry = Entry::new(definition, stored_at, &mut self.texts);
        for orphan in self.orphans.take(id) {
            let applied = match &orphan {
                Orphan::Event(execution, event, at) => entry.apply(*execution, event, *at, &mut self.texts),
                Orphan::Answer(answer, place) => entry.apply_answer(answer, *place, &mut self.texts),
            };
            self.n_contradictory += note_refusal(&mut entry, applied);
        }
        if let Some(bundle) = &entry.bundle {
            *self.bundles.entry(bundle.clone()).or_default() += 1;
        }
        if let Some(of) = entry.retry_of {
            self.retries.entry(of).or_default().insert(id);
        }
        let place = self.jobs.insert(Box::new(entry));
        self.file(place, (false, false), now);
        effect(self.jobs.at(place), now)
    }

    /// Takes an event that the broker stored at `at`.
    pub(crate) fn happen(&mut self, id: JobId, execution: ExecutionId, event: &Event, at: Timestamp, now: Timestamp) -> Effect {
        let Some(place) = self.jobs.find(id) else {
            self.keep_aside(id, Orphan::Event(execution, event.clone(), at));
            return Effect { status: None, is_settled: false };
        };
        self.change(place, execution, now, |entry, texts| entry.apply(execution, event, at, texts))
    }

    /// Takes an answer that stands at `place`.
    pub(crate) fn answer(&mut self, answer: &Answer, place: Revision, now: Timestamp) -> Effect {
        let Some(job) = self.jobs.find(answer.job) else {
            self.keep_aside(answer.job, Orphan::Answer(Box::new(answer.clone()), place));
            return Effect { status: None, is_settled: false };
        };
        self.change(job, answer.execution, now, |entry, texts| entry.apply_answer(answer, place, texts))
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
            if let Some(place) = self.jobs.find(id) {
                let entry = self.jobs.at(place);
                let before = (entry.owes_answers(), entry.is_dead());
                self.file(place, before, now);
            }
        }
        let kept = SignedDuration::try_from(retention).unwrap_or(SignedDuration::MAX);
        while let Some(entry) = self.jobs.first()
            && now.duration_since(entry.stored_at) > kept
        {
            let id = entry.id;
            self.forget(id);
        }
    }

    /// Whether a scheduled job's time has come, so that [`Self::pass_time`] is due.
    pub(crate) fn is_stale(&self, now: Timestamp) -> bool {
        self.scheduled.first().is_some_and(|(at, _)| *at <= now)
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

    fn change(
        &mut self,
        place: Place,
        execution: ExecutionId,
        now: Timestamp,
        apply: impl FnOnce(&mut Entry, &mut Texts) -> Result<Applied, Refused>,
    ) -> Effect {
        let entry = self.jobs.at_mut(place);
        let before = (entry.owes_answers(), entry.is_dead());
        let applied = apply(entry, &mut self.texts);
        self.n_contradictory += note_refusal(entry, applied);
        if let Some(share) = entry.share_of(execution) {
            self.jobs.note_share(place, share);
        }
        self.file(place, before, now);
        effect(self.jobs.at(place), now)
    }

    /// Files a job by what it is now; `owed` and `was_dead` as it was filed before.
    fn file(&mut self, place: Place, (owed, was_dead): (bool, bool), now: Timestamp) {
        let entry = self.jobs.at(place);
        let (id, status, due) = (entry.id, entry.status(now), entry.not_before);
        match due {
            Some(at) if status == JobStatus::Scheduled => self.scheduled.insert((at, id)),
            Some(at) => self.scheduled.remove(&(at, id)),
            None => false,
        };
        for (set, before, is) in [(&mut self.owed, owed, entry.owes_answers()), (&mut self.dead, was_dead, entry.is_dead())] {
            match (before, is) {
                (false, true) => set.insert(id),
                (true, false) => set.remove(&id),
                (true, true) | (false, false) => false,
            };
        }
        self.jobs.file(place, status);
    }

    fn forget(&mut self, id: JobId) {
        self.orphans.take(id);
        let Some(entry) = self.jobs.remove(id) else { return };
        entry.release(&mut self.texts);
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

fn effect(entry: &Entry, now: Timestamp) -> Effect {
    Effect { status: Some(entry.status(now)), is_settled: entry.is_settled() }
}

/// Tells of it once a job. Gives how many jobs more are contradictory.
fn note_refusal(entry: &mut Entry, applied: Result<Applied, Refused>) -> u64 {
    let Err(refused) = applied else { return 0 };
    if std::mem::replace(&mut entry.is_odd, true) {
        return 0;
    }
    tracing::error!(job.id = %entry.id, error = %refused, "a record contradicts the job's history and was skipped");
    1
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
