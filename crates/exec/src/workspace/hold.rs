//! Holding a job's name in a directory of workspaces: while one process runs a job, nobody else on this host runs one of that name.
//!
//! A hold is a locked file beside the workspaces. The kernel gives the lock back however its process ends, and what such a process
//! left is known by the file: whoever takes the name next, or looks for leftovers at its start, ends the processes and removes the
//! workspace before anything else. A note in the file says what the dead one held, for whoever wants to hand that back.
//!
//! ```text
//!   take ─► the lock ─► sweep ─► the note ─► (workspace) ─► end: the file goes
//!                                                └── killed: file, note and workspace stay ─► leftovers, or the next take
//! ```
//!
//! The files' names hold a `\`, which no job's name has.

use std::ffi::CString;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use longshore_model::DirectoryName;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::files::{self, Lock};
use crate::process::{Marked, end_marked};

/// What the files' names begin with.
const PREFIX: &str = ".longshore\\";
/// What the names of directories for temporary files begin with, which is no job's to use: programs are told them, and many cannot deal with
/// a name that no job may have.
const TEMPORARY: &str = ".longshore-tmp-";
/// Hex digits of the digest of a job's name that its file is called by.
const DIGITS: usize = 32;
/// Bytes of a file that are read; notes are far shorter.
const NOTE_BYTES_MAX: u64 = 64 * 1024;
/// Version of what is in a file.
const SCHEMA: u32 = 1;

/// A job's name, held. Dropping it gives the name back but leaves the note, as a crash would; [`Self::end`] leaves nothing.
#[derive(Debug)]
pub struct Hold {
    /// The directory of all workspaces.
    pub(super) workspaces: OwnedFd,
    /// Its path, without symbolic links, UTF-8.
    pub(super) path: PathBuf,
    pub(super) id: DirectoryName,
    name: CString,
    _lock: File,
}

/// Why a name is not held.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Somebody else holds it.
    #[error("use the workspace of {id:?}: a job of that name runs on this host")]
    Busy {
        /// The name.
        id: String,
    },
    /// The directory of all workspaces cannot be used.
    #[error("use the directory of workspaces {path:?}")]
    Workspaces {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What an earlier job left there could not be removed.
    #[error("remove what an earlier job left in {path:?}")]
    Leftover {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What a process that was killed left: its processes and its workspace are gone by now, its note is here.
#[derive(Debug)]
pub struct Leftover {
    hold: Hold,
    /// What it had noted.
    pub note: String,
}

#[derive(Serialize, Deserialize)]
struct Noted {
    schema: u32,
    id: DirectoryName,
    note: String,
}

impl Hold {
    /// Takes the name `id`, and clears away what a job of that name may have left: its processes and `{workspaces_dir}/{id}`. `note`
    /// is kept until [`Self::end`]. The directory is made if it is missing. Blocks.
    ///
    /// # Errors
    /// Somebody else has it, or the directory cannot be used.
    pub fn take(workspaces_dir: &Path, id: &DirectoryName, note: &str) -> Result<Self, HoldError> {
        let failed = |source| HoldError::Workspaces { path: workspaces_dir.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(workspaces_dir).map_err(failed)?;
        let (workspaces, path) = open(workspaces_dir).map_err(failed)?;
        let name = CString::new(format!("{PREFIX}{}", digits(id.as_str().as_bytes()))).map_err(|error| failed(error.into()))?;
        let mut lock = loop {
            let flags = OFlags::CREATE | OFlags::RDWR;
            let opened = files::open_beneath(&workspaces, &name, flags, Mode::RUSR | Mode::WUSR).map_err(|errno| failed(errno.into()))?;
            if files::lock(&opened).map_err(failed)? == Lock::Theirs {
                return Err(HoldError::Busy { id: id.to_string() });
            }
            if is_still(&workspaces, &name, &opened).map_err(failed)? {
                break File::from(opened);
            }
        };
        let was_killed = lock.metadata().map_err(failed)?.len() > 0;
        sweep(&workspaces, &path, id, was_killed)?;
        let noted = serde_json::to_vec(&Noted { schema: SCHEMA, id: id.clone(), note: note.to_owned() });
        let noted = noted.map_err(|error| failed(error.into()))?;
        let written = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| lock.write_all(&noted));
        let hold = Self { workspaces, path, id: id.clone(), name, _lock: lock };
        match written {
            Ok(()) => Ok(hold),
            Err(error) => {
                hold.end();
                Err(failed(error))
            }
        }
    }

    /// The job's name.
    #[must_use]
    pub fn id(&self) -> &DirectoryName {
        &self.id
    }

    /// Where its workspace is, or will be.
    pub(super) fn workspace(&self) -> PathBuf {
        self.path.join(self.id.as_str())
    }

    /// Gives the name back and leaves nothing. The workspace has to be gone. Blocks.
    pub fn end(self) {
        if let Err(error) = files::remove(self.workspaces.as_fd(), &self.name) {
            tracing::warn!(%error, "the note of a job that has ended could not be removed");
        }
    }
}

impl Leftover {
    /// The job that was killed.
    #[must_use]
    pub fn id(&self) -> &DirectoryName {
        &self.hold.id
    }

    /// Forgets it. Until then a next start finds it again.
    pub fn end(self) {
        self.hold.end();
    }
}

/// Ends the processes and removes the workspaces that killed processes left in `workspaces_dir`, as far as `is_ours` knows their
/// notes. What still runs is not touched. Safe to repeat. Blocks.
///
/// # Errors
/// The directory is there and cannot be read. What cannot be removed is reported in the log, and left.
pub fn leftovers(workspaces_dir: &Path, is_ours: &dyn Fn(&str) -> bool) -> Result<Vec<Leftover>, HoldError> {
    let failed = |source| HoldError::Workspaces { path: workspaces_dir.to_owned(), source };
    let (workspaces, path) = match open(workspaces_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened.map_err(failed)?,
    };
    let mut found = Vec::new();
    for name in files::names(&workspaces).map_err(failed)?.into_iter().filter(|name| name.to_bytes().starts_with(PREFIX.as_bytes())) {
        match leftover(&workspaces, &path, &name, is_ours) {
            Ok(leftover) => found.extend(leftover),
            Err(error) => {
                tracing::warn!(error = %longshore_model::wire::problem::chain(&error), "what a killed job left could not be removed")
            }
        }
    }
    Ok(found)
}

fn leftover(workspaces: &OwnedFd, path: &Path, name: &CString, is_ours: &dyn Fn(&str) -> bool) -> Result<Option<Leftover>, HoldError> {
    let failed = |source| HoldError::Workspaces { path: path.to_owned(), source };
    let opened = match files::open_beneath(workspaces, name, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened.map_err(|errno| failed(errno.into()))?,
    };
    if files::lock(&opened).map_err(failed)? == Lock::Theirs || !is_still(workspaces, name, &opened).map_err(failed)? {
        return Ok(None);
    }
    let file = File::from(opened);
    let mut content = Vec::new();
    (&file).take(NOTE_BYTES_MAX).read_to_end(&mut content).map_err(failed)?;
    let Ok(Noted { schema: _, id, note }) = serde_json::from_slice(&content) else {
        // Killed before it was written, and so before there was a workspace.
        files::remove(workspaces.as_fd(), name).map_err(failed)?;
        return Ok(None);
    };
    if !is_ours(&note) {
        return Ok(None);
    }
    sweep(workspaces, path, &id, true)?;
    let workspaces = rustix::io::fcntl_dupfd_cloexec(workspaces, 0).map_err(|errno| failed(errno.into()))?;
    Ok(Some(Leftover { hold: Hold { workspaces, path: path.to_owned(), id, name: name.clone(), _lock: file }, note }))
}

/// What the file of a job's name is called by.
fn digits(id: &[u8]) -> String {
    let mut digest = HEXLOWER.encode(&Sha256::digest(id));
    digest.truncate(DIGITS);
    digest
}

/// Whether a job may not be called so, as the name is used for something else beside workspaces.
#[must_use]
pub fn is_reserved(id: &DirectoryName) -> bool {
    id.as_str().starts_with(TEMPORARY)
}

/// The name, beside its workspace, of the directory for a job's temporary files.
pub(super) fn temporary_name(id: &[u8]) -> String {
    format!("{TEMPORARY}{}", digits(id))
}

/// Opens the directory, by the path that has no symbolic links: what steps are told, and what they see of it, is then the same.
fn open(workspaces_dir: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let path = workspaces_dir.canonicalize()?;
    if path.to_str().is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "its path is not UTF-8"));
    }
    Ok((files::open_dir(&path)?, path))
}

/// Ends and removes what is left of a job. Nobody else may hold its name. That one `was_killed` is known by its note, also if its steps have
/// moved the workspace away.
fn sweep(workspaces: &OwnedFd, path: &Path, id: &DirectoryName, was_killed: bool) -> Result<(), HoldError> {
    let workspace = path.join(id.as_str());
    let failed = |source| HoldError::Leftover { path: workspace.clone(), source };
    match rustix::fs::statat(workspaces, id.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) if !was_killed => return Ok(()),
        Err(errno) if errno != Errno::NOENT => return Err(failed(errno.into())),
        Ok(_) | Err(_) => tracing::info!(job.id = %id, "removing what a job left that was killed"),
    }
    if !end_marked(Marked::Agent(&workspace.to_string_lossy())) {
        tracing::warn!(job.id = %id, "processes of an earlier job could not be ended");
    }
    for name in [temporary_name(id.as_str().as_bytes()), id.to_string()] {
        let removed = CString::new(name).map_err(io::Error::from).and_then(|name| files::remove(workspaces.as_fd(), &name));
        removed.map_err(failed)?;
    }
    Ok(())
}

/// Whether the file that is open is still the one of that name: whoever ended before us has removed it.
fn is_still(dir: &OwnedFd, name: &CString, file: &OwnedFd) -> io::Result<bool> {
    let ours = rustix::fs::fstat(file)?;
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) => Ok((there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

impl HoldError {
    /// Whether the job runs elsewhere on this host at the moment.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }
}
