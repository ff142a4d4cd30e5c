//! What can be wrong with a configuration.

use std::path::PathBuf;

use super::layer::Origin;

/// Why the settings could not be read. Each names the place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file that was asked for is not there, or not readable.
    #[error("{} cannot be read", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// A file that is not what it should be.
    #[error("{} is not valid: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
    /// A key that nobody reads.
    #[error("unknown key `{key}` ({origin})")]
    UnknownKey { key: String, origin: Origin, nearest: Option<String> },
    /// A value where a mapping should be.
    #[error("`{key}` takes settings below it, not a value ({origin})")]
    NotAMapping { key: String, origin: Origin },
    /// A value that the key does not take.
    #[error("`{key}` has a value it does not take ({origin}): {message}")]
    Value { key: String, origin: Origin, message: String },
    /// The same setting under its newer and its older name.
    #[error("`{newer}` ({newer_origin}) and its older spelling `{older}` ({older_origin}) are both given")]
    TwoSpellings { newer: String, newer_origin: Origin, older: String, older_origin: Origin },
}

impl Error {
    /// What to do about it, where that is known.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownKey { nearest: Some(nearest), .. } => {
                Some(format!("did you mean `{nearest}`?     longshore config explain {nearest}"))
            }
            Self::UnknownKey { nearest: None, .. } => Some("longshore config show lists every key".to_owned()),
            Self::Value { key, .. } | Self::NotAMapping { key, .. } => Some(format!("longshore config explain {key}")),
            Self::TwoSpellings { newer, .. } => Some(format!("keep `{newer}`")),
            Self::Read { .. } | Self::Syntax { .. } => None,
        }
    }
}
