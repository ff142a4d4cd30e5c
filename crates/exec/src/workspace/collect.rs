//! Finds what the steps made or changed: a walk over the tree, which hands it to a [`Destination`].
//!
//! When it runs, every process of the job is gone. Still nothing is followed: not a link, not a mount, not a name twice.

use std::collections::HashSet;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use data_encoding::HEXLOWER;
use longshore_model::limits::{BUNDLE_BYTES_MAX, BUNDLE_DEPTH_MAX, STAGED_ENTRIES_MAX};
use longshore_model::wire::result::{FileChanges, FileInfo, SkippedFile};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::changes::{Snapshot, Verdict, kind};
use super::globs::Globs;
use super::repoint::repointed;
use super::stage::Place;
use crate::files;
use crate::finished::is_host_fault;

/// Names a manifest lists in each of its lists; far more than an answer shows, and a bound on memory.
const LISTED_MAX: usize = 100_000;

/// Entries of one directory that are looked at: more than may come back.
const LOOKED_AT_MAX: usize = 2 * STAGED_ENTRIES_MAX;

/// Where what changed is brought to. Every path has a name at its end and directories before it that were announced.
pub(crate) trait Destination {
    /// Whether it has uses of its own for this name at the top.
    fn reserves(&self, name: &[u8]) -> bool;

    /// Whether somebody wants it to end.
    fn is_stopped(&self) -> bool;

    /// Why there is no room for one more file of this size below that many directories, if there is none.
    fn no_room(&self, bytes: u64, n_directories: usize) -> Option<&'static str>;

    /// Announces a directory that something will be in.
    fn directory(&mut self, directory: &Above) -> Result<(), CollectError>;

    /// Takes a file, seen as `stat`. Gives how many bytes it had, and their SHA-256.
    fn file(&mut self, path: &[u8], stat: &Stat, content: File) -> Result<(u64, [u8; 32]), CollectError>;

    /// Takes a symbolic link.
    fn link(&mut self, path: &[u8], target: &[u8], stat: &Stat) -> Result<(), CollectError>;
}

/// Why artifacts did not come back.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// A directory of the workspace could not be listed.
    #[error("list {path:?} in the workspace")]
    List {
        /// Its path there.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file of the workspace could not be read.
    #[error("read {path:?} in the workspace")]
    Read {
        /// Its path there.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The archive could not be written.
    #[error("write the archive")]
    Write(#[source] io::Error),
    /// The archive is larger than one may be.
    #[error("write the archive: the artifacts are larger than {BUNDLE_BYTES_MAX} bytes when packed")]
    TooBig,
    /// Something could not be brought to the results.
    #[error("write {path:?} in the results")]
    Bring {
        /// Its path there.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Somebody wanted it to end.
    #[error("bring back what changed: interrupted")]
    Interrupted,
}

impl CollectError {
    /// Whether the host is at fault (a full disk, say), so that another attempt may succeed.
    #[must_use]
    pub fn is_host_fault(&self) -> bool {
        match self {
            Self::List { source, .. } | Self::Read { source, .. } | Self::Write(source) | Self::Bring { source, .. } => {
                is_host_fault(source)
            }
            Self::TooBig | Self::Interrupted => false,
        }
    }
}

/// Hands what changed in the `roots` to `into`. Gives what there was, every list sorted.
pub(crate) fn collect(
    place: &Place,
    snapshot: Snapshot,
    globs: Option<&Globs>,
    roots: &[Root],
    into: &mut dyn Destination,
) -> Result<FileChanges, CollectError> {
    let mut collector = Collector { place, snapshot, globs, into, taken: HashSet::new(), changes: FileChanges::default() };
    for root in roots {
        collector.walk(*root)?;
        if *root == Root::Tree {
            for name in std::mem::take(&mut collector.snapshot).into_deleted() {
                list(&mut collector.changes.deleted, &mut collector.changes.unlisted, lossy(&name));
            }
        }
    }
    let mut changes = collector.changes;
    changes.created.sort_by(|a, b| a.path.cmp(&b.path));
    changes.modified.sort_by(|a, b| a.path.cmp(&b.path));
    changes.skipped.sort_by(|a, b| a.path.cmp(&b.path));
    changes.deleted.sort();
    Ok(changes)
}

/// A directory of a workspace in which files may have changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Root {
    /// What was staged, and what became of it.
    Tree,
    /// What steps put into `$LONGSHORE_RESULTS`, all of it new.
    Results,
}

/// A directory on the way to what is being looked at.
pub(crate) struct Above {
    pub(crate) name: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) mtime: i64,
}

struct Collector<'a> {
    place: &'a Place,
    snapshot: Snapshot,
    globs: Option<&'a Globs>,
    into: &'a mut dyn Destination,
    /// Names that were handed over, directories among them.
    taken: HashSet<Vec<u8>>,
    changes: FileChanges,
}

impl Collector<'_> {
    fn walk(&mut self, root: Root) -> Result<(), CollectError> {
        let dir = match root {
            Root::Tree => self.place.tree.as_fd(),
            Root::Results => self.place.results.as_fd(),
        };
        let failed = |errno: Errno| CollectError::List { path: ".".to_owned(), source: errno.into() };
        // The steps may have taken our own rights away.
        files::own(dir).map_err(failed)?;
        let stat = rustix::fs::fstat(dir).map_err(failed)?;
        self.directory(root, dir, stat.st_dev, &mut Vec::new())
    }

    fn directory(&mut self, root: Root, dir: BorrowedFd<'_>, device: u64, above: &mut Vec<Above>) -> Result<(), CollectError> {
        let prefix = above.last().map(|above| [above.name.as_slice(), b"/"].concat()).unwrap_or_default();
        let mut names = files::names_to(dir, LOOKED_AT_MAX).map_err(|source| CollectError::List { path: lossy(&prefix), source })?;
        let is_whole = names.len() <= LOOKED_AT_MAX;
        names.truncate(LOOKED_AT_MAX);
        for name in names {
            if self.into.is_stopped() {
                return Err(CollectError::Interrupted);
            }
            let path = [prefix.as_slice(), name.to_bytes()].concat();
            if root == Root::Results && above.is_empty() && is_log(&path) {
                continue;
            }
            let stat = match rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(errno) => {
                    self.skip(&path, format!("it could not be looked at: {}", io::Error::from(errno)));
                    continue;
                }
            };
            match kind(&stat) {
                FileType::Directory => {
                    if let Some(reason) = self.no_entry(&stat, device, above.len()) {
                        self.snapshot.strike_below(&path);
                        self.skip(&path, reason);
                        continue;
                    }
                    self.snapshot.strike_directory(&path);
                    match readable(dir, &name, &stat, OFlags::DIRECTORY) {
                        Ok(child) => {
                            above.push(Above { name: path, mode: stat.st_mode | 0o700, mtime: mtime(&stat) });
                            self.directory(root, child.as_fd(), device, above)?;
                            above.pop();
                        }
                        Err(errno) => {
                            self.snapshot.strike_below(&path);
                            self.skip(&path, format!("it could not be opened: {}", io::Error::from(errno)));
                        }
                    }
                }
                FileType::RegularFile => self.file(dir, &name, path, &stat, above)?,
                FileType::Symlink => self.link(root, dir, &name, path, &stat, above)?,
                FileType::Socket => self.skip(&path, "it is a socket"),
                FileType::Fifo => self.skip(&path, "it is a fifo"),
                FileType::CharacterDevice | FileType::BlockDevice => self.skip(&path, "it is a device"),
                FileType::Unknown => self.skip(&path, "it is of no known type"),
            }
        }
        if !is_whole {
            let path = above.last().map_or(&b""[..], |above| above.name.as_slice());
            self.skip(path, format!("not all of it was looked at: it has more than {LOOKED_AT_MAX} entries"));
        }
        Ok(())
    }

    fn no_entry(&self, stat: &Stat, device: u64, depth: usize) -> Option<String> {
        if stat.st_dev != device {
            Some("it is on another file system".to_owned())
        } else if depth + 1 >= BUNDLE_DEPTH_MAX {
            Some(format!("it is more than {BUNDLE_DEPTH_MAX} levels deep"))
        } else {
            None
        }
    }

    fn file(&mut self, dir: BorrowedFd<'_>, name: &CStr, path: Vec<u8>, stat: &Stat, above: &[Above]) -> Result<(), CollectError> {
        let verdict = self.snapshot.judge_file(&path, stat);
        if verdict == Verdict::Same || !self.may_come(&path, stat, above) {
            return Ok(());
        }
        let mut file = match readable(dir, name, stat, OFlags::NONBLOCK) {
            Ok(fd) => File::from(fd),
            Err(errno) => {
                self.skip(&path, format!("it could not be opened: {}", io::Error::from(errno)));
                return Ok(());
            }
        };
        let unreadable = |source| CollectError::Read { path: lossy(&path), source };
        if let Verdict::Unless(original) = &verdict {
            let is_stopped = || self.into.is_stopped();
            if self.snapshot.is_original(&path, original, &mut file, &is_stopped).map_err(unreadable)? {
                return Ok(());
            }
            if is_stopped() {
                return Err(CollectError::Interrupted);
            }
            file.rewind().map_err(unreadable)?;
        }
        self.directories(above)?;
        let (size, sha256) = self.into.file(&path, stat, file)?;
        let info = FileInfo { path: lossy(&path), size, sha256: HEXLOWER.encode(&sha256) };
        self.took(path, &verdict, info);
        Ok(())
    }

    fn link(
        &mut self,
        root: Root,
        dir: BorrowedFd<'_>,
        name: &CStr,
        path: Vec<u8>,
        stat: &Stat,
        above: &[Above],
    ) -> Result<(), CollectError> {
        let target = match rustix::fs::readlinkat(dir, name, Vec::new()) {
            Ok(target) => target.into_bytes(),
            Err(errno) => {
                self.skip(&path, format!("it could not be read: {}", io::Error::from(errno)));
                return Ok(());
            }
        };
        let verdict = self.snapshot.judge_link(&path, &target);
        if verdict == Verdict::Same || !self.may_come(&path, stat, above) {
            return Ok(());
        }
        // It would point at nothing once the workspace is removed; the same place seen from the link will not. Out of
        // `$LONGSHORE_RESULTS` there is no telling what is beside it in the end, but the names are the same.
        let roots = [self.place.tree_path.as_str(), self.place.results_path.as_str()];
        let here = if root == Root::Tree { roots[0] } else { roots[1] };
        let below = above.last().map_or(&b""[..], |above| above.name.as_slice());
        let target = repointed(&target, here, below, &roots).unwrap_or(target);
        debug_assert!(root == Root::Tree || verdict != Verdict::Modified, "nothing is staged in the results");
        self.directories(above)?;
        self.into.link(&path, &target, stat)?;
        let info = FileInfo { path: lossy(&path), size: target.len() as u64, sha256: HEXLOWER.encode(&Sha256::digest(&target)) };
        self.took(path, &verdict, info);
        Ok(())
    }

    /// Whether a changed file or link may be brought back; if it may not but was wanted, it is listed as skipped.
    fn may_come(&mut self, path: &[u8], stat: &Stat, above: &[Above]) -> bool {
        if self.globs.as_ref().is_some_and(|globs| !globs.want(path)) {
            return false;
        }
        let top = path.split(|byte| *byte == b'/').next().unwrap_or(path);
        let blocked = |name: &Vec<u8>| self.taken.contains(name);
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let reason = if top == b"result.json" || is_log(top) || self.into.reserves(top) {
            "the name belongs to Longshore"
        } else if blocked(&path.to_vec()) || above.iter().any(|above| blocked(&above.name) && !self.taken.contains(&slashed(&above.name))) {
            "the workspace has another file of that name"
        } else if let Some(reason) = self.into.no_room(size, above.len()) {
            reason
        } else {
            return true;
        };
        self.skip(path, reason);
        false
    }

    /// Announces the directories on the way that were not yet.
    fn directories(&mut self, above: &[Above]) -> Result<(), CollectError> {
        for directory in above {
            if self.taken.insert(slashed(&directory.name)) {
                self.taken.insert(directory.name.clone());
                self.into.directory(directory)?;
            }
        }
        Ok(())
    }

    fn took(&mut self, path: Vec<u8>, verdict: &Verdict, info: FileInfo) {
        self.taken.insert(path);
        let changes = &mut self.changes;
        match verdict {
            Verdict::Created => list(&mut changes.created, &mut changes.unlisted, info),
            Verdict::Modified | Verdict::Unless(_) | Verdict::Same => list(&mut changes.modified, &mut changes.unlisted, info),
        }
    }

    fn skip(&mut self, path: &[u8], reason: impl Into<String>) {
        // Should the steps have put something else in its place, then the staged one is not simply gone.
        self.snapshot.strike_below(path);
        list(&mut self.changes.skipped, &mut self.changes.unlisted, SkippedFile { path: lossy(path), reason: reason.into() });
    }
}

/// Whether a name at the top is that of a step's log; of steps that did not run, too: a reader must not take a job's file for a log.
fn is_log(name: &[u8]) -> bool {
    let number = name.strip_prefix(b"step_").and_then(|rest| rest.strip_suffix(b".log"));
    number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
}

/// Opens for reading what was seen as `stat`, giving the owner the right to if need be: it is about to be removed anyway.
fn readable(dir: BorrowedFd<'_>, name: &CStr, seen: &Stat, flags: OFlags) -> Result<OwnedFd, Errno> {
    let needed = if kind(seen) == FileType::Directory { Mode::RUSR | Mode::XUSR } else { Mode::RUSR };
    let mode = Mode::from_raw_mode(seen.st_mode & 0o777);
    if !mode.contains(needed) {
        rustix::fs::chmodat(dir, name, mode | needed, AtFlags::empty())?;
    }
    let opened = files::open_beneath(dir, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&opened)?;
    if (stat.st_ino, stat.st_dev) == (seen.st_ino, seen.st_dev) { Ok(opened) } else { Err(Errno::STALE) }
}

/// Adds to one of a manifest's lists, or counts what there is no room for.
pub(super) fn list<T>(items: &mut Vec<T>, unlisted: &mut usize, item: T) {
    if items.len() < LISTED_MAX { items.push(item) } else { *unlisted += 1 }
}

fn slashed(name: &[u8]) -> Vec<u8> {
    [name, b"/"].concat()
}

/// When it was last written to, in seconds.
pub(super) fn mtime(stat: &Stat) -> i64 {
    i64::try_from(i128::from(stat.st_mtime)).unwrap_or(0)
}

pub(super) fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
