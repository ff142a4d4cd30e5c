//! The ledger's content: two sequences of records, and the rules of who may write what. No locks, no waiting.
//!
//! Invariant: `queue` holds one entry per definition and event in `jobs`, `answer_of` one per answer in `responses`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use longshore_model::job::Shares;
use longshore_model::limits::RECORD_BYTES_MAX;
use longshore_model::wire::record::{Answer, Definition, Event, Reservation};
use longshore_model::{ExecutionId, JobId};
use serde::Serialize;

use crate::{Answered, Appended, Clock, Created, Error, ExecutionRecord, Fact, JobRecord, Position, Revision};

/// Deletions that followers can still be told of. They are hints, so a follower this far behind may miss some.
const DELETIONS_MAX: usize = 4096;

#[derive(Default)]
pub(super) struct Records {
    clock: Clock,
    jobs: BTreeMap<JobId, JobRecord>,
    queue: BTreeMap<Revision, QueueEntry>,
    queue_newest: Revision,
    queue_bytes: u64,
    /// Counted apart: a deletion has no place in either sequence.
    deletions: BTreeMap<u64, (Timestamp, JobId)>,
    deletions_newest: u64,
    responses: BTreeMap<Revision, StoredAnswer>,
    responses_newest: Revision,
    responses_bytes: u64,
    answer_of: BTreeMap<(JobId, ExecutionId), Revision>,
    reservations: BTreeMap<String, Reservation>,
}

struct QueueEntry {
    job: JobId,
    at: Timestamp,
    bytes: u64,
}

struct StoredAnswer {
    answer: Answer,
    at: Timestamp,
    bytes: u64,
}

impl Records {
    pub(super) fn stamped_by(clock: Clock) -> Self {
        Self { clock, ..Self::default() }
    }

    pub(super) fn create(&mut self, definition: &Definition, lost_shares: u64, bytes_max: Option<u64>) -> Result<Created, Error> {
        let bytes = measure(definition)?;
        if self.jobs.contains_key(&definition.id) {
            return Ok(Created::Exists);
        }
        let (revision, at) = self.enqueue(definition.id, bytes, bytes_max)?;
        self.jobs.insert(definition.id, JobRecord::new(definition.clone(), revision, at));
        for (_, execution) in definition.executions.iter().enumerate().filter(|(n, _)| lost_shares >> (n % 64) & 1 == 0) {
            // As on the broker: what finds no room now is shared later.
            let _ = self.share(definition.id, *execution, bytes_max);
        }
        Ok(Created::Stored(revision))
    }

    /// Stores the share of one execution of several, if there is none. Gives its revision if it was stored now.
    pub(super) fn share(&mut self, job: JobId, execution: ExecutionId, bytes_max: Option<u64>) -> Result<Option<Revision>, Error> {
        let Some(record) = self.jobs.get(&job) else { return Ok(None) };
        if record.definition.executions.len() == 1 || record.revision(execution) != 0 {
            return Ok(None);
        }
        let bytes = measure(&Shares::of(&record.definition).share(execution))?;
        let (revision, _) = self.enqueue(job, bytes, bytes_max)?;
        self.jobs.entry(job).and_modify(|record| record.shares.extend([(execution, revision)]));
        Ok(Some(revision))
    }

    pub(super) fn append(
        &mut self,
        job: JobId,
        execution: ExecutionId,
        after: Revision,
        event: &Event,
        bytes_max: Option<u64>,
    ) -> Result<Appended, Error> {
        let bytes = measure(event)?;
        let Some(record) = self.jobs.get(&job) else {
            return Ok(Appended::Conflict);
        };
        let mut newest = match record.definition.executions.as_slice() {
            [_] => record.definition_revision,
            _ => record.shares.get(&execution).copied().unwrap_or(0),
        };
        for (revision, _, stored) in record.events.iter().filter(|(_, of, _)| *of == execution) {
            if newest == after {
                return Ok(if stored == event { Appended::Stored(*revision) } else { Appended::Conflict });
            }
            newest = *revision;
        }
        if newest != after || !record.definition.executions.contains(&execution) {
            return Ok(Appended::Conflict);
        }
        let (revision, _) = self.enqueue(job, bytes, bytes_max)?;
        self.jobs.entry(job).and_modify(|record| record.events.push((revision, execution, event.clone())));
        Ok(Appended::Stored(revision))
    }

    /// An answer is stored even if nothing else is known of the job: its bucket does not look at the other one.
    pub(super) fn answer(&mut self, answer: &Answer, bytes_max: Option<u64>) -> Result<Answered, Error> {
        let bytes = measure(answer)?;
        if let Some(stored) = self.load_answer(answer.job, answer.execution) {
            return Ok(if stored == answer { Answered::Stored } else { Answered::Exists });
        }
        self.responses_bytes = within(self.responses_bytes, bytes, bytes_max, "answers")?;
        self.responses_newest += 1;
        self.answer_of.insert((answer.job, answer.execution), self.responses_newest);
        self.responses.insert(self.responses_newest, StoredAnswer { answer: answer.clone(), at: self.clock.now(), bytes });
        Ok(Answered::Stored)
    }

    pub(super) fn load(&self, job: JobId) -> Option<JobRecord> {
        let mut record = self.jobs.get(&job)?.clone();
        record.answers = self.answers_of(job).filter_map(|(_, revision)| self.responses.get(&revision)).map(|s| s.answer.clone()).collect();
        Some(record)
    }

    pub(super) fn load_execution(&self, job: JobId, execution: ExecutionId) -> Option<ExecutionRecord> {
        let record = self.jobs.get(&job).filter(|record| record.definition.executions.contains(&execution))?;
        let revision = record.revision(execution);
        let answer = self.load_answer(job, execution).cloned();
        (revision != 0).then(|| ExecutionRecord { revision, events: record.events_of(execution).cloned().collect(), answer })
    }

    pub(super) fn load_answer(&self, job: JobId, execution: ExecutionId) -> Option<&Answer> {
        self.answer_of.get(&(job, execution)).and_then(|revision| self.responses.get(revision)).map(|stored| &stored.answer)
    }

    pub(super) fn reserve(&mut self, key_hash: &str, reservation: &Reservation) -> Reservation {
        self.reservations.entry(key_hash.to_owned()).or_insert_with(|| reservation.clone()).clone()
    }

    pub(super) fn reserved(&self, key_hash: &str) -> Option<Reservation> {
        self.reservations.get(key_hash).cloned()
    }

    pub(super) fn retire(&mut self, key_hash: &str, job: JobId) {
        if let Some(reservation) = self.reservations.get_mut(key_hash).filter(|reservation| reservation.job == job) {
            reservation.deleted = true;
        }
    }

    pub(super) fn delete(&mut self, job: JobId) {
        let answers: Vec<_> = self.answers_of(job).collect();
        for (execution, revision) in answers {
            self.answer_of.remove(&(job, execution));
            self.responses_bytes -= self.responses.remove(&revision).map_or(0, |stored| stored.bytes);
        }
        let Some(record) = self.jobs.remove(&job) else {
            return;
        };
        let events = record.events.iter().map(|(revision, ..)| *revision);
        for revision in events.chain(record.shares.into_values()).chain([record.definition_revision]) {
            self.queue_bytes -= self.queue.remove(&revision).map_or(0, |entry| entry.bytes);
        }
        self.deletions_newest += 1;
        self.deletions.insert(self.deletions_newest, (self.clock.now(), job));
        while self.deletions.len() > DELETIONS_MAX {
            self.deletions.pop_first();
        }
    }

    /// Where both sequences end.
    pub(super) fn end(&self) -> Position {
        Position { queue: self.queue_newest, responses: self.responses_newest }
    }

    /// How many jobs have been deleted.
    pub(super) fn deletions(&self) -> u64 {
        self.deletions_newest
    }

    /// The first definition or event with a revision above `after` and up to `until`.
    pub(super) fn next_in_queue(&self, after: Revision, until: Revision) -> Option<(Revision, Timestamp, Fact)> {
        self.queue.range(after.saturating_add(1)..).take_while(|(revision, _)| **revision <= until).find_map(|(revision, entry)| {
            let record = self.jobs.get(&entry.job)?;
            let event = record.events.binary_search_by_key(revision, |(of, ..)| *of).ok().map(|idx| &record.events[idx]);
            let fact = match event {
                Some((_, execution, event)) => Fact::Happened { job: entry.job, execution: *execution, event: event.clone() },
                None if *revision == record.definition_revision => Fact::Defined(Box::new(record.definition.clone())),
                // A share is told by nobody.
                None => return None,
            };
            Some((*revision, entry.at, fact))
        })
    }

    /// The first deletion above `after`, by its count.
    pub(super) fn next_deletion(&self, after: u64) -> Option<(u64, Timestamp, Fact)> {
        let (count, (at, job)) = self.deletions.range(after.saturating_add(1)..).next()?;
        Some((*count, *at, Fact::Deleted(*job)))
    }

    /// The first answer with a revision above `after` and up to `until`.
    pub(super) fn next_in_responses(&self, after: Revision, until: Revision) -> Option<(Revision, Timestamp, Fact)> {
        let (revision, stored) = self.responses.range(after.saturating_add(1)..).next().filter(|(revision, _)| **revision <= until)?;
        Some((*revision, stored.at, Fact::Answered(Box::new(stored.answer.clone()))))
    }

    fn enqueue(&mut self, job: JobId, bytes: u64, bytes_max: Option<u64>) -> Result<(Revision, Timestamp), Error> {
        self.queue_bytes = within(self.queue_bytes, bytes, bytes_max, "definitions and events")?;
        self.queue_newest += 1;
        let at = self.clock.now();
        self.queue.insert(self.queue_newest, QueueEntry { job, at, bytes });
        Ok((self.queue_newest, at))
    }

    fn answers_of(&self, job: JobId) -> impl Iterator<Item = (ExecutionId, Revision)> {
        let all = self.answer_of.range((job, ExecutionId::Any)..).take_while(move |((of, _), _)| *of == job);
        all.map(|((_, execution), revision)| (*execution, *revision))
    }
}

/// The size of a record as it would be stored.
pub(super) fn measure(record: &impl Serialize) -> Result<u64, Error> {
    let bytes = serde_json::to_vec(record).map_err(|error| Error::Corrupt { key: "new record".to_owned(), source: Box::new(error) })?.len();
    if bytes > RECORD_BYTES_MAX {
        return Err(Error::TooLarge { bytes, max: RECORD_BYTES_MAX });
    }
    Ok(bytes as u64)
}

/// The sum, if it is within the bound.
fn within(held: u64, more: u64, bytes_max: Option<u64>, store: &str) -> Result<u64, Error> {
    let sum = held + more;
    if bytes_max.is_some_and(|max| sum > max) {
        return Err(Error::Full { store: store.to_owned() });
    }
    Ok(sum)
}
