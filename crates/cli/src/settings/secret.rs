//! Secrets: named in the configuration by where they are, never by what they are.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Where a secret is. Its value is read when it is used and never kept here.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Secret {
    /// In this file; white space at its end is not part of it.
    File(PathBuf),
    /// In this environment variable.
    Env(String),
}

/// A secret that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    #[error("{path} cannot be read")]
    File { path: PathBuf, source: std::io::Error },
    #[error("the environment variable {name} is not set")]
    Env { name: String },
    #[error("{place} is empty")]
    Empty { place: String },
}

impl Secret {
    /// Reads it.
    pub(crate) fn read(&self) -> Result<String, SecretError> {
        let (text, place) = match self {
            Self::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|source| SecretError::File { path: path.clone(), source })?;
                (text, path.display().to_string())
            }
            Self::Env(name) => (std::env::var(name).map_err(|_| SecretError::Env { name: name.clone() })?, name.clone()),
        };
        match text.trim_end() {
            "" => Err(SecretError::Empty { place }),
            secret => Ok(secret.to_owned()),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-secret": true,
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": false,
            "properties": { "file": { "type": "string" }, "env": { "type": "string" } }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_come_from_files_without_the_line_end_and_never_print() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "s3cret\n").unwrap();
        let secret = Secret::File(file.path().to_owned());
        assert_eq!(secret.read().unwrap(), "s3cret");
        assert_eq!(format!("{secret:?}"), "***");
        std::fs::write(file.path(), "\n").unwrap();
        assert!(matches!(secret.read(), Err(SecretError::Empty { .. })));
        assert!(matches!(Secret::Env("LONGSHORE_TEST_NOT_SET".to_owned()).read(), Err(SecretError::Env { .. })));
    }

    #[test]
    fn the_two_forms_parse_and_a_literal_does_not() {
        let parse = serde_json::from_value::<Secret>;
        assert_eq!(parse(serde_json::json!({"file": "/x"})).ok(), Some(Secret::File("/x".into())));
        assert_eq!(parse(serde_json::json!({"env": "X"})).ok(), Some(Secret::Env("X".to_owned())));
        assert!(parse(serde_json::json!("literal")).is_err());
        assert!(parse(serde_json::json!({"file": "/x", "env": "X"})).is_err());
    }
}
