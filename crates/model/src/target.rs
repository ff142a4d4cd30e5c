//! Who should do a job.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::id::AgentId;
use crate::label::{Label, ParseLabelError};
use crate::limits::HOST_NAME_BYTES_MAX;

/// Who should do a job, as the submitter said it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Target {
    /// Exactly one available agent.
    #[default]
    Any,
    /// Every agent that is registered and not drained when the job is submitted.
    All,
    /// The agent with this host name or agent id.
    Host(HostName),
    /// Every such agent of a group.
    Group(Label),
    /// Exactly one available agent of a group.
    AnyOf(Label),
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
    #[error("a target cannot be empty: use `_any`, `_all`, a host name, an agent id, `KEY:VALUE` or `_any@KEY:VALUE`")]
    Empty,
    /// Names that begin with an underscore are reserved.
    #[error("`{0}` is not a target: names that begin with `_` are reserved, and of those only `_any`, `_all` and `_any@KEY:VALUE` exist")]
    Reserved(String),
    /// Neither a host nor a label.
    #[error(transparent)]
    Label(#[from] ParseLabelError),
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

/// An agent is found by its id, too.
impl From<AgentId> for HostName {
    fn from(agent: AgentId) -> Self {
        Self(agent.to_string())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("_any"),
            Self::All => f.write_str("_all"),
            Self::Host(name) => name.fmt(f),
            Self::Group(label) => label.fmt(f),
            Self::AnyOf(label) => write!(f, "_any@{label}"),
        }
    }
}

impl FromStr for Target {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, ParseTargetError> {
        match text {
            "_any" => Ok(Self::Any),
            "_all" => Ok(Self::All),
            _ if let Some(label) = text.strip_prefix("_any@") => Ok(Self::AnyOf(label.parse()?)),
            _ if text.contains(':') => Ok(Self::Group(text.parse()?)),
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
    fn targets_parse_and_survive_their_text() {
        let kind = |target: &Target| match target {
            Target::Any => "any",
            Target::All => "all",
            Target::Host(_) => "host",
            Target::Group(_) => "group",
            Target::AnyOf(_) => "any of",
        };
        let rows = [
            ("_any", "any"),
            ("_all", "all"),
            ("web-01", "host"),
            ("Web.01.Example", "host"),
            ("größe", "host"),
            ("group:web.dev", "group"),
            ("_any@group:web", "any of"),
        ];
        for (text, expected) in rows {
            let target: Target = text.parse().unwrap();
            assert_eq!((kind(&target), target.to_string().as_str()), (expected, text));
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
            "_any@",
            "_any@web",
            "_any@group:web.*",
            "_all@group:web",
            "group:",
            &"x".repeat(254),
        ] {
            assert!(text.parse::<Target>().is_err(), "{text:?}");
        }
    }
}
