//! The ledger's calls: one lock, one step, then the signals.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use longshore_model::wire::record::{Answer, Definition, Event, Reservation};
use longshore_model::{ExecutionId, JobId};

use super::Memory;
use crate::{Answered, Appended, Before, Created, Error, ExecutionRecord, JobRecord, Ledger, Revision};

#[async_trait]
impl Ledger for Memory {
    async fn create(&self, definition: &Definition) -> Result<Created, Error> {
        let created = {
            let mut state = self.0.state();
            let lost = self.0.options.lost_shares.swap(0, Ordering::Relaxed);
            let created = state.records.create(definition, lost, self.0.options.max_records_bytes)?;
            if let Created::Stored(_) = created
                && let Some(record) = state.records.load(definition.id)
            {
                for execution in &definition.executions {
                    state.work.announce(definition, *execution, record.revision(*execution), Before::Nothing);
                }
            }
            created
        };
        self.0.signals.records.notify_waiters();
        self.0.signals.work.notify_waiters();
        Ok(created)
    }

    async fn append(&self, job: JobId, execution: ExecutionId, after: Revision, event: &Event) -> Result<Appended, Error> {
        let appended = self.0.state().records.append(job, execution, after, event, self.0.options.max_records_bytes)?;
        self.0.signals.records.notify_waiters();
        Ok(appended)
    }

    async fn answer(&self, answer: &Answer) -> Result<Answered, Error> {
        let answered = self.0.state().records.answer(answer, self.0.options.max_records_bytes)?;
        self.0.signals.records.notify_waiters();
        Ok(answered)
    }

    async fn load(&self, job: JobId) -> Result<Option<JobRecord>, Error> {
        Ok(self.0.state().records.load(job))
    }

    async fn load_execution(&self, job: JobId, execution: ExecutionId) -> Result<Option<ExecutionRecord>, Error> {
        Ok(self.0.state().records.load_execution(job, execution))
    }

    async fn load_answer(&self, job: JobId, execution: ExecutionId) -> Result<Option<Answer>, Error> {
        Ok(self.0.state().records.load_answer(job, execution).cloned())
    }

    async fn reserve(&self, key_hash: &str, reservation: &Reservation) -> Result<Reservation, Error> {
        Ok(self.0.state().records.reserve(key_hash, reservation))
    }

    async fn reserved(&self, key_hash: &str) -> Result<Option<Reservation>, Error> {
        Ok(self.0.state().records.reserved(key_hash))
    }

    async fn retire(&self, key_hash: &str, job: JobId) -> Result<(), Error> {
        self.0.state().records.retire(key_hash, job);
        Ok(())
    }

    async fn delete(&self, job: JobId) -> Result<(), Error> {
        self.0.state().records.delete(job);
        self.0.signals.records.notify_waiters();
        Ok(())
    }
}
