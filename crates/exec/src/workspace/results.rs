//! The directory `results` of a job on a shared drive, and what changed being brought there.
//!
//! - Everything appears at once: it is written under a name of ours and then renamed. What has its name already is replaced, also a
//!   directory by a file and the other way round.
//! - Nothing is followed: a symbolic link that an earlier run left where a directory has to be is replaced by that directory.
//! - One at a time: [`Results`] holds a lock on the directory, which the kernel ends with its process. So whoever has it may remove
//!   what a killed process left under names of ours.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use longshore_model::limits::STAGED_ENTRIES_MAX;
use longshore_model::wire::result::FileChanges;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::changes::Snapshot;
use super::collect::{Above, CollectError, Destination, Root, collect, lossy};
use super::globs::Globs;
use super::run::log_name;
use super::source::ResolveError;
use super::stage::Place;
use crate::files::{self, Lock};
use crate::process::random_text;

/// What names of ours begin with, at the top.
const TEMPORARY: &[u8] = b".longshore-";
const BUFFER_BYTES: usize = 128 * 1024;

/// The directory for a job's results, open and nobody else's.
#[derive(Debug)]
pub struct Results {
    pub(super) dir: OwnedFd,
    path: PathBuf,
    /// Keeps others out; absent on a drive without locks.
    lock: Option<OwnedFd>,
}

impl Results {
    pub(super) fn lock(dir: OwnedFd, path: PathBuf) -> Result<Self, ResolveError> {
        // A lock belongs to one opening of the directory, and other descriptors of it outlive this one.
        let lock = match rustix::fs::openat(&dir, ".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(lock) => lock,
            Err(errno) => return Err(ResolveError::Unreadable { path, source: errno.into() }),
        };
        let lock = match files::lock(&lock) {
            Ok(Lock::Ours) => Some(lock),
            Ok(Lock::Theirs) => return Err(ResolveError::Busy { path }),
            Ok(Lock::Nobodys) => None,
            Err(source) => return Err(ResolveError::Unreadable { path, source }),
        };
        Ok(Self { dir, path, lock })
    }

    /// Where it was found.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file with the single name `name` at its top, `result.json` say; nothing if there is none. Never follows a link. Blocks.
    ///
    /// # Errors
    /// It is no regular file, has more than `bytes_max` bytes (`FileTooLarge`), or cannot be read.
    pub fn read(&self, name: &str, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        files::read_beneath(&self.dir, name, bytes_max)
    }

    /// Writes the file with the single name `name` at its top, `result.json` say: whoever looks sees what was there or what is there, never a part of
    /// it, and it is on disk when this returns. Safe to repeat. Blocks.
    ///
    /// # Errors
    /// It cannot be written; what was there is there still.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), CollectError> {
        debug_assert!(!name.contains('/'), "only what is at the top is the worker's");
        let arrivals = Arrivals::begin(self)?;
        let written = arrivals.appear(self.dir.as_fd(), name.as_bytes(), |temporary| {
            let mut file = File::from(create(arrivals.dir, temporary)?);
            file.write_all(content)?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))?;
            file.sync_all()
        });
        written.and_then(|()| Ok(rustix::fs::fsync(&self.dir)?)).map_err(bring(name.as_bytes()))
    }

    /// Removes the file with the single name `name` at its top. Nothing happens if there is none. Never follows a link. Blocks.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), CollectError> {
        debug_assert!(!name.contains('/'), "only what is at the top is the worker's");
        let removed = CString::new(name).map_err(io::Error::from).and_then(|name| files::remove(self.dir.as_fd(), &name));
        removed.map_err(bring(name.as_bytes()))
    }
}

/// Brings what changed in the workspace to `results`, and removes the logs of steps from `n_steps` on: they are of an earlier run.
pub(super) fn sync(
    place: &Place,
    snapshot: Snapshot,
    globs: Option<&Globs>,
    results: &Results,
    n_steps: usize,
    is_stopped: &dyn Fn() -> bool,
) -> Result<FileChanges, CollectError> {
    let mut arrivals = Arrivals { is_stopped, ..Arrivals::begin(results)? };
    arrivals.remove_logs(n_steps)?;
    collect(place, snapshot, globs, &[Root::Tree], &mut arrivals)
}

struct Arrivals<'a> {
    dir: BorrowedFd<'a>,
    temporary: CString,
    is_stopped: &'a dyn Fn() -> bool,
    /// Files, links and directories so far.
    n_entries: usize,
    /// The directory of the last file; files come sorted, so the next one is often beside it.
    parent: Option<(Vec<u8>, OwnedFd)>,
}

impl Destination for Arrivals<'_> {
    fn reserves(&self, name: &[u8]) -> bool {
        name.starts_with(TEMPORARY)
    }

    fn is_stopped(&self) -> bool {
        (self.is_stopped)()
    }

    fn no_room(&self, _bytes: u64, n_directories: usize) -> Option<&'static str> {
        // The drive says when it is full.
        (self.n_entries + n_directories >= STAGED_ENTRIES_MAX).then_some("there are too many artifacts")
    }

    fn directory(&mut self, Above { name, mode, mtime: _ }: &Above) -> Result<(), CollectError> {
        self.n_entries += 1;
        let failed = bring(name);
        let (above, last) = split(name);
        self.enter(above).map_err(&failed)?;
        let parent = self.parent();
        match files::open_dir_at(parent, last) {
            Ok(_) => return Ok(()),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
        let made = self.appear(parent, last, |temporary| {
            rustix::fs::mkdirat(self.dir, temporary, Mode::RWXU)?;
            let made = files::open_dir_at(self.dir, temporary)?;
            // What the drive hands down to all directories, such as their group, stays.
            let inherited = rustix::fs::fstat(&made)?.st_mode & 0o7000;
            Ok(rustix::fs::fchmod(&made, Mode::from_raw_mode(mode & 0o777 | 0o700 | inherited))?)
        });
        made.map_err(failed)
    }

    fn file(&mut self, path: &[u8], stat: &Stat, content: File) -> Result<(u64, [u8; 32]), CollectError> {
        self.n_entries += 1;
        let failed = bring(path);
        let (above, last) = split(path);
        self.enter(above).map_err(&failed)?;
        let (mut digest, mut fault) = ((0, [0; 32]), None);
        let has_holes = i128::from(stat.st_blocks) * 512 < i128::from(stat.st_size);
        let brought = self.appear(self.parent(), last, |temporary| {
            let into = File::from(create(self.dir, temporary)?);
            match copy(content, &into, has_holes, self.is_stopped) {
                Ok(copied) => digest = copied,
                Err(Fault::Writing(error)) => return Err(error),
                Err(other) => {
                    fault = Some(other);
                    return Err(io::ErrorKind::Other.into());
                }
            }
            rustix::fs::fchmod(&into, Mode::from_raw_mode(stat.st_mode & 0o777))?;
            Ok(rustix::fs::futimens(&into, &times(stat))?)
        });
        match fault {
            Some(Fault::Reading(source)) => Err(CollectError::Read { path: lossy(path), source }),
            Some(Fault::Stopped) => Err(CollectError::Interrupted),
            Some(Fault::Writing(_)) | None => brought.map_err(failed).map(|()| digest),
        }
    }

    fn link(&mut self, path: &[u8], target: &[u8], stat: &Stat) -> Result<(), CollectError> {
        self.n_entries += 1;
        let failed = bring(path);
        let (above, last) = split(path);
        self.enter(above).map_err(&failed)?;
        let brought = self.appear(self.parent(), last, |temporary| {
            rustix::fs::symlinkat(target, self.dir, temporary)?;
            Ok(rustix::fs::utimensat(self.dir, temporary, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
        });
        brought.map_err(failed)
    }
}

impl<'a> Arrivals<'a> {
    fn begin(results: &'a Results) -> Result<Self, CollectError> {
        let top = bring(b".");
        let temporary = CString::new([TEMPORARY, random_text().as_bytes()].concat()).map_err(|error| top(error.into()))?;
        let arrivals = Self { dir: results.dir.as_fd(), temporary, is_stopped: &|| false, n_entries: 0, parent: None };
        if results.lock.is_some() {
            arrivals.remove(|name| name.starts_with(TEMPORARY)).map_err(top)?;
        }
        Ok(arrivals)
    }

    fn remove_logs(&self, first: usize) -> Result<(), CollectError> {
        let is_old = |name: &[u8]| {
            let number = name.strip_prefix(b"step_").and_then(|rest| rest.strip_suffix(b".log"));
            let index = number.and_then(|number| std::str::from_utf8(number).ok()?.parse::<usize>().ok());
            index.is_some_and(|index| index >= first && log_name(index).as_bytes() == name)
        };
        self.remove(is_old).map_err(bring(b"."))
    }

    fn remove(&self, which: impl Fn(&[u8]) -> bool) -> io::Result<()> {
        files::matching(self.dir, &which)?.iter().try_for_each(|name| files::remove(self.dir, name))
    }

    /// Opens the directory `path`, which was announced, unless it is open still.
    fn enter(&mut self, path: &[u8]) -> io::Result<()> {
        if path.is_empty() {
            self.parent = None;
        } else if self.parent.as_ref().is_none_or(|(known, _)| known != path) {
            let mut at = None;
            for segment in path.split(|byte| *byte == b'/') {
                let dir = at.as_ref().map_or(self.dir, AsFd::as_fd);
                at = Some(files::open_dir_at(dir, segment)?);
            }
            self.parent = at.map(|dir| (path.to_owned(), dir));
        }
        Ok(())
    }

    fn parent(&self) -> BorrowedFd<'_> {
        self.parent.as_ref().map_or(self.dir, |(_, dir)| dir.as_fd())
    }

    /// Lets `make` make something under a name of ours and gives it its own name in one step, whatever has that. Leaves nothing if
    /// it fails.
    fn appear(&self, parent: BorrowedFd<'_>, name: &[u8], make: impl FnOnce(&CString) -> io::Result<()>) -> io::Result<()> {
        let name = &CString::new(name)?;
        let appeared = make(&self.temporary).and_then(|()| self.replace(parent, name));
        if appeared.is_err() {
            // The first error is the better one, and the next one who comes here tidies up.
            let _ = files::remove(self.dir, &self.temporary);
        }
        appeared
    }

    fn replace(&self, parent: BorrowedFd<'_>, name: &CString) -> io::Result<()> {
        match rustix::fs::renameat(self.dir, &self.temporary, parent, name) {
            Err(Errno::ISDIR | Errno::NOTDIR | Errno::EXIST | Errno::NOTEMPTY) => {}
            renamed => return Ok(renamed?),
        }
        // A file and a directory cannot take each other's place, but they can change it.
        match rustix::fs::renameat_with(self.dir, &self.temporary, parent, name, RenameFlags::EXCHANGE) {
            Ok(()) => files::remove(self.dir, &self.temporary),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                files::remove(parent, name)?;
                Ok(rustix::fs::renameat(self.dir, &self.temporary, parent, name)?)
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

enum Fault {
    Reading(io::Error),
    Writing(io::Error),
    Stopped,
}

/// Copies to the end; gives length and SHA-256. Of a file with holes, what is nothing but zeros becomes a hole.
fn copy(mut from: File, mut into: &File, has_holes: bool, is_stopped: &dyn Fn() -> bool) -> Result<(u64, [u8; 32]), Fault> {
    let (mut buffer, mut hasher, mut bytes) = (vec![0; BUFFER_BYTES], Sha256::new(), 0);
    loop {
        if is_stopped() {
            return Err(Fault::Stopped);
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                hasher.update(&buffer[..n]);
                if has_holes && buffer[..n].iter().all(|byte| *byte == 0) {
                    into.seek_relative(i64::try_from(n).unwrap_or(0)).map_err(Fault::Writing)?;
                } else {
                    into.write_all(&buffer[..n]).map_err(Fault::Writing)?;
                }
                bytes += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Fault::Reading(error)),
        }
    }
    if has_holes {
        into.set_len(bytes).map_err(Fault::Writing)?;
    }
    Ok((bytes, hasher.finalize().into()))
}

fn create(dir: BorrowedFd<'_>, name: &CString) -> io::Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
    Ok(files::open_beneath(dir, name, flags, Mode::RUSR | Mode::WUSR)?)
}

fn times(stat: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) };
    Timestamps { last_access: time, last_modification: time }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

fn bring(path: &[u8]) -> impl Fn(io::Error) -> CollectError {
    move |source| CollectError::Bring { path: lossy(path), source }
}
