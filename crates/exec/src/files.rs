//! Directory descriptors: every walk below a workspace goes from one to the next and never through a symbolic link, so what a job
//! renames or replaces meanwhile cannot lead it outside.
//!
//! [`open_beneath`] is the one step of such a walk.

use std::ffi::{CStr, CString};
use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, DirEntry, FileType, FlockOperation, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::path::Arg;

use crate::process::pause;

/// How long a lock may outlive whoever held it.
const LOCK_PATIENCE: Duration = Duration::from_millis(200);
const LOCK_PAUSE: Duration = Duration::from_millis(2);
/// Levels a removal descends before it moves what is below to the top; bounds the descriptors it holds.
const REMOVE_DEPTH_MAX: usize = 64;
/// Names of one directory that are in memory when it is emptied.
const REMOVED_MAX: usize = 100_000;

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
pub(crate) fn open_dir_at<P: Arg>(dir: impl AsFd, name: P) -> Result<OwnedFd, Errno> {
    open_beneath(dir, name, OFlags::DIRECTORY, Mode::empty())
}

/// Opens `name` in `dir`: what is there, or with [`OFlags::CREATE`] what comes to be there, and never what a link of that name
/// points to. The name is a single one; a path, `.` and `..` are refused.
///
/// The kernel is told so by `openat2`. Where that is missing (before Linux 5.6) or forbidden (profiles of containers that are
/// older than it), `openat` with `O_NOFOLLOW` opens exactly the same: a single name has nothing on its way that could lead elsewhere.
///
/// # Errors
/// `ELOOP` or `ENOTDIR` for a symbolic link; whatever else opening gives.
pub(crate) fn open_beneath<P: Arg>(dir: impl AsFd, name: P, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    static HAS_OPENAT2: AtomicBool = AtomicBool::new(true);
    let dir = dir.as_fd();
    name.into_with_c_str(|name| open_one(dir, name, flags, mode, &HAS_OPENAT2))
}

fn open_one(dir: BorrowedFd<'_>, name: &CStr, flags: OFlags, mode: Mode, has_openat2: &AtomicBool) -> Result<OwnedFd, Errno> {
    if matches!(name.to_bytes(), b"" | b"." | b"..") || name.to_bytes().contains(&b'/') {
        return Err(Errno::INVAL);
    }
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if has_openat2.load(Ordering::Relaxed) {
        match rustix::fs::openat2(dir, name, flags, mode, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS) {
            Err(Errno::NOSYS) => has_openat2.store(false, Ordering::Relaxed),
            // From a filter, or about this very file: asking the other way tells.
            Err(Errno::PERM) => {}
            opened => return opened,
        }
    }
    rustix::fs::openat(dir, name, flags, mode)
}

/// Opens what has this path below `dir`, one step after the other: what is on its way has to be directories, and nothing is followed.
///
/// # Errors
/// Those of [`open_beneath`], for the first step that has one.
pub(crate) fn open_below(dir: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut at = None;
    let mut segments = path.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let flags = if segments.peek().is_some() { OFlags::DIRECTORY | OFlags::PATH } else { flags };
        let above = at.as_ref().map_or(dir.as_fd(), AsFd::as_fd);
        at = Some(open_beneath(above, segment, flags, Mode::empty())?);
    }
    at.ok_or(Errno::INVAL)
}

/// Reads the regular file `name` in `dir`; nothing if there is none.
///
/// # Errors
/// It is no regular file, a symbolic link, or has more than `bytes_max` bytes.
pub(crate) fn read_beneath(dir: impl AsFd, name: &str, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match open_beneath(dir, name, OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty()) {
        Ok(opened) => File::from(opened),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut content = Vec::new();
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {bytes_max} bytes")));
    }
    Ok(Some(content))
}

/// Gives the owner of an open directory the rights to list, enter and change it, if a job has taken them away.
pub(crate) fn own(dir: BorrowedFd<'_>) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(rustix::fs::fstat(dir)?.st_mode);
    if mode.contains(Mode::RWXU) { Ok(()) } else { rustix::fs::fchmod(dir, mode | Mode::RWXU) }
}

/// What is in a directory, unsorted, each with its type where the file system tells. One with more than `max` entries gives so many and one more.
pub(crate) fn listing_to(dir: impl AsFd, max: usize) -> io::Result<Vec<(CString, FileType)>> {
    let own = |entry: &io::Result<DirEntry>| entry.as_ref().is_ok_and(|entry| matches!(entry.file_name().to_bytes(), b"." | b".."));
    let entries = Dir::read_from(dir)?.map(|entry| entry.map_err(io::Error::from)).filter(|entry| !own(entry));
    entries.take(max.saturating_add(1)).map(|entry| entry.map(|entry| (entry.file_name().to_owned(), entry.file_type()))).collect()
}

/// The same for a directory of ours, which has as many as we have made.
pub(crate) fn listing(dir: impl AsFd) -> io::Result<Vec<(CString, FileType)>> {
    listing_to(dir, usize::MAX)
}

/// The names in a directory that `is_it` picks, unsorted.
pub(crate) fn matching(dir: impl AsFd, is_it: &dyn Fn(&[u8]) -> bool) -> io::Result<Vec<CString>> {
    let names = Dir::read_from(dir)?.map(|entry| Ok(entry?.file_name().to_owned()));
    names.filter(|name| name.as_ref().map_or(true, |name: &CString| is_it(name.to_bytes()))).collect()
}

/// The names in a directory, sorted by their bytes; of one with more than `max` so many and one more, whichever they are.
pub(crate) fn names_to(dir: impl AsFd, max: usize) -> io::Result<Vec<CString>> {
    let mut names: Vec<_> = listing_to(dir, max)?.into_iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    Ok(names)
}

/// The same for a directory of ours, which has as many as we have made.
pub(crate) fn names(dir: impl AsFd) -> io::Result<Vec<CString>> {
    names_to(dir, usize::MAX)
}

/// Whose a lock is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lock {
    Ours,
    Theirs,
    /// The file system has no locks.
    Nobodys,
}

/// Takes the lock that belongs to this opening of a file or directory, until its last descriptor is closed. One whose holder has
/// just let go can be held for a moment more, by a child of it between `fork` and `exec`; so long is waited.
pub(crate) fn lock(fd: &OwnedFd) -> io::Result<Lock> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Lock::Ours),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => pause(&mut [], LOCK_PAUSE),
            Err(Errno::WOULDBLOCK) => return Ok(Lock::Theirs),
            // Network file systems want it open for writing, which no directory can be.
            Err(Errno::NOLCK | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL | Errno::BADF) => return Ok(Lock::Nobodys),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Removes everything in a directory. What cannot be removed stays, and is the error.
pub(crate) fn empty_dir(path: &Path) -> io::Result<()> {
    empty_dir_at(&open_dir(path)?)
}

/// The same for a directory that is open.
pub(crate) fn empty_dir_at(dir: &OwnedFd) -> io::Result<()> {
    names(dir)?.iter().map(|name| remove(dir.as_fd(), name)).fold(Ok(()), Result::and)
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
    loop {
        let names = names_to(dir, REMOVED_MAX)?;
        empty_of(dir, &names, top, device, depth, moved)?;
        if names.len() <= REMOVED_MAX {
            return Ok(());
        }
    }
}

fn empty_of(dir: BorrowedFd<'_>, names: &[CString], top: BorrowedFd<'_>, device: u64, depth: usize, moved: &mut u64) -> io::Result<()> {
    for name in names {
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            unlink(dir, name, AtFlags::empty())?;
            continue;
        }
        if stat.st_dev != device {
            return Err(io::Error::new(io::ErrorKind::CrossesDevices, "something is mounted in it"));
        }
        if depth >= REMOVE_DEPTH_MAX {
            *moved += 1;
            // Found by the next round.
            rustix::fs::renameat(dir, name, top, format!(".longshore-deep-{moved}"))?;
            continue;
        }
        let child = open_writable(dir, name)?;
        empty(child.as_fd(), top, device, depth + 1, moved)?;
        match unlink(dir, name, AtFlags::REMOVEDIR) {
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn with_and_without_openat2_only_what_is_there_itself_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        std::fs::create_dir(dir.path().join("inside")).unwrap();
        for (link, target) in
            [("to-file", "file"), ("to-dir", "inside"), ("out", "/"), ("up", ".."), ("loop", "loop"), ("magic", "/proc/self/root")]
        {
            symlink(target, dir.path().join(link)).unwrap();
        }
        let opened = open_dir(dir.path()).unwrap();
        for has_openat2 in [true, false] {
            let open = |name: &CStr, flags| open_one(opened.as_fd(), name, flags, Mode::empty(), &AtomicBool::new(has_openat2));
            assert!(open(c"file", OFlags::empty()).is_ok());
            assert!(open(c"inside", OFlags::DIRECTORY).is_ok());
            for link in [c"to-file", c"to-dir", c"out", c"up", c"loop", c"magic"] {
                for flags in [OFlags::empty(), OFlags::DIRECTORY, OFlags::CREATE | OFlags::WRONLY] {
                    let refused = open(link, flags).unwrap_err();
                    assert!(matches!(refused, Errno::LOOP | Errno::NOTDIR), "{link:?} {flags:?}: {refused}");
                }
            }
            for path in [c"", c".", c"..", c"inside/", c"inside/..", c"../x", c"/etc/passwd"] {
                assert_eq!(open(path, OFlags::empty()).unwrap_err(), Errno::INVAL, "{path:?}");
            }
        }
    }
}
