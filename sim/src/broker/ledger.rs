//! The ledger's calls. What takes effect is noted here, once, with who did it.

use async_trait::async_trait;
use longshore_model::wire::record::{Answer, Definition, Event, EventKind, Outcome, Reservation};
use longshore_model::{ExecutionId, JobId};
use longshore_store::{Answered, Appended, Before, Created, Error, ExecutionRecord, JobRecord, Ledger, Revision};

use super::Kind::{Read, Write};
use super::Link;
use crate::history::{Key, Record};
use crate::plant::Bug;
use crate::world::{Actor, agent_id};

#[async_trait]
impl Ledger for Link {
    async fn create(&self, definition: &Definition) -> Result<Created, Error> {
        let (world, me, new) = (self.world.clone(), self.me, definition.clone());
        let made = self.ask(Write, "storing a job", || definition.id.short(), async move {
            // Who stores a job for several writes its shares one by one, and may be killed in between.
            let lost = world.lose_shares(&new);
            let created = world.raw.ledger.create(&new).await?;
            if let Created::Stored(_) = created {
                let now = world.now();
                let parts = new.executions.iter().enumerate().filter(|(n, _)| lost >> (n % 64) & 1 == 0);
                let shared: Vec<_> = parts.map(|(_, execution)| ((new.id, *execution), now)).collect();
                world.history().shared.extend(shared);
                world.strays.began(new.id, Before::Nothing);
                world.note(me, || format!("stored {} {} for {} = {:?}", new.id.short(), new.operation, new.target, new.annotations));
                world.history().define(&new, now);
            }
            Ok(created)
        });
        match made.await {
            Err(_) if self.world.is(Bug::FailureIsSuccess) => Ok(Created::Stored(1)),
            made => made,
        }
    }

    async fn append(&self, job: JobId, execution: ExecutionId, after: Revision, event: &Event) -> Result<Appended, Error> {
        let (world, me, mut new) = (self.world.clone(), self.me, event.clone());
        if self.world.is(Bug::StampsMixed) {
            new.at = self.world.now();
        }
        let is_start = matches!(event.kind, EventKind::Started { .. });
        if is_start && self.world.is(Bug::StartUnrecorded) && self.strikes(100) {
            return Ok(Appended::Stored(after + 1));
        }
        let is_loss = matches!(event.kind, EventKind::Lost { .. } | EventKind::Expired);
        if is_loss && !self.is_agent() && self.world.is(Bug::LossUnrecorded) {
            return Ok(Appended::Stored(after + 1));
        }
        let is_cancel = matches!(event.kind, EventKind::Cancelled { .. } | EventKind::CancelRequested { .. });
        if is_cancel && self.world.is(Bug::CancelUnrecorded) && self.strikes(300) {
            return Ok(Appended::Stored(after + 1));
        }
        let what = || format!("{} {} {:?}", job.short(), short(execution), event.kind);
        self.ask(Write, "recording", what, async move {
            let mut after = after;
            if is_start
                && world.is(Bug::StartUnguarded)
                && let Some(record) = world.raw.ledger.load_execution(job, execution).await?
            {
                after = record.revision;
            }
            let appended = world.raw.ledger.append(job, execution, after, &new).await?;
            world.note(me, || format!("recorded {} {} after {after} {:?}: {appended:?}", job.short(), short(execution), new.kind));
            if let Appended::Stored(revision) = appended {
                let now = world.now();
                world.history().write((job, execution), me, now, Record::Event(revision, new));
            }
            match appended {
                Appended::Conflict if is_start && world.is(Bug::ConflictIsMine) => Ok(Appended::Stored(after + 1)),
                Appended::Conflict | Appended::Stored(_) => Ok(appended),
            }
        })
        .await
    }

    async fn answer(&self, answer: &Answer) -> Result<Answered, Error> {
        let (world, me, mut new) = (self.world.clone(), self.me, answer.clone());
        if self.is_agent() && self.world.is(Bug::CancelToldAsFailure) && new.outcome == Outcome::Cancelled {
            new.outcome = Outcome::Failed;
        }
        if self.world.is(Bug::DurationByWallClock)
            && let (Some(began), Some(_)) = (new.started_at, new.duration_ms)
        {
            new.duration_ms = u64::try_from(self.world.now().duration_since(began).as_millis()).ok().or(Some(0));
        }
        let what = || format!("{} {} {:?}", answer.job.short(), short(answer.execution), answer.outcome);
        self.ask(Write, "answering", what, async move {
            let mut answered = world.raw.ledger.answer(&new).await?;
            if world.is(Bug::AnswersOverwrite) {
                answered = Answered::Stored;
            }
            world.note(me, || {
                let code = new.error.as_ref().map(|error| error.code);
                format!("answered {} {} {:?} {code:?}: {answered:?}", new.job.short(), short(new.execution), new.outcome)
            });
            if let Answered::Stored = answered {
                let now = world.now();
                world.history().write((new.job, new.execution), me, now, Record::Answer(new));
            }
            Ok(answered)
        })
        .await
    }

    async fn load(&self, job: JobId) -> Result<Option<JobRecord>, Error> {
        let world = self.world.clone();
        let mut read = self.ask(Read, "reading", || job.short(), async move { world.raw.ledger.load(job).await }).await?;
        if let Some(record) = &mut read {
            if self.world.is(Bug::ReadsGoBack) {
                *record = self.world.earlier(record, self.strikes(200));
            }
            if self.world.is(Bug::CancelMisnamed) {
                let is_cancel = |event: &Event| matches!(event.kind, EventKind::Cancelled { .. } | EventKind::CancelRequested { .. });
                let of_cancels = record.events.iter_mut().filter(|(.., event)| is_cancel(event));
                of_cancels.for_each(|(revision, ..)| *revision -= 1);
            }
        }
        Ok(read)
    }

    async fn load_execution(&self, job: JobId, execution: ExecutionId) -> Result<Option<ExecutionRecord>, Error> {
        let world = self.world.clone();
        let read = self.ask(Read, "reading", || format!("{} {}", job.short(), short(execution)), async move {
            world.raw.ledger.load_execution(job, execution).await
        });
        let mut read = read.await?;
        if self.is_agent()
            && let Some(record) = &mut read
        {
            self.learns((job, execution), record);
            if self.world.is(Bug::FinishedNotSeen) {
                record.answer = None;
            }
            if self.world.is(Bug::LedgerNotFolded) {
                (record.events, record.answer) = (Vec::new(), None);
            }
            if self.world.is(Bug::CancelIgnored) {
                let is_cancel = |event: &Event| matches!(event.kind, EventKind::Cancelled { .. } | EventKind::CancelRequested { .. });
                record.events.retain(|event| !is_cancel(event));
                record.answer = record.answer.take().filter(|answer| answer.outcome != Outcome::Cancelled);
            }
        }
        Ok(read)
    }

    async fn load_answer(&self, job: JobId, execution: ExecutionId) -> Result<Option<Answer>, Error> {
        let world = self.world.clone();
        self.ask(Read, "reading", || job.short(), async move { world.raw.ledger.load_answer(job, execution).await }).await
    }

    async fn reserve(&self, key_hash: &str, reservation: &Reservation) -> Result<Reservation, Error> {
        if self.world.is(Bug::KeyNotReserved) {
            return Ok(reservation.clone());
        }
        let (world, key, wanted) = (self.world.clone(), key_hash.to_owned(), reservation.clone());
        self.ask(Write, "reserving", || reservation.job.short(), async move { world.raw.ledger.reserve(&key, &wanted).await }).await
    }

    async fn reserved(&self, key_hash: &str) -> Result<Option<Reservation>, Error> {
        let (world, key) = (self.world.clone(), key_hash.to_owned());
        self.ask(Read, "reading a key", String::new, async move { world.raw.ledger.reserved(&key).await }).await
    }

    async fn retire(&self, key_hash: &str, job: JobId) -> Result<(), Error> {
        let (world, key) = (self.world.clone(), key_hash.to_owned());
        self.ask(Write, "retiring a key", || job.short(), async move { world.raw.ledger.retire(&key, job).await }).await
    }

    async fn delete(&self, job: JobId) -> Result<(), Error> {
        let (world, me) = (self.world.clone(), self.me);
        self.ask(Write, "removing", || job.short(), async move {
            if !world.is(Bug::DeleteForgotten) {
                world.raw.ledger.delete(job).await?;
            }
            world.note(me, || format!("removed {}", job.short()));
            let now = world.now();
            world.history().removed.insert(job, now);
            Ok(())
        })
        .await
    }
}

impl Link {
    /// Notes when an agent is told that somebody wants the end of what runs.
    fn learns(&self, key: Key, record: &ExecutionRecord) {
        let Actor::Agent(n) = self.me else { return };
        if record.events.iter().any(|event| matches!(event.kind, EventKind::CancelRequested { .. })) {
            let now = self.world.now();
            self.world.history().learned.entry((key, agent_id(n))).or_insert(now);
        }
    }
}

/// An execution in few letters.
pub(super) fn short(execution: ExecutionId) -> String {
    execution.agent().map_or_else(|| "any".to_owned(), |agent| format!("a{}", agent.bits() - 1))
}
