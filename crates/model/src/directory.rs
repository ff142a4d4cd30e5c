//! Names that a directory can have: how the jobs on a shared drive are called.
//!
//! Whoever submits such a job chooses its name, and the name becomes a part of paths. So it is parsed once, here: past this type
//! no name reaches out of the directory that it is looked up in, and none does odd things to a terminal.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::limits::DIRECTORY_NAME_BYTES_MAX;

/// One plain name of a directory. Dots, spaces, leading hyphens and Unicode are fine, and nothing is normalised: two names are one
/// if their bytes are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DirectoryName(String);

/// Why a text is not a plain name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseDirectoryNameError {
    /// Nothing in it.
    #[error("a directory's name is not empty")]
    Empty,
    /// `.` or `..`.
    #[error("`.` and `..` name no directory of their own")]
    Dots,
    /// A slash, or the separator of other systems.
    #[error("a directory's name is one name, without `/` and `\\`")]
    Separator,
    /// NUL, a line break, an escape.
    #[error("a directory's name has no control characters")]
    Control,
    /// More than [`DIRECTORY_NAME_BYTES_MAX`] bytes.
    #[error("a directory's name has at most {DIRECTORY_NAME_BYTES_MAX} bytes")]
    TooLong,
}

impl DirectoryName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DirectoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DirectoryName {
    type Err = ParseDirectoryNameError;

    fn from_str(text: &str) -> Result<Self, ParseDirectoryNameError> {
        match text {
            "" => Err(ParseDirectoryNameError::Empty),
            "." | ".." => Err(ParseDirectoryNameError::Dots),
            _ if text.contains(['/', '\\']) => Err(ParseDirectoryNameError::Separator),
            _ if text.contains(char::is_control) => Err(ParseDirectoryNameError::Control),
            _ if text.len() > DIRECTORY_NAME_BYTES_MAX => Err(ParseDirectoryNameError::TooLong),
            plain => Ok(Self(plain.to_owned())),
        }
    }
}

impl TryFrom<String> for DirectoryName {
    type Error = ParseDirectoryNameError;

    fn try_from(text: String) -> Result<Self, ParseDirectoryNameError> {
        text.parse()
    }
}

impl From<DirectoryName> for String {
    fn from(name: DirectoryName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_are_taken_as_they_are() {
        let long = "x".repeat(DIRECTORY_NAME_BYTES_MAX);
        for name in ["build-1", "a b", " a ", "...", ".hidden", "..a", "v1.2.3", "-rf", "größe", "作业", "e\u{301}", "a:b", "*", &long]
        {
            assert_eq!(name.parse::<DirectoryName>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn what_is_no_plain_name_is_refused_with_the_reason() {
        let check = |text: &str, reason| assert_eq!(text.parse::<DirectoryName>(), Err(reason), "{text:?}");
        check("", ParseDirectoryNameError::Empty);
        check(".", ParseDirectoryNameError::Dots);
        check("..", ParseDirectoryNameError::Dots);
        for separated in ["/", "a/b", "../x", "/etc", "a/", "a\\b", "..\\x", "./a"] {
            check(separated, ParseDirectoryNameError::Separator);
        }
        for control in ["a\0", "\0", "a\nb", "\u{1b}[2J", "\u{7f}", "\u{85}", "\t"] {
            check(control, ParseDirectoryNameError::Control);
        }
        check(&"x".repeat(DIRECTORY_NAME_BYTES_MAX + 1), ParseDirectoryNameError::TooLong);
        check(&"ü".repeat(DIRECTORY_NAME_BYTES_MAX / 2 + 1), ParseDirectoryNameError::TooLong);
    }

    #[test]
    fn a_payload_with_a_bad_name_is_no_payload() {
        assert!(serde_json::from_str::<DirectoryName>(r#""../x""#).is_err());
        assert!(serde_json::from_str::<DirectoryName>("7").is_err());
        assert_eq!(serde_json::from_str::<DirectoryName>(r#""x y""#).unwrap().to_string(), "x y");
    }
}
