//! Whether what happened was right. Nothing here calls the product's own rules: states, statuses and what is dead are worked out again, from
//! what the simulation saw.

mod cancels;
mod clocks;
mod identity;
mod ledger;
mod letters;
mod people;
mod sessions;
mod shares;
mod streams;
mod targets;
mod turns;
mod views;
mod work;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Answer, Definition, Event, EventKind, Outcome};
use longshore_model::{ExecutionId, ExecutionState, JobId, JobStatus};

use crate::controllers::Controllers;
use crate::history::{History, Key, Record, Seq, Written};
use crate::world::{LEASE, World};

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub promise: &'static str,
    /// By what.
    pub found: String,
}

impl Violation {
    pub(crate) fn new(promise: &'static str, found: impl fmt::Display) -> Self {
        Self { promise, found: found.to_string() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.found)
    }
}

/// Everything that is checked at the end.
pub(crate) async fn all(world: &World, controllers: &Controllers, n_agents: usize, healed: Timestamp) -> Vec<Violation> {
    let mut found = Vec::new();
    {
        let history = world.history();
        bounds(&history, healed, &mut found);
        ledger::check(&history, &mut found);
        work::check(&history, &mut found);
        people::check(&history, &mut found);
        shares::check(&history, healed, &mut found);
        streams::check(&history, &mut found);
        turns::check(&history, &mut found);
        sessions::check(&history, &mut found);
        targets::check(&history, &mut found);
        cancels::check(&history, &mut found);
        identity::check(&history, &mut found);
        letters::check(&history, &mut found);
        clocks::check(&history, &mut found);
    }
    targets::responses(world, &mut found).await;
    identity::audited(world, &mut found).await;
    letters::stored(world, &mut found).await;
    found.extend(self::views(world, controllers, n_agents).await);
    found
}

/// What the controllers and the stores say at the moment.
pub(crate) async fn views(world: &World, controllers: &Controllers, n_agents: usize) -> Vec<Violation> {
    let mut found = Vec::new();
    views::check(world, controllers, n_agents, &mut found).await;
    found
}

/// The records of one execution, as they took effect.
pub(crate) struct Line<'a> {
    /// By their revisions.
    pub(crate) events: Vec<(u64, &'a Written, &'a Event)>,
    pub(crate) answers: Vec<(&'a Written, &'a Answer)>,
}

impl<'a> Line<'a> {
    pub(crate) fn of(history: &'a History, key: Key) -> Self {
        let mut line = Self { events: Vec::new(), answers: Vec::new() };
        for written in history.written.get(&key).into_iter().flatten() {
            match &written.record {
                Record::Event(revision, event) => line.events.push((*revision, written, event)),
                Record::Answer(answer) => line.answers.push((written, answer)),
            }
        }
        line.events.sort_by_key(|(revision, ..)| *revision);
        line
    }

    /// Where the execution stands.
    pub(crate) fn state(&self) -> ExecutionState {
        if let Some((_, answer)) = self.answers.first() {
            return match answer.outcome {
                Outcome::Completed => ExecutionState::Completed,
                Outcome::Failed => ExecutionState::Failed,
                Outcome::Skipped => ExecutionState::Skipped,
                Outcome::Cancelled => ExecutionState::Cancelled,
                Outcome::Expired => ExecutionState::Expired,
            };
        }
        self.events.iter().fold(ExecutionState::Pending, |state, (.., event)| match event.kind {
            EventKind::Started { .. } => ExecutionState::Running,
            EventKind::Retrying { .. } => ExecutionState::Retryable,
            EventKind::CancelRequested { .. } => state,
            EventKind::Cancelled { .. } => ExecutionState::Cancelled,
            EventKind::Expired => ExecutionState::Expired,
            EventKind::Lost { .. } => ExecutionState::Lost,
        })
    }

    /// How many attempts were started.
    pub(crate) fn attempts(&self) -> u32 {
        let starts = self.events.iter().filter_map(|(.., event)| match event.kind {
            EventKind::Started { attempt, .. } => Some(attempt),
            EventKind::Retrying { .. }
            | EventKind::CancelRequested { .. }
            | EventKind::Cancelled { .. }
            | EventKind::Expired
            | EventKind::Lost { .. } => None,
        });
        starts.max().unwrap_or(0)
    }

    /// When nothing more was expected of it.
    fn settled_at(&self) -> Option<Timestamp> {
        let lost = || self.events.iter().find(|(.., event)| matches!(event.kind, EventKind::Lost { .. })).map(|(_, written, _)| written.at);
        let answered = self.answers.first().map(|(written, _)| written.at);
        lost().into_iter().chain(answered).min()
    }

    /// The same, as a place in what was noted.
    fn settled_seq(&self) -> Option<Seq> {
        let lost = self.events.iter().filter(|(.., event)| matches!(event.kind, EventKind::Lost { .. })).map(|(_, written, _)| written.seq);
        self.answers.iter().map(|(written, _)| written.seq).chain(lost).min()
    }

    /// Whether its attempts are used up, and it did not come to anything.
    pub(crate) fn is_dead(&self, definition: &Definition) -> bool {
        match self.state() {
            ExecutionState::Failed => self
                .answers
                .first()
                .is_some_and(|(_, answer)| answer.error.as_ref().is_some_and(|error| error.code == ErrorCode::DeadLetter)),
            ExecutionState::Lost => definition.max_attempts > 1 && self.attempts() >= definition.max_attempts,
            ExecutionState::Pending
            | ExecutionState::Running
            | ExecutionState::Retryable
            | ExecutionState::Completed
            | ExecutionState::Skipped
            | ExecutionState::Cancelled
            | ExecutionState::Expired => false,
        }
    }
}

/// Every execution of every job that is there.
pub(crate) fn executions(history: &History) -> impl Iterator<Item = (&Definition, ExecutionId)> {
    let kept = history.defined.iter().filter(|(job, _)| !history.removed.contains_key(*job));
    kept.flat_map(|(_, defined)| defined.definition.executions.iter().map(|execution| (&defined.definition, *execution)))
}

/// Executions that have not ended.
pub(crate) fn unfinished(world: &World) -> Vec<Violation> {
    let history = world.history();
    let open = executions(&history).filter(|(definition, id)| Line::of(&history, (definition.id, *id)).settled_at().is_none());
    open.map(|(definition, id)| Violation::new("INV-01 every accepted job comes to its end", format!("{} {id}", definition.id.short())))
        .collect()
}

/// How long every execution took to its end, from the healing or from when it could first be started, whichever was later.
fn waits(history: &History, healed: Timestamp) -> impl Iterator<Item = (&Definition, ExecutionId, Duration)> {
    executions(history).filter_map(move |(definition, id)| {
        let began = history.defined[&definition.id].at.max(healed).max(definition.not_before.unwrap_or(healed));
        let wait = Duration::try_from(Line::of(history, (definition.id, id)).settled_at()?.duration_since(began)).unwrap_or_default();
        Some((definition, id, wait))
    })
}

/// The longest of them.
pub(crate) fn slowest(history: &History, healed: Timestamp) -> Duration {
    waits(history, healed).map(|(.., wait)| wait).max().unwrap_or_default()
}

/// Once nothing goes wrong any more a job ends when it has had the time for its attempts: what was lost on its way is announced again, and
/// what was held by nobody is taken over, within a minute and a half; and it may have to wait for a free slot.
fn bounds(history: &History, healed: Timestamp, found: &mut Vec<Violation>) {
    const RECOVERY: Duration = Duration::from_secs(90);
    const QUEUE: Duration = Duration::from_secs(120);
    const BETWEEN: Duration = Duration::from_secs(10);
    for (definition, id, wait) in waits(history, healed) {
        let backoff = definition.backoff_ms.iter().max().copied().unwrap_or(0);
        let attempt = Duration::from_millis(definition.timeout_ms + backoff) + BETWEEN;
        // By the clock of whoever failed, and of whoever looks.
        let by_clocks = Duration::try_from(history.spread()).unwrap_or_default() * definition.max_attempts;
        // What only somebody could do who is gone ends when it expires, and a retry of it as long again after it is due.
        let lasts = Duration::try_from(definition.expires_at.duration_since(definition.submitted_at)).unwrap_or_default();
        let of_gone = if history.gone.is_empty() { Duration::ZERO } else { lasts * 2 };
        if wait > of_gone + RECOVERY + QUEUE + attempt * definition.max_attempts + by_clocks + others_turns(history, definition) {
            let what = format!("{} {id}: {wait:?} after it could be", definition.id.short());
            found.push(Violation::new("INV-58 whatever was lost on its way, a job ends in its time", what));
        }
    }
}

/// How long those with the same concurrency key may take.
fn others_turns(history: &History, definition: &Definition) -> Duration {
    let Some(key) = &definition.concurrency_key else { return Duration::ZERO };
    let others = history.defined.values().map(|defined| &defined.definition).filter(|other| other.concurrency_key.as_ref() == Some(key));
    let all_of = |other: &Definition| {
        let backoff = other.backoff_ms.iter().max().copied().unwrap_or(0);
        let attempts = other.max_attempts * u32::try_from(other.executions.len()).unwrap_or(u32::MAX);
        (Duration::from_millis(other.timeout_ms + backoff) + Duration::from_secs(90)) * attempts
    };
    others.map(all_of).sum()
}

/// Executions that run for some seconds, with their attempt.
pub(crate) fn running(history: &History, now: Timestamp) -> Vec<(Key, u32)> {
    let mut running = Vec::new();
    for (definition, id) in executions(history) {
        let line = Line::of(history, (definition.id, id));
        let began = line.events.last().map_or(now, |(_, written, _)| written.at);
        if line.state() == ExecutionState::Running && now.duration_since(began) > SignedDuration::from_secs(3) {
            running.push(((definition.id, id), line.attempts()));
        }
    }
    running
}

/// Jobs that have dead executions.
pub(crate) fn dead(history: &History) -> BTreeMap<JobId, usize> {
    let mut dead = BTreeMap::new();
    for (definition, id) in executions(history) {
        if Line::of(history, (definition.id, id)).is_dead(definition) {
            *dead.entry(definition.id).or_default() += 1;
        }
    }
    dead
}

pub(crate) fn n_dead(history: &History) -> usize {
    dead(history).len()
}

/// The table of the specification.
pub(crate) fn status(states: &[ExecutionState]) -> JobStatus {
    use ExecutionState::{Cancelled, Completed, Expired, Failed, Lost, Pending, Retryable, Running, Skipped};
    let all = |wanted: &[ExecutionState]| states.iter().all(|state| wanted.contains(state));
    let any = |wanted: &[ExecutionState]| states.iter().any(|state| wanted.contains(state));
    if all(&[Pending]) {
        JobStatus::Pending
    } else if any(&[Pending, Running, Retryable]) {
        if any(&[Pending, Running]) { JobStatus::Running } else { JobStatus::Retryable }
    } else if all(&[Skipped]) {
        JobStatus::Skipped
    } else if all(&[Completed, Skipped]) {
        JobStatus::Completed
    } else if any(&[Completed, Skipped]) {
        JobStatus::PartialFailure
    } else if any(&[Failed, Lost]) {
        JobStatus::Failed
    } else if any(&[Cancelled]) {
        JobStatus::Cancelled
    } else {
        debug_assert!(all(&[Expired]), "nothing else is left");
        JobStatus::Expired
    }
}

/// How long a claim holds for certain: the broker counts from before the delivery arrived, so an agent trusts it for nine tenths.
pub(crate) fn lease() -> SignedDuration {
    SignedDuration::try_from(LEASE.mul_f64(0.9)).unwrap_or_default()
}
