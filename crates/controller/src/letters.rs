//! The dead letters, followed from their stream into memory: what lists show, and what a reconciler compares with the index.
//!
//! Removals are not told, so a letter may be here whose job is gone: lists leave it out, and the reconciler finds and drops it.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Bound;

use data_encoding::HEXLOWER;
use futures::StreamExt as _;
use longshore_model::JobId;
use longshore_model::wire::dead_letter::{DeadExecution, DeadLetter, DeadLetterState};
use longshore_model::wire::rest::{DeadLetterCondition, DeadLetterView};
use longshore_store::{Error as StoreError, LetterEvent, Revision, StoredLetter};
use sha2::{Digest as _, Sha256};

use crate::app::App;

/// Letters in memory, about a kilobyte each. Of more, those of the oldest jobs are not listed, and are read from the store when asked for.
const LETTERS_KEPT: usize = 100_000;

/// The letters, as the stream tells.
#[derive(Debug, Default)]
pub(crate) struct Letters {
    letters: BTreeMap<JobId, Known>,
    is_current: bool,
}

/// What is kept of one letter.
#[derive(Debug)]
pub(crate) struct Known {
    revision: Revision,
    /// Tells letters apart that name other executions, or say other things of them.
    pub(crate) fingerprint: u64,
    /// As a list shows it.
    pub(crate) view: DeadLetterView,
}

impl Letters {
    /// Takes a letter that was read or written. An older one than what is known changes nothing.
    pub(crate) fn take(&mut self, stored: &StoredLetter) {
        let StoredLetter { revision, letter } = stored;
        let Some(view) = view(letter) else {
            tracing::error!(job.id = %letter.job, "a dead letter names no execution, and is passed over");
            return;
        };
        if self.letters.get(&letter.job).is_some_and(|known| known.revision > *revision) {
            return;
        }
        let fingerprint = fingerprint(&letter.executions, letter.unlisted);
        self.letters
            .insert(letter.job, Known { revision: *revision, fingerprint, view: DeadLetterView { executions: Vec::new(), ..view } });
        if self.letters.len() > LETTERS_KEPT {
            self.letters.pop_first();
        }
    }

    /// Gives whether it was known.
    pub(crate) fn forget(&mut self, job: JobId) -> bool {
        self.letters.remove(&job).is_some()
    }

    /// Letters that nobody has redriven or discarded. Looks at all of them.
    pub(crate) fn n_open(&self) -> usize {
        self.letters.values().filter(|known| known.view.state == DeadLetterCondition::Open).count()
    }

    /// Whether every letter that was there has been told.
    pub(crate) fn is_current(&self) -> bool {
        self.is_current
    }

    pub(crate) fn current(&mut self) {
        self.is_current = true;
    }

    pub(crate) fn get(&self, job: JobId) -> Option<&Known> {
        self.letters.get(&job)
    }

    /// The first job after `after` that has a letter.
    pub(crate) fn after(&self, after: Option<JobId>) -> Option<JobId> {
        self.letters.range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)).next().map(|(job, _)| *job)
    }

    /// Letters of jobs older than `before`, newest first, in one of these states.
    pub(crate) fn list<'a>(
        &'a self,
        states: &'a BTreeSet<DeadLetterCondition>,
        before: Option<JobId>,
    ) -> impl Iterator<Item = &'a DeadLetterView> {
        let letters = self.letters.range((Bound::Unbounded, before.map_or(Bound::Unbounded, Bound::Excluded))).rev();
        letters.map(|(_, known)| &known.view).filter(|view| states.contains(&view.state))
    }
}

/// The key hash under which the id of the job that redrives this one is reserved. Keys of submissions hash a NUL, so none is the same.
pub(crate) fn redrive_key(job: JobId) -> String {
    HEXLOWER.encode(&Sha256::digest(format!("redrive {job}")))
}

/// A letter as people see it; `None` for one that names no execution, which nobody writes.
pub(crate) fn view(letter: &DeadLetter) -> Option<DeadLetterView> {
    let (state, redriven_as, closed) = match &letter.state {
        DeadLetterState::Open => (DeadLetterCondition::Open, None, None),
        DeadLetterState::Redriven { as_job, by, at } => (DeadLetterCondition::Redriven, Some(*as_job), Some((by, at))),
        DeadLetterState::Discarded { by, at } => (DeadLetterCondition::Discarded, None, Some((by, at))),
    };
    Some(DeadLetterView {
        id: letter.job,
        state,
        operation: letter.operation.clone(),
        target: letter.target.clone(),
        submitted_by: letter.submitted_by.clone(),
        at: letter.at,
        dead: letter.dead(),
        last: letter.last()?.clone(),
        executions: letter.executions.clone(),
        redriven_as,
        closed_by: closed.map(|(by, _)| by.clone()),
        closed_at: closed.map(|(_, at)| *at),
    })
}

/// Equal for equal executions, in this process.
pub(crate) fn fingerprint(executions: &[DeadExecution], unlisted: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    unlisted.hash(&mut hasher);
    for DeadExecution { id, agent, hostname, attempts, error, at } in executions {
        (id, agent, hostname, attempts, error.code, &error.message, at).hash(&mut hasher);
    }
    hasher.finish()
}

/// Follows the letters until the controller drains.
pub(crate) async fn follow(app: App) {
    crate::watch::for_ever(&app, "dead letters", || read(&app)).await;
}

async fn read(app: &App) -> Result<(), StoreError> {
    let ended = tell(app).await;
    if let Err(StoreError::SetBack { .. }) = ended {
        // Letters of before would pass for newer than what is told from now on.
        *app.letters_mut() = Letters::default();
    }
    ended
}

async fn tell(app: &App) -> Result<(), StoreError> {
    let mut letters = app.store.dead_letters.follow().await?;
    while let Some(event) = letters.next().await {
        match event? {
            LetterEvent::Letter(stored) => app.letters_mut().take(&stored),
            LetterEvent::Current => app.letters_mut().current(),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use longshore_model::ExecutionId;
    use longshore_model::wire::problem::ErrorCode;
    use longshore_model::wire::record::{Failure, SCHEMA};

    use super::*;

    fn letter(job: u128, revision: Revision, state: DeadLetterState) -> StoredLetter {
        let error = Failure { code: ErrorCode::DeadLetter, message: "no disk".to_owned() };
        let execution = DeadExecution { id: ExecutionId::Any, agent: None, hostname: None, attempts: 2, error, at: Timestamp::UNIX_EPOCH };
        let letter = DeadLetter {
            schema: SCHEMA,
            job: JobId::from_bits(job),
            operation: "node.hostname.get".to_owned(),
            target: "_any".to_owned(),
            submitted_by: "ada".to_owned(),
            executions: vec![execution],
            unlisted: 0,
            at: Timestamp::UNIX_EPOCH,
            state,
        };
        StoredLetter { revision, letter }
    }

    #[test]
    fn what_is_told_late_does_not_undo_what_is_known() {
        let mut letters = Letters::default();
        let discarded = DeadLetterState::Discarded { by: "bob".to_owned(), at: Timestamp::UNIX_EPOCH };
        letters.take(&letter(1, 2, discarded));
        letters.take(&letter(1, 1, DeadLetterState::Open));
        assert_eq!(letters.get(JobId::from_bits(1)).unwrap().view.state, DeadLetterCondition::Discarded);
    }

    #[test]
    fn what_is_kept_in_memory_is_bounded_and_the_newest_stay() {
        let mut letters = Letters::default();
        let kept = LETTERS_KEPT as u128;
        for job in 0..kept + 10 {
            letters.take(&letter(job, 1, DeadLetterState::Open));
        }
        assert_eq!(letters.letters.len(), LETTERS_KEPT);
        assert!(letters.get(JobId::from_bits(9)).is_none() && letters.get(JobId::from_bits(kept + 9)).is_some());
    }
}
