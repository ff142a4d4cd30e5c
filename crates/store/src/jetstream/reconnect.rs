//! When a lost connection is tried again: quickly at first, and never by everybody at once.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The middle of the first wait; every further one is twice as long.
const FIRST: Duration = Duration::from_millis(100);
/// The middle of the longest wait.
const LONGEST: Duration = Duration::from_secs(2);

/// The wait before try number `attempt` (the first is 1): half of its middle and up to as much again, by `random`. The longer the broker
/// was away, the wider those who lost it together are apart when it is back.
pub(super) fn delay(attempt: usize, random: u64) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    let middle = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    // The upper half is enough, and is exact as a fraction.
    let share = f64::from(u32::try_from(random >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX);
    middle.mul_f64(0.5 + share)
}

/// Another number each time, in every process and on every host: hashers are keyed at random.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sequence that looks random and is the same in every run.
    fn scrambled(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    #[test]
    fn waits_grow_to_their_bound_and_vary_around_their_middle() {
        for (attempt, middle_ms) in [(1, 100), (2, 200), (3, 400), (5, 1600), (6, 2000), (1000, 2000)] {
            let middle = Duration::from_millis(middle_ms);
            assert_eq!((delay(attempt, 0), delay(attempt, u64::MAX)), (middle / 2, middle * 3 / 2), "{attempt}");
        }
        assert_ne!(random(), random());
    }

    #[test]
    fn a_fleet_that_lost_its_broker_at_one_instant_comes_back_spread() {
        for (outage_ms, busiest_100_ms) in [(300, 450), (1_000, 200), (5_000, 120), (60_000, 120)] {
            let (mut seed, outage) = (outage_ms, Duration::from_millis(outage_ms));
            let mut back_in = std::collections::BTreeMap::<u128, u32>::new();
            for _ in 0..1000 {
                let (mut now, mut attempt) = (Duration::ZERO, 0);
                while now < outage {
                    attempt += 1;
                    now += delay(attempt, scrambled(&mut seed));
                }
                assert!(now < outage + LONGEST.mul_f64(1.5), "nobody comes much later than the broker");
                *back_in.entry((now - outage).as_millis() / 100).or_default() += 1;
            }
            let most = back_in.values().copied().max().unwrap_or_default();
            assert!(most <= busiest_100_ms, "after {outage:?}: {most} of 1000 in 100 ms: {back_in:?}");
        }
    }
}
