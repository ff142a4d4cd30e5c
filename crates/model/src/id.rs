//! Identifiers: `j-…` for jobs, `a-…` for agents, and the execution a job splits into.
//!
//! The text is a type prefix and 26 characters of lower-case Crockford base32 (128 bits). Made from a UUIDv7 it sorts by time.
//! Parsing accepts only the canonical form, so an identifier is always safe in a subject, a key, a path and a terminal.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const TEXT_LEN: usize = 26;
/// What each byte stands for; [`NO_DIGIT`] for those outside the alphabet. A controller that starts reads millions of identifiers.
const VALUES: [u8; 256] = values();
const NO_DIGIT: u8 = u8::MAX;

/// Bytes of every identifier's text.
pub const ID_TEXT_LEN: usize = 2 + TEXT_LEN;

/// The text was not an identifier of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not {article} id: expected `{prefix}` and 26 characters of 0-9 a-z without i, l, o, u")]
pub struct ParseIdError {
    article: &'static str,
    prefix: &'static str,
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $article:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// What every text form begins with.
            pub const PREFIX: &'static str = $prefix;

            /// Wraps 128 bits, a UUIDv7's if the identifiers shall sort by time.
            #[must_use]
            pub const fn from_bits(bits: u128) -> Self {
                Self(bits)
            }

            /// The 128 bits.
            #[must_use]
            pub const fn bits(self) -> u128 {
                self.0
            }

            /// The text form, without an allocation: it is written into `buffer`.
            pub fn encode(self, buffer: &mut [u8; ID_TEXT_LEN]) -> &str {
                encode(*$prefix.as_bytes().first_chunk().expect("a prefix has two bytes"), self.0, buffer)
            }

            /// The last six characters with the prefix: what tables show.
            #[must_use]
            pub fn short(self) -> String {
                let text = self.to_string();
                format!("{}{}", $prefix, &text[ID_TEXT_LEN - 6..])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.encode(&mut [0; ID_TEXT_LEN]))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                text.strip_prefix($prefix)
                    .and_then(decode)
                    .map(Self)
                    .ok_or(ParseIdError { article: $article, prefix: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.encode(&mut [0; ID_TEXT_LEN]))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text(std::marker::PhantomData))
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseIdError;

            fn try_from(text: String) -> Result<Self, ParseIdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

identifier! {
    /// One submitted job.
    JobId, "j-", "a job"
}

identifier! {
    /// One agent's lasting identity: survives restarts and renames of its host.
    AgentId, "a-", "an agent"
}

/// One agent's share of a job. A job for `_any` has the single execution `any`; addressed jobs have one per agent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExecutionId {
    /// Whichever agent claims it.
    Any,
    /// This agent and no other.
    Agent(AgentId),
}

impl ExecutionId {
    /// The agent that it is addressed to.
    #[must_use]
    pub fn agent(self) -> Option<AgentId> {
        match self {
            Self::Any => None,
            Self::Agent(agent) => Some(agent),
        }
    }
}

impl fmt::Display for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Agent(agent) => agent.fmt(f),
        }
    }
}

impl fmt::Debug for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ExecutionId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        match text {
            "any" => Ok(Self::Any),
            agent => agent.parse().map(Self::Agent),
        }
    }
}

impl Serialize for ExecutionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Any => serializer.serialize_str("any"),
            Self::Agent(agent) => agent.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ExecutionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text(std::marker::PhantomData))
    }
}

impl TryFrom<String> for ExecutionId {
    type Error = ParseIdError;

    fn try_from(text: String) -> Result<Self, ParseIdError> {
        text.parse()
    }
}

impl From<ExecutionId> for String {
    fn from(id: ExecutionId) -> Self {
        id.to_string()
    }
}

/// The execution is already known to be an agent's; the caller holds the agent id.
impl From<AgentId> for ExecutionId {
    fn from(agent: AgentId) -> Self {
        Self::Agent(agent)
    }
}

/// Reads an identifier from its text where it stands.
struct Text<T>(std::marker::PhantomData<T>);

impl<T: FromStr<Err = ParseIdError>> de::Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

fn encode(prefix: [u8; 2], bits: u128, buffer: &mut [u8; ID_TEXT_LEN]) -> &str {
    let (head, digits) = buffer.split_at_mut(prefix.len());
    head.copy_from_slice(&prefix);
    for (place, digit) in digits.iter_mut().rev().enumerate() {
        *digit = ALPHABET[(bits >> (place * 5)) as usize & 31];
    }
    std::str::from_utf8(buffer).expect("prefix and alphabet are ASCII")
}

const fn values() -> [u8; 256] {
    let mut values = [NO_DIGIT; 256];
    let mut value = 0;
    while value < ALPHABET.len() {
        values[ALPHABET[value] as usize] = value as u8;
        value += 1;
    }
    values
}

fn decode(text: &str) -> Option<u128> {
    let digits: &[u8; TEXT_LEN] = text.as_bytes().try_into().ok()?;
    let mut bits: u128 = 0;
    for digit in digits {
        let value = VALUES[usize::from(*digit)];
        if value == NO_DIGIT {
            return None;
        }
        bits = bits << 5 | u128::from(value);
    }
    // 26 x 5 = 130 bits: the first character carries only three.
    (VALUES[usize::from(digits[0])] <= 7).then_some(bits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn identifiers_survive_their_text_and_sort_like_it(a: u128, b: u128) {
            let (a, b) = (JobId::from_bits(a), JobId::from_bits(b));
            prop_assert_eq!(a.to_string().parse::<JobId>(), Ok(a));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn any_text_is_refused_or_canonical(text in ".{0,40}") {
            if let Ok(id) = text.parse::<JobId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn hostile_identifiers_are_refused() {
        let good = JobId::from_bits(7).to_string();
        for text in [
            "",
            "j-",
            "../x",
            "..",
            ".",
            "a/b",
            "j-*",
            "j->",
            "j-\0",
            "-",
            "any",
            &good.to_uppercase(),
            &format!("{good} "),
            &good.replacen("j-", "a-", 1),
            "j-80000000000000000000000000",
        ] {
            assert!(text.parse::<JobId>().is_err(), "{text:?}");
        }
    }
}
