//! Directory descriptors: every walk below a workspace goes from one to the next and never through a symbolic link, so what a job
//! renames or replaces meanwhile cannot lead it outside.

use std::ffi::CString;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Levels a removal descends before it moves what is below to the top; bounds the descriptors it holds.
const REMOVE_DEPTH_MAX: usize = 64;

/// Makes a directory and its parents; it is the owner's alone, also when it was there before.
pub(crate) fn make_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// Opens a directory by its path, which must not end in a symbolic link.
pub(crate) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens the directory `name` in `dir`; never follows a link.
pub(crate) fn open_dir_at<P: rustix::path::Arg>(dir: impl AsFd, name: P) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(dir, name, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// The names in a directory, sorted by their bytes.
pub(crate) fn names(dir: impl AsFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Removes everything in a directory. What cannot be removed stays, and is the error.
pub(crate) fn empty_dir(path: &Path) -> io::Result<()> {
    let dir = open_dir(path)?;
    names(&dir)?.iter().map(|name| remove(dir.as_fd(), name)).fold(Ok(()), Result::and)
}

/// Removes `name` from `dir` with all that is in it, whatever its modes and depth. Never follows a link, never leaves the file
/// system. What is gone already is fine.
pub(crate) fn remove(dir: BorrowedFd<'_>, name: &CString) -> io::Result<()> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => return unlink(dir, name, AtFlags::empty()),
        Ok(_) => {}
    }
    let top = open_writable(dir, name)?;
    let device = rustix::fs::fstat(&top)?.st_dev;
    let mut moved = 0;
    // A job that still ran could fill directories as fast as they are emptied; a few rounds are for one that is just ending.
    for round in 0.. {
        let emptied = empty(top.as_fd(), top.as_fd(), device, 0, &mut moved).and_then(|()| unlink(dir, name, AtFlags::REMOVEDIR));
        match emptied {
            Err(error) if error.raw_os_error() == Some(Errno::NOTEMPTY.raw_os_error()) && round < 100 => {}
            other => return other,
        }
    }
    Ok(())
}

fn empty(dir: BorrowedFd<'_>, top: BorrowedFd<'_>, device: u64, depth: usize, moved: &mut u64) -> io::Result<()> {
    for name in names(dir)? {
        let stat = match rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            unlink(dir, &name, AtFlags::empty())?;
            continue;
        }
        if stat.st_dev != device {
            return Err(io::Error::new(io::ErrorKind::CrossesDevices, "something is mounted in it"));
        }
        if depth >= REMOVE_DEPTH_MAX {
            *moved += 1;
            // Found by the next round.
            rustix::fs::renameat(dir, &name, top, format!(".longshore-deep-{moved}"))?;
            continue;
        }
        let child = open_writable(dir, &name)?;
        empty(child.as_fd(), top, device, depth + 1, moved)?;
        match unlink(dir, &name, AtFlags::REMOVEDIR) {
            Err(error) if error.raw_os_error() == Some(Errno::NOTEMPTY.raw_os_error()) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Opens a directory that is about to be removed, giving its owner the rights to do so.
fn open_writable(dir: BorrowedFd<'_>, name: &CString) -> io::Result<OwnedFd> {
    let opened = match open_dir_at(dir, name) {
        // It was seen to be a directory; should it be a link by now, `chmodat` reaches no further than what the agent owns anyway.
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(dir, name, Mode::RWXU, AtFlags::empty())?;
            open_dir_at(dir, name)?
        }
        other => other?,
    };
    if rustix::fs::fstat(&opened)?.st_mode & 0o700 != 0o700 {
        rustix::fs::fchmod(&opened, Mode::RWXU)?;
    }
    Ok(opened)
}

fn unlink(dir: BorrowedFd<'_>, name: &CString, flags: AtFlags) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
