//! What time it is, for whoever stamps or compares records, and numbers that sort by it. The one place where a simulation says otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// The machine's clock, by itself or put right by the broker's; or one that follows tokio's, which a simulation may pause. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Clock(Kind);

#[derive(Debug, Clone, Default)]
enum Kind {
    #[default]
    Machine,
    Corrected(Arc<Corrected>),
    Simulated(Simulated),
}

#[derive(Debug)]
struct Corrected {
    /// Nanoseconds that the machine's clock is behind; fewer than none if it is ahead.
    by: Arc<AtomicI64>,
    /// Keeps looking.
    _follower: AbortOnDropHandle<()>,
}

impl Corrected {
    fn by(&self) -> SignedDuration {
        SignedDuration::from_nanos(self.by.load(Ordering::Relaxed))
    }
}

#[derive(Debug, Clone)]
struct Simulated {
    began: Instant,
    began_at: Timestamp,
    numbers: Arc<AtomicU64>,
}

impl Clock {
    /// A clock that says `began_at` now and goes on with tokio's; its numbers count from one. Clones share the count.
    #[must_use]
    pub fn simulated(began_at: Timestamp) -> Self {
        Self(Kind::Simulated(Simulated { began: Instant::now(), began_at, numbers: Arc::default() }))
    }

    /// The machine's clock with these nanoseconds added, which `follower` keeps right for as long as there is such a clock.
    pub(crate) fn corrected(by: Arc<AtomicI64>, follower: AbortOnDropHandle<()>) -> Self {
        Self(Kind::Corrected(Arc::new(Corrected { by, _follower: follower })))
    }

    /// The same clock, wrong by so much. The machine's stays right.
    #[must_use]
    pub fn wrong_by(&self, error: SignedDuration) -> Self {
        match &self.0 {
            Kind::Simulated(simulated) => Self(Kind::Simulated(Simulated { began_at: simulated.began_at + error, ..simulated.clone() })),
            Kind::Machine | Kind::Corrected(_) => self.clone(),
        }
    }

    /// What time it is.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Kind::Machine => Timestamp::now(),
            Kind::Corrected(corrected) => {
                let now = Timestamp::now();
                now.checked_add(corrected.by()).unwrap_or(now)
            }
            Kind::Simulated(Simulated { began, began_at, .. }) => {
                let passed = SignedDuration::try_from(began.elapsed()).unwrap_or(SignedDuration::MAX);
                began_at.checked_add(passed).unwrap_or(Timestamp::MAX)
            }
        }
    }

    /// The bits of a UUIDv7: no other call gives them, and they sort by time.
    #[must_use]
    pub fn unique(&self) -> u128 {
        match &self.0 {
            Kind::Machine => uuid::Uuid::now_v7().as_u128(),
            Kind::Corrected(corrected) => put_right(uuid::Uuid::now_v7().as_u128(), corrected.by()),
            Kind::Simulated(Simulated { numbers, .. }) => {
                let millis = self.now().as_millisecond().unsigned_abs();
                u128::from(millis) << 80 | 0x7 << 76 | 0b10 << 62 | u128::from(numbers.fetch_add(1, Ordering::Relaxed) + 1)
            }
        }
    }
}

/// The number that a machine whose clock is right would have made: the first 48 bits of a UUIDv7 are milliseconds, and the others stay.
fn put_right(number: u128, by: SignedDuration) -> u128 {
    const REST_BITS: u32 = 80;
    let millis = u64::try_from(number >> REST_BITS).unwrap_or_default();
    let by_ms = i64::try_from(by.as_millis()).unwrap_or_default();
    // A v7 number's milliseconds end in the year 10889, so that the sum stays within its bits for any time that the broker can say.
    let millis = millis.saturating_add_signed(by_ms) & ((1 << 48) - 1);
    u128::from(millis) << REST_BITS | number & ((1 << REST_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_simulated_clock_follows_tokios_and_repeats_itself() {
        let run = async || {
            let clock = Clock::simulated(Timestamp::UNIX_EPOCH);
            tokio::time::advance(Duration::from_secs(5)).await;
            (clock.now(), clock.wrong_by(SignedDuration::from_secs(-2)).now(), clock.unique(), clock.clone().unique())
        };
        let (now, wrong, one, other) = run().await;
        assert_eq!((now.as_second(), wrong.as_second()), (5, 3));
        assert!(one < other);
        assert_eq!(run().await, (now, wrong, one, other));
    }

    /// What is listed by time is found by its number: the two must not be hours apart on a host whose clock is wrong.
    #[tokio::test]
    async fn numbers_follow_a_clock_that_was_put_right() {
        const HOUR: SignedDuration = SignedDuration::from_hours(1);
        for by in [HOUR, -HOUR, SignedDuration::ZERO, SignedDuration::from_millis(-1500)] {
            let nanos = i64::try_from(by.as_nanos()).unwrap();
            #[expect(clippy::disallowed_methods, reason = "the clock owns the task")]
            let clock = Clock::corrected(Arc::new(AtomicI64::new(nanos)), AbortOnDropHandle::new(tokio::spawn(async {})));
            let before = clock.now();
            let numbers: Vec<u128> = (0..1000).map(|_| clock.unique()).collect();
            let after = clock.now();
            assert!(numbers.is_sorted_by(|one, next| one < next), "{by:?}");
            for number in [numbers[0], numbers[999]] {
                let at = Timestamp::from_millisecond(i64::try_from(number >> 80).unwrap()).unwrap();
                let tolerated = SignedDuration::from_millis(2);
                assert!(before - tolerated <= at && at <= after + tolerated, "{by:?}: {at} is not from {before} to {after}");
                assert_eq!((number >> 76 & 0xf, number >> 62 & 0b11), (7, 0b10), "it stays a v7 number");
            }
        }
    }
}
