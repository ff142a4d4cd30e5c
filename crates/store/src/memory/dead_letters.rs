//! Dead letters. Like a stream with one message a subject: a follower that is behind is told the newest of each job, never a backlog.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream;
use longshore_model::JobId;
use longshore_model::wire::dead_letter::DeadLetter;

use super::records::measure;
use super::{Memory, Shared};
use crate::{DeadLetters, Error, LetterEvent, LetterPut, LetterStream, Revision, StoredLetter};

/// Invariant: `order` names each letter at its revision.
#[derive(Default)]
pub(super) struct Letters {
    newest: Revision,
    letters: BTreeMap<JobId, StoredLetter>,
    order: BTreeMap<Revision, JobId>,
}

struct Reader {
    shared: Arc<Shared>,
    after: Revision,
    phase: Phase,
}

#[derive(Clone, Copy)]
enum Phase {
    CatchingUp { until: Revision },
    Live,
}

#[async_trait]
impl DeadLetters for Memory {
    async fn put(&self, letter: &DeadLetter, after: Revision) -> Result<LetterPut, Error> {
        let put = self.0.state().letters.put(letter, after)?;
        self.0.signals.letters.notify_waiters();
        Ok(put)
    }

    async fn load(&self, job: JobId) -> Result<Option<StoredLetter>, Error> {
        Ok(self.0.state().letters.letters.get(&job).cloned())
    }

    async fn delete(&self, job: JobId) -> Result<(), Error> {
        self.0.state().letters.delete(job);
        Ok(())
    }

    async fn follow(&self) -> Result<LetterStream, Error> {
        let until = self.0.state().letters.newest;
        let reader = Reader { shared: Arc::clone(&self.0), after: 0, phase: Phase::CatchingUp { until } };
        Ok(stream::unfold(reader, |mut reader| async move { reader.next().await.map(|event| (Ok(event), reader)) }).boxed())
    }
}

impl Letters {
    fn put(&mut self, letter: &DeadLetter, after: Revision) -> Result<LetterPut, Error> {
        measure(letter)?;
        let stored = self.letters.get(&letter.job);
        let revision = stored.map_or(0, |stored| stored.revision);
        if revision != after {
            let is_own = stored.is_some_and(|stored| stored.letter == *letter) && revision > after;
            return Ok(if is_own { LetterPut::Stored(revision) } else { LetterPut::Conflict });
        }
        self.newest += 1;
        self.order.remove(&revision);
        self.order.insert(self.newest, letter.job);
        self.letters.insert(letter.job, StoredLetter { revision: self.newest, letter: letter.clone() });
        Ok(LetterPut::Stored(self.newest))
    }

    fn delete(&mut self, job: JobId) {
        if let Some(stored) = self.letters.remove(&job) {
            self.order.remove(&stored.revision);
        }
    }

    /// The first letter above `after` and up to `until`.
    fn next(&self, after: Revision, until: Revision) -> Option<&StoredLetter> {
        let (_, job) = self.order.range(after.saturating_add(1)..).next().filter(|(revision, _)| **revision <= until)?;
        self.letters.get(job)
    }
}

impl Reader {
    async fn next(&mut self) -> Option<LetterEvent> {
        loop {
            let shared = Arc::clone(&self.shared);
            let changed = shared.signals.letters.notified();
            if let Some(event) = self.advance() {
                return Some(event);
            }
            changed.await;
        }
    }

    fn advance(&mut self) -> Option<LetterEvent> {
        let shared = Arc::clone(&self.shared);
        let letters = &shared.state().letters;
        let until = match self.phase {
            Phase::CatchingUp { until } => until,
            Phase::Live => Revision::MAX,
        };
        match (letters.next(self.after, until), self.phase) {
            (Some(stored), _) => {
                self.after = stored.revision;
                Some(LetterEvent::Letter(Box::new(stored.clone())))
            }
            (None, Phase::CatchingUp { .. }) => {
                self.phase = Phase::Live;
                Some(LetterEvent::Current)
            }
            (None, Phase::Live) => None,
        }
    }
}
