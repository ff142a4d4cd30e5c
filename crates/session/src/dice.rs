//! Identifiers and jitter from bits that are handed in once.
//!
//! Nothing here is a secret: identifiers have to be distinct, and jitter has to spread. The same seed gives the same session.

use std::time::Duration;

/// Longer than anybody waits, and short enough to be multiplied.
pub(crate) const YEARS: Duration = Duration::from_secs(1 << 30);

/// Sixteen random bytes, stretched. Two streams side by side, so that two sessions meet only if both halves of their seeds do.
#[derive(Debug, Clone)]
pub(crate) struct Dice {
    first: u64,
    second: u64,
}

impl Dice {
    pub(crate) fn new(seed: u128) -> Self {
        let bytes = seed.to_be_bytes();
        let half = |at: usize| bytes[at..at + 8].iter().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
        Self { first: half(0), second: half(8) }
    }

    /// A version 4 UUID.
    pub(crate) fn id(&mut self) -> String {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&step(&mut self.first).to_be_bytes());
        bytes[8..].copy_from_slice(&step(&mut self.second).to_be_bytes());
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    /// At least 0 and less than 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        // 53 bits are what a float holds exactly.
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit into a float's mantissa")]
        let numerator = (step(&mut self.first) >> 11) as f64;
        numerator / 9_007_199_254_740_992.0
    }

    /// At least nothing and less than `most`.
    pub(crate) fn up_to(&mut self, most: Duration) -> Duration {
        most.min(YEARS).mul_f64(self.fraction())
    }
}

/// SplitMix64.
fn step(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn one_seed_gives_one_sequence_of_distinct_uuids() {
        let (mut one, mut same, mut other) = (Dice::new(7), Dice::new(7), Dice::new(8));
        let ids: Vec<_> = (0..1000).map(|_| one.id()).collect();
        assert!(ids.iter().all(|id| *id == same.id()));
        assert!(ids.iter().all(|id| uuid::Uuid::parse_str(id).is_ok_and(|id| id.get_version_num() == 4)));
        assert_eq!(ids.iter().cloned().chain((0..1000).map(|_| other.id())).collect::<BTreeSet<_>>().len(), 2000);
    }

    #[test]
    fn fractions_stay_below_one_and_spread() {
        let mut dice = Dice::new(3);
        let all: Vec<_> = (0..1000).map(|_| dice.fraction()).collect();
        assert!(all.iter().all(|part| (0.0..1.0).contains(part)));
        assert!((400..600).contains(&all.iter().filter(|part| **part < 0.5).count()));
        assert!(dice.up_to(Duration::from_secs(5)) < Duration::from_secs(5));
    }
}
