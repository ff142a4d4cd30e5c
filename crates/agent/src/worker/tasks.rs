//! Which tasks run: at most so many at once and of a node type, one at a time under a key, each once, and none whose handler fails again and again.
//!
//! Without a clock, a socket or a disk. A task that waits for `next()` holds its key and none of the slots, so that what it waits for can run here too;
//! it goes on when a slot is free, before anything new begins.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::journal::Key;

/// Handlers whose failures in a row are counted; the one that failed longest ago makes room.
const HANDLERS_MAX: usize = 4096;

/// The bounds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limits {
    /// Tasks and package commands at once.
    pub(crate) inflight: Option<usize>,
    /// Tasks at once.
    pub(crate) parallel: Option<usize>,
    /// Tasks at once of a node type.
    pub(crate) per_node: BTreeMap<String, usize>,
    /// Failures in a row after which a handler is left alone, and for how long.
    pub(crate) cooldown: Option<(u32, Duration)>,
}

/// What identifies a handler.
pub(crate) type Handler = (String, String, String);

/// A task's claims on what is bounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) node_type: String,
    pub(crate) exclusive: Option<String>,
    pub(crate) handler: Handler,
}

/// Why a task is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It is here already, waiting or running.
    Known,
    /// Another one is here under its key.
    Exclusive,
    /// Its handler is left alone for this long.
    Cooldown(Duration),
}

#[derive(Debug)]
struct Held {
    claims: Claims,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    /// So many calls of `next()` are not answered.
    InNext(usize),
    /// All answered; waits for a slot.
    Resuming,
}

#[derive(Debug)]
pub(crate) struct Tasks {
    limits: Limits,
    held: BTreeMap<Key, Held>,
    exclusive: BTreeSet<String>,
    /// Of those that are held.
    n_waiting: usize,
    n_running: usize,
    running_of: BTreeMap<String, usize>,
    /// Package commands.
    n_commands: usize,
    failures: BTreeMap<Handler, Failures>,
    resuming: VecDeque<Key>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    in_a_row: u32,
    last: Duration,
}

impl Tasks {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            held: BTreeMap::new(),
            exclusive: BTreeSet::new(),
            n_waiting: 0,
            n_running: 0,
            running_of: BTreeMap::new(),
            n_commands: 0,
            failures: BTreeMap::new(),
            resuming: VecDeque::new(),
        }
    }

    /// Takes a task to be run when its turn comes.
    pub(crate) fn admit(&mut self, key: Key, claims: Claims, now: Duration) -> Result<(), Refused> {
        if self.held.contains_key(&key) {
            return Err(Refused::Known);
        }
        if let Some(exclusive) = &claims.exclusive
            && self.exclusive.contains(exclusive)
        {
            return Err(Refused::Exclusive);
        }
        if let Some(left) = self.cooldown_of(&claims.handler, now) {
            return Err(Refused::Cooldown(left));
        }
        self.exclusive.extend(claims.exclusive.clone());
        self.held.insert(key, Held { claims, state: State::Waiting });
        self.n_waiting += 1;
        Ok(())
    }

    fn cooldown_of(&self, handler: &Handler, now: Duration) -> Option<Duration> {
        let (most, wait) = self.limits.cooldown?;
        let failures = self.failures.get(handler).filter(|failures| failures.in_a_row >= most)?;
        failures.last.saturating_add(wait).checked_sub(now).filter(|left| !left.is_zero())
    }

    pub(crate) fn is_held(&self, key: &Key) -> bool {
        self.held.contains_key(key)
    }

    /// Whether a task that was taken and has not begun may begin now: there is a slot that nobody needs who goes on after `next()`.
    pub(crate) fn may_begin(&self, key: &Key) -> bool {
        !self.resuming.iter().any(|key| self.fits(key))
            && self.held.get(key).is_some_and(|held| held.state == State::Waiting && self.has_slot(&held.claims.node_type))
    }

    fn fits(&self, key: &Key) -> bool {
        self.held.get(key).is_some_and(|held| self.has_slot(&held.claims.node_type))
    }

    fn has_slot(&self, node_type: &str) -> bool {
        let below = |n: usize, most: Option<usize>| most.is_none_or(|most| n < most);
        below(self.n_running + self.n_commands, self.limits.inflight)
            && below(self.n_running, self.limits.parallel)
            && below(self.running_of.get(node_type).copied().unwrap_or(0), self.limits.per_node.get(node_type).copied())
    }

    /// Whether anything at all may begin.
    pub(crate) fn has_any_slot(&self) -> bool {
        let below = |n: usize, most: Option<usize>| most.is_none_or(|most| n < most);
        below(self.n_running + self.n_commands, self.limits.inflight) && below(self.n_running, self.limits.parallel)
    }

    /// It begins. `Err` with what is left if its handler has begun to be left alone since it was taken; then it is not held any more.
    pub(crate) fn begin(&mut self, key: &Key, now: Duration) -> Result<(), Duration> {
        let Some(held) = self.held.get(key) else { return Ok(()) };
        let handler = held.claims.handler.clone();
        if let Some(left) = self.cooldown_of(&handler, now) {
            self.release(key);
            return Err(left);
        }
        self.occupy(key);
        Ok(())
    }

    fn occupy(&mut self, key: &Key) {
        if let Some(held) = self.held.get_mut(key) {
            if held.state == State::Waiting {
                self.n_waiting -= 1;
            }
            held.state = State::Running;
            self.n_running += 1;
            *self.running_of.entry(held.claims.node_type.clone()).or_default() += 1;
        }
    }

    fn vacate(&mut self, node_type: &str) {
        self.n_running -= 1;
        if let Some(n) = self.running_of.get_mut(node_type) {
            *n -= 1;
            if *n == 0 {
                self.running_of.remove(node_type);
            }
        }
    }

    /// It calls `next()`.
    pub(crate) fn enter_next(&mut self, key: &Key) {
        let Some(held) = self.held.get_mut(key) else { return };
        match held.state {
            State::Running => {
                held.state = State::InNext(1);
                let node_type = held.claims.node_type.clone();
                self.vacate(&node_type);
            }
            State::InNext(n) => held.state = State::InNext(n + 1),
            // It was about to go on after its other calls.
            State::Resuming => {
                held.state = State::InNext(1);
                self.resuming.retain(|other| other != key);
            }
            State::Waiting => {}
        }
    }

    /// One of its calls was answered; when all are, it waits for a slot.
    pub(crate) fn leave_next(&mut self, key: &Key) {
        let Some(held) = self.held.get_mut(key) else { return };
        match held.state {
            State::InNext(1) => {
                held.state = State::Resuming;
                self.resuming.push_back(key.clone());
            }
            State::InNext(n) => held.state = State::InNext(n - 1),
            State::Running | State::Resuming | State::Waiting => {}
        }
    }

    /// The next one that goes on after its `next()`.
    pub(crate) fn resume(&mut self) -> Option<Key> {
        let at = self.resuming.iter().position(|key| self.fits(key))?;
        let key = self.resuming.remove(at)?;
        self.occupy(&key);
        Some(key)
    }

    /// It has ended, or was never begun. Safe to repeat.
    pub(crate) fn release(&mut self, key: &Key) {
        let Some(held) = self.held.remove(key) else { return };
        match held.state {
            State::Running => self.vacate(&held.claims.node_type),
            State::Resuming => self.resuming.retain(|other| other != key),
            State::Waiting => self.n_waiting -= 1,
            State::InNext(_) => {}
        }
        if let Some(exclusive) = &held.claims.exclusive {
            self.exclusive.remove(exclusive);
        }
    }

    /// How it went, for the handler's sake. What was given up says nothing of it.
    pub(crate) fn tell(&mut self, key: &Key, has_failed: bool, now: Duration) {
        let Some((_, _)) = self.limits.cooldown else { return };
        let Some(handler) = self.held.get(key).map(|held| held.claims.handler.clone()) else { return };
        if !has_failed {
            self.failures.remove(&handler);
            return;
        }
        let failures = self.failures.entry(handler).or_insert(Failures { in_a_row: 0, last: now });
        *failures = Failures { in_a_row: failures.in_a_row.saturating_add(1), last: now };
        if self.failures.len() > HANDLERS_MAX
            && let Some(oldest) = self.failures.iter().min_by_key(|(_, failures)| failures.last).map(|(handler, _)| handler.clone())
        {
            self.failures.remove(&oldest);
        }
    }

    pub(crate) fn command_began(&mut self) {
        self.n_commands += 1;
    }

    pub(crate) fn command_ended(&mut self) {
        self.n_commands = self.n_commands.saturating_sub(1);
    }

    /// Tasks that have begun and not ended, waiting for `next()` or not.
    pub(crate) fn n_begun(&self) -> usize {
        self.held.len() - self.n_waiting
    }

    /// Package commands that run.
    pub(crate) fn n_commands(&self) -> usize {
        self.n_commands
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> Key {
        Key { run: "r".to_owned(), task: n.to_string(), seq: Some(1), dispatch: None }
    }

    fn claims(node_type: &str, exclusive: Option<&str>) -> Claims {
        Claims {
            node_type: node_type.to_owned(),
            exclusive: exclusive.map(str::to_owned),
            handler: ("p".to_owned(), "1".to_owned(), node_type.to_owned()),
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Admits and begins, if that may be.
    fn begun(tasks: &mut Tasks, n: usize, node_type: &str) -> bool {
        let _ = tasks.admit(key(n), claims(node_type, None), at(0));
        tasks.may_begin(&key(n)) && tasks.begin(&key(n), at(0)).is_ok()
    }

    #[test]
    fn no_more_run_than_each_bound_says() {
        let per_node = BTreeMap::from([("slow".to_owned(), 1)]);
        let mut tasks = Tasks::new(Limits { inflight: Some(4), parallel: Some(3), per_node, cooldown: None });
        assert!(begun(&mut tasks, 1, "slow"));
        assert!(!begun(&mut tasks, 2, "slow"));
        assert!(begun(&mut tasks, 3, "fast") && begun(&mut tasks, 4, "fast"));
        assert!(!begun(&mut tasks, 5, "fast"));
        tasks.release(&key(1));
        assert!(tasks.may_begin(&key(2)));
        tasks.command_began();
        tasks.command_began();
        assert!(!tasks.may_begin(&key(2)) && !tasks.has_any_slot());
        tasks.command_ended();
        assert!(tasks.may_begin(&key(2)));
        assert_eq!((tasks.n_begun(), tasks.n_commands()), (2, 1));
    }

    #[test]
    fn one_runs_under_a_key_and_a_repeat_is_known() {
        let mut tasks = Tasks::new(Limits::default());
        assert_eq!(tasks.admit(key(1), claims("a", Some("k")), at(0)), Ok(()));
        assert_eq!(tasks.admit(key(1), claims("a", Some("k")), at(0)), Err(Refused::Known));
        assert_eq!(tasks.admit(key(2), claims("a", Some("k")), at(0)), Err(Refused::Exclusive));
        assert_eq!(tasks.admit(key(2), claims("a", Some("l")), at(0)), Ok(()));
        tasks.release(&key(1));
        tasks.release(&key(1));
        assert_eq!(tasks.admit(key(3), claims("a", Some("k")), at(0)), Ok(()));
    }

    #[test]
    fn a_task_in_next_holds_its_key_but_no_slot_and_goes_on_before_others_begin() {
        let mut tasks = Tasks::new(Limits { parallel: Some(1), ..Limits::default() });
        assert!(begun(&mut tasks, 1, "middleware"));
        assert!(!begun(&mut tasks, 2, "host"));
        tasks.enter_next(&key(1));
        tasks.enter_next(&key(1));
        assert!(tasks.may_begin(&key(2)) && tasks.begin(&key(2), at(0)).is_ok());
        tasks.leave_next(&key(1));
        assert_eq!(tasks.resume(), None);
        tasks.leave_next(&key(1));
        assert_eq!(tasks.resume(), None);
        assert!(!begun(&mut tasks, 3, "other"));
        tasks.release(&key(2));
        assert!(!tasks.may_begin(&key(3)));
        assert_eq!(tasks.resume(), Some(key(1)));
        assert!(!tasks.may_begin(&key(3)));
        tasks.release(&key(1));
        assert!(tasks.may_begin(&key(3)));
    }

    #[test]
    fn one_that_waits_for_a_slot_of_its_type_keeps_no_other_type_from_beginning() {
        let per_node = BTreeMap::from([("middleware".to_owned(), 1)]);
        let mut tasks = Tasks::new(Limits { inflight: Some(3), per_node, ..Limits::default() });
        assert!(begun(&mut tasks, 1, "middleware"));
        tasks.enter_next(&key(1));
        assert!(begun(&mut tasks, 2, "middleware"));
        tasks.leave_next(&key(1));
        assert_eq!(tasks.resume(), None);
        assert!(begun(&mut tasks, 3, "other"));
        tasks.release(&key(2));
        assert!(!begun(&mut tasks, 4, "other"));
        assert_eq!(tasks.resume(), Some(key(1)));
        assert!(begun(&mut tasks, 4, "other"));
    }

    #[test]
    fn a_handler_that_fails_in_a_row_is_left_alone_for_a_while() {
        let mut tasks = Tasks::new(Limits { cooldown: Some((2, at(10))), ..Limits::default() });
        let run = |tasks: &mut Tasks, n: usize, has_failed: bool, now: u64| {
            tasks.admit(key(n), claims("a", None), at(now))?;
            tasks.begin(&key(n), at(now)).unwrap();
            tasks.tell(&key(n), has_failed, at(now));
            tasks.release(&key(n));
            Ok(())
        };
        assert_eq!(
            [run(&mut tasks, 1, true, 0), run(&mut tasks, 2, false, 1), run(&mut tasks, 3, true, 2), run(&mut tasks, 4, true, 3)],
            [const { Ok(()) }; 4]
        );
        assert_eq!(run(&mut tasks, 5, false, 5), Err(Refused::Cooldown(at(8))));
        assert_eq!(tasks.admit(key(6), claims("b", None), at(5)), Ok(()));
        // One try, and the next failure counts at once.
        assert_eq!(run(&mut tasks, 7, true, 13), Ok(()));
        assert_eq!(run(&mut tasks, 8, false, 14), Err(Refused::Cooldown(at(9))));
        assert_eq!(run(&mut tasks, 9, false, 23), Ok(()));
        assert_eq!(run(&mut tasks, 10, false, 24), Ok(()));
    }

    #[test]
    fn what_was_taken_before_its_handler_is_left_alone_does_not_begin() {
        let mut tasks = Tasks::new(Limits { cooldown: Some((1, at(10))), ..Limits::default() });
        for n in 1..=2 {
            tasks.admit(key(n), claims("a", Some(&n.to_string())), at(0)).unwrap();
        }
        tasks.begin(&key(1), at(0)).unwrap();
        tasks.tell(&key(1), true, at(1));
        tasks.release(&key(1));
        assert_eq!(tasks.begin(&key(2), at(2)), Err(at(9)));
        assert!(!tasks.is_held(&key(2)));
    }
}
