//! Workers that take one instance id from each other: every one that attaches ends the session of the one before, and both come back.
//!
//! The first times cannot be refused: a worker whose connection broke without a word comes back in the same way. So it is told, to the fleet and in
//! the log, and then it goes back and forth only so often.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// So often within [`WITHIN`] is no broken connection any more.
const TIMES: usize = 3;
const WITHIN: Duration = Duration::from_secs(120);
/// Between two takeovers of a contested instance.
const PAUSE: Duration = Duration::from_secs(10);

/// Takeovers of late, by instance.
#[derive(Debug, Default)]
pub(super) struct Contests(Mutex<BTreeMap<String, Contest>>);

#[derive(Debug, Default)]
struct Contest {
    times: VecDeque<Instant>,
    since: Option<Timestamp>,
}

impl Contests {
    /// Notes that a session ended since somebody else came with its instance. True if that is one time too many, and was not before.
    pub(super) fn note(&self, instance: &str, at: Instant, now: Timestamp) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Its size is that of what has happened of late.
        known.retain(|_, contest| contest.times.back().is_some_and(|last| at.duration_since(*last) < WITHIN));
        let contest = known.entry(instance.to_owned()).or_default();
        contest.times.push_back(at);
        while contest.times.len() > TIMES {
            contest.times.pop_front();
        }
        let is_contested = contest.times.len() == TIMES && contest.times.front().is_some_and(|first| at.duration_since(*first) < WITHIN);
        let is_new = is_contested && contest.since.is_none();
        contest.since = if is_contested { contest.since.or(Some(now)) } else { contest.since };
        is_new
    }

    /// Since when an instance goes back and forth, if it does.
    pub(super) fn since(&self, instance: &str, at: Instant) -> Option<Timestamp> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let contest = known.get(instance)?;
        contest.since.filter(|_| contest.times.back().is_some_and(|last| at.duration_since(*last) < WITHIN))
    }

    /// How long who comes with an instance that another one has must wait, if it goes back and forth.
    pub(super) fn wait(&self, instance: &str, at: Instant) -> Option<Duration> {
        self.since(instance, at)?;
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = known.get(instance)?.times.back()?;
        PAUSE.checked_sub(at.duration_since(*last)).filter(|wait| !wait.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_takeovers_within_two_minutes_are_a_contest_until_there_are_none_for_as_long() {
        let (contests, began, now) = (Contests::default(), Instant::now(), Timestamp::UNIX_EPOCH);
        let at = |seconds: u64| began + Duration::from_secs(seconds);
        let noted = [0, 100, 200, 210, 220].map(|seconds| contests.note("w", at(seconds), now));
        // The first was too long ago when the third came.
        assert_eq!(noted, [false, false, false, true, false]);
        assert_eq!((contests.since("w", at(220)), contests.since("other", at(220))), (Some(now), None));
        assert_eq!(
            (contests.wait("w", at(223)), contests.wait("w", at(230)), contests.wait("x", at(221))),
            (Some(Duration::from_secs(7)), None, None)
        );
        assert_eq!((contests.since("w", at(339)), contests.since("w", at(340))), (Some(now), None));
        contests.note("another", at(400), now);
        assert_eq!(contests.0.lock().unwrap().len(), 1);
    }
}
