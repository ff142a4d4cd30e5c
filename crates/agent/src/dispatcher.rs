//! What is started, held or handed back: pure, without a clock or a socket.
//!
//! ```text
//!   offered ──► running (a slot is free) ──► finished
//!      │
//!      └──► held (all slots taken) ──► running | handed back (drain)
//! ```
//!
//! Told to drain, or paused, it starts nothing new and hands back what it holds.
//!
//! The bound `max` is on running work and is never exceeded. Pulls are asked for free slots only; addressed work that arrives while pulls
//! are under way may take those slots, and what the pulls then bring is held, its claim extended, until a slot is free.

use std::collections::{BTreeSet, VecDeque};

use longshore_model::{ExecutionId, JobId};

/// Names a piece of work.
pub type Key = (JobId, ExecutionId);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// Work was offered by a pull.
    Pulled(Key),
    /// Work was found in the inbox.
    Found(Key),
    /// An earlier process started it, and it goes on.
    Resumed(Key),
    /// A pull ended with this much of what was asked for not delivered.
    PullEnded { unused: usize },
    /// A worker ended, however.
    Finished(Key),
    /// Take no new work, for good: this process is about to end.
    Drain,
    /// Take no new work until [`Input::Resume`]: people want it so.
    Pause,
    /// Take work again.
    Resume,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Ask for this much work.
    Pull(usize),
    /// Start a worker.
    Start(Key),
    /// Keep the claim extended until it is started or handed back.
    Hold(Key),
    /// Give it back: somebody else may do it.
    HandBack(Key),
    /// It is known already; forget this offer.
    Forget(Key),
}

/// The state.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    max: usize,
    running: BTreeSet<Key>,
    held: VecDeque<Key>,
    /// Slots that pulls under way may fill.
    asked: usize,
    draining: bool,
    paused: bool,
    effects: VecDeque<Effect>,
}

impl Dispatcher {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max: max.max(1),
            running: BTreeSet::new(),
            held: VecDeque::new(),
            asked: 0,
            draining: false,
            paused: false,
            effects: VecDeque::new(),
        }
    }

    pub(crate) fn handle(&mut self, input: Input) {
        match input {
            Input::Pulled(key) => {
                self.asked = self.asked.saturating_sub(1);
                self.offered(key);
            }
            Input::Found(key) => self.offered(key),
            Input::Resumed(key) => drop(self.running.insert(key)),
            Input::PullEnded { unused } => self.asked = self.asked.saturating_sub(unused),
            Input::Finished(key) => {
                self.running.remove(&key);
                self.start_held();
            }
            Input::Drain => {
                self.draining = true;
                self.hand_back_held();
            }
            Input::Pause => {
                self.paused = true;
                self.hand_back_held();
            }
            Input::Resume => self.paused = false,
        }
        debug_assert!(self.running.len() <= self.max, "more runs than there are slots");
    }

    fn hand_back_held(&mut self) {
        self.effects.extend(self.held.drain(..).map(Effect::HandBack));
    }

    fn takes_work(&self) -> bool {
        !self.draining && !self.paused
    }

    /// What to do next. Work is asked for last, and in one go for everything that was handled since.
    pub(crate) fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front().or_else(|| self.ask())
    }

    /// Pieces of work that run.
    pub(crate) fn n_running(&self) -> usize {
        self.running.len()
    }

    /// Slots that nothing runs in or is held for. Pulls under way may still fill them.
    pub(crate) fn n_free(&self) -> usize {
        if !self.takes_work() { 0 } else { self.max.saturating_sub(self.running.len() + self.held.len()) }
    }

    /// Whether more addressed work should be looked for: what is held keeps every slot busy for a while.
    pub(crate) fn wants_more(&self) -> bool {
        self.takes_work() && self.held.len() < self.max
    }

    fn offered(&mut self, key: Key) {
        if self.running.contains(&key) || self.held.contains(&key) {
            self.effects.push_back(Effect::Forget(key));
        } else if !self.takes_work() {
            self.effects.push_back(Effect::HandBack(key));
        } else if self.running.len() < self.max {
            self.start(key);
        } else {
            self.held.push_back(key);
            self.effects.push_back(Effect::Hold(key));
        }
    }

    fn start_held(&mut self) {
        if self.running.len() < self.max
            && let Some(key) = self.held.pop_front()
        {
            self.start(key);
        }
    }

    fn start(&mut self, key: Key) {
        self.running.insert(key);
        self.effects.push_back(Effect::Start(key));
    }

    fn ask(&mut self) -> Option<Effect> {
        let spoken_for = self.running.len() + self.held.len() + self.asked;
        let free = self.max.saturating_sub(spoken_for);
        // While others are still asked for a few more can wait: one request for many costs the broker less than many for one.
        let few = free <= self.max / 8;
        if !self.takes_work() || free == 0 || (few && self.asked > 0) {
            return None;
        }
        self.asked += free;
        Some(Effect::Pull(free))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(bits: u128) -> Key {
        (JobId::from_bits(bits), ExecutionId::Any)
    }

    fn effects(dispatcher: &mut Dispatcher, input: Input) -> Vec<Effect> {
        dispatcher.handle(input);
        std::iter::from_fn(|| dispatcher.next_effect()).collect()
    }

    #[test]
    fn a_few_free_slots_are_asked_for_with_the_next_ones_unless_nothing_else_is() {
        let mut dispatcher = Dispatcher::new(16);
        assert_eq!(dispatcher.next_effect(), Some(Effect::Pull(16)));
        for n in 0..4 {
            assert_eq!(effects(&mut dispatcher, Input::Pulled(key(n))), [Effect::Start(key(n))]);
        }
        assert_eq!(effects(&mut dispatcher, Input::Finished(key(0))), []);
        assert_eq!(effects(&mut dispatcher, Input::Finished(key(1))), []);
        assert_eq!(effects(&mut dispatcher, Input::Finished(key(2))), [Effect::Pull(3)]);
        assert_eq!(effects(&mut dispatcher, Input::Finished(key(3))), []);
        assert_eq!(effects(&mut dispatcher, Input::PullEnded { unused: 15 }), [Effect::Pull(16)]);
    }

    fn fresh(max: usize) -> Dispatcher {
        let mut dispatcher = Dispatcher::new(max);
        assert_eq!(dispatcher.next_effect(), Some(Effect::Pull(max)));
        assert_eq!(dispatcher.next_effect(), None);
        dispatcher
    }

    #[test]
    fn work_starts_while_there_are_slots_and_each_end_asks_for_more() {
        let mut dispatcher = fresh(2);
        assert_eq!(effects(&mut dispatcher, Input::Pulled(key(1))), [Effect::Start(key(1))]);
        assert_eq!(effects(&mut dispatcher, Input::Pulled(key(2))), [Effect::Start(key(2))]);
        assert_eq!(effects(&mut dispatcher, Input::Finished(key(1))), [Effect::Pull(1)]);
        assert_eq!(effects(&mut dispatcher, Input::PullEnded { unused: 1 }), [Effect::Pull(1)]);
    }

    #[test]
    fn several_ends_ask_in_one_go() {
        let mut dispatcher = fresh(3);
        for n in 1..=3 {
            effects(&mut dispatcher, Input::Pulled(key(n)));
        }
        dispatcher.handle(Input::Finished(key(1)));
        assert_eq!(effects(&mut dispatcher, Input::Finished(key(2))), [Effect::Pull(2)]);
    }

    #[test]
    fn addressed_work_may_take_slots_that_were_asked_for_and_the_bound_still_holds() {
        let mut dispatcher = fresh(1);
        assert_eq!(effects(&mut dispatcher, Input::Found(key(1))), [Effect::Start(key(1))]);
        assert_eq!(effects(&mut dispatcher, Input::Pulled(key(2))), [Effect::Hold(key(2))]);
        assert_eq!(dispatcher.n_running(), 1);
        assert_eq!(effects(&mut dispatcher, Input::Finished(key(1))), [Effect::Start(key(2))]);
    }

    #[test]
    fn a_second_offer_of_the_same_work_is_forgotten() {
        let mut dispatcher = fresh(2);
        effects(&mut dispatcher, Input::Found(key(1)));
        assert_eq!(effects(&mut dispatcher, Input::Found(key(1))), [Effect::Forget(key(1))]);
    }

    #[test]
    fn draining_hands_back_what_is_held_and_what_still_arrives() {
        let mut dispatcher = fresh(1);
        effects(&mut dispatcher, Input::Found(key(1)));
        effects(&mut dispatcher, Input::Pulled(key(2)));
        assert_eq!(effects(&mut dispatcher, Input::Drain), [Effect::HandBack(key(2))]);
        assert_eq!(effects(&mut dispatcher, Input::Found(key(3))), [Effect::HandBack(key(3))]);
        assert_eq!(effects(&mut dispatcher, Input::Finished(key(1))), []);
        assert_eq!(dispatcher.n_running(), 0);
    }
}
