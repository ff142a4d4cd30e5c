//! Brings back what the steps made: a walk over the tree, into an archive.
//!
//! When it runs, every process of the job is gone. Still nothing is followed: not a link, not a mount, not a name twice.

use std::collections::HashSet;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use data_encoding::HEXLOWER;
use longshore_model::limits::{BUNDLE_BYTES_MAX, BUNDLE_DEPTH_MAX, BUNDLE_ENTRIES_MAX, BUNDLE_UNPACKED_BYTES_MAX};
use longshore_model::wire::result::{ArchiveInfo, FileChanges, FileInfo, SkippedFile, WorkspaceResult};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::changes::{Snapshot, Verdict, kind};
use super::globs::Globs;
use super::run::log_name;
use super::stage::Place;
use crate::bundle::{Digesting, Writer};
use crate::files;
use crate::finished::is_host_fault;

/// Names a manifest lists in each of its lists; far more than an answer shows, and a bound on memory.
const LISTED_MAX: usize = 100_000;
/// Why artifacts did not come back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    #[error("list {path:?} in the workspace")]
    List { path: String, source: io::Error },
    #[error("read {path:?} in the workspace")]
    Read { path: String, source: io::Error },
    #[error("write the archive")]
    Write(#[source] io::Error),
    #[error("write the archive: the artifacts are larger than {BUNDLE_BYTES_MAX} bytes when packed")]
    TooBig,
}

impl CollectError {
    pub(crate) fn is_host_fault(&self) -> bool {
        match self {
            Self::List { source, .. } | Self::Read { source, .. } | Self::Write(source) => is_host_fault(source),
            Self::TooBig => false,
        }
    }
}

/// Writes the archive: changed files, step logs, and the manifest that `manifest` makes from the list of changes.
pub(crate) fn collect(
    place: &Place,
    snapshot: Snapshot,
    globs: Option<Globs>,
    logs: Vec<File>,
    manifest: impl FnOnce(FileChanges) -> WorkspaceResult,
    into: File,
) -> Result<(WorkspaceResult, ArchiveInfo), CollectError> {
    let writer = Writer::new(BufWriter::with_capacity(256 * 1024, into)).map_err(CollectError::Write)?;
    let mut collector =
        Collector { place, snapshot, globs, writer, taken: HashSet::new(), changes: FileChanges::default(), bytes: 0, n_logs: logs.len() };
    collector.walk(Root::Tree)?;
    let deleted = std::mem::take(&mut collector.snapshot).into_deleted();
    for name in deleted {
        list(&mut collector.changes.deleted, &mut collector.changes.unlisted, lossy(&name));
    }
    collector.walk(Root::Results)?;
    collector.finish(logs, manifest)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Root {
    /// What was staged, and what became of it.
    Tree,
    /// What steps put into `$LONGSHORE_RESULTS`, all of it new.
    Results,
}

/// A directory on the way to what is being looked at.
struct Above {
    name: Vec<u8>,
    mode: u32,
    mtime: i64,
}

struct Collector<'a> {
    place: &'a Place,
    snapshot: Snapshot,
    globs: Option<Globs>,
    writer: Writer<BufWriter<File>>,
    /// Names in the archive, directories among them.
    taken: HashSet<Vec<u8>>,
    changes: FileChanges,
    bytes: u64,
    n_logs: usize,
}

impl Collector<'_> {
    fn walk(&mut self, root: Root) -> Result<(), CollectError> {
        let dir = match root {
            Root::Tree => self.place.tree.as_fd(),
            Root::Results => self.place.results.as_fd(),
        };
        let failed = |errno: Errno| CollectError::List { path: ".".to_owned(), source: errno.into() };
        // The steps may have taken our own rights away.
        rustix::fs::fchmod(dir, Mode::RWXU).map_err(failed)?;
        let stat = rustix::fs::fstat(dir).map_err(failed)?;
        self.directory(root, dir, stat.st_dev, &mut Vec::new())
    }

    fn directory(&mut self, root: Root, dir: BorrowedFd<'_>, device: u64, above: &mut Vec<Above>) -> Result<(), CollectError> {
        let prefix = above.last().map(|above| [above.name.as_slice(), b"/"].concat()).unwrap_or_default();
        let names = files::names(dir).map_err(|source| CollectError::List { path: lossy(&prefix), source })?;
        for name in names {
            let path = [prefix.as_slice(), name.to_bytes()].concat();
            if root == Root::Results && above.is_empty() && self.is_log(&path) {
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
        if let Verdict::Unless(staged) = verdict {
            let mut hasher = Sha256::new();
            io::copy(&mut file, &mut hasher).map_err(unreadable)?;
            if hasher.finalize().as_slice() == staged {
                return Ok(());
            }
            file.rewind().map_err(unreadable)?;
        }
        self.directories(above)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let mut reading = Noting { from: Digesting::new(file), failed: false };
        let written = self.writer.file(&path, stat.st_mode, mtime(stat), size, &mut reading);
        let failed = reading.failed;
        written.map_err(|source| {
            // The end came early: somebody still writes to it, or truncated it after it was looked at.
            if failed || source.kind() == io::ErrorKind::UnexpectedEof { unreadable(source) } else { CollectError::Write(source) }
        })?;
        self.bytes += size;
        let info = FileInfo { path: lossy(&path), size, sha256: HEXLOWER.encode(&reading.from.sha256()) };
        self.took(path, verdict, info)
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
        // An absolute target in the workspace would point at nothing once that is removed; the same place seen from the link will
        // not. Out of `$LONGSHORE_RESULTS` there is no telling what is beside it in the end, but the names are the same.
        let inside = [&self.place.tree_path, &self.place.results_path].into_iter().find_map(|root| {
            let rest = target.strip_prefix(root.as_bytes())?;
            (rest.is_empty() || rest.starts_with(b"/")).then_some(rest)
        });
        let target = match inside {
            Some(rest) => {
                let up = b"../".repeat(above.len());
                let down: Vec<u8> = rest.iter().copied().skip_while(|byte| *byte == b'/').collect();
                match [up, down].concat() {
                    here if here.is_empty() => b".".to_vec(),
                    there => there,
                }
            }
            None => target,
        };
        debug_assert!(root == Root::Tree || verdict != Verdict::Modified, "nothing is staged in the results");
        self.directories(above)?;
        self.writer.link(&path, &target, mtime(stat)).map_err(CollectError::Write)?;
        let info = FileInfo { path: lossy(&path), size: target.len() as u64, sha256: HEXLOWER.encode(&Sha256::digest(&target)) };
        self.took(path, verdict, info)
    }

    /// Whether a changed file or link may go into the archive; if it may not but was wanted, it is listed as skipped.
    fn may_come(&mut self, path: &[u8], stat: &Stat, above: &[Above]) -> bool {
        if self.globs.as_ref().is_some_and(|globs| !globs.want(path)) {
            return false;
        }
        let top = path.split(|byte| *byte == b'/').next().unwrap_or(path);
        let blocked = |name: &Vec<u8>| self.taken.contains(name);
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let reason = if top == b"result.json" || self.is_log(top) {
            "the name belongs to Longshore"
        } else if blocked(&path.to_vec()) || above.iter().any(|above| blocked(&above.name) && !self.taken.contains(&slashed(&above.name))) {
            "the workspace has another file of that name"
        } else if self.bytes.saturating_add(size) > BUNDLE_UNPACKED_BYTES_MAX {
            "the artifacts would be too large with it"
        } else if self.writer.entries() + above.len() + self.n_logs + 2 > BUNDLE_ENTRIES_MAX {
            "there are too many artifacts"
        } else {
            return true;
        };
        self.skip(path, reason);
        false
    }

    /// Writes the directories on the way that are not in the archive yet.
    fn directories(&mut self, above: &[Above]) -> Result<(), CollectError> {
        for Above { name, mode, mtime } in above {
            if self.taken.insert(slashed(name)) {
                self.taken.insert(name.clone());
                self.writer.directory(name, *mode, *mtime).map_err(CollectError::Write)?;
            }
        }
        Ok(())
    }

    fn took(&mut self, path: Vec<u8>, verdict: Verdict, info: FileInfo) -> Result<(), CollectError> {
        self.taken.insert(path);
        let changes = &mut self.changes;
        match verdict {
            Verdict::Created => list(&mut changes.created, &mut changes.unlisted, info),
            Verdict::Modified | Verdict::Unless(_) | Verdict::Same => list(&mut changes.modified, &mut changes.unlisted, info),
        }
        if self.writer.packed_bytes() > BUNDLE_BYTES_MAX { Err(CollectError::TooBig) } else { Ok(()) }
    }

    fn skip(&mut self, path: &[u8], reason: impl Into<String>) {
        // Should the steps have put something else in its place, then the staged one is not simply gone.
        self.snapshot.strike_below(path);
        list(&mut self.changes.skipped, &mut self.changes.unlisted, SkippedFile { path: lossy(path), reason: reason.into() });
    }

    fn is_log(&self, name: &[u8]) -> bool {
        // Of steps that did not run, too: a reader must not take a job's file for a log.
        let number = name.strip_prefix(b"step_").and_then(|rest| rest.strip_suffix(b".log"));
        number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
    }

    fn finish(
        mut self,
        logs: Vec<File>,
        manifest: impl FnOnce(FileChanges) -> WorkspaceResult,
    ) -> Result<(WorkspaceResult, ArchiveInfo), CollectError> {
        let now = jiff::Timestamp::now().as_second();
        for (index, mut log) in logs.into_iter().enumerate() {
            let name = log_name(index);
            let unreadable = |source| CollectError::Read { path: name.clone(), source };
            log.rewind().map_err(unreadable)?;
            let size = log.metadata().map_err(unreadable)?.len();
            self.writer.file(name.as_bytes(), 0o644, now, size, &mut log).map_err(CollectError::Write)?;
        }
        let FileChanges { created, modified, deleted, skipped, unlisted: _ } = &mut self.changes;
        created.sort_by(|a, b| a.path.cmp(&b.path));
        modified.sort_by(|a, b| a.path.cmp(&b.path));
        skipped.sort_by(|a, b| a.path.cmp(&b.path));
        deleted.sort();
        let result = manifest(self.changes);
        let mut json = serde_json::to_vec_pretty(&result).expect("structs with string keys are JSON");
        json.push(b'\n');
        self.writer.file(b"result.json", 0o644, now, json.len() as u64, &mut json.as_slice()).map_err(CollectError::Write)?;
        let (buffer, info) = self.writer.finish().map_err(CollectError::Write)?;
        buffer.into_inner().map_err(|error| CollectError::Write(error.into_error()))?;
        if info.size > BUNDLE_BYTES_MAX {
            return Err(CollectError::TooBig);
        }
        Ok((result, info))
    }
}

/// Opens for reading what was seen as `stat`, giving the owner the right to if need be: it is about to be removed anyway.
fn readable(dir: BorrowedFd<'_>, name: &CStr, seen: &Stat, flags: OFlags) -> Result<OwnedFd, Errno> {
    let needed = if kind(seen) == FileType::Directory { Mode::RUSR | Mode::XUSR } else { Mode::RUSR };
    let mode = Mode::from_raw_mode(seen.st_mode & 0o777);
    if !mode.contains(needed) {
        rustix::fs::chmodat(dir, name, mode | needed, AtFlags::empty())?;
    }
    let opened = rustix::fs::openat(dir, name, flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::fstat(&opened)?;
    if (stat.st_ino, stat.st_dev) == (seen.st_ino, seen.st_dev) { Ok(opened) } else { Err(Errno::STALE) }
}

/// Remembers whether it was reading that failed, as opposed to writing what was read.
struct Noting<R> {
    from: R,
    failed: bool,
}

impl<R: Read> Read for Noting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.from.read(buffer).inspect_err(|_| self.failed = true)
    }
}

fn list<T>(items: &mut Vec<T>, unlisted: &mut usize, item: T) {
    if items.len() < LISTED_MAX { items.push(item) } else { *unlisted += 1 }
}

fn slashed(name: &[u8]) -> Vec<u8> {
    [name, b"/"].concat()
}

fn mtime(stat: &Stat) -> i64 {
    i64::try_from(i128::from(stat.st_mtime)).unwrap_or(0)
}

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
