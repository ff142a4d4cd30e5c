//! Calls of `next()` that wait for their answer.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use longshore_session::Payload;
use tokio::sync::oneshot;

use super::handlers::NextError;
use super::journal::Key;

/// How often it is looked whether a handler waits no more by itself.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(super) type Reply = oneshot::Sender<Result<Payload, NextError>>;
pub(super) type Answer = Result<Payload, NextError>;

struct Wait {
    key: Key,
    reply: Reply,
    until: Option<Duration>,
    /// The other end has the request.
    has_arrived: bool,
}

/// Those that wait, by the ids of their requests, and those that were answered and wait for a slot.
#[derive(Default)]
pub(super) struct Waits {
    waiting: BTreeMap<String, Wait>,
    ready: BTreeMap<Key, VecDeque<(Reply, Answer)>>,
}

pub(super) fn error(code: &str, message: &str) -> NextError {
    NextError { code: code.to_owned(), message: message.to_owned(), trace: None }
}

impl Waits {
    pub(super) fn add(&mut self, request: String, key: Key, reply: Reply, until: Option<Duration>) {
        self.waiting.insert(request, Wait { key, reply, until, has_arrived: false });
    }

    pub(super) fn request_arrived(&mut self, request: &str) {
        if let Some(wait) = self.waiting.get_mut(request) {
            wait.has_arrived = true;
        }
    }

    /// Whose call was answered; the answer is handed over when its task has a slot. Nothing if nobody waits any more.
    pub(super) fn answer(&mut self, request: &str, answer: Answer) -> Option<Key> {
        let wait = self.waiting.remove(request)?;
        self.ready.entry(wait.key.clone()).or_default().push_back((wait.reply, answer));
        Some(wait.key)
    }

    /// Hands over what was answered.
    pub(super) fn hand_over(&mut self, key: &Key) {
        for (reply, answer) in self.ready.remove(key).unwrap_or_default() {
            // A handler that waits no more needs no answer.
            let _ = reply.send(answer);
        }
    }

    /// Requests whose time is over, or whose handler waits no more.
    pub(super) fn expired(&self, now: Duration) -> Vec<String> {
        let is_over = |wait: &Wait| wait.reply.is_closed() || wait.until.is_some_and(|until| until <= now);
        self.waiting.iter().filter(|(_, wait)| is_over(wait)).map(|(request, _)| request.clone()).collect()
    }

    /// Requests that the other end had when it forgot everything.
    pub(super) fn arrived(&self) -> Vec<String> {
        self.waiting.iter().filter(|(_, wait)| wait.has_arrived).map(|(request, _)| request.clone()).collect()
    }

    /// The task has ended.
    pub(super) fn forget(&mut self, key: &Key) {
        self.waiting.retain(|_, wait| wait.key != *key);
        self.ready.remove(key);
    }

    pub(super) fn deadline(&self, now: Duration) -> Option<Duration> {
        (!self.waiting.is_empty()).then(|| {
            let first = self.waiting.values().filter_map(|wait| wait.until).min();
            first.unwrap_or(Duration::MAX).min(now.saturating_add(LOOK_EVERY))
        })
    }
}
