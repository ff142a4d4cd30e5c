//! What is said to the other end: in order, kept while there is no room for it, and known again when it is acknowledged.

use std::time::Duration;

use longshore_session::{Message, SendError};

use super::{Ending, Runner, Said, chain};

/// How long a task that is not taken while the worker drains is kept before it is given back.
const GIVE_BACK_AFTER: Duration = Duration::from_millis(500);
/// As many as that at once; the oldest make room.
const GIVE_BACK_MAX: usize = 1024;

impl Runner {
    pub(super) fn acknowledged(&mut self, id: &str) {
        match self.said.remove(id) {
            Some(Said::Answer(key)) => self.settled(&key, id),
            Some(Said::Next(request)) => self.waits.request_arrived(&request),
            None => {}
        }
    }

    /// Says it when there is room, in order.
    pub(in crate::worker) fn say(&mut self, message: Message, said: Option<Said>) {
        self.unsent.push_back((message, said));
        self.send_unsent();
    }

    /// Says it after a while; at once if the worker says its last words.
    pub(in crate::worker) fn say_later(&mut self, message: Message, said: Said) {
        self.later.push_back((self.now().at.saturating_add(GIVE_BACK_AFTER), message, said));
        self.say_what_is_due();
    }

    pub(super) fn say_what_is_due(&mut self) {
        let now = self.now().at;
        while self.later.len() > GIVE_BACK_MAX || self.later.front().is_some_and(|(due, ..)| *due <= now || self.ending == Ending::Flushing)
        {
            let Some((_, message, said)) = self.later.pop_front() else { return };
            self.say(message, Some(said));
        }
    }

    pub(super) fn send_unsent(&mut self) -> bool {
        let mut has_sent = false;
        while let Some((message, said)) = self.unsent.pop_front() {
            match self.session.send(message.clone(), self.now()) {
                Ok(id) => {
                    has_sent = true;
                    self.said.extend(said.map(|said| (id, said)));
                }
                Err(SendError::Full { .. }) => {
                    self.unsent.push_front((message, said));
                    return has_sent;
                }
                // It is on its way already.
                Err(SendError::Repeated(_)) => {}
                Err(error @ (SendError::Unfit(_) | SendError::Reserved(_))) => {
                    has_sent = true;
                    self.unfit(&message, said, &chain(&error));
                }
            }
        }
        has_sent
    }
}
