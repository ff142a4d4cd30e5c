//! What time it is, for whoever stamps or compares records, and numbers that sort by it. The one place where a simulation says otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// The machine's clock, or one that follows tokio's, which a simulation may pause. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<Simulated>);

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
        Self(Some(Simulated { began: Instant::now(), began_at, numbers: Arc::default() }))
    }

    /// The same clock, wrong by so much. The machine's stays right.
    #[must_use]
    pub fn wrong_by(&self, error: SignedDuration) -> Self {
        let wrong = |simulated: &Simulated| Simulated { began_at: simulated.began_at + error, ..simulated.clone() };
        Self(self.0.as_ref().map(wrong))
    }

    /// What time it is.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            None => Timestamp::now(),
            Some(Simulated { began, began_at, .. }) => {
                let passed = SignedDuration::try_from(began.elapsed()).unwrap_or(SignedDuration::MAX);
                began_at.checked_add(passed).unwrap_or(Timestamp::MAX)
            }
        }
    }

    /// The bits of a UUIDv7: no other call gives them, and they sort by time.
    #[must_use]
    pub fn unique(&self) -> u128 {
        match &self.0 {
            None => uuid::Uuid::now_v7().as_u128(),
            Some(Simulated { numbers, .. }) => {
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
