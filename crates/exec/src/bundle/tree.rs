//! The directory an archive is unpacked into, entered one level at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::unpack::{Content, Facts, PATH_BYTES_MAX, Refusal, UnpackError, lossy};
use crate::files::open_dir_at;

const PIECE_BYTES: usize = 64 * 1024;
/// A hole is a block at least.
const HOLE_BYTES_MIN: usize = 4096;

/// The directory that is being filled.
pub(crate) struct Tree<'a> {
    root: &'a OwnedFd,
    /// The directory of the last entry; entries come sorted as a rule, so the next one is often beside it.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Directories that no entry named, only paths went through.
    implied: BTreeSet<Vec<u8>>,
    /// Modes and times to set when nothing more is written into them.
    directories: BTreeMap<Vec<u8>, (u32, i64)>,
}

impl<'a> Tree<'a> {
    pub(crate) fn new(root: &'a OwnedFd) -> Self {
        Self { root, parent: None, implied: BTreeSet::new(), directories: BTreeMap::new() }
    }

    /// Writes an entry under a name that is plainly below the root. What is there already is never touched, and never followed.
    pub(crate) fn write(&mut self, name: &[u8], facts: &Facts, content: &mut dyn Read) -> Result<(Stat, Content), UnpackError> {
        let refuse = |reason| UnpackError::Refused { name: lossy(name), reason };
        let (above, last) = match name.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&name[..slash], &name[slash + 1..]),
            None => (&b""[..], name),
        };
        let repeated = self.implied.remove(name);
        let parent = self.parent(above, name)?;
        let failed = |errno: Errno| match errno {
            Errno::EXIST => refuse(Refusal::Duplicate),
            other => UnpackError::Write { name: lossy(name), source: other.into() },
        };
        if facts.kind.is_dir() {
            match rustix::fs::mkdirat(parent, last, Mode::RWXU) {
                Err(Errno::EXIST) if repeated => {}
                other => other.map_err(failed)?,
            }
            let stat = rustix::fs::statat(parent, last, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            self.directories.insert(name.to_owned(), (facts.mode & 0o777, facts.mtime));
            return Ok((stat, Content::Directory));
        }
        if facts.kind.is_symlink() {
            let target = facts.target.as_slice();
            if target.is_empty() || target.len() > PATH_BYTES_MAX || target.contains(&0) {
                return Err(refuse(Refusal::Target));
            }
            rustix::fs::symlinkat(target, parent, last).map_err(failed)?;
            rustix::fs::utimensat(parent, last, &times(facts.mtime), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            let stat = rustix::fs::statat(parent, last, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            return Ok((stat, Content::Link { target: target.to_owned() }));
        }
        if !facts.kind.is_file() {
            return Err(refuse(Refusal::Type));
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(parent, last, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?);
        let sha256 = copy(content, &file, name)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(facts.mode & 0o777)).map_err(failed)?;
        rustix::fs::futimens(&file, &times(facts.mtime)).map_err(failed)?;
        let stat = rustix::fs::fstat(&file).map_err(failed)?;
        Ok((stat, Content::File { sha256 }))
    }

    /// The directory `path`, made if no entry has named it.
    fn parent(&mut self, path: &[u8], name: &[u8]) -> Result<BorrowedFd<'_>, UnpackError> {
        if path.is_empty() {
            return Ok(self.root.as_fd());
        }
        if self.parent.as_ref().is_none_or(|(known, _)| known != path) {
            let mut at: Option<OwnedFd> = None;
            let mut walked = 0;
            for segment in path.split(|byte| *byte == b'/') {
                let dir = at.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
                let failed = |errno: Errno| match errno {
                    Errno::NOTDIR | Errno::LOOP => UnpackError::Refused { name: lossy(name), reason: Refusal::Through },
                    other => UnpackError::Write { name: lossy(name), source: other.into() },
                };
                walked += segment.len() + usize::from(walked > 0);
                let opened = match open_dir_at(dir, segment) {
                    Err(Errno::NOENT) => {
                        rustix::fs::mkdirat(dir, segment, Mode::RWXU).map_err(failed)?;
                        rustix::fs::chmodat(dir, segment, Mode::from_raw_mode(0o755), AtFlags::empty()).map_err(failed)?;
                        self.implied.insert(path[..walked].to_owned());
                        open_dir_at(dir, segment)
                    }
                    other => other,
                };
                at = Some(opened.map_err(failed)?);
            }
            self.parent = at.map(|dir| (path.to_owned(), dir));
        }
        Ok(self.parent.as_ref().map_or(self.root.as_fd(), |(_, dir)| dir.as_fd()))
    }

    /// Sets modes and times of directories, the deepest first: one that may not be entered afterwards comes after what is in it.
    pub(crate) fn finish(&mut self) -> Result<(), UnpackError> {
        for (name, (mode, mtime)) in std::mem::take(&mut self.directories).into_iter().rev() {
            self.parent = None;
            let failed = |errno: Errno| UnpackError::Write { name: lossy(&name), source: errno.into() };
            let dir = self.parent(&name, &name)?;
            rustix::fs::fchmod(dir, Mode::from_raw_mode(mode)).map_err(failed)?;
            rustix::fs::futimens(dir, &times(mtime)).map_err(failed)?;
        }
        Ok(())
    }
}

/// Pieces of nothing but zeros become holes, so that a file that has some takes up no more here than where it was packed.
fn copy(content: &mut dyn Read, mut file: &File, name: &[u8]) -> Result<[u8; 32], UnpackError> {
    let failed = |source| UnpackError::Write { name: lossy(name), source };
    let (mut digest, mut buffer, mut bytes, mut ends_in_a_hole) = (Sha256::new(), vec![0; PIECE_BYTES], 0, false);
    loop {
        let n = content.read(&mut buffer).map_err(UnpackError::Read)?;
        let piece = &buffer[..n];
        if piece.is_empty() {
            break;
        }
        digest.update(piece);
        ends_in_a_hole = n >= HOLE_BYTES_MIN && piece.iter().all(|byte| *byte == 0);
        if ends_in_a_hole {
            file.seek_relative(i64::try_from(n).unwrap_or(0)).map_err(failed)?;
        } else {
            file.write_all(piece).map_err(failed)?;
        }
        bytes += n as u64;
    }
    if ends_in_a_hole {
        file.set_len(bytes).map_err(failed)?;
    }
    Ok(digest.finalize().into())
}

fn times(mtime: i64) -> Timestamps {
    let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}
