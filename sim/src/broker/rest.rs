//! Dead letters, output and the audit trail.

use async_trait::async_trait;
use longshore_model::wire::audit::AuditRecord;
use longshore_model::wire::dead_letter::DeadLetter;
use longshore_model::wire::log::LogRecord;
use longshore_model::{ExecutionId, JobId};
use longshore_store::{Audit, AuditPage, DeadLetters, Error, LetterPut, LetterStream, LogStream, Logs, Revision, StoredLetter};

use super::Kind::{Read, Write};
use super::Link;
use crate::plant::Bug;

#[async_trait]
impl DeadLetters for Link {
    async fn put(&self, letter: &DeadLetter, after: Revision) -> Result<LetterPut, Error> {
        if self.world.is(Bug::DeadLetterDropped) {
            return Ok(LetterPut::Stored(after + 1));
        }
        let (world, me, mut letter) = (self.world.clone(), self.me, letter.clone());
        if self.world.is(Bug::LetterWithoutAgent) {
            letter.executions.iter_mut().for_each(|dead| dead.agent = None);
        }
        self.ask(Write, "writing a letter", String::new, async move {
            let put = world.raw.dead_letters.put(&letter, after).await?;
            world.note(me, || format!("letter of {} after {after} {:?}: {put:?}", letter.job.short(), letter.state));
            if let LetterPut::Stored(_) = put {
                let mut history = world.history();
                let seq = history.next();
                history.letters.push((seq, letter));
            }
            Ok(put)
        })
        .await
    }

    async fn load(&self, job: JobId) -> Result<Option<StoredLetter>, Error> {
        let world = self.world.clone();
        self.ask(Read, "reading a letter", || job.short(), async move { world.raw.dead_letters.load(job).await }).await
    }

    async fn delete(&self, job: JobId) -> Result<(), Error> {
        let world = self.world.clone();
        self.ask(Write, "removing a letter", || job.short(), async move { world.raw.dead_letters.delete(job).await }).await
    }

    async fn follow(&self) -> Result<LetterStream, Error> {
        let world = self.world.clone();
        let inner = self.ask(Read, "following letters", String::new, async move { world.raw.dead_letters.follow().await }).await?;
        Ok(self.told(inner))
    }
}

#[async_trait]
impl Logs for Link {
    async fn append(&self, records: &[LogRecord]) -> Result<(), Error> {
        let (world, records) = (self.world.clone(), records.to_vec());
        self.ask(Write, "storing output", String::new, async move { world.raw.logs.append(&records).await }).await
    }

    async fn newest(&self, job: JobId, execution: ExecutionId) -> Result<Option<(u32, u64)>, Error> {
        let world = self.world.clone();
        self.ask(Read, "reading output", || job.short(), async move { world.raw.logs.newest(job, execution).await }).await
    }

    async fn kept(&self) -> Result<std::ops::Range<Revision>, Error> {
        self.world.raw.logs.kept().await
    }

    async fn follow(&self, job: JobId, after: Revision) -> Result<LogStream, Error> {
        self.world.raw.logs.follow(job, after).await
    }

    async fn last(&self, job: JobId) -> Result<Revision, Error> {
        let world = self.world.clone();
        self.ask(Read, "reading output", || job.short(), async move { world.raw.logs.last(job).await }).await
    }

    async fn delete(&self, job: JobId) -> Result<(), Error> {
        let world = self.world.clone();
        self.ask(Write, "removing output", || job.short(), async move { world.raw.logs.delete(job).await }).await
    }
}

#[async_trait]
impl Audit for Link {
    async fn append(&self, records: &[AuditRecord]) -> Result<(), Error> {
        if self.world.is(Bug::RefusalUnaudited) {
            return Ok(());
        }
        self.world.raw.audit.append(records).await
    }

    async fn before(&self, place: Option<Revision>, limit: usize) -> Result<AuditPage, Error> {
        self.world.raw.audit.before(place, limit).await
    }

    async fn after(&self, place: Revision, limit: usize) -> Result<AuditPage, Error> {
        self.world.raw.audit.after(place, limit).await
    }
}
