//! Records that came before their job's definition: the ledger's two sequences are read apart. Kept aside, bounded.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use longshore_model::wire::record::{Answer, Event};
use longshore_model::{ExecutionId, JobId};
use longshore_store::Revision;

use super::query::following;

/// Jobs whose records are kept aside. The feed tells the answers of the past after all definitions of it, so these are few: of what is
/// being written at the moment.
const ORPHANED_JOBS_MAX: usize = 100_000;
/// Records kept of one job.
const RECORDS_OF_ONE_MAX: usize = 1024;

/// A record without a definition.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Orphan {
    Event(ExecutionId, Event, Timestamp),
    Answer(Box<Answer>, Revision),
}

/// All of them.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Orphans {
    jobs: BTreeMap<JobId, Vec<Orphan>>,
    /// In the order they came; may name jobs that were taken since.
    order: VecDeque<JobId>,
}

impl Orphans {
    pub(super) fn keep(&mut self, job: JobId, orphan: Orphan) {
        let records = self.jobs.entry(job).or_insert_with(|| {
            self.order.push_back(job);
            Vec::new()
        });
        if records.len() < RECORDS_OF_ONE_MAX {
            records.push(orphan);
        }
        while self.order.len() > ORPHANED_JOBS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.jobs.remove(&oldest);
        }
    }

    /// Whose records are kept, of the jobs after `after`.
    pub(super) fn jobs_after(&self, after: Option<JobId>) -> impl Iterator<Item = JobId> {
        self.jobs.range(following(after)).map(|(job, _)| *job)
    }

    /// Takes a job's records: events before answers, each in the order they came.
    pub(super) fn take(&mut self, job: JobId) -> Vec<Orphan> {
        let mut records = self.jobs.remove(&job).unwrap_or_default();
        records.sort_by_key(|orphan| matches!(orphan, Orphan::Answer(..)));
        if self.jobs.is_empty() {
            self.order.clear();
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use longshore_model::wire::record::{EventKind, SCHEMA};

    use super::*;

    #[test]
    fn what_is_kept_aside_is_bounded() {
        let event = Event { schema: SCHEMA, at: jiff::Timestamp::UNIX_EPOCH, kind: EventKind::Expired };
        let mut orphans = Orphans::default();
        for job in 0..ORPHANED_JOBS_MAX as u128 + 10 {
            orphans.keep(JobId::from_bits(job), Orphan::Event(ExecutionId::Any, event.clone(), Timestamp::UNIX_EPOCH));
        }
        assert_eq!(orphans.jobs.len(), ORPHANED_JOBS_MAX);
        assert!(orphans.take(JobId::from_bits(3)).is_empty());
        assert_eq!(orphans.take(JobId::from_bits(30)).len(), 1);
    }
}
