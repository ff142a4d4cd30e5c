//! Which of two versions of a package is the later one.

use std::cmp::Ordering;

/// A part of a version between dots. Numbers come before words, as semantic versions have it.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Part<'a> {
    /// How many digits without the zeros before them, and those digits: of any length.
    Number(usize, &'a str),
    Word(&'a str),
}

/// Compares versions as semantic versions are: number by number, a pre-release before its release. Takes any text: the existing worker's packages
/// need not keep to that form. What is equal by these rules is ordered by its text, so only the same text is equal.
#[must_use]
pub fn compare_versions(one: &str, other: &str) -> Ordering {
    fn halves(version: &str) -> (Vec<Part<'_>>, bool, Vec<Part<'_>>) {
        let public = version.split_once('+').map_or(version, |(public, _build)| public);
        let (core, early) = public.split_once('-').map_or((public, None), |(core, early)| (core, Some(early)));
        (parts(core), early.is_none(), early.map(parts).unwrap_or_default())
    }
    halves(one).cmp(&halves(other)).then_with(|| one.cmp(other))
}

fn parts(text: &str) -> Vec<Part<'_>> {
    text.split('.').map(part).collect()
}

fn part(text: &str) -> Part<'_> {
    if text.is_empty() || text.bytes().any(|byte| !byte.is_ascii_digit()) {
        return Part::Word(text);
    }
    let digits = text.trim_start_matches('0');
    Part::Number(digits.len(), digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_semantic_versions_are() {
        let rising = [
            "0.9",
            "1",
            "1.0.0-1",
            "1.0.0-2",
            "1.0.0-10",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-rc.1",
            "1.0.0-rc.1.1",
            "1.0.0",
            "1.0.0+1",
            "1.0.0+build-2",
            "1.0.1",
            "1.9.0",
            "1.10.0",
            "2.0.0-rc.1",
            "2.0.0",
            "18446744073709551616.0.0",
        ];
        for (idx, one) in rising.iter().enumerate() {
            for (other_idx, other) in rising.iter().enumerate() {
                assert_eq!(compare_versions(one, other), idx.cmp(&other_idx), "{one} and {other}");
            }
        }
        assert_ne!(compare_versions("1.0.0", "01.0.0"), Ordering::Equal);
    }
}
