//! Turns: who waits, in the order in which they came, and who has each key's.

use std::collections::BTreeMap;

use async_trait::async_trait;
use longshore_model::JobId;
use longshore_model::wire::turn::{Hold, Waiter};

use super::Memory;
use super::records::measure;
use crate::work::PAGE;
use crate::{Error, Revision, Turn, Turns, WaiterPage};

#[derive(Default)]
pub(super) struct Queues {
    newest: Revision,
    waiting: BTreeMap<Revision, Waiter>,
    turns: BTreeMap<String, Turn>,
}

#[async_trait]
impl Turns for Memory {
    async fn enter(&self, waiter: &Waiter) -> Result<(), Error> {
        measure(waiter)?;
        let queues = &mut self.0.state().queues;
        let is_there = queues.waiting.values().any(|other| (&other.key, other.job) == (&waiter.key, waiter.job));
        if !is_there {
            queues.newest += 1;
            queues.waiting.insert(queues.newest, waiter.clone());
        }
        Ok(())
    }

    async fn waiting(&self, key: &str) -> Result<Vec<Waiter>, Error> {
        Ok(self.0.state().queues.waiting.values().filter(|waiter| waiter.key == key).cloned().collect())
    }

    async fn page(&self, after: Revision) -> Result<WaiterPage, Error> {
        let waiting = &self.0.state().queues.waiting;
        let items: Vec<_> = waiting.range(after + 1..).take(PAGE).map(|(place, waiter)| (*place, waiter.clone())).collect();
        let next = items.last().map(|(place, _)| *place).filter(|_| items.len() == PAGE);
        Ok(WaiterPage { items, next })
    }

    async fn leave(&self, key: &str, job: JobId) -> Result<(), Error> {
        self.0.state().queues.waiting.retain(|_, waiter| waiter.key != key || waiter.job != job);
        Ok(())
    }

    async fn turn(&self, key: &str) -> Result<Turn, Error> {
        Ok(self.0.state().queues.turns.get(key).cloned().unwrap_or_default())
    }

    async fn take(&self, key: &str, hold: &Hold, after: Revision) -> Result<Option<Revision>, Error> {
        measure(hold)?;
        Ok(self.0.state().queues.put(key, Some(hold.clone()), after))
    }

    async fn release(&self, key: &str, held: Revision) -> Result<(), Error> {
        self.0.state().queues.put(key, None, held);
        Ok(())
    }
}

impl Queues {
    fn put(&mut self, key: &str, hold: Option<Hold>, after: Revision) -> Option<Revision> {
        let turn = self.turns.entry(key.to_owned()).or_default();
        if turn.revision != after {
            return (turn.hold == hold && turn.revision > after).then_some(turn.revision);
        }
        self.newest += 1;
        *turn = Turn { hold, revision: self.newest };
        Some(self.newest)
    }
}
