//! What became of an install or an uninstall, for people and for a `pkg.event`.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use longshore_model::wire::problem::chain;
use serde::Serialize;
use serde_json::{Value, json};

use crate::package::examine::ExamineError;
use crate::package::fetch::FetchError;
use crate::package::program::ProgramError;
use crate::package::python::PythonError;
use crate::package::{ArchiveError, Format, Installed, PackageName, PackageVersion};

/// What an install changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It was not there before.
    New,
    /// It took the place of another archive of the same name and version.
    Replaced,
    /// It was there, from the same archive.
    Unchanged,
}

/// What became of a package's hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HooksDone {
    /// It has none, or there was nothing to do.
    None,
    /// All of them were run.
    Ran {
        /// How many.
        hooks: usize,
    },
    /// They were not run: the settings do not allow it, or somebody laid the package there by hand and its files go with it.
    Skipped {
        /// How many.
        hooks: usize,
    },
}

/// A package that is installed.
#[derive(Debug, Clone, PartialEq)]
pub struct InstallReport {
    /// What is there now.
    pub installed: Installed,
    /// SHA-256 of its archive, lower-case hex.
    pub sha256: String,
    /// What its archive was packed with.
    pub format: Format,
    /// What that changed.
    pub change: Change,
    /// The key that vouched for it, if one was asked.
    pub signed_by: Option<String>,
    /// What became of its hooks.
    pub hooks: HooksDone,
    /// What of it will not work, with its place in the manifest.
    pub remarks: Vec<String>,
    /// How long that took.
    pub elapsed: Duration,
}

impl InstallReport {
    /// The details of a `pkg.event` with the status `installed`.
    #[must_use]
    pub fn details(&self) -> Value {
        json!({
            "action": "install",
            "change": self.change,
            "sha256": self.sha256,
            "format": self.format,
            "directory": self.installed.directory,
            "environment": self.installed.python,
            "signed_by": self.signed_by,
            "hooks": self.hooks,
            "remarks": self.remarks,
            "elapsed_ms": u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

/// Why a package is not installed. What was there before is there still.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Nobody said where its archive is.
    #[error("install the package: the request names no `url`")]
    NoSource,
    /// Its archive did not come.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Its archive is refused.
    #[error(transparent)]
    Examine(#[from] ExamineError),
    /// Its archive holds another package.
    #[error("install {expected}: the archive holds {found}")]
    Other {
        /// What was asked for.
        expected: String,
        /// What is in it.
        found: String,
    },
    /// It is signed, and older than one that was.
    #[error(
        "believe {name} {version}: {newest} was installed here, and an older signed version may have a hole that is known by now; say that it is wanted"
    )]
    Older {
        /// Which package.
        name: PackageName,
        /// What was to be installed.
        version: PackageVersion,
        /// The newest that was.
        newest: PackageVersion,
    },
    /// Its Python environment could not be made.
    #[error(transparent)]
    Python(#[from] PythonError),
    /// One of its hooks failed.
    #[error("run the package's install hooks")]
    Hook(#[source] ProgramError),
    /// The packages directory could not be changed.
    #[error("change the packages directory")]
    Store(#[source] io::Error),
}

impl InstallError {
    /// The step that failed, for programs.
    #[must_use]
    pub fn step(&self) -> &'static str {
        match self {
            Self::NoSource => "request",
            Self::Fetch(_) => "fetch",
            Self::Examine(ExamineError::Digest { .. } | ExamineError::Trust(_)) | Self::Older { .. } => "verify",
            Self::Examine(ExamineError::Archive(ArchiveError::Read(_) | ArchiveError::Write { .. })) | Self::Store(_) => "store",
            Self::Examine(ExamineError::Archive(_)) => "unpack",
            Self::Examine(ExamineError::NoManifest(_) | ExamineError::Manifest(_) | ExamineError::Resource { .. }) | Self::Other { .. } => {
                "manifest"
            }
            Self::Python(_) => "environment",
            Self::Hook(_) => "hook",
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Fetch(error) => error.is_retryable(),
            Self::Store(_)
            | Self::Examine(ExamineError::Archive(ArchiveError::Read(_) | ArchiveError::Write { .. } | ArchiveError::Stopped)) => true,
            Self::NoSource | Self::Examine(_) | Self::Other { .. } | Self::Older { .. } | Self::Python(_) | Self::Hook(_) => false,
        }
    }

    /// The details of a `pkg.event` with the status `failed`.
    #[must_use]
    pub fn details(&self) -> Value {
        json!({ "action": "install", "error": chain(self), "step": self.step(), "retryable": self.is_retryable() })
    }
}

/// A version that cannot be found any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Which.
    pub version: PackageVersion,
    /// Whether somebody uses it: then its files go afterwards.
    pub in_use: bool,
    /// What became of its hooks.
    pub hooks: HooksDone,
    /// Why a hook failed; the package is gone all the same.
    pub hook_failure: Option<String>,
}

/// A version that could not be removed, and is as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Which.
    pub version: PackageVersion,
    /// Where it is.
    pub directory: PathBuf,
    /// Why.
    pub why: String,
}

/// What became of an uninstall.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UninstallReport {
    /// Of which package.
    pub name: PackageName,
    /// What is gone; at least one.
    pub removed: Vec<Removed>,
    /// What is not.
    pub kept: Vec<Kept>,
}

impl UninstallReport {
    /// The details of a `pkg.event`: the status has no word of its own for it, so the action tells.
    #[must_use]
    pub fn details(&self) -> Value {
        json!({ "action": "uninstall", "removed": self.removed, "kept": self.kept })
    }
}

/// Why nothing was uninstalled.
#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    /// It is not there.
    #[error("uninstall {name}{}: it is not installed", version.as_ref().map(|version| format!(" {version}")).unwrap_or_default())]
    NotInstalled {
        /// Which.
        name: PackageName,
        /// In which version, if one was named.
        version: Option<PackageVersion>,
    },
    /// Nothing of it could be removed.
    #[error("uninstall {name}: {}", kept.iter().map(|kept| format!("{} stays: {}", kept.version, kept.why)).collect::<Vec<_>>().join("; "))]
    Kept {
        /// Which.
        name: PackageName,
        /// Each of its versions, and why.
        kept: Vec<Kept>,
    },
    /// The packages directory could not be read.
    #[error("read the packages directory")]
    Store(#[source] io::Error),
}

impl UninstallError {
    /// The details of a `pkg.event` with the status `failed`.
    #[must_use]
    pub fn details(&self) -> Value {
        let retryable = !matches!(self, Self::NotInstalled { .. });
        json!({ "action": "uninstall", "error": chain(self), "step": "store", "retryable": retryable })
    }
}
