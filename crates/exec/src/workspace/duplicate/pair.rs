//! A directory of the source and its copy: finished by whoever copies the last thing in it, if the source is as it was when it was listed.

use std::ffi::{CStr, CString};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FileType, Mode, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::super::changes::{Kind, Staged, Stamp};
use super::super::collect::lossy;
use super::CopyError;
use super::crew::{Crew, Done};
use crate::files;

/// A directory and its copy. Everybody who still has to do something in it holds it.
pub(super) struct Pair {
    pub(super) path: Vec<u8>,
    pub(super) depth: usize,
    pub(super) from: OwnedFd,
    pub(super) into: OwnedFd,
    /// The source's state before it was listed.
    pub(super) seen: Stat,
    /// What was in it when it was listed.
    pub(super) listed: AtomicU64,
    pub(super) above: Option<Arc<Pair>>,
}

/// Says that a directory has nothing more to do for the caller, and finishes it, and those above it, if nobody else has.
pub(super) fn leave(mut of: Arc<Pair>, crew: &Crew<'_>, done: &mut Done) -> Result<(), CopyError> {
    while let Some(pair) = Arc::into_inner(of) {
        let failed = |errno: Errno| CopyError::Failed { path: pair.shown(), source: errno.into() };
        let stamp = Stamp::of(&pair.seen);
        let has_changed = Stamp::of(&rustix::fs::fstat(&pair.from).map_err(failed)?) != stamp;
        // What changed a moment ago could be changed again under the same stamp.
        let may_have_changed = stamp.may_repeat(&rustix::fs::fstat(&pair.into).map_err(failed)?);
        if has_changed || may_have_changed && !pair.is_as_listed(crew)? {
            return Err(CopyError::Changed { path: pair.shown() });
        }
        rustix::fs::futimens(&pair.into, &times(&pair.seen)).map_err(failed)?;
        rustix::fs::fchmod(&pair.into, Mode::from_raw_mode(pair.seen.st_mode & 0o7777)).map_err(failed)?;
        let stat = rustix::fs::fstat(&pair.into).map_err(failed)?;
        let Some(above) = pair.above else { break };
        done.entries.push((pair.path, Staged::new(&stat, Kind::Directory)));
        of = above;
    }
    Ok(())
}

impl Pair {
    /// What is in the source, but for what is called `without` at the top; more than `max` if that is more.
    pub(super) fn listing(&self, without: &str, max: usize) -> Result<Vec<(CString, FileType)>, CopyError> {
        let mut entries =
            files::listing_to(&self.from, max.saturating_add(1)).map_err(|source| CopyError::Failed { path: self.shown(), source })?;
        if self.above.is_none() {
            entries.retain(|(name, _)| name.to_bytes() != without.as_bytes());
        }
        Ok(entries)
    }

    fn is_as_listed(&self, crew: &Crew<'_>) -> Result<bool, CopyError> {
        Ok(sum(&self.listing(crew.without, crew.entries_max)?) == self.listed.load(Ordering::Relaxed))
    }

    pub(super) fn path_of(&self, name: &CStr) -> Vec<u8> {
        let name = name.to_bytes();
        if self.path.is_empty() { name.to_vec() } else { [self.path.as_slice(), b"/", name].concat() }
    }

    pub(super) fn shown(&self) -> String {
        if self.path.is_empty() { ".".to_owned() } else { lossy(&self.path) }
    }
}

/// Tells sets of names from each other, in any order.
pub(super) fn sum(entries: &[(CString, FileType)]) -> u64 {
    let hash = |name: &CString| BuildHasherDefault::<DefaultHasher>::default().hash_one(name);
    entries.iter().fold(0, |sum, (name, _)| sum.wrapping_add(hash(name)))
}

pub(super) fn failed(path: &[u8]) -> impl Fn(Errno) -> CopyError {
    move |errno| CopyError::Failed { path: lossy(path), source: errno.into() }
}

/// For what was listed a moment ago: it may be gone by now, or something else.
pub(super) fn unread(path: &[u8]) -> impl Fn(Errno) -> CopyError {
    move |errno| match errno {
        Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO | Errno::INVAL | Errno::ISDIR | Errno::STALE => {
            CopyError::Changed { path: lossy(path) }
        }
        other => failed(path)(other),
    }
}

pub(super) fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Timestamps {
        last_access: time(stat.st_atime, i64::try_from(stat.st_atime_nsec).unwrap_or(0)),
        last_modification: time(stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
    }
}
