//! Dead letters: jobs whose attempts are used up, listed, shown, submitted again and discarded.
//!
//! The ledger is the truth. A letter is made from it, by a reconciler or by whoever asks first, and only what people did about it is
//! the letter's own: that somebody discarded it. That it was redriven is on record in the ledger too, as the job that repeats it under the
//! key that is reserved for that, so that a crash between the two writes loses nothing and makes no second job.

use std::collections::BTreeSet;

use jiff::Timestamp;
use longshore_model::access::Caller;
use longshore_model::job::{Execution, Job, Submission};
use longshore_model::wire::dead_letter::{DeadExecution, DeadLetter, DeadLetterState};
use longshore_model::wire::record::{Reservation, SCHEMA};
use longshore_model::wire::rest::{DeadLetterCondition, DeadLetterList, DeadLetterView, JobView};
use longshore_model::{ExecutionId, JobId};
use longshore_store::{Error as StoreError, JobRecord, LetterPut, StoredLetter};

use super::record::Shares;
use super::submit::{self, Submitted};
use super::{App, Error, Frozen, again, fold, permit, permit_targets, resolve, shown_to};
use crate::fleet::Waits;
use crate::index::Index;
use crate::letters::{Letters, fingerprint, redrive_key, view};

/// How often a letter is looked at again because somebody else wrote it first.
const CONFLICTS_MAX: usize = 3;
/// Letters compared with the index before those who write to it get their turn.
const LOOKS_AT_ONCE: usize = 1000;

/// What a redrive came to.
pub(crate) struct Redrive {
    pub(crate) job: JobView,
    /// Whether this call made the job.
    pub(crate) is_new: bool,
}

/// A page of letters, those of the newest jobs first.
pub(crate) fn list(
    app: &App,
    caller: &Caller,
    states: &BTreeSet<DeadLetterCondition>,
    cursor: Option<&str>,
    limit: usize,
) -> Result<DeadLetterList, Error> {
    permit(caller, "job:read")?;
    let before = cursor.map(|cursor| resume(states, cursor).ok_or(Error::Cursor)).transpose()?;
    let (index, letters) = (app.index(), app.letters());
    if !index.is_caught_up() || !letters.is_current() {
        return Err(Error::Indexing);
    }
    // A letter whose job is gone is on its way out.
    let mut found = letters.list(states, before).filter(|view| index.get(view.id).is_some());
    let items: Vec<DeadLetterView> = found.by_ref().take(limit).cloned().collect();
    let next_cursor = found.next().and(items.last()).map(|last| cursor_after(states, last.id));
    Ok(DeadLetterList { items, next_cursor })
}

/// One letter, with the executions that died.
pub(crate) async fn get(app: &App, caller: &Caller, id: JobId) -> Result<DeadLetterView, Error> {
    permit(caller, "job:read")?;
    let settled = settle(app, id).await?.ok_or_else(|| no_letter(id))?;
    view(&settled.stored.letter).ok_or_else(|| no_letter(id))
}

/// Submits what died once more, as a new job for exactly those executions. Safe to repeat: the job's id is reserved before it is made.
/// Needs the operation's own permission: it is a submission.
pub(crate) async fn redrive(app: &App, caller: &Caller, id: JobId) -> Result<Redrive, Error> {
    permit(caller, "job:write")?;
    let Settled { record, shares, stored } = settle(app, id).await?.ok_or_else(|| no_letter(id))?;
    let max_attempts = record.definition.max_attempts;
    let job = Job::try_from(record.definition)?;
    permit(caller, job.call.operation().spec().permission)?;
    match stored.letter.state {
        DeadLetterState::Open => {}
        DeadLetterState::Redriven { as_job, .. } => {
            let record = app.load(as_job).await?.ok_or(Error::RedriveDeleted { job: id, as_job })?;
            permit_targets(app, caller, &record.definition.target, &record.definition.executions)?;
            return Ok(shown(app, caller, &Submitted { record, ticket: None }));
        }
        DeadLetterState::Discarded { by, .. } => return Err(Error::Discarded { job: id, by }),
    }
    // One letter, one repeat: what dies later would have none.
    if !shares.is_final() {
        return Err(Error::NotFinal { job: id });
    }
    let dead: Vec<ExecutionId> = dead(&shares, max_attempts).map(|(id, _)| id).collect();
    // Before anything is reserved, and for an earlier try's job as well.
    permit_targets(app, caller, &job.target.to_string(), &dead)?;
    let submitted = submit_again(app, caller, id, job, dead).await?;
    let definition = &submitted.record.definition;
    let state = DeadLetterState::Redriven { as_job: definition.id, by: definition.submitted_by.clone(), at: definition.submitted_at };
    // Accepted is accepted; what is not written here is written by the reconciler.
    if let Err(error) = close(app, id, &state).await {
        tracing::warn!(job.id = %id, error = %crate::app::chain(&error), "a dead letter was redriven, which could not be noted yet");
    }
    Ok(shown(app, caller, &submitted))
}

fn shown(app: &App, caller: &Caller, submitted: &Submitted) -> Redrive {
    Redrive { job: shown_to(caller, submitted.view(app)), is_new: submitted.ticket.is_some() }
}

/// Notes that a letter needs nothing more. Safe to repeat.
pub(crate) async fn discard(app: &App, caller: &Caller, id: JobId) -> Result<(), Error> {
    permit(caller, "job:write")?;
    for _ in 0..CONFLICTS_MAX {
        let Settled { record, shares, stored } = settle(app, id).await?.ok_or_else(|| no_letter(id))?;
        permit_targets(app, caller, &record.definition.target, &record.definition.executions)?;
        match stored.letter.state {
            DeadLetterState::Open if !shares.is_final() => return Err(Error::NotFinal { job: id }),
            DeadLetterState::Open => {}
            DeadLetterState::Redriven { as_job, .. } => return Err(Error::Redriven { job: id, as_job }),
            DeadLetterState::Discarded { .. } => return Ok(()),
        }
        let state = DeadLetterState::Discarded { by: caller.name.clone(), at: app.now() };
        if put(app, &DeadLetter { state, ..stored.letter }, stored.revision).await?.is_some() {
            tracing::info!(job.id = %id, caller = %caller.name, "a dead letter is discarded");
            return Ok(());
        }
    }
    Err(Error::Contended { job: id })
}

/// The job that does it again: made now, or by an earlier try.
async fn submit_again(app: &App, caller: &Caller, of: JobId, job: Job, dead: Vec<ExecutionId>) -> Result<Submitted, Error> {
    let key = redrive_key(of);
    let wanted = Reservation { schema: SCHEMA, job: submit::new_id(app), body_sha256: key.clone(), deleted: false };
    let mut held = reserve(app, of, &key, &wanted).await?;
    if held != wanted.job {
        if let Some(record) = app.load(held).await? {
            return Ok(Submitted { record, ticket: None });
        }
        // An earlier try came no further. Or the job was deleted just now: then its key says so by now.
        held = reserve(app, of, &key, &wanted).await?;
    }
    let frozen = match dead.as_slice() {
        [ExecutionId::Any] => Frozen { executions: dead, ..resolve(app, caller, &job.target, &job.call, Waits::No)? },
        _agents => again(app, dead)?,
    };
    let now = app.now();
    let submission = Submission::again(job, now);
    submit::check_retention(app, &submission, now)?;
    let placed = submit::Placed { id: held, frozen, retry_of: Some(of), key_sha256: Some(key) };
    submit::accept(app, caller, submission, placed).await
}

async fn reserve(app: &App, of: JobId, key: &str, wanted: &Reservation) -> Result<JobId, Error> {
    match app.store.ledger.reserve(key, wanted).await? {
        held if held.deleted => Err(Error::RedriveDeleted { job: of, as_job: held.job }),
        held => Ok(held.job),
    }
}

/// Writes what was done about a letter, whatever it said before: the ledger says so.
async fn close(app: &App, id: JobId, state: &DeadLetterState) -> Result<(), StoreError> {
    for _ in 0..CONFLICTS_MAX {
        let Some(stored) = app.store.dead_letters.load(id).await? else { return Ok(()) };
        if stored.letter.state == *state {
            app.letters_mut().take(&stored);
            return Ok(());
        }
        if put(app, &DeadLetter { state: state.clone(), ..stored.letter }, stored.revision).await?.is_some() {
            return Ok(());
        }
    }
    Err(StoreError::Unavailable { doing: "noting what was done about a dead letter", source: None })
}

/// Writes a letter; `None` if somebody else wrote it since.
async fn put(app: &App, letter: &DeadLetter, after: u64) -> Result<Option<StoredLetter>, StoreError> {
    match app.store.dead_letters.put(letter, after).await? {
        LetterPut::Stored(revision) => {
            let stored = StoredLetter { revision, letter: letter.clone() };
            // Read your writes: the stream tells the same a moment later.
            app.letters_mut().take(&stored);
            Ok(Some(stored))
        }
        LetterPut::Conflict => {
            app.metrics.write_refused();
            Ok(None)
        }
    }
}

/// A job and its letter, as the ledger says that it must be.
pub(crate) struct Settled {
    record: JobRecord,
    shares: Shares,
    stored: StoredLetter,
}

/// Brings a job's letter to what the ledger says, and gives it; `None` if the job is gone or nothing of it is dead. Safe to repeat, and
/// beside another controller's.
pub(crate) async fn settle(app: &App, id: JobId) -> Result<Option<Settled>, StoreError> {
    for _ in 0..CONFLICTS_MAX {
        let (record, stored) = tokio::try_join!(app.load(id), app.store.dead_letters.load(id))?;
        let Some(record) = record else {
            remove(app, stored.as_ref(), id).await?;
            return Ok(None);
        };
        let shares = fold(&record);
        match (goal(app, &record, &shares, stored.as_ref()).await?, stored) {
            (None, stored) => {
                remove(app, stored.as_ref(), id).await?;
                return Ok(None);
            }
            (Some(goal), Some(stored)) if goal == stored.letter => {
                app.letters_mut().take(&stored);
                return Ok(Some(Settled { record, shares, stored }));
            }
            (Some(goal), stored) => {
                if let Some(stored) = put(app, &goal, stored.map_or(0, |stored| stored.revision)).await? {
                    tracing::info!(job.id = %id, dead = goal.dead(), "a dead letter is recorded");
                    return Ok(Some(Settled { record, shares, stored }));
                }
            }
        }
    }
    Err(StoreError::Unavailable { doing: "recording a dead letter", source: None })
}

async fn remove(app: &App, stored: Option<&StoredLetter>, id: JobId) -> Result<(), StoreError> {
    if stored.is_some() {
        app.store.dead_letters.delete(id).await?;
        tracing::info!(job.id = %id, "a dead letter is removed: its job is gone, or was answered after all");
    }
    app.letters_mut().forget(id);
    Ok(())
}

/// What a job's letter must say. One that was closed stays as it is.
async fn goal(app: &App, record: &JobRecord, shares: &Shares, stored: Option<&StoredLetter>) -> Result<Option<DeadLetter>, StoreError> {
    let definition = &record.definition;
    let stored = stored.map(|stored| &stored.letter);
    let fresh = || {
        let dead = || dead(shares, definition.max_attempts);
        let (listed, unlisted) = DeadExecution::all(dead(), definition.max_attempts);
        let at = dead().filter_map(|(_, execution)| execution.ended_at()).max();
        (!listed.is_empty()).then(|| DeadLetter {
            schema: SCHEMA,
            job: definition.id,
            operation: definition.operation.clone(),
            target: definition.target.clone(),
            submitted_by: definition.submitted_by.clone(),
            executions: listed,
            unlisted,
            at: at.unwrap_or(Timestamp::UNIX_EPOCH),
            state: DeadLetterState::Open,
        })
    };
    let letter = match stored {
        Some(DeadLetter { state: DeadLetterState::Redriven { .. }, .. }) => return Ok(stored.cloned()),
        Some(DeadLetter { state: DeadLetterState::Discarded { .. }, .. }) => stored.cloned(),
        Some(DeadLetter { state: DeadLetterState::Open, .. }) | None => fresh(),
    };
    // The index only hints; the job itself says whose repeat it is.
    let hint = app.index().redrive_of(definition.id);
    if let Some(as_job) = hint
        && let Some(again) = app.load(as_job).await?.map(|record| record.definition)
        && let Some(letter) = letter.clone().or_else(|| stored.cloned())
        && again.retry_of == Some(definition.id)
        && again.key_sha256 == Some(redrive_key(definition.id))
    {
        let state = DeadLetterState::Redriven { as_job, by: again.submitted_by, at: again.submitted_at };
        return Ok(Some(DeadLetter { state, ..letter }));
    }
    Ok(letter)
}

/// Up to `limit` jobs after `after` whose letter seems not to be what the ledger says; and the last one looked at of at most `scan`.
pub(crate) fn unsettled(app: &App, after: Option<JobId>, (limit, scan): (usize, usize)) -> (Vec<JobId>, Option<JobId>) {
    let mut found = Vec::new();
    let mut last = after;
    for _ in 0..scan.div_ceil(LOOKS_AT_ONCE) {
        let (index, letters) = (app.index(), app.letters());
        for _ in 0..LOOKS_AT_ONCE.min(scan) {
            let Some(id) = index.dead_after(last).into_iter().chain(letters.after(last)).min() else { return (found, None) };
            last = Some(id);
            if is_unsettled(&index, &letters, id) {
                found.push(id);
                if found.len() == limit {
                    return (found, last);
                }
            }
        }
    }
    (found, last)
}

fn is_unsettled(index: &Index, letters: &Letters, id: JobId) -> bool {
    let Some(entry) = index.get(id) else { return true };
    let death = || {
        let (listed, unlisted) = DeadExecution::all(entry.shares.iter().map(|share| (share.id, &share.execution)), entry.max_attempts);
        (!listed.is_empty()).then(|| fingerprint(&listed, unlisted))
    };
    match letters.get(id).map(|known| (known.view.state, known.fingerprint)) {
        None => true,
        Some((DeadLetterCondition::Open, fingerprint)) => index.redrive_of(id).is_some() || death() != Some(fingerprint),
        Some((DeadLetterCondition::Discarded, _)) => index.redrive_of(id).is_some(),
        Some((DeadLetterCondition::Redriven, _)) => false,
    }
}

fn dead(shares: &Shares, max_attempts: u32) -> impl Iterator<Item = (ExecutionId, &Execution)> {
    shares.0.iter().filter(move |(_, execution)| DeadExecution::is_dead(execution, max_attempts)).map(|(id, execution)| (*id, execution))
}

fn no_letter(job: JobId) -> Error {
    Error::NotFound { what: format!("dead letter of {job}") }
}

/// The cursor of the page after `last`: the place, and what was asked for.
fn cursor_after(states: &BTreeSet<DeadLetterCondition>, last: JobId) -> String {
    format!("{:032x}{}", last.bits(), words(states))
}

fn resume(states: &BTreeSet<DeadLetterCondition>, cursor: &str) -> Option<JobId> {
    let (place, asked) = cursor.split_at_checked(32)?;
    if asked != words(states) || !place.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    u128::from_str_radix(place, 16).ok().map(JobId::from_bits)
}

fn words(states: &BTreeSet<DeadLetterCondition>) -> String {
    states.iter().map(|state| format!("-{}", state.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_fits_the_states_it_was_made_for_and_no_others() {
        let open = BTreeSet::from([DeadLetterCondition::Open]);
        let all = BTreeSet::from(DeadLetterCondition::ALL);
        let cursor = cursor_after(&open, JobId::from_bits(7));
        assert_eq!(resume(&open, &cursor), Some(JobId::from_bits(7)));
        assert_eq!(resume(&all, &cursor), None);
        for forged in ["", "x", &cursor[..32], &cursor.replacen('0', "+", 1), &"é".repeat(24)] {
            assert_eq!(resume(&open, forged), None, "{forged}");
        }
    }
}
