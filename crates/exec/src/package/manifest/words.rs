//! The words of a manifest that have a form of their own.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The version of the manifest's schema: `N.N.N`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SchemaVersion(String);

/// A name in Python: letters, digits and `_`, not beginning with a digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identifier(String);

/// By what a node is dispatched: letters, digits, `_`, `.` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeType(String);

/// Where an adapter's handlers are: `module[.module][:attribute[.attribute]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Entrypoint {
    module: String,
    attribute: Option<String>,
}

/// A SHA-256 digest: 64 hexadecimal digits, kept in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256Hex(String);

impl Entrypoint {
    /// The module, with dots.
    #[must_use]
    pub fn module(&self) -> &str {
        &self.module
    }

    /// What of the module, with dots.
    #[must_use]
    pub fn attribute(&self) -> Option<&str> {
        self.attribute.as_deref()
    }
}

fn is_identifier(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && text.bytes().next().is_some_and(|byte| !byte.is_ascii_digit())
}

fn is_dotted(text: &str) -> bool {
    text.split('.').all(is_identifier)
}

impl TryFrom<String> for SchemaVersion {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let number = |part: &str| !part.is_empty() && part.len() <= 9 && part.bytes().all(|byte| byte.is_ascii_digit());
        if text.split('.').count() == 3 && text.split('.').all(number) {
            Ok(Self(text))
        } else {
            Err(format!("{text:?} is no version of a schema: it takes N.N.N"))
        }
    }
}

impl TryFrom<String> for Identifier {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if is_identifier(&text) { Ok(Self(text)) } else { Err(format!("{text:?} is no identifier: it takes letters, digits and `_`")) }
    }
}

impl TryFrom<String> for NodeType {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        if !text.is_empty() && text.bytes().all(allowed) {
            Ok(Self(text))
        } else {
            Err(format!("{text:?} is no type of a node: it takes letters, digits, `_`, `.` and `-`"))
        }
    }
}

impl TryFrom<String> for Entrypoint {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let (module, attribute) = match text.split_once(':') {
            Some((module, attribute)) => (module, Some(attribute)),
            None => (text.as_str(), None),
        };
        if is_dotted(module) && attribute.is_none_or(is_dotted) {
            Ok(Self { module: module.to_owned(), attribute: attribute.map(str::to_owned) })
        } else {
            Err(format!("{text:?} is no entrypoint: it takes `module.module:attribute.attribute`"))
        }
    }
}

impl TryFrom<String> for Sha256Hex {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits = text.strip_prefix("sha256:").unwrap_or(&text);
        if digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Ok(Self(digits.to_ascii_lowercase()))
        } else {
            Err(format!("{text:?} is no SHA-256 digest: it takes 64 hexadecimal digits"))
        }
    }
}

impl From<Entrypoint> for String {
    fn from(entrypoint: Entrypoint) -> Self {
        entrypoint.to_string()
    }
}

impl fmt::Display for Entrypoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.attribute {
            Some(attribute) => write!(f, "{}:{attribute}", self.module),
            None => f.write_str(&self.module),
        }
    }
}

macro_rules! text {
    ($($name:ident)*) => { $(
        impl $name {
            /// As text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<$name> for String {
            fn from(word: $name) -> Self {
                word.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )* };
}

text!(SchemaVersion Identifier NodeType Sha256Hex);
