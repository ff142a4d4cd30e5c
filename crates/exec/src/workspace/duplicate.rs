//! Copies the tree of one directory into another, on all processors.
//!
//! - Every step goes from an open directory to a single name in it ([`files::open_beneath`]), on both sides; nothing is looked at
//!   first and opened later by its path. So whatever is renamed or replaced in the source meanwhile, only what lies in it is read.
//! - A source that changes while it is copied is not copied as a mixture of before and after: the state of every file and every
//!   directory is compared with what it was before its content was read, and a difference is [`CopyError::Changed`].
//! - A directory is finished (mode, times) by whoever copies the last thing in it: that needs no second walk, and one that may not
//!   be written to is closed after all is in it.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::{self, Read, Seek};
use std::num::NonZero;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use longshore_model::limits::{BUNDLE_DEPTH_MAX, STAGED_ENTRIES_MAX};
use longshore_model::wire::result::SkippedFile;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::changes::{Kind, Original, Snapshot, Staged, Stamp, TICK, kind};
use super::collect::{list, lossy};
use super::copy::{Copier, CopyFault};
use crate::files;
use crate::process::pause;

/// More threads than this only wait for the same disk.
const THREADS_MAX: usize = 8;
/// Names that one thread takes on at a time: so many that two seldom create in the same directory, where they wait for each other.
const CHUNK_NAMES: usize = 512;
/// Bytes of a file that was changed a moment ago and is read twice for that.
const COMPARED_MAX: i64 = 16 * 1024 * 1024;
/// Bytes that are compared at a time.
const COMPARED_BYTES: u64 = 64 * 1024;

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
    #[error("copy the source into the workspace: it has more than {STAGED_ENTRIES_MAX} entries")]
    Entries,
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

/// Copies what is in `from` into the empty directory `into`, but for what is called `without` at the top.
///
/// Kept are names, contents, modes, modification times, and symbolic links as such. Owners become the caller's; hence the set-user-id
/// and set-group-id bits of files are not kept, and listed. Files with several names become several files. Sockets, devices and
/// fifos are left out, and listed. Blocks; ends soon after `stop` says so.
pub(super) fn duplicate(
    from: BorrowedFd<'_>,
    into: BorrowedFd<'_>,
    workspaces: BorrowedFd<'_>,
    without: &str,
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
        workspaces: stamp(workspaces)?,
        entries: AtomicUsize::new(0),
        plan: Mutex::new(Plan { work: vec![Work::List { of: root }], busy: 0, fault: None }),
        changed: Condvar::new(),
    };
    let n_threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
    let done = std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..n_threads).map(|_| scope.spawn(|| crew.work())).collect();
        let mut done = vec![crew.work()];
        done.extend(helpers.into_iter().map(|helper| helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))));
        done
    });
    if let Some(fault) = crew.plan.into_inner().unwrap_or_else(PoisonError::into_inner).fault {
        return Err(fault);
    }
    let (mut entries, mut skipped, mut unlisted) = (Vec::new(), Vec::new(), 0);
    for each in done {
        entries.extend(each.entries);
        each.skipped.into_iter().for_each(|one| list(&mut skipped, &mut unlisted, one));
        unlisted += each.unlisted;
    }
    skipped.sort_by(|a: &SkippedFile, b| a.path.cmp(&b.path));
    let settled = rustix::fs::fstat(into).map_err(|errno| top(errno.into()))?;
    Ok(Duplicate { snapshot: Snapshot::copied(own(from)?, entries, &settled), skipped, unlisted })
}

/// A directory and its copy. Everybody who still has to do something in it holds it.
struct Pair {
    path: Vec<u8>,
    depth: usize,
    from: OwnedFd,
    into: OwnedFd,
    /// The source's state before it was listed.
    seen: Stat,
    /// What was in it when it was listed.
    listed: AtomicU64,
    above: Option<Arc<Pair>>,
}

enum Work {
    /// Copies the directory `name`.
    Directory { of: Arc<Pair>, name: CString },
    /// Finds out what is in a directory.
    List { of: Arc<Pair> },
    /// Copies some of what is in it.
    Entries { of: Arc<Pair>, entries: Vec<(CString, FileType)> },
}

/// What is still to be done. The last is done first, so that few directories are open at a time.
struct Plan {
    work: Vec<Work>,
    /// How many threads do something, and may find more.
    busy: usize,
    fault: Option<CopyError>,
}

struct Crew<'a> {
    copier: Copier<'a>,
    is_over: &'a AtomicBool,
    without: &'a str,
    /// Device and inode of the directory with all workspaces.
    workspaces: (u64, u64),
    entries: AtomicUsize,
    plan: Mutex<Plan>,
    changed: Condvar,
}

/// What one thread has done.
#[derive(Default)]
struct Done {
    entries: Vec<(Vec<u8>, Staged)>,
    skipped: Vec<SkippedFile>,
    unlisted: usize,
}

impl Crew<'_> {
    fn work(&self) -> Done {
        let mut done = Done::default();
        while let Some(work) = self.next() {
            // A panic must not leave the others waiting for this thread.
            let _leaving = Leaving(self);
            if let Err(fault) = self.perform(work, &mut done) {
                self.plan().fault.get_or_insert(fault);
                self.is_over.store(true, Ordering::Relaxed);
            }
        }
        done
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Work> {
        let mut plan = self.plan();
        loop {
            if plan.fault.is_some() {
                return None;
            }
            if let Some(work) = plan.work.pop() {
                plan.busy += 1;
                return Some(work);
            }
            if plan.busy == 0 {
                return None;
            }
            plan = self.changed.wait(plan).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn add(&self, work: impl IntoIterator<Item = Work>) {
        self.plan().work.extend(work);
        self.changed.notify_all();
    }

    fn perform(&self, work: Work, done: &mut Done) -> Result<(), CopyError> {
        let of = match work {
            Work::Directory { of, name } => self.directory(of, &name)?,
            Work::List { of } => of,
            Work::Entries { of, entries } => {
                for (name, kind) in entries {
                    if self.copier.is_stopped() {
                        return Err(CopyError::Interrupted);
                    }
                    self.entry(&of, name, kind, done)?;
                }
                return leave(of, self.without, done);
            }
        };
        self.list(&of)?;
        leave(of, self.without, done)
    }

    fn directory(&self, above: Arc<Pair>, name: &CStr) -> Result<Arc<Pair>, CopyError> {
        let path = above.path_of(name);
        if above.depth + 1 >= BUNDLE_DEPTH_MAX {
            return Err(CopyError::Depth { path: lossy(&path) });
        }
        let from = files::open_dir_at(&above.from, name).map_err(unread(&path))?;
        let seen = rustix::fs::fstat(&from).map_err(failed(&path))?;
        if (seen.st_dev, seen.st_ino) == self.workspaces {
            return Err(CopyError::Within { path: lossy(&path) });
        }
        rustix::fs::mkdirat(&above.into, name, Mode::RWXU).map_err(failed(&path))?;
        let into = files::open_dir_at(&above.into, name).map_err(failed(&path))?;
        let (depth, listed) = (above.depth + 1, AtomicU64::new(0));
        Ok(Arc::new(Pair { depth, path, from, into, seen, listed, above: Some(above) }))
    }

    fn list(&self, of: &Arc<Pair>) -> Result<(), CopyError> {
        let entries = of.listing(self.without)?;
        of.listed.store(sum(&entries), Ordering::Relaxed);
        if self.entries.fetch_add(entries.len(), Ordering::Relaxed) + entries.len() > STAGED_ENTRIES_MAX {
            return Err(CopyError::Entries);
        }
        self.add(entries.chunks(CHUNK_NAMES).map(|chunk| Work::Entries { of: Arc::clone(of), entries: chunk.to_vec() }));
        Ok(())
    }

    fn entry(&self, of: &Arc<Pair>, name: CString, listed: FileType, done: &mut Done) -> Result<(), CopyError> {
        let path = of.path_of(&name);
        // Not every file system tells when it lists.
        let listed = if listed == FileType::Unknown {
            kind(&rustix::fs::statat(&of.from, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(unread(&path))?)
        } else {
            listed
        };
        match listed {
            FileType::Directory => self.add([Work::Directory { of: Arc::clone(of), name }]),
            FileType::RegularFile => return self.file(of, &name, path, done),
            FileType::Symlink => return link(of, &name, path, done),
            FileType::Socket => done.skip(&path, "it is a socket"),
            FileType::Fifo => done.skip(&path, "it is a fifo"),
            FileType::CharacterDevice | FileType::BlockDevice => done.skip(&path, "it is a device"),
            FileType::Unknown => done.skip(&path, "it is of no known type"),
        }
        Ok(())
    }

    fn file(&self, of: &Pair, name: &CStr, path: Vec<u8>, done: &mut Done) -> Result<(), CopyError> {
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
        self.copier.copy(&from, &into, &seen).map_err(|fault| match fault {
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
            Original::Digest(self.read_again(from, &path, stamp, &of.into, name)?)
        } else {
            Original::Source(stamp)
        };
        done.entries.push((path, Staged::new(&stat, Kind::File(original))));
        Ok(())
    }

    /// For a source that was changed a moment ago, whose stamp could hide that it is still being changed: compares it with its copy.
    /// Gives the copy's digest, since that stamp is nothing to go by later either.
    fn read_again(&self, mut from: File, path: &[u8], stamp: Stamp, into: &OwnedFd, name: &CStr) -> Result<[u8; 32], CopyError> {
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
            if self.copier.is_stopped() {
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
}

fn link(of: &Pair, name: &CStr, path: Vec<u8>, done: &mut Done) -> Result<(), CopyError> {
    // A link cannot be written to, only be replaced, and the directory tells that.
    let target = rustix::fs::readlinkat(&of.from, name, Vec::new()).map_err(unread(&path))?;
    let seen = rustix::fs::statat(&of.from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(unread(&path))?;
    rustix::fs::symlinkat(&target, &of.into, name).map_err(failed(&path))?;
    rustix::fs::utimensat(&of.into, name, &times(&seen), AtFlags::SYMLINK_NOFOLLOW).map_err(failed(&path))?;
    let stat = rustix::fs::statat(&of.into, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed(&path))?;
    done.entries.push((path, Staged::new(&stat, Kind::Link { target: target.into_bytes() })));
    Ok(())
}

/// Says that a directory has nothing more to do for the caller, and finishes it, and those above it, if nobody else has.
fn leave(mut of: Arc<Pair>, without: &str, done: &mut Done) -> Result<(), CopyError> {
    while let Some(pair) = Arc::into_inner(of) {
        let failed = |errno: Errno| CopyError::Failed { path: pair.shown(), source: errno.into() };
        let stamp = Stamp::of(&pair.seen);
        let has_changed = Stamp::of(&rustix::fs::fstat(&pair.from).map_err(failed)?) != stamp;
        // What changed a moment ago could be changed again under the same stamp.
        let may_have_changed = stamp.may_repeat(&rustix::fs::fstat(&pair.into).map_err(failed)?);
        if has_changed || may_have_changed && !pair.is_as_listed(without)? {
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

/// Takes a thread out of those that may find more to do.
struct Leaving<'a>(&'a Crew<'a>);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.plan().busy -= 1;
        self.0.changed.notify_all();
    }
}

/// Tells sets of names from each other, in any order.
fn sum(entries: &[(CString, FileType)]) -> u64 {
    let hash = |name: &CString| BuildHasherDefault::<DefaultHasher>::default().hash_one(name);
    entries.iter().fold(0, |sum, (name, _)| sum.wrapping_add(hash(name)))
}

impl Pair {
    /// What is in the source, but for what is called `without` at the top.
    fn listing(&self, without: &str) -> Result<Vec<(CString, FileType)>, CopyError> {
        let mut entries = files::listing(&self.from).map_err(|source| CopyError::Failed { path: self.shown(), source })?;
        if self.above.is_none() {
            entries.retain(|(name, _)| name.to_bytes() != without.as_bytes());
        }
        Ok(entries)
    }

    fn is_as_listed(&self, without: &str) -> Result<bool, CopyError> {
        Ok(sum(&self.listing(without)?) == self.listed.load(Ordering::Relaxed))
    }

    fn path_of(&self, name: &CStr) -> Vec<u8> {
        let name = name.to_bytes();
        if self.path.is_empty() { name.to_vec() } else { [self.path.as_slice(), b"/", name].concat() }
    }

    fn shown(&self) -> String {
        if self.path.is_empty() { ".".to_owned() } else { lossy(&self.path) }
    }
}

impl Done {
    fn skip(&mut self, path: &[u8], reason: &str) {
        list(&mut self.skipped, &mut self.unlisted, SkippedFile { path: lossy(path), reason: reason.to_owned() });
    }
}

impl CopyError {
    /// The system's error behind it.
    pub(super) fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Failed { source, .. } => Some(source),
            Self::Changed { .. } | Self::Depth { .. } | Self::Entries | Self::Within { .. } | Self::Interrupted => None,
        }
    }
}

fn failed(path: &[u8]) -> impl Fn(Errno) -> CopyError {
    move |errno| CopyError::Failed { path: lossy(path), source: errno.into() }
}

/// For what was listed a moment ago: it may be gone by now, or something else.
fn unread(path: &[u8]) -> impl Fn(Errno) -> CopyError {
    move |errno| match errno {
        Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO | Errno::INVAL | Errno::ISDIR | Errno::STALE => {
            CopyError::Changed { path: lossy(path) }
        }
        other => failed(path)(other),
    }
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Timestamps {
        last_access: time(stat.st_atime, i64::try_from(stat.st_atime_nsec).unwrap_or(0)),
        last_modification: time(stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests;
