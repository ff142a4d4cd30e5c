//! Copies one file or one link, and notices if it changes meanwhile.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::super::changes::{Kind, Original, Staged, Stamp, TICK, kind};
use super::super::collect::lossy;
use super::super::copy::{Copier, CopyFault};
use super::CopyError;
use super::crew::Done;
use super::pair::{Pair, failed, times, unread};
use crate::files;
use crate::process::pause;

/// Bytes of a file that was changed a moment ago and is read twice for that.
const COMPARED_MAX: i64 = 16 * 1024 * 1024;
/// Bytes that are compared at a time.
const COMPARED_BYTES: u64 = 64 * 1024;

pub(super) fn file(copier: &Copier<'_>, of: &Pair, name: &CStr, path: Vec<u8>, done: &mut Done) -> Result<(), CopyError> {
    // Should it be something else by now, opening it neither waits nor takes a terminal.
    let from = files::open_beneath(&of.from, name, OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty()).map_err(unread(&path))?;
    let mut seen = rustix::fs::fstat(&from).map_err(failed(&path))?;
    if seen.st_size > COMPARED_MAX && Stamp::of(&seen).is_new() {
        // Too much to be read twice below: what changes it from here on shows.
        pause(&mut [], TICK);
        seen = rustix::fs::fstat(&from).map_err(failed(&path))?;
    }
    if kind(&seen) != FileType::RegularFile {
        return Err(CopyError::Changed { path: lossy(&path) });
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
    let mode = seen.st_mode & 0o1777;
    let into = files::open_beneath(&of.into, name, flags, Mode::from_raw_mode(mode)).map_err(failed(&path))?;
    let (from, into) = (File::from(from), File::from(into));
    copier.copy(&from, &into, &seen).map_err(|fault| match fault {
        CopyFault::Interrupted => CopyError::Interrupted,
        CopyFault::Io(source) => CopyError::Failed { path: lossy(&path), source },
    })?;
    if seen.st_mode & 0o6000 != 0 {
        done.skip(&path, "its set-user-id or set-group-id bit was not kept; the rest of it was");
    }
    rustix::fs::futimens(&into, &times(&seen)).map_err(failed(&path))?;
    let stamp = Stamp::of(&seen);
    if Stamp::of(&rustix::fs::fstat(&from).map_err(failed(&path))?) != stamp {
        return Err(CopyError::Changed { path: lossy(&path) });
    }
    let mut stat = rustix::fs::fstat(&into).map_err(failed(&path))?;
    if stat.st_mode & 0o7777 != mode {
        // The process's mask has taken something away.
        rustix::fs::fchmod(&into, Mode::from_raw_mode(mode)).map_err(failed(&path))?;
        stat = rustix::fs::fstat(&into).map_err(failed(&path))?;
    }
    let original = if stamp.may_repeat(&stat) && seen.st_size <= COMPARED_MAX {
        Original::Digest(read_again(copier, from, &path, stamp, &of.into, name)?)
    } else {
        Original::Source(stamp)
    };
    done.entries.push((path, Staged::new(&stat, Kind::File(original))));
    Ok(())
}

/// For a source that was changed a moment ago, whose stamp could hide that it is still being changed: compares it with its copy.
/// Gives the copy's digest, since that stamp is nothing to go by later either.
fn read_again(copier: &Copier<'_>, mut from: File, path: &[u8], stamp: Stamp, into: &OwnedFd, name: &CStr) -> Result<[u8; 32], CopyError> {
    let failed = |source: io::Error| CopyError::Failed { path: lossy(path), source };
    let mut copy = match files::open_beneath(into, name, OFlags::empty(), Mode::empty()) {
        Ok(copy) => File::from(copy),
        // Its mode does not let its owner read it; what was read once is all there is.
        Err(Errno::ACCESS) => return Ok([0; 32]),
        Err(errno) => return Err(failed(errno.into())),
    };
    let (mut hasher, mut left, mut right) = (Sha256::new(), Vec::new(), Vec::new());
    from.rewind().map_err(failed)?;
    loop {
        if copier.is_stopped() {
            return Err(CopyError::Interrupted);
        }
        left.clear();
        right.clear();
        copy.by_ref().take(COMPARED_BYTES).read_to_end(&mut left).map_err(failed)?;
        from.by_ref().take(COMPARED_BYTES).read_to_end(&mut right).map_err(failed)?;
        if left != right {
            return Err(CopyError::Changed { path: lossy(path) });
        }
        if left.is_empty() {
            break;
        }
        hasher.update(&left);
    }
    let seen = rustix::fs::fstat(&from).map_err(|errno| failed(errno.into()))?;
    if Stamp::of(&seen) == stamp { Ok(hasher.finalize().into()) } else { Err(CopyError::Changed { path: lossy(path) }) }
}

pub(super) fn link(of: &Pair, name: &CStr, path: Vec<u8>, done: &mut Done) -> Result<(), CopyError> {
    // A link cannot be written to, only be replaced, and the directory tells that.
    let target = rustix::fs::readlinkat(&of.from, name, Vec::new()).map_err(unread(&path))?;
    let seen = rustix::fs::statat(&of.from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(unread(&path))?;
    rustix::fs::symlinkat(&target, &of.into, name).map_err(failed(&path))?;
    rustix::fs::utimensat(&of.into, name, &times(&seen), AtFlags::SYMLINK_NOFOLLOW).map_err(failed(&path))?;
    let stat = rustix::fs::statat(&of.into, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed(&path))?;
    done.entries.push((path, Staged::new(&stat, Kind::Link { target: target.into_bytes() })));
    Ok(())
}
