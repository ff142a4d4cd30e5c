//! Names and versions of packages. Each is a single, harmless component of a path, so nothing made of them leaves its directory.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use longshore_model::package::compare_versions;
use serde::{Deserialize, Serialize};

const BYTES_MAX: usize = 128;

/// The name of a package: words of lower-case letters and digits, joined by `.`, `_` or `-`; at most 128 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PackageName(String);

/// The version of a package: `N.N.N`, with an optional `-` or `+` suffix of letters, digits, `.`, `+` and `-`; at most 128 bytes.
///
/// Ordered as semantic versions are ([`compare_versions`]): a pre-release comes before its release.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PackageVersion(String);

impl Ord for PackageVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_versions(&self.0, &other.0)
    }
}

impl PartialOrd for PackageVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A text that is no name, or no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// No name.
    #[error("{0:?} is no package name: it takes lower-case letters and digits, joined by single `.`, `_` or `-`, and 128 bytes at most")]
    Name(String),
    /// No version.
    #[error("{0:?} is no package version: it takes N.N.N, perhaps with a `-` or `+` suffix, and 128 bytes at most")]
    Version(String),
}

impl PackageName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PackageVersion {
    /// The version as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PackageName {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if text.len() <= BYTES_MAX && text.split(['.', '_', '-']).all(word) {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdentityError::Name(shown(text)))
        }
    }
}

impl FromStr for PackageVersion {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || IdentityError::Version(shown(text));
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'-');
        let core_end = text.find(['-', '+']).unwrap_or(text.len());
        let (core, suffix) = text.split_at(core_end);
        if text.len() > BYTES_MAX || suffix.len() == 1 || !suffix.bytes().all(allowed) {
            return Err(refused());
        }
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if core.split('.').count() != 3 || !core.split('.').all(is_number) {
            return Err(refused());
        }
        Ok(Self(text.to_owned()))
    }
}

/// As much of a text as an error shows.
fn shown(text: &str) -> String {
    text.chars().take(BYTES_MAX).collect()
}

impl TryFrom<String> for PackageName {
    type Error = IdentityError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TryFrom<String> for PackageVersion {
    type Error = IdentityError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PackageName> for String {
    fn from(name: PackageName) -> Self {
        name.0
    }
}

impl From<PackageVersion> for String {
    fn from(version: PackageVersion) -> Self {
        version.0
    }
}

impl fmt::Display for PackageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for PackageVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_versions_are_single_harmless_parts_of_a_path() {
        for good in ["a", "example.pkg", "x_1-y.2", "0"] {
            assert_eq!(good.parse::<PackageName>().unwrap().as_str(), good);
        }
        let long = "a".repeat(1000);
        let bad = ["", ".", "..", "../../bin", "/etc", "-rf", "a..b", "a.", "A", "ä", "a/b", "a\0", "a b", "a\n", "раypal", &long];
        for bad in bad {
            assert!(bad.parse::<PackageName>().is_err(), "{bad:?}");
        }
        for good in ["1.0.0", "0.0.0-rc.1", "10.20.30+build.5-x", "1.2.3-4.5"] {
            assert_eq!(good.parse::<PackageVersion>().unwrap().as_str(), good);
        }
        let bad =
            ["", "1", "1.2", "1.2.3.4", "1.2.x", "1.0.0/..", "1.0.0-", "1.0.0-a/b", "v1.0.0", "1.0.0 ", "+1.0.0", "1.+2.0", "1.-2.0", ".."];
        for bad in bad {
            assert!(bad.parse::<PackageVersion>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn versions_are_ordered_by_their_numbers_and_a_pre_release_before_its_release() {
        let version = |text: &str| text.parse::<PackageVersion>().unwrap();
        assert!(version("1.9.0") < version("1.10.0"));
        assert!(version("1.0.0-rc.1") < version("1.0.0"));
        assert!(version("2.0.0") > version("1.99.99"));
    }
}
