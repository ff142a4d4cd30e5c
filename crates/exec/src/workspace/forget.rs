//! Removes from a job's results what an earlier run had brought there, before the next one begins.
//!
//! The list of it is read from the drive, where anybody may have written it. So each name is walked to from one directory to the next
//! without following anything, and nothing goes whose content is not the very one that the list names.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use data_encoding::HEXLOWER;
use longshore_model::wire::result::{FileChanges, FileInfo};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::changes::{digest_unless, kind};
use super::collect::CollectError;
use super::results::Results;
use crate::files;

impl Results {
    /// Removes the files and links that a run had brought here, by its own list, and the directories that are empty without them.
    /// What was changed since stays, as does whatever was not brought by that run. Safe to repeat. Blocks. `is_stopped` is asked for every
    /// file and within large ones.
    ///
    /// # Errors
    /// Something could not be read or removed, or it `is_stopped`; the rest may be gone.
    pub fn forget(&self, brought: &FileChanges, is_stopped: &dyn Fn() -> bool) -> Result<(), CollectError> {
        for file in brought.created.iter().chain(&brought.modified) {
            if is_stopped() {
                return Err(CollectError::Interrupted);
            }
            self.forget_one(file, is_stopped).map_err(|source| CollectError::Bring { path: file.path.clone(), source })?;
        }
        Ok(())
    }

    fn forget_one(&self, file: &FileInfo, is_stopped: &dyn Fn() -> bool) -> io::Result<()> {
        let Ok(segments) = file.path.split('/').map(CString::new).collect::<Result<Vec<_>, _>>() else { return Ok(()) };
        let Some((last, above)) = segments.split_last() else { return Ok(()) };
        let mut dirs: Vec<OwnedFd> = Vec::new();
        for segment in above {
            let at = dirs.last().map_or(self.dir.as_fd(), AsFd::as_fd);
            match files::open_dir_at(at, segment.as_c_str()) {
                Ok(dir) => dirs.push(dir),
                // Not where that run had put it.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::INVAL) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
        let at = dirs.last().map_or(self.dir.as_fd(), AsFd::as_fd);
        if !is_same(at, last, file, is_stopped)? {
            return Ok(());
        }
        rustix::fs::unlinkat(at, last, AtFlags::empty())?;
        for (depth, segment) in above.iter().enumerate().rev() {
            let at = depth.checked_sub(1).map_or(self.dir.as_fd(), |above| dirs[above].as_fd());
            // One with something in it stays.
            if rustix::fs::unlinkat(at, segment, AtFlags::REMOVEDIR).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// Whether what has the name is what was brought.
fn is_same(dir: impl AsFd, name: &CString, file: &FileInfo, is_stopped: &dyn Fn() -> bool) -> io::Result<bool> {
    let stat = match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT | Errno::INVAL) => return Ok(false),
        stat => stat?,
    };
    let digest = match kind(&stat) {
        FileType::RegularFile if u64::try_from(stat.st_size) == Ok(file.size) => {
            let opened = match files::open_beneath(&dir, name.as_c_str(), OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty()) {
                // `.` and `..`, or something else by now.
                Err(Errno::INVAL | Errno::LOOP | Errno::NOENT | Errno::NXIO) => return Ok(false),
                opened => opened?,
            };
            let Some(digest) = digest_unless(&mut File::from(opened), is_stopped)? else { return Ok(false) };
            digest
        }
        FileType::Symlink => Sha256::digest(rustix::fs::readlinkat(&dir, name, Vec::new())?.into_bytes()),
        FileType::RegularFile
        | FileType::Directory
        | FileType::Socket
        | FileType::Fifo
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => return Ok(false),
    };
    Ok(HEXLOWER.encode(&digest) == file.sha256)
}
