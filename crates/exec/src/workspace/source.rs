//! A job's directory on a shared drive: what its workspace is copied from, and where its results go.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use longshore_model::DirectoryName;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::results::Results;
use crate::files;
use crate::finished::is_host_fault;

/// What is called so at the top of a source is no part of it: results are brought there.
pub(super) const RESULTS: &str = "results";

/// The directory `{jobs_dir}/{id}`, open: it stays the one that was found, whatever is done to its name later.
#[derive(Debug)]
pub struct Source {
    pub(super) dir: OwnedFd,
    path: PathBuf,
}

/// Why a job has no source, or no place for its results.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The directory with all jobs could not be opened.
    #[error("open the directory of all jobs, {path:?}")]
    Jobs {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no directory of that name.
    #[error("open the job's directory {path:?}: there is none")]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// Something else has its name: a file, or a symbolic link, which is not followed.
    #[error("open the directory {path:?}: it is a symbolic link, or no directory")]
    NotADirectory {
        /// Where it should be.
        path: PathBuf,
    },
    /// Somebody else works on the same results: the job runs elsewhere.
    #[error("use the directory {path:?}: somebody else is writing there")]
    Busy {
        /// Where it is.
        path: PathBuf,
    },
    /// It is there and could not be opened.
    #[error("open the directory {path:?}")]
    Unreadable {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Source {
    /// Opens the directory of the job `id` in `jobs_dir`. `jobs_dir` itself may be reached through symbolic links, as whoever runs
    /// this has chosen it; the job's directory may not be one. Writes nothing. Blocks.
    ///
    /// # Errors
    /// There is no such directory, or it cannot be opened.
    pub fn resolve(jobs_dir: &Path, id: &DirectoryName) -> Result<Self, ResolveError> {
        let jobs = rustix::fs::open(jobs_dir, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| ResolveError::Jobs { path: jobs_dir.to_owned(), source: errno.into() })?;
        let path = jobs_dir.join(id.as_str());
        let dir = files::open_dir_at(&jobs, id.as_str()).map_err(|errno| not_opened(errno, &path))?;
        Ok(Self { dir, path })
    }

    /// Where it was found.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file with the single name `name` at its top, `job.json` say; nothing if there is none. Never follows a link. Blocks.
    ///
    /// # Errors
    /// It is no regular file, has more than `bytes_max` bytes (`FileTooLarge`), or cannot be read.
    pub fn read(&self, name: &str, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        files::read_beneath(&self.dir, name, bytes_max)
    }

    /// Opens the directory for the results, which is made if it is missing, for as long as what it gives lives: nobody else gets it
    /// meanwhile, unless the drive has no locks. Blocks, for no time.
    ///
    /// Call it before the source is staged: making it changes the source.
    ///
    /// # Errors
    /// It can be neither opened nor made, is a symbolic link, or somebody else has it.
    pub fn results(&self) -> Result<Results, ResolveError> {
        let path = self.path.join(RESULTS);
        match rustix::fs::mkdirat(&self.dir, RESULTS, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(not_opened(errno, &path)),
        }
        let dir = files::open_dir_at(&self.dir, RESULTS).map_err(|errno| not_opened(errno, &path))?;
        Results::lock(dir, path)
    }
}

impl ResolveError {
    /// Whether the host is at fault (a drive that is not there, or full), so that another attempt may succeed.
    #[must_use]
    pub fn is_host_fault(&self) -> bool {
        match self {
            Self::Jobs { .. } | Self::Busy { .. } => true,
            Self::Unreadable { source, .. } => is_host_fault(source),
            Self::Missing { .. } | Self::NotADirectory { .. } => false,
        }
    }
}

fn not_opened(errno: Errno, path: &Path) -> ResolveError {
    let path = path.to_owned();
    match errno {
        Errno::NOENT => ResolveError::Missing { path },
        Errno::LOOP | Errno::NOTDIR => ResolveError::NotADirectory { path },
        other => ResolveError::Unreadable { path, source: other.into() },
    }
}
