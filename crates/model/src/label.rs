//! Labels: what groups of agents are told by.
//!
//! A label is `KEY:VALUE`. A value has segments between dots, from the general to the particular: `group:web.dev` stands for every agent
//! whose label says `web.dev`, or extends it by more segments.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::limits::{LABEL_SEGMENT_BYTES_MAX, LABEL_SEGMENTS_MAX};

/// A key and a value; every segment is a token that is safe in a subject.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label {
    key: String,
    value: String,
}

/// The text was not a label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a label: it is `KEY:VALUE`, the value has 1 to {LABEL_SEGMENTS_MAX} segments between dots, and the key and each segment 1 to {LABEL_SEGMENT_BYTES_MAX} of `A-Z a-z 0-9 _ -`"
)]
pub struct ParseLabelError(String);

impl Label {
    /// What kind of label it is.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Its segments, from the general to the particular.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.value.split('.')
    }

    /// Whether an agent with the label `of` belongs to the group that this one stands for.
    #[must_use]
    pub fn covers(&self, of: &Self) -> bool {
        self.key == of.key && of.value.strip_prefix(self.value.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// Every group that an agent with this label belongs to, the widest first and this one last.
    pub fn groups(&self) -> impl Iterator<Item = Self> {
        let ends = self.value.match_indices('.').map(|(at, _)| at).chain([self.value.len()]);
        ends.map(|end| Self { key: self.key.clone(), value: self.value[..end].to_owned() })
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.key, self.value)
    }
}

impl FromStr for Label {
    type Err = ParseLabelError;

    fn from_str(text: &str) -> Result<Self, ParseLabelError> {
        let is_token = |token: &str| {
            (1..=LABEL_SEGMENT_BYTES_MAX).contains(&token.len())
                && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        };
        let refused = || ParseLabelError(text.chars().take(64).collect());
        let (key, value) = text.split_once(':').ok_or_else(refused)?;
        let is_sound = is_token(key) && value.split('.').all(is_token) && value.split('.').count() <= LABEL_SEGMENTS_MAX;
        if is_sound { Ok(Self { key: key.to_owned(), value: value.to_owned() }) } else { Err(refused()) }
    }
}

impl TryFrom<String> for Label {
    type Error = ParseLabelError;

    fn try_from(text: String) -> Result<Self, ParseLabelError> {
        text.parse()
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(text: &str) -> Label {
        text.parse().unwrap()
    }

    #[test]
    fn a_group_covers_itself_and_what_extends_it_by_whole_segments() {
        let rows = [
            ("group:web", "group:web", true),
            ("group:web.dev", "group:web.dev.us-east", true),
            ("group:web.dev", "group:web.development", false),
            ("group:web.dev", "group:web", false),
            ("group:web", "tier:web", false),
        ];
        for (group, of, expected) in rows {
            assert_eq!(label(group).covers(&label(of)), expected, "{group} {of}");
            assert_eq!(label(of).groups().any(|one| one == label(group)), expected, "{group} {of}");
        }
    }

    #[test]
    fn hostile_labels_are_refused() {
        let long = format!("k:{}", "x".repeat(64));
        let deep = format!("k:{}", ["x"; 9].join("."));
        for text in [
            "", ":", "k:", ":v", "k", "k:a..b", "k:.a", "k:a.", "k:*", "k:>", "k:a.>", "k:$a", "k:a/b", "k k:v", "k:v v", "k:v:w", "k.l:v",
            "k:а", &long, &deep,
        ] {
            assert!(text.parse::<Label>().is_err(), "{text:?}");
        }
        assert_eq!(label("group:web.dev").to_string(), "group:web.dev");
    }
}
