//! Waits between tries: they double up to a cap, with jitter so that many clients do not return at once.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// A series of growing waits. Each lies between half and the whole of its step.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    step: u32,
}

impl Backoff {
    /// Waits that begin at `first` and stop growing at `cap`.
    #[must_use]
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, step: 0 }
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        let whole = self.first.saturating_mul(1 << self.step.min(20)).min(self.cap);
        self.step = self.step.saturating_add(1);
        // A freshly keyed hasher is the randomness the standard library has; jitter needs no better.
        let random = RandomState::new().hash_one(self.step);
        whole.mul_f64(0.5 + (random % 1000) as f64 / 2000.0)
    }

    /// Starts over: the last try went well.
    pub fn reset(&mut self) {
        self.step = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_start_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for whole_ms in [100, 200, 400, 800, 1000, 1000] {
            let wait = backoff.next_wait().as_millis();
            assert!((whole_ms / 2..=whole_ms).contains(&wait), "{wait} of {whole_ms}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
    }
}
