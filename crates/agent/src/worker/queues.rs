//! What waits, by kind: each kind has a queue of its own with the same bound, made when it is needed and forgotten when it has long been idle.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::settings::OverflowPolicy;

/// What became of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Queued<T> {
    /// It waits.
    Kept,
    /// This one found no room, or made room: its sender is to be told.
    Dropped(T),
}

#[derive(Debug)]
struct Queue<T> {
    frames: VecDeque<T>,
    used_at: Duration,
}

#[derive(Debug)]
pub(crate) struct Queues<T> {
    queues: BTreeMap<String, Queue<T>>,
    frames_max: usize,
    policy: OverflowPolicy,
    idle_max: Duration,
}

impl<T> Queues<T> {
    /// `frames_max` and `idle_max` of 0 are no bound.
    pub(crate) fn new(frames_max: usize, policy: OverflowPolicy, idle_max: Duration) -> Self {
        Self { queues: BTreeMap::new(), frames_max: if frames_max == 0 { usize::MAX } else { frames_max }, policy, idle_max }
    }

    /// Whether nothing more may be taken from the session: some queue is full, and its frames must wait there.
    pub(crate) fn is_blocked(&self) -> bool {
        self.policy == OverflowPolicy::Block && self.queues.values().any(|queue| queue.frames.len() >= self.frames_max)
    }

    pub(crate) fn put(&mut self, kind: &str, frame: T, now: Duration) -> Queued<T> {
        let queue = self.queues.entry(kind.to_owned()).or_insert_with(|| Queue { frames: VecDeque::new(), used_at: now });
        queue.used_at = now;
        if queue.frames.len() < self.frames_max {
            queue.frames.push_back(frame);
            return Queued::Kept;
        }
        match self.policy {
            // Asked before; a frame that was taken is never lost.
            OverflowPolicy::Block => {
                queue.frames.push_back(frame);
                Queued::Kept
            }
            OverflowPolicy::DropNew => Queued::Dropped(frame),
            OverflowPolicy::DropOldest => {
                queue.frames.push_back(frame);
                queue.frames.pop_front().map_or(Queued::Kept, Queued::Dropped)
            }
        }
    }

    /// Takes the first frame of a kind that may be begun.
    pub(crate) fn take(&mut self, kind: &str, now: Duration, mut may_begin: impl FnMut(&T) -> bool) -> Option<T> {
        let queue = self.queues.get_mut(kind)?;
        let at = queue.frames.iter().position(&mut may_begin)?;
        queue.used_at = now;
        queue.frames.remove(at)
    }

    /// The one of a kind that has waited longest.
    pub(crate) fn first(&self, kind: &str) -> Option<&T> {
        self.queues.get(kind)?.frames.front()
    }

    /// Takes everything of a kind.
    pub(crate) fn take_all(&mut self, kind: &str) -> Vec<T> {
        self.queues.get_mut(kind).map(|queue| queue.frames.drain(..).collect()).unwrap_or_default()
    }

    /// Forgets queues that were idle for too long.
    pub(crate) fn retire(&mut self, now: Duration) {
        if !self.idle_max.is_zero() {
            self.queues.retain(|_, queue| !queue.frames.is_empty() || now < queue.used_at.saturating_add(self.idle_max));
        }
    }

    /// How many queues there are, and how many frames wait in them.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.queues.len(), self.queues.values().map(|queue| queue.frames.len()).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_full_queue_blocks_refuses_the_newest_or_refuses_the_oldest() {
        let mut queues = Queues::new(2, OverflowPolicy::Block, at(0));
        assert_eq!((queues.put("a", 1, at(0)), queues.put("a", 2, at(0)), queues.is_blocked()), (Queued::Kept, Queued::Kept, true));
        let mut queues = Queues::new(2, OverflowPolicy::DropNew, at(0));
        assert_eq!([1, 2, 3].map(|n| queues.put("a", n, at(0))), [Queued::Kept, Queued::Kept, Queued::Dropped(3)]);
        assert_eq!((queues.put("b", 4, at(0)), queues.is_blocked()), (Queued::Kept, false));
        let mut queues = Queues::new(2, OverflowPolicy::DropOldest, at(0));
        assert_eq!([1, 2, 3].map(|n| queues.put("a", n, at(0))), [Queued::Kept, Queued::Kept, Queued::Dropped(1)]);
        assert_eq!(queues.counts(), (1, 2));
    }

    #[test]
    fn what_may_begin_overtakes_what_may_not_and_order_is_kept_otherwise() {
        let mut queues = Queues::new(0, OverflowPolicy::Block, at(0));
        for n in 1..=4 {
            queues.put("a", n, at(0));
        }
        assert_eq!(queues.take("a", at(1), |n| *n == 3), Some(3));
        assert_eq!(
            [queues.take("a", at(1), |_| true), queues.take("a", at(1), |_| false), queues.take("a", at(1), |_| true)],
            [Some(1), None, Some(2)]
        );
        assert_eq!((queues.take_all("a"), queues.take_all("b")), (vec![4], vec![]));
    }

    #[test]
    fn idle_queues_are_forgotten_and_used_ones_are_not() {
        let mut queues = Queues::new(0, OverflowPolicy::Block, at(300));
        queues.put("busy", 1, at(0));
        queues.put("idle", 2, at(0));
        queues.take("idle", at(0), |_| true).unwrap();
        queues.retire(at(299));
        assert_eq!(queues.counts(), (2, 1));
        queues.retire(at(300));
        assert_eq!(queues.counts(), (1, 1));
        let mut kept = Queues::new(0, OverflowPolicy::Block, at(0));
        kept.put("idle", 1, at(0));
        kept.take_all("idle");
        kept.retire(at(1_000_000));
        assert_eq!(kept.counts(), (1, 0));
    }
}
