//! When a frame that nobody acknowledged is sent again, and what asks for an acknowledgement by id.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::Resend;

/// Below this, repeats would be made of round trips.
const BASE_MIN: Duration = Duration::from_millis(50);

impl Resend {
    /// The wait after sending for the `nth` time, counted from 0.
    pub(crate) fn wait(&self, nth: u32) -> Duration {
        let base = self.base.max(BASE_MIN);
        base.saturating_mul(1_u32.checked_shl(nth).unwrap_or(u32::MAX)).min(self.max.max(BASE_MIN))
    }
}

/// One frame's place in the schedule.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt {
    pub(crate) due: Duration,
    repeats: u32,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Wait,
    Again,
    GiveUp,
}

impl Attempt {
    /// It was sent just now for the first time.
    pub(crate) fn first(now: Duration, resend: &Resend) -> Self {
        Self { due: now.saturating_add(resend.wait(0)), repeats: 0 }
    }

    /// It is to be sent at once, as if for the first time.
    pub(crate) fn at_once(now: Duration) -> Self {
        Self { due: now, repeats: 0 }
    }

    /// The peer has it but cannot pass it on yet: asked after slowly, for as long as the peer answers.
    pub(crate) fn held(now: Duration, resend: &Resend) -> Self {
        Self { due: now.saturating_add(resend.max.max(BASE_MIN)), repeats: 0 }
    }

    /// It may not even have left: due no earlier than after its usual wait from now.
    pub(crate) fn postpone(&mut self, now: Duration, resend: &Resend) {
        self.due = self.due.max(now.saturating_add(resend.wait(self.repeats)));
    }

    pub(crate) fn step(&mut self, now: Duration, resend: &Resend) -> Step {
        if now < self.due {
            return Step::Wait;
        }
        if self.repeats >= resend.attempts {
            return Step::GiveUp;
        }
        self.repeats += 1;
        self.due = now.saturating_add(resend.wait(self.repeats));
        Step::Again
    }
}

/// Frames of the session itself that wait for an acknowledgement by id. `P` says what each of them was for.
#[derive(Debug)]
pub(crate) struct Requests<P> {
    waiting: BTreeMap<String, Request<P>>,
}

#[derive(Debug)]
struct Request<P> {
    purpose: P,
    text: String,
    attempt: Attempt,
}

impl<P: Copy> Requests<P> {
    pub(crate) fn new() -> Self {
        Self { waiting: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, id: String, purpose: P, text: String, now: Duration, resend: &Resend) {
        self.waiting.insert(id, Request { purpose, text, attempt: Attempt::first(now, resend) });
    }

    /// What the acknowledged frame was for; nothing if it was not asked for or is answered already.
    pub(crate) fn acknowledge(&mut self, id: &str) -> Option<P> {
        self.waiting.remove(id).map(|request| request.purpose)
    }

    /// Asks no more for what was asked for that purpose.
    pub(crate) fn forget(&mut self, purpose: P)
    where
        P: PartialEq,
    {
        self.waiting.retain(|_, request| request.purpose != purpose);
    }

    /// Nothing is due again before its usual wait from now.
    pub(crate) fn postpone(&mut self, now: Duration, resend: &Resend) {
        for request in self.waiting.values_mut() {
            request.attempt.postpone(now, resend);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.waiting.values().map(|request| request.attempt.due).min()
    }

    /// What to send again, or true if one of them was sent too often.
    pub(crate) fn tick(&mut self, now: Duration, resend: &Resend) -> (Vec<String>, bool) {
        let (mut again, mut given_up) = (Vec::new(), false);
        for request in self.waiting.values_mut() {
            match request.attempt.step(now, resend) {
                Step::Wait => {}
                Step::Again => again.push(request.text.clone()),
                Step::GiveUp => given_up = true,
            }
        }
        (again, given_up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_is_that_of_the_existing_worker() {
        let resend = Resend { base: Duration::from_millis(200), max: Duration::from_secs(5), attempts: 6 };
        let (mut attempt, mut sent) = (Attempt::first(Duration::ZERO, &resend), Vec::new());
        let given_up = loop {
            let now = attempt.due;
            match attempt.step(now, &resend) {
                Step::Again => sent.push(now.as_millis()),
                Step::GiveUp => break now.as_millis(),
                Step::Wait => panic!("it was due"),
            }
        };
        assert_eq!((sent, given_up), (vec![200, 600, 1400, 3000, 6200, 11_200], 16_200));
    }

    #[test]
    fn a_base_of_nothing_is_50_ms_and_a_late_attempt_does_not_overflow() {
        let resend = Resend { base: Duration::ZERO, max: Duration::from_secs(5), attempts: 6 };
        assert_eq!(resend.wait(0), Duration::from_millis(50));
        assert_eq!(resend.wait(u32::MAX), Duration::from_secs(5));
    }

    #[test]
    fn a_request_is_answered_once() {
        let resend = Resend { base: Duration::from_millis(200), max: Duration::from_secs(5), attempts: 6 };
        let mut requests = Requests::new();
        requests.add("a".to_owned(), 7, "text".to_owned(), Duration::ZERO, &resend);
        assert_eq!(requests.acknowledge("b"), None);
        assert_eq!(requests.tick(Duration::from_millis(200), &resend), (vec!["text".to_owned()], false));
        assert_eq!((requests.acknowledge("a"), requests.acknowledge("a"), requests.deadline()), (Some(7), None, None));
    }
}
