//! Questions to the index: pages, counts, links, and candidates for the reconcilers.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use jiff::{SignedDuration, Timestamp};
use longshore_model::wire::rest::JobSummary;
use longshore_model::{ExecutionState, JobId, JobStatus};

use super::{Entry, Filter, Index};

/// Entries one list call looks at; a page may be short of its limit and still have a next one.
pub(super) const LIST_SCAN_MAX: usize = 100_000;
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
        self.jobs.get(&id)
    }

    /// Jobs that repeat this one.
    pub(crate) fn retries_of(&self, id: JobId) -> Vec<JobId> {
        self.retries.get(&id).map(|jobs| jobs.iter().copied().collect()).unwrap_or_default()
    }

    /// Whether a job other than `except` needs this bundle.
    pub(crate) fn is_bundle_shared(&self, bundle: &str, except: JobId) -> bool {
        let own = usize::from(self.jobs.get(&except).is_some_and(|entry| entry.bundle.as_deref() == Some(bundle)));
        self.bundles.get(bundle).copied().unwrap_or_default() > own
    }

    /// Jobs by status.
    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        JobStatus::ALL.into_iter().map(|status| (status.as_str().to_owned(), self.by_status[status as usize].len() as u64)).collect()
    }

    /// Executions whose time has come and that nobody works on, and those that an agent has claimed. Looks at every unfinished job.
    pub(crate) fn depth(&self) -> (u64, u64) {
        let unfinished = JobStatus::ALL.into_iter().filter(|status| !status.is_final() && *status != JobStatus::Scheduled);
        let jobs = unfinished.flat_map(|status| &self.by_status[status as usize]).filter_map(|id| self.jobs.get(id));
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
        let mut end = upper_bound(filter, before);
        let oldest = filter.since.as_ref().and_then(|since| since.at.checked_sub(ID_AGE_MAX).ok()).map_or(JobId::from_bits(0), first_id_at);
        for _ in 0..LIST_SCAN_MAX {
            let Some(id) = self.newest_before(&filter.statuses, end).filter(|id| *id >= oldest) else {
                return Page { items, last: None };
            };
            end = Some(id);
            if let Some(entry) = self.jobs.get(&id).filter(|entry| filter.matches(entry)) {
                items.push(entry.summary(now));
                if items.len() == limit {
                    break;
                }
            }
        }
        let more = self.newest_before(&filter.statuses, end).is_some_and(|id| id >= oldest);
        Page { items, last: end.filter(|_| more) }
    }

    /// Up to `limit` unfinished jobs after `after`, oldest first, of which `is_wanted`; and the last one looked at of at most `scan`.
    pub(crate) fn unfinished(
        &self,
        after: Option<JobId>,
        (limit, scan): (usize, usize),
        is_wanted: impl Fn(&Entry) -> bool,
    ) -> (Vec<JobId>, Option<JobId>) {
        let mut found = Vec::new();
        let mut last = after;
        for _ in 0..scan {
            let next = JobStatus::ALL
                .into_iter()
                .filter(|status| !status.is_final())
                .filter_map(|status| first_after(&self.by_status[status as usize], last))
                .min();
            let Some(id) = next else { return (found, None) };
            last = Some(id);
            if self.jobs.get(&id).is_some_and(&is_wanted) {
                found.push(id);
                if found.len() == limit {
                    break;
                }
            }
        }
        (found, last)
    }

    /// Up to `limit` jobs after `after` that ended without an answer.
    pub(crate) fn owing(&self, after: Option<JobId>, limit: usize) -> Vec<JobId> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.owed.range((from, Bound::Unbounded)).take(limit).copied().collect()
    }

    /// The first job after `after` of which an execution used its attempts up.
    pub(crate) fn dead_after(&self, after: Option<JobId>) -> Option<JobId> {
        first_after(&self.dead, after)
    }

    /// The job that was made by this one's redrive.
    pub(crate) fn redrive_of(&self, id: JobId) -> Option<JobId> {
        let is_redrive = |job: &&JobId| self.jobs.get(job).is_some_and(|entry| entry.is_redrive);
        self.retries.get(&id)?.iter().find(is_redrive).copied()
    }

    fn newest_before(&self, statuses: &BTreeSet<JobStatus>, end: Option<JobId>) -> Option<JobId> {
        let to = end.map_or(Bound::Unbounded, Bound::Excluded);
        if statuses.is_empty() {
            return self.jobs.range((Bound::Unbounded, to)).next_back().map(|(id, _)| *id);
        }
        statuses.iter().filter_map(|status| self.by_status[*status as usize].range((Bound::Unbounded, to)).next_back()).max().copied()
    }
}

fn first_after(set: &BTreeSet<JobId>, after: Option<JobId>) -> Option<JobId> {
    set.range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)).next().copied()
}

/// The smallest id that can be made at this time: the first 48 bits of a UUIDv7 are milliseconds.
fn first_id_at(at: Timestamp) -> JobId {
    JobId::from_bits(u128::try_from(at.as_millisecond()).unwrap_or_default() << 80)
}

/// Ids are made before or at submission: none submitted before `until` has an id made after it.
fn upper_bound(filter: &Filter, before: Option<JobId>) -> Option<JobId> {
    let until = filter.until.as_ref().and_then(|until| until.at.checked_add(SignedDuration::from_secs(1)).ok()).map(first_id_at);
    match (before, until) {
        (Some(before), Some(until)) => Some(before.min(until)),
        (before, until) => before.or(until),
    }
}
