//! Who should do a job.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::limits::HOST_NAME_BYTES_MAX;

/// Who should do a job, as the submitter said it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Target {
    /// Exactly one available agent.
    #[default]
    Any,
    /// The agent with this host name or agent id.
    Host(HostName),
}

/// A host's name as people know it: dots, capitals and other letters are welcome. It never becomes part of a subject;
/// there the agent's id stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

/// The text was not a target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseTargetError {
    /// Nothing was given.
    #[error("a target cannot be empty: use `_any`, a host name or an agent id")]
    Empty,
    /// Names that begin with an underscore are reserved.
    #[error("`{0}` is not a target: names that begin with `_` are reserved, and of those only `_any` exists")]
    Reserved(String),
    /// A name no host can have.
    #[error("{0:?} is not a host name: at most 253 bytes, without white space, control characters or any of `* > / \\ : @ $`")]
    NotAHost(String),
}

impl HostName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostName {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, ParseTargetError> {
        let forbidden = |c: char| c.is_whitespace() || c.is_control() || "*>/\\:@$".contains(c) || ('\u{202a}'..='\u{202e}').contains(&c);
        match text {
            "" => Err(ParseTargetError::Empty),
            "." | ".." => Err(ParseTargetError::NotAHost(text.to_owned())),
            _ if text.starts_with('_') => Err(ParseTargetError::Reserved(text.chars().take(64).collect())),
            _ if text.starts_with('-') || text.len() > HOST_NAME_BYTES_MAX || text.contains(forbidden) => {
                Err(ParseTargetError::NotAHost(text.chars().take(64).collect()))
            }
            _ => Ok(Self(text.to_owned())),
        }
    }
}

impl TryFrom<String> for HostName {
    type Error = ParseTargetError;

    fn try_from(text: String) -> Result<Self, ParseTargetError> {
        text.parse()
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> Self {
        name.0
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("_any"),
            Self::Host(name) => name.fmt(f),
        }
    }
}

impl FromStr for Target {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, ParseTargetError> {
        match text {
            "_any" => Ok(Self::Any),
            name => name.parse().map(Self::Host),
        }
    }
}

impl TryFrom<String> for Target {
    type Error = ParseTargetError;

    fn try_from(text: String) -> Result<Self, ParseTargetError> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_parse() {
        for (text, expected) in [("_any", Some(true)), ("web-01", Some(false)), ("Web.01.Example", Some(false)), ("größe", Some(false))] {
            assert_eq!(text.parse::<Target>().ok().map(|t| t == Target::Any), expected, "{text}");
        }
    }

    #[test]
    fn hostile_targets_are_refused() {
        for text in [
            "",
            "_all!",
            "$JS",
            "_INBOX",
            "web.*",
            ">",
            "a b",
            " a",
            "a\tb",
            "a\0b",
            "a\r\nb",
            "../x",
            "-x",
            "..",
            "label:x.>",
            &"x".repeat(254),
        ] {
            assert!(text.parse::<Target>().is_err(), "{text:?}");
        }
    }
}
