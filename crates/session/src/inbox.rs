//! What the peer said: put into order, passed on once, and bounded in frames and bytes.
//!
//! `base` is the highest number up to which everything was passed on to the application's queue. What is beyond waits here; what is beyond the window is not taken.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::config::{LinkConfig, Overflow};
use crate::envelope::Envelope;

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It is held or passed on.
    Taken,
    /// It was taken before.
    Known,
    /// There is no room for it: not acknowledged by its id, so that it comes again.
    Refused,
}

#[derive(Debug)]
struct Held {
    envelope: Envelope,
    size: usize,
}

#[derive(Debug)]
pub(crate) struct Inbox {
    base: u64,
    window: u64,
    held: BTreeMap<u64, Held>,
    queue: VecDeque<Held>,
    /// Of what is held and of what is queued.
    bytes: usize,
    queued_bytes: usize,
    frames_max: usize,
    bytes_max: usize,
    overflow: Overflow,
    dropped: VecDeque<Envelope>,
    n_dropped: u64,
    recent: Recent,
    hole_since: Option<Duration>,
    /// Nothing is dropped for now: what finds no room stays in the window, whatever the policy.
    is_held_back: bool,
}

/// The ids that were passed on last. What a peer numbers afresh is among the last window's worth of them.
#[derive(Debug, Default)]
struct Recent {
    order: VecDeque<String>,
    ids: BTreeSet<String>,
}

impl Recent {
    /// False if it was there.
    fn insert(&mut self, id: &str, n_max: usize) -> bool {
        if !self.ids.insert(id.to_owned()) {
            return false;
        }
        self.order.push_back(id.to_owned());
        if self.order.len() > n_max
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

impl Inbox {
    pub(crate) fn new(config: &LinkConfig) -> Self {
        Self {
            base: 0,
            window: config.window(),
            held: BTreeMap::new(),
            queue: VecDeque::new(),
            bytes: 0,
            queued_bytes: 0,
            frames_max: if config.app_frames_max == 0 { usize::MAX } else { config.app_frames_max },
            bytes_max: config.app_bytes_max,
            overflow: config.app_overflow,
            dropped: VecDeque::new(),
            n_dropped: 0,
            recent: Recent::default(),
            hole_since: None,
            is_held_back: false,
        }
    }

    /// Whether what finds no room stays in the window.
    fn blocks(&self) -> bool {
        self.is_held_back || self.overflow == Overflow::Block
    }

    /// Drops nothing while `holds`, whatever the policy; what was held back is passed on when that ends.
    pub(crate) fn hold_back(&mut self, holds: bool, is_longshore: bool, now: Duration) {
        if std::mem::replace(&mut self.is_held_back, holds) && !holds {
            self.pass_on(is_longshore);
            self.watch_hole(now);
        }
    }

    /// Whether a frame is here and the application has not read it.
    pub(crate) fn holds(&self, id: &str) -> bool {
        // What is asked about came last.
        self.queue.iter().rev().any(|held| held.envelope.id == id) || self.held.values().any(|held| held.envelope.id == id)
    }

    /// `is_longshore` says that the peer's ids are unique beyond one process, so that they tell what was passed on in an earlier session.
    pub(crate) fn arrive(&mut self, number: u64, envelope: Envelope, size: usize, is_longshore: bool, now: Duration) -> Arrival {
        if number <= self.base || self.held.contains_key(&number) {
            return Arrival::Known;
        }
        // Whatever was held when a session ended is queued, so what one session may hold is not all that there may be.
        let is_stuck = self.blocks() && self.is_full();
        let is_next = number == self.base + 1 && !is_stuck;
        let is_heavy = !is_next && self.bytes.saturating_add(size) > self.bytes_max;
        let is_crowded =
            is_stuck && self.queue.len().saturating_add(self.held.len()) as u64 >= (self.frames_max as u64).saturating_add(self.window);
        if number > self.base.saturating_add(self.window) || is_heavy || is_crowded {
            return Arrival::Refused;
        }
        self.bytes += size;
        self.held.insert(number, Held { envelope, size });
        self.pass_on(is_longshore);
        self.watch_hole(now);
        Arrival::Taken
    }

    /// A frame that has no number: passed on at once, if there is room.
    pub(crate) fn arrive_unnumbered(&mut self, envelope: Envelope, size: usize) -> Arrival {
        if self.blocks() && self.is_full() {
            return Arrival::Refused;
        }
        self.bytes += size;
        self.enqueue(Held { envelope, size });
        Arrival::Taken
    }

    fn is_full(&self) -> bool {
        self.queue.len() >= self.frames_max || (self.queued_bytes >= self.bytes_max && !self.queue.is_empty())
    }

    fn pass_on(&mut self, is_longshore: bool) {
        let n_recent = usize::try_from(LinkConfig::WINDOW_FRAMES_MAX).unwrap_or(usize::MAX);
        while self.held.contains_key(&(self.base + 1)) {
            if self.blocks() && self.is_full() {
                return;
            }
            let Some(held) = self.held.remove(&(self.base + 1)) else { return };
            self.base += 1;
            let is_first = self.recent.insert(&held.envelope.id, n_recent);
            if is_longshore && !is_first {
                self.bytes -= held.size;
            } else {
                self.enqueue(held);
            }
        }
    }

    fn enqueue(&mut self, held: Held) {
        // Who blocks was asked before, and a frame that was let in is never lost.
        let policy = if self.blocks() { Overflow::Block } else { self.overflow };
        match policy {
            Overflow::Block => {}
            Overflow::DropNew if self.is_full() => return self.drop_frame(held),
            Overflow::DropNew => {}
            Overflow::DropOldest => {
                while self.is_full()
                    && let Some(oldest) = self.unqueue()
                {
                    self.drop_frame(oldest);
                }
            }
        }
        self.queued_bytes += held.size;
        self.queue.push_back(held);
    }

    fn unqueue(&mut self) -> Option<Held> {
        let held = self.queue.pop_front()?;
        self.queued_bytes -= held.size;
        Some(held)
    }

    fn drop_frame(&mut self, held: Held) {
        self.bytes -= held.size;
        self.n_dropped += 1;
        self.dropped.push_back(held.envelope);
    }

    /// What the application reads next.
    pub(crate) fn next(&mut self, is_longshore: bool, now: Duration) -> Option<Envelope> {
        let held = self.unqueue()?;
        self.bytes -= held.size;
        self.pass_on(is_longshore);
        self.watch_hole(now);
        Some(held.envelope)
    }

    pub(crate) fn next_dropped(&mut self) -> Option<Envelope> {
        self.dropped.pop_front()
    }

    fn watch_hole(&mut self, now: Duration) {
        let hole = !self.held.is_empty() && !self.held.contains_key(&(self.base + 1));
        self.hole_since = if hole { self.hole_since.or(Some(now)) } else { None };
    }

    pub(crate) fn hole_since(&self) -> Option<Duration> {
        self.hole_since
    }

    /// Nobody will fill the hole: goes on behind it, and tells the first and the last number that were missing.
    pub(crate) fn skip_hole(&mut self, now: Duration) -> Option<(u64, u64)> {
        let first = *self.held.first_key_value()?.0;
        let missing = (self.base + 1, first - 1);
        self.base = first - 1;
        self.pass_on(false);
        self.hole_since = None;
        self.watch_hole(now);
        (missing.0 <= missing.1).then_some(missing)
    }

    /// A connection has come or gone: time without one is not waited.
    pub(crate) fn restart_patience(&mut self, now: Duration) {
        self.hole_since = self.hole_since.map(|_| now);
    }

    /// A new session: numbers begin at 1. A Longshore peer says again what is held here; of any other it is all there is, so it is passed on as it stands.
    pub(crate) fn reset(&mut self, is_longshore: bool) {
        for (_, held) in std::mem::take(&mut self.held) {
            if is_longshore {
                self.bytes -= held.size;
            } else {
                self.enqueue(held);
            }
        }
        (self.base, self.hole_since) = (0, None);
    }

    /// The highest contiguous number and the bitmap behind it.
    pub(crate) fn state(&self) -> (u64, u64) {
        let bit = |number: &u64| number.checked_sub(self.base + 1).filter(|bit| *bit < 64).map_or(0, |bit| 1 << bit);
        (self.base, self.held.keys().map(bit).fold(0, |all, bit| all | bit))
    }

    pub(crate) fn window(&self) -> u64 {
        self.window
    }

    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn n_dropped(&self) -> u64 {
        self.n_dropped
    }
}
