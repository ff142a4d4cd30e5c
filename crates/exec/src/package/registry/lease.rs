//! Who uses a package: a lock on its directory that the kernel takes back however its holder ends.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, fstat};
use rustix::io::Errno;

use crate::files::open_dir;

/// A package that is in use; it stays as long as this lives. Holders do not keep each other out.
#[derive(Debug)]
pub struct Lease {
    _directory: OwnedFd,
}

/// Why a package cannot be held.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// It is not there any more.
    #[error("use the package in {path:?}: it was removed")]
    Gone {
        /// Where it was.
        path: PathBuf,
    },
    /// Somebody else has it in a way that keeps us out: a remover its users, and its users a remover.
    #[error("use the package in {path:?}: it is being removed, or it is in use and cannot be")]
    Leaving {
        /// Where it is.
        path: PathBuf,
    },
    /// Its directory cannot be opened.
    #[error("use the package in {path:?}")]
    Unreadable {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Lease {
    pub(super) fn shared(directory: &Path) -> Result<Self, HoldError> {
        Self::take(directory, FlockOperation::NonBlockingLockShared)
    }

    /// For whoever removes it: nobody else has it then, and nobody gets it.
    pub(crate) fn exclusive(directory: &Path) -> Result<Self, HoldError> {
        Self::take(directory, FlockOperation::NonBlockingLockExclusive)
    }

    fn take(directory: &Path, operation: FlockOperation) -> Result<Self, HoldError> {
        let path = || directory.to_owned();
        let opened = open_dir(directory).map_err(|source| {
            let gone = source.kind() == io::ErrorKind::NotFound;
            if gone { HoldError::Gone { path: path() } } else { HoldError::Unreadable { path: path(), source } }
        })?;
        match rustix::fs::flock(&opened, operation) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(HoldError::Leaving { path: path() }),
            Err(errno) => return Err(HoldError::Unreadable { path: path(), source: errno.into() }),
        }
        // Between opening and locking, its remover may have come and gone.
        match fstat(&opened) {
            Ok(stat) if stat.st_nlink > 0 => Ok(Self { _directory: opened }),
            Ok(_) => Err(HoldError::Gone { path: path() }),
            Err(errno) => Err(HoldError::Unreadable { path: path(), source: errno.into() }),
        }
    }
}
