//! How an attempt ended.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Failure, Outcome};
use longshore_model::wire::result::ArchiveInfo;
use rustix::io::Errno;

use crate::carrier::Directory;

const MESSAGE_BYTES_MAX: usize = 4096;

/// How an attempt ended. Every fault is one of these.
#[derive(Debug)]
pub struct Finished {
    /// In one word.
    pub outcome: Outcome,
    /// Whether it changed the host, where the operation can tell.
    pub changed: Option<bool>,
    /// What the operation gave; also beside a failure, where there is something to give. Fits an answer.
    pub result: Option<serde_json::Value>,
    /// What went wrong.
    pub failure: Option<Failure>,
    /// A fault of the host, not of the job: another attempt, or another host, may succeed.
    pub transient: bool,
    /// For a cancelled attempt: whether every process is known to be gone.
    pub cancel_verified: Option<bool>,
    /// What a workspace job brought back.
    pub archive: Option<Archive>,
    /// How long it took.
    pub duration: Duration,
}

/// A temporary file with a workspace job's artifacts: a tar, packed with zstd. Removed when dropped.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    info: ArchiveInfo,
    /// What goes with it: the directory of the job, which an agent that is killed before now would find again.
    home: Option<Arc<Directory>>,
}

impl Archive {
    pub(crate) fn new(path: PathBuf, info: ArchiveInfo) -> Self {
        Self { path, info, home: None }
    }

    /// The same in a directory that is removed with it.
    pub(crate) fn within(mut self, home: Arc<Directory>) -> Self {
        self.home = Some(home);
        self
    }

    pub(crate) fn with_info(mut self, info: ArchiveInfo) -> Self {
        self.info = info;
        self
    }

    /// Where it is; it is not removed any more.
    pub(crate) fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.path)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size, digest and number of entries.
    #[must_use]
    pub fn info(&self) -> &ArchiveInfo {
        &self.info
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        let removed = match &self.home {
            Some(home) => home.remove(),
            // It was kept.
            None if self.path.as_os_str().is_empty() => return,
            None => std::fs::remove_file(&self.path),
        };
        if let Err(error) = removed {
            // The next start sweeps it away.
            tracing::warn!(%error, "an archive could not be removed");
        }
    }
}

impl Finished {
    pub(crate) fn completed(changed: Option<bool>, result: serde_json::Value) -> Self {
        Self { outcome: Outcome::Completed, changed, result: Some(result), failure: None, ..Self::failed(ErrorCode::Internal, "") }
    }

    pub(crate) fn failed(code: ErrorCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        // It may quote a name of any length, and has to fit an answer.
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        Self {
            outcome: Outcome::Failed,
            changed: None,
            result: None,
            failure: Some(Failure { code, message }),
            transient: false,
            cancel_verified: None,
            archive: None,
            duration: Duration::ZERO,
        }
    }

    /// A fault of the host.
    pub(crate) fn host_fault(message: impl Into<String>) -> Self {
        Self { transient: true, ..Self::failed(ErrorCode::HostFault, message) }
    }

    /// What the operation works with does not exist on this platform; `missing` says what.
    pub(crate) fn skipped(missing: impl Into<String>) -> Self {
        Self { outcome: Outcome::Skipped, changed: Some(false), ..Self::failed(ErrorCode::Unsupported, missing) }
    }

    /// A fault of the system that `doing` met: what is not allowed, what is the host's fault, and the rest are told apart.
    pub(crate) fn system_fault(doing: impl fmt::Display, error: &io::Error) -> Self {
        let message = format!("could not {doing}: {error}");
        if error.kind() == io::ErrorKind::PermissionDenied {
            return Self::failed(ErrorCode::NotPermitted, format!("{message}; the agent does not run with the rights for it"));
        }
        Self { transient: is_host_fault(error), ..Self::host_fault(message) }
    }

    pub(crate) fn cancelled(verified: bool) -> Self {
        let message = if verified { "cancelled" } else { "cancelled, but not every process is known to be gone" };
        Self { outcome: Outcome::Cancelled, cancel_verified: Some(verified), ..Self::failed(ErrorCode::Cancelled, message) }
    }
}

/// Whether the host is at fault, and not what it was asked to do.
pub(crate) fn is_host_fault(error: &io::Error) -> bool {
    let faults = [Errno::NOSPC, Errno::DQUOT, Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN, Errno::IO, Errno::ROFS, Errno::STALE];
    error.raw_os_error().is_some_and(|errno| faults.iter().any(|fault| fault.raw_os_error() == errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_the_hosts_fault_and_a_missing_file_is_not() {
        assert!(is_host_fault(&Errno::NOSPC.into()));
        assert!(!is_host_fault(&Errno::NOENT.into()));
        assert!(!is_host_fault(&io::ErrorKind::UnexpectedEof.into()));
    }

    #[test]
    fn messages_fit_an_answer() {
        let failure = Finished::failed(ErrorCode::Staging, "ü".repeat(MESSAGE_BYTES_MAX)).failure.unwrap();
        assert_eq!(failure.message.len(), MESSAGE_BYTES_MAX);
    }
}
