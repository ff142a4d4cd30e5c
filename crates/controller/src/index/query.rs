//! Questions to the index: pages, counts, links, and candidates for the reconcilers.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use jiff::{SignedDuration, Timestamp};
use longshore_model::wire::rest::JobSummary;
use longshore_model::{ExecutionState, JobId, JobStatus};

use super::blocks::Block;
use super::search::Wanted;
use super::{Entry, Filter, Index};

/// Jobs, or what takes as long, that one list call looks at: some milliseconds. A page may be short of its limit and still have a next one.
pub(super) const LOOKS_MAX: usize = 100_000;
/// How much older than its submission a job's id may be: the idempotent repeat of a submission that crashed keeps the reserved id.
const ID_AGE_MAX: SignedDuration = SignedDuration::from_hours(7 * 24);

/// A page of jobs.
pub(crate) struct Page {
    pub(crate) items: Vec<JobSummary>,
    /// The last job looked at, if there may be more.
    pub(crate) last: Option<JobId>,
}

impl Index {
    pub(crate) fn get(&self, id: JobId) -> Option<&Entry> {
        self.jobs.get(id)
    }

    /// A job's operation and target.
    pub(crate) fn asked(&self, id: JobId) -> Option<(String, String)> {
        let entry = self.jobs.get(id)?;
        Some((self.texts.get(entry.operation).to_owned(), self.texts.get(entry.target).to_owned()))
    }

    /// Jobs that repeat this one.
    pub(crate) fn retries_of(&self, id: JobId) -> Vec<JobId> {
        self.retries.get(&id).map(|jobs| jobs.iter().copied().collect()).unwrap_or_default()
    }

    /// Whether a job other than `except` needs this bundle.
    pub(crate) fn is_bundle_shared(&self, bundle: &str, except: JobId) -> bool {
        let own = usize::from(self.jobs.get(except).is_some_and(|entry| entry.bundle.as_deref() == Some(bundle)));
        self.bundles.get(bundle).copied().unwrap_or_default() > own
    }

    /// Jobs by status.
    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        JobStatus::ALL.into_iter().map(|status| (status.as_str().to_owned(), self.jobs.counts()[status as usize] as u64)).collect()
    }

    /// Executions whose time has come and that nobody works on, and those that an agent has claimed. Looks at every unfinished job, and at the
    /// finished ones between them in a block.
    pub(crate) fn depth(&self) -> (u64, u64) {
        let is_due = |status: JobStatus| !status.is_final() && status != JobStatus::Scheduled;
        let due_of = |block| Block::entries(block).filter(move |entry| entry.filed.is_some_and(is_due)).take(Block::n_with(block, is_due));
        let jobs = self.jobs.all().iter().flat_map(due_of);
        let (mut waiting, mut claimed) = (0, 0);
        for share in jobs.flat_map(|entry| &entry.shares) {
            match share.execution.state() {
                ExecutionState::Pending | ExecutionState::Retryable => waiting += 1,
                ExecutionState::Running => claimed += 1,
                ExecutionState::Completed
                | ExecutionState::Failed
                | ExecutionState::Skipped
                | ExecutionState::Cancelled
                | ExecutionState::Expired
                | ExecutionState::Lost => {}
            }
        }
        (waiting, claimed)
    }

    /// Up to `limit` jobs older than `before`, newest first.
    pub(crate) fn list(&self, filter: &Filter, before: Option<JobId>, limit: usize, now: Timestamp) -> Page {
        let mut items = Vec::new();
        let Some(mut wanted) = Wanted::new(filter, &self.texts) else { return Page { items, last: None } };
        let (oldest, end) = bounds(filter, before);
        for block in self.jobs.all().iter().rev() {
            let within = block.within(oldest, end);
            if within.is_empty() {
                continue;
            }
            let mut last = within.start;
            if wanted.may_be_in(block) {
                for at in within.rev() {
                    last = at;
                    let entry = block.entry(at);
                    if wanted.is(entry) {
                        items.push(entry.summary(now, &self.texts));
                    }
                    if items.len() == limit || wanted.n_looks() >= LOOKS_MAX {
                        break;
                    }
                }
            }
            if items.len() == limit || wanted.n_looks() >= LOOKS_MAX {
                let last = block.ids()[last];
                return Page { items, last: self.has_more(&wanted, oldest, last).then_some(last) };
            }
        }
        Page { items, last: None }
    }

    /// Whether there may be wanted jobs from `oldest` up to before `end`.
    ///
    /// Not more than the jobs of two blocks are looked at in vain: of any between them the counts tell.
    fn has_more(&self, wanted: &Wanted<'_>, oldest: JobId, end: JobId) -> bool {
        let has_status_in = |block: &Block| block.within(oldest, Some(end)).any(|at| wanted.takes_status(block.entry(at).filed));
        self.jobs.all().iter().rev().any(|block| wanted.takes_a_status_of(block) && has_status_in(block))
    }

    /// Up to `limit` unfinished jobs after `after`, oldest first, of which `is_wanted`; and the last one looked at of at most `scan`, finished
    /// or not.
    pub(crate) fn unfinished(
        &self,
        after: Option<JobId>,
        (limit, scan): (usize, usize),
        is_wanted: impl Fn(&Entry) -> bool,
    ) -> (Vec<JobId>, Option<JobId>) {
        let mut found = Vec::new();
        let mut n_looked_at = 0;
        let is_unfinished = |status: JobStatus| !status.is_final();
        let blocks = self
            .jobs
            .all()
            .iter()
            .filter(|block| JobStatus::ALL.into_iter().any(|status| is_unfinished(status) && block.has_status(status)));
        for block in blocks {
            let from = block.ids().partition_point(|id| after.is_some_and(|after| *id <= after));
            for entry in block.entries().skip(from) {
                n_looked_at += 1;
                if entry.filed.is_some_and(is_unfinished) && is_wanted(entry) {
                    found.push(entry.id);
                }
                if found.len() == limit || n_looked_at == scan {
                    return (found, Some(entry.id));
                }
            }
        }
        (found, None)
    }

    /// Up to `limit` jobs after `after` that ended without an answer.
    pub(crate) fn owing(&self, after: Option<JobId>, limit: usize) -> Vec<JobId> {
        self.owed.range(following(after)).take(limit).copied().collect()
    }

    /// The first jobs after `after`, up to `limit`, that have records, but no definition that was told: of a deleted job, most likely, whose
    /// agent answered since.
    pub(crate) fn leftovers(&self, after: Option<JobId>, limit: usize) -> Vec<JobId> {
        let late = self.late.range(following(after)).copied().take(limit);
        let mut jobs: Vec<JobId> = late.chain(self.orphans.jobs_after(after).take(limit)).collect();
        jobs.sort_unstable();
        jobs.dedup();
        jobs.truncate(limit);
        jobs
    }

    /// The first job after `after` of which an execution used its attempts up.
    pub(crate) fn dead_after(&self, after: Option<JobId>) -> Option<JobId> {
        first_after(&self.dead, after)
    }

    /// The job that was made by this one's redrive.
    pub(crate) fn redrive_of(&self, id: JobId) -> Option<JobId> {
        let is_redrive = |job: &&JobId| self.jobs.get(**job).is_some_and(|entry| entry.is_redrive);
        self.retries.get(&id)?.iter().find(is_redrive).copied()
    }
}

/// What comes after `after`; everything without one.
pub(super) fn following(after: Option<JobId>) -> (Bound<JobId>, Bound<JobId>) {
    (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}

fn first_after(set: &BTreeSet<JobId>, after: Option<JobId>) -> Option<JobId> {
    set.range(following(after)).next().copied()
}

/// The smallest id that can be made at this time: the first 48 bits of a UUIDv7 are milliseconds.
fn first_id_at(at: Timestamp) -> JobId {
    JobId::from_bits(u128::try_from(at.as_millisecond()).unwrap_or_default() << 80)
}

/// The ids a filter can have: from the first to before the second. Ids are made before or at submission, so that none submitted before `until`
/// has an id made after it.
fn bounds(filter: &Filter, before: Option<JobId>) -> (JobId, Option<JobId>) {
    let oldest = filter.since.as_ref().and_then(|since| since.at.checked_sub(ID_AGE_MAX).ok()).map_or(JobId::from_bits(0), first_id_at);
    let until = filter.until.as_ref().and_then(|until| until.at.checked_add(SignedDuration::from_secs(1)).ok()).map(first_id_at);
    (oldest, before.into_iter().chain(until).min())
}
