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
                now.checked_add(SignedDuration::from_nanos(corrected.by.load(Ordering::Relaxed))).unwrap_or(now)
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
            Kind::Machine | Kind::Corrected(_) => uuid::Uuid::now_v7().as_u128(),
            Kind::Simulated(Simulated { numbers, .. }) => {
                let millis = self.now().as_millisecond().unsigned_abs();
                u128::from(millis) << 80 | 0x7 << 76 | 0b10 << 62 | u128::from(numbers.fetch_add(1, Ordering::Relaxed) + 1)
            }
        }
    }
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
}
