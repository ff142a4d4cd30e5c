//! Threads that share the work of a copy: who does what next, and when nobody has anything left to do.

use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use longshore_model::limits::BUNDLE_DEPTH_MAX;
use longshore_model::wire::result::SkippedFile;
use rustix::fs::{AtFlags, FileType, Mode};

use super::super::changes::{Staged, kind};
use super::super::collect::{list, lossy};
use super::super::copy::Copier;
use super::CopyError;
use super::entry::{file, link};
use super::pair::{Pair, failed, leave, sum, unread};
use crate::files;

/// Names that one thread takes on at a time: so many that two seldom create in the same directory, where they wait for each other.
pub(super) const CHUNK_NAMES: usize = 512;

pub(super) enum Work {
    /// Copies the directory `name`.
    Directory { of: Arc<Pair>, name: CString },
    /// Finds out what is in a directory.
    List { of: Arc<Pair> },
    /// Copies some of what is in it.
    Entries { of: Arc<Pair>, entries: Vec<(CString, FileType)> },
}

/// What is still to be done. The last is done first, so that few directories are open at a time.
pub(super) struct Plan {
    pub(super) work: Vec<Work>,
    /// How many threads do something, and may find more.
    pub(super) busy: usize,
    pub(super) fault: Option<CopyError>,
}

/// The copy, as all threads see it.
pub(super) struct Crew<'a> {
    pub(super) copier: Copier<'a>,
    pub(super) is_over: &'a AtomicBool,
    pub(super) without: &'a str,
    pub(super) entries_max: usize,
    /// Device and inode of the directory with all workspaces.
    pub(super) workspaces: (u64, u64),
    pub(super) entries: AtomicUsize,
    pub(super) plan: Mutex<Plan>,
    pub(super) changed: Condvar,
}

/// What one thread has done.
#[derive(Default)]
pub(super) struct Done {
    pub(super) entries: Vec<(Vec<u8>, Staged)>,
    pub(super) skipped: Vec<SkippedFile>,
    pub(super) unlisted: usize,
}

impl Crew<'_> {
    pub(super) fn work(&self) -> Done {
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
                return leave(of, self, done);
            }
        };
        self.list(&of)?;
        leave(of, self, done)
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
        let entries = of.listing(self.without, self.entries_max)?;
        of.listed.store(sum(&entries), Ordering::Relaxed);
        if self.entries.fetch_add(entries.len(), Ordering::Relaxed) + entries.len() > self.entries_max {
            return Err(CopyError::Entries { max: self.entries_max });
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
            FileType::RegularFile => return file(&self.copier, of, &name, path, done),
            FileType::Symlink => return link(of, &name, path, done),
            FileType::Socket => done.skip(&path, "it is a socket"),
            FileType::Fifo => done.skip(&path, "it is a fifo"),
            FileType::CharacterDevice | FileType::BlockDevice => done.skip(&path, "it is a device"),
            FileType::Unknown => done.skip(&path, "it is of no known type"),
        }
        Ok(())
    }
}

/// Takes a thread out of those that may find more to do.
struct Leaving<'a>(&'a Crew<'a>);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.plan().busy -= 1;
        self.0.changed.notify_all();
    }
}

impl Done {
    pub(super) fn skip(&mut self, path: &[u8], reason: &str) {
        list(&mut self.skipped, &mut self.unlisted, SkippedFile { path: lossy(path), reason: reason.to_owned() });
    }
}
