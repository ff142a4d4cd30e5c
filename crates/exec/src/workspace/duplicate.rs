//! Copies the tree of one directory into another, on all processors.
//!
//! - Every step goes from an open directory to a single name in it ([`crate::files::open_beneath`]), on both sides; nothing is looked at
//!   first and opened later by its path. So whatever is renamed or replaced in the source meanwhile, only what lies in it is read.
//! - A source that changes while it is copied is not copied as a mixture of before and after: the state of every file and every
//!   directory is compared with what it was before its content was read, and a difference is [`CopyError::Changed`].
//! - A directory is finished (mode, times) by whoever copies the last thing in it: that needs no second walk, and one that may not
//!   be written to is closed after all is in it.

mod crew;
mod entry;
mod pair;

use std::io;
use std::num::NonZero;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use longshore_model::limits::BUNDLE_DEPTH_MAX;
use longshore_model::wire::result::SkippedFile;

use self::crew::{Crew, Plan, Work};
use self::pair::Pair;
use super::changes::Snapshot;
use super::collect::list;
use super::copy::Copier;

/// More threads than this only wait for the same disk.
const THREADS_MAX: usize = 8;

/// Why a tree was not copied. What was copied by then stays for the caller to remove.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Something could not be read, or not be written to the workspace.
    #[error("copy {path:?} into the workspace")]
    Failed {
        /// Its path below the source, with replacement characters where it is not UTF-8.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It was replaced, written to or removed while it was copied.
    #[error("copy {path:?} into the workspace: it changed meanwhile")]
    Changed {
        /// Its path below the source; `.` for the source itself.
        path: String,
    },
    /// A directory is too deep.
    #[error("copy {path:?} into the workspace: it is more than {BUNDLE_DEPTH_MAX} levels deep")]
    Depth {
        /// Its path below the source.
        path: String,
    },
    /// There is too much in the source.
    #[error("copy the source into the workspace: it has more than {max} entries")]
    Entries {
        /// How much there may be.
        max: usize,
    },
    /// The workspaces are kept within the source.
    #[error("copy {path:?} into the workspace: the workspaces are in it; they need a directory outside of the jobs'")]
    Within {
        /// The path of the workspaces below the source.
        path: String,
    },
    /// Somebody wanted it to end.
    #[error("copy the source into the workspace: interrupted")]
    Interrupted,
}

/// A tree and its copy.
pub(super) struct Duplicate {
    /// The state of the copy.
    pub(super) snapshot: Snapshot,
    /// What was left out, or not kept, sorted; the first of it if that is much.
    pub(super) skipped: Vec<SkippedFile>,
    /// How much of it is not in the list.
    pub(super) unlisted: usize,
}

/// Copies what is in `from` into the empty directory `into`, but for what is called `without` at the top; `entries_max` at the most.
///
/// Kept are names, contents, modes, modification times, and symbolic links as such. Owners become the caller's; hence the set-user-id
/// and set-group-id bits of files are not kept, and listed. Files with several names become several files. Sockets, devices and
/// fifos are left out, and listed. Blocks; ends soon after `stop` says so.
pub(super) fn duplicate(
    from: BorrowedFd<'_>,
    into: BorrowedFd<'_>,
    workspaces: BorrowedFd<'_>,
    (without, entries_max): (&str, usize),
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Duplicate, CopyError> {
    let top = |source: io::Error| CopyError::Failed { path: ".".to_owned(), source };
    let own = |dir: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(dir, 0).map_err(|errno| top(errno.into()));
    let stamp = |dir: BorrowedFd<'_>| rustix::fs::fstat(dir).map(|stat| (stat.st_dev, stat.st_ino)).map_err(|errno| top(errno.into()));
    let seen = rustix::fs::fstat(from).map_err(|errno| top(errno.into()))?;
    let root =
        Arc::new(Pair { path: Vec::new(), depth: 0, from: own(from)?, into: own(into)?, seen, listed: AtomicU64::new(0), above: None });
    // One thread's fault ends the others, in the middle of a large file, too.
    let is_over = AtomicBool::new(false);
    let stop = || is_over.load(Ordering::Relaxed) || stop();
    let crew = Crew {
        copier: Copier::new(&stop),
        is_over: &is_over,
        without,
        entries_max,
        workspaces: stamp(workspaces)?,
        entries: AtomicUsize::new(0),
        plan: Mutex::new(Plan { work: vec![Work::List { of: root }], busy: 0, fault: None }),
        changed: Condvar::new(),
    };
    let n_threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
    let mut done = std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..n_threads).map(|_| scope.spawn(|| crew.work())).collect();
        let mut done = vec![crew.work()];
        done.extend(helpers.into_iter().map(|helper| helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))));
        done
    });
    if let Some(fault) = crew.plan.into_inner().unwrap_or_else(PoisonError::into_inner).fault {
        return Err(fault);
    }
    let (mut skipped, mut unlisted) = (Vec::new(), 0);
    for each in &mut done {
        std::mem::take(&mut each.skipped).into_iter().for_each(|one| list(&mut skipped, &mut unlisted, one));
        unlisted += each.unlisted;
    }
    let entries = done.into_iter().flat_map(|each| each.entries);
    skipped.sort_by(|a: &SkippedFile, b| a.path.cmp(&b.path));
    let settled = rustix::fs::fstat(into).map_err(|errno| top(errno.into()))?;
    Ok(Duplicate { snapshot: Snapshot::copied(own(from)?, entries, &settled), skipped, unlisted })
}

impl CopyError {
    /// The system's error behind it.
    pub(super) fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Failed { source, .. } => Some(source),
            Self::Changed { .. } | Self::Depth { .. } | Self::Entries { .. } | Self::Within { .. } | Self::Interrupted => None,
        }
    }
}

#[cfg(test)]
mod tests;
