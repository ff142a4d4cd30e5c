//! What this end has to say: numbered within the peer's window, sent again until the peer has passed it on, and never given up.
//!
//! A frame leaves only when the peer's *contiguous* number covers it. A set bit in the bitmap stops the quick repeats and frees nothing: what the peer holds beyond a
//! hole is lost if it forgets its window. So at most a window's worth of numbers is under way, every number below the next one has its frame, and a new session
//! can number them all afresh.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::config::{LinkConfig, Resend};
use crate::resend::{Attempt, Step};

/// Why a message was not taken. Nothing was numbered and nothing is sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// As much waits as may. Try again when something was acknowledged.
    #[error("the outbox is full: {frames} frames of {bytes} bytes wait for the other end")]
    Full {
        /// How many wait.
        frames: usize,
        /// Their size.
        bytes: usize,
    },
    /// It cannot be a frame. The same message never can.
    #[error("the message cannot be sent")]
    Unfit(#[from] crate::codec::EncodeError),
    /// Kinds that begin with `control.` are the session's own, and without a number nothing is kept.
    #[error("frames of the kind {0:?} are made by the session itself")]
    Reserved(String),
    /// A message with this id waits already; it is sent once.
    #[error("a message with the id {0:?} waits already")]
    Repeated(String),
}

/// An encoded frame without its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) id: String,
    /// A JSON object without `session_seq`.
    pub(crate) text: crate::envelope::Text,
}

impl Body {
    /// The longest that a number can add.
    pub(crate) const NUMBER_BYTES_MAX: usize = r#","session_seq":18446744073709551615"#.len();

    fn numbered(&self, number: u64) -> String {
        let text = self.text.as_str();
        format!(r#"{},"session_seq":{number}}}"#, &text[..text.len() - 1])
    }
}

#[derive(Debug)]
struct Flight {
    body: Body,
    attempt: Attempt,
}

#[derive(Debug)]
pub(crate) struct Outbox {
    waiting: VecDeque<Body>,
    under_way: BTreeMap<u64, Flight>,
    ids: std::collections::BTreeSet<String>,
    /// The number that the next frame gets.
    next: u64,
    /// Everything up to here was passed on by the peer.
    acked: u64,
    window: u64,
    peer_window: u64,
    bytes: usize,
    frames_max: usize,
    bytes_max: usize,
    resend: Resend,
    /// Since when the peer claims to know less than it did: it lost numbers that are not here any more.
    behind_since: Option<Duration>,
}

impl Outbox {
    pub(crate) fn new(config: &LinkConfig) -> Self {
        Self {
            waiting: VecDeque::new(),
            under_way: BTreeMap::new(),
            ids: std::collections::BTreeSet::new(),
            next: 1,
            acked: 0,
            window: config.window(),
            peer_window: config.window(),
            bytes: 0,
            frames_max: config.outbox_frames_max,
            bytes_max: config.outbox_bytes_max,
            resend: config.resend,
            behind_since: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.under_way.len()
    }

    pub(crate) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    pub(crate) fn push(&mut self, body: Body) -> Result<(), SendError> {
        let size = body.text.as_str().len();
        if self.ids.contains(&body.id) {
            return Err(SendError::Repeated(body.id));
        }
        if self.len() >= self.frames_max || self.bytes.saturating_add(size) > self.bytes_max {
            return Err(SendError::Full { frames: self.len(), bytes: self.bytes });
        }
        self.bytes += size;
        self.ids.insert(body.id.clone());
        self.waiting.push_back(body);
        Ok(())
    }

    /// The next frame that fits into the peer's window, with its number.
    pub(crate) fn number(&mut self, now: Duration) -> Option<String> {
        if self.next > self.acked + self.window.min(self.peer_window) {
            return None;
        }
        let body = self.waiting.pop_front()?;
        let (number, text) = (self.next, body.numbered(self.next));
        self.next += 1;
        self.under_way.insert(number, Flight { body, attempt: Attempt::first(now, &self.resend) });
        Some(text)
    }

    /// Takes the peer's word and tells the ids of what it has passed on. A word about numbers that were never given says nothing.
    pub(crate) fn acknowledge(&mut self, upto: u64, bits: u64, peer_window: Option<u64>, now: Duration) -> Vec<String> {
        if upto >= self.next {
            return Vec::new();
        }
        if upto < self.acked {
            // A late acknowledgement looks like this too, so it takes a while to be believed.
            self.behind_since.get_or_insert(now);
            return Vec::new();
        }
        self.behind_since = None;
        self.acked = upto;
        self.peer_window = peer_window.unwrap_or(self.window).max(1);
        let rest = self.under_way.split_off(&(upto + 1));
        let done = std::mem::replace(&mut self.under_way, rest);
        for (number, flight) in &mut self.under_way {
            let bit = number - upto - 1;
            if bit < 64 && bits >> bit & 1 == 1 {
                flight.attempt = Attempt::held(now, &self.resend);
            }
        }
        done.into_values().map(|flight| self.forget(flight.body)).collect()
    }

    fn forget(&mut self, body: Body) -> String {
        self.bytes -= body.text.as_str().len();
        self.ids.remove(&body.id);
        body.id
    }

    /// Nothing is due again before its usual wait from now.
    pub(crate) fn postpone(&mut self, now: Duration) {
        for flight in self.under_way.values_mut() {
            flight.attempt.postpone(now, &self.resend);
        }
    }

    /// The session goes on: whatever is under way may have been lost and is due now.
    pub(crate) fn resume(&mut self, now: Duration) {
        self.behind_since = None;
        for flight in self.under_way.values_mut() {
            flight.attempt = Attempt::at_once(now);
        }
    }

    /// A new session: numbers begin at 1, and everything unacknowledged gets a new one, in order.
    pub(crate) fn renumber(&mut self) {
        for (_, flight) in std::mem::take(&mut self.under_way).into_iter().rev() {
            self.waiting.push_front(flight.body);
        }
        (self.next, self.acked, self.peer_window, self.behind_since) = (1, 0, self.window, None);
    }

    /// A new session with a peer that may have acted on what is under way and would do so twice: that is handed back.
    pub(crate) fn hand_back(&mut self) -> Vec<String> {
        let uncertain = std::mem::take(&mut self.under_way).into_values();
        let ids = uncertain.map(|flight| self.forget(flight.body)).collect();
        self.renumber();
        ids
    }

    /// What to send again, or true if the session is to be given up: the peer answers nothing, or lost numbers that it had.
    pub(crate) fn tick(&mut self, now: Duration) -> (Vec<String>, bool) {
        if self.under_way.is_empty() {
            self.behind_since = None;
        }
        let mut given_up = self.behind_since.is_some_and(|since| now >= since.saturating_add(self.resend.max));
        let mut again = Vec::new();
        for (number, flight) in &mut self.under_way {
            match flight.attempt.step(now, &self.resend) {
                Step::Wait => {}
                Step::Again => again.push(flight.body.numbered(*number)),
                Step::GiveUp => given_up = true,
            }
        }
        (again, given_up)
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        let behind = self.behind_since.filter(|_| !self.under_way.is_empty()).map(|since| since.saturating_add(self.resend.max));
        self.under_way.values().map(|flight| flight.attempt.due).chain(behind).min()
    }
}
