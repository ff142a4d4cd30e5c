//! Live output: one sequence of places over all jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream;
use longshore_model::wire::log::LogRecord;
use longshore_model::{ExecutionId, JobId};

use super::{Memory, Shared};
use crate::{Error, LogStream, Logs, Revision, StoredLog};

#[derive(Default)]
pub(super) struct Output {
    newest: Revision,
    jobs: BTreeMap<JobId, JobOutput>,
}

#[derive(Default)]
struct JobOutput {
    records: BTreeMap<Revision, LogRecord>,
    stored: BTreeSet<(ExecutionId, u32, u64)>,
}

struct Reader {
    shared: Arc<Shared>,
    job: JobId,
    after: Revision,
}

#[async_trait]
impl Logs for Memory {
    async fn append(&self, records: &[LogRecord]) -> Result<(), Error> {
        {
            let output = &mut self.0.state().logs;
            for record in records {
                output.append(record);
            }
        }
        self.0.signals.logs.notify_waiters();
        Ok(())
    }

    async fn newest(&self, job: JobId, execution: ExecutionId) -> Result<Option<(u32, u64)>, Error> {
        let newest = |output: &JobOutput| {
            let record = output.records.values().rev().find(|record| record.execution == execution)?;
            Some((record.attempt, record.seq))
        };
        Ok(self.0.state().logs.jobs.get(&job).and_then(newest))
    }

    async fn kept(&self) -> Result<Range<Revision>, Error> {
        Ok(0..self.0.state().logs.newest + 1)
    }

    async fn follow(&self, job: JobId, after: Revision) -> Result<LogStream, Error> {
        let reader = Reader { shared: Arc::clone(&self.0), job, after };
        Ok(stream::unfold(reader, |mut reader| async move { reader.next().await.map(|record| (Ok(record), reader)) }).boxed())
    }

    async fn last(&self, job: JobId) -> Result<Revision, Error> {
        let last = |output: &JobOutput| output.records.last_key_value().map(|(place, _)| *place);
        Ok(self.0.state().logs.jobs.get(&job).and_then(last).unwrap_or(0))
    }

    async fn delete(&self, job: JobId) -> Result<(), Error> {
        self.0.state().logs.jobs.remove(&job);
        Ok(())
    }
}

impl Output {
    fn append(&mut self, record: &LogRecord) {
        let output = self.jobs.entry(record.job).or_default();
        if output.stored.insert((record.execution, record.attempt, record.seq)) {
            self.newest += 1;
            output.records.insert(self.newest, record.clone());
        }
    }

    fn next(&self, job: JobId, after: Revision) -> Option<StoredLog> {
        let (place, record) = self.jobs.get(&job)?.records.range(after.saturating_add(1)..).next()?;
        Some(StoredLog { place: *place, record: record.clone() })
    }
}

impl Reader {
    async fn next(&mut self) -> Option<StoredLog> {
        loop {
            let changed = self.shared.signals.logs.notified();
            let next = self.shared.state().logs.next(self.job, self.after);
            if let Some(record) = next {
                self.after = record.place;
                return Some(record);
            }
            changed.await;
        }
    }
}
