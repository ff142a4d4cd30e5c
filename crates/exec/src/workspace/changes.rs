//! What a tree was like when it was staged, and whether a file has changed since: the one way to know it, whatever the tree was
//! staged from and wherever changes go.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use sha2::{Digest, Sha256};

use crate::bundle::{Content, Entry};
use crate::files;

/// A kernel stamps files by a clock that ticks at least this often.
pub(super) const TICK: Duration = Duration::from_millis(20);
const TICK_NS: i128 = 20_000_000;
/// The same where stamps are whole seconds.
const COARSE_TICK_NS: i128 = 2_000_000_000;
const COMPARED_BYTES: usize = 64 * 1024;

/// The staged state of a tree.
#[derive(Default)]
pub(crate) struct Snapshot {
    entries: BTreeMap<Vec<u8>, Staged>,
    /// When it was complete, in nanoseconds by the clock that stamps files.
    settled_ns: i128,
    /// The directory it was copied from, if that is how it came to be.
    source: Option<OwnedFd>,
}

/// One staged entry.
pub(crate) struct Staged {
    mode: u32,
    inode: u64,
    size: i64,
    changed_ns: i128,
    kind: Kind,
}

/// What an entry is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File(Original),
    Link { target: Vec<u8> },
}

/// How a file's staged content can be told from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Original {
    /// It has this SHA-256.
    Digest([u8; 32]),
    /// It is that of the file it was copied from, as long as that has this state. Should it have another by now, then every file
    /// that somebody touched counts as modified: rather one file too many comes back than one too few.
    Source(Stamp),
}

/// What changes whenever a file does. Nobody can set a file's change time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: i64,
    changed_ns: i128,
}

/// Whether an entry differs from what was staged.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing of that name was staged.
    Created,
    /// Content, mode or kind differ.
    Modified,
    /// It is as it was.
    Same,
    /// Modified unless it still has its original content.
    Unless(Original),
}

impl Stamp {
    /// Whether it is so new, by this host's clock, that a change could still leave it as it is.
    pub(super) fn is_new(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_nanos());
        i128::try_from(now).unwrap_or(0) < self.changed_ns + TICK_NS
    }

    /// Whether somebody could still change the file and leave this stamp as it is: `later`, of a file that was written to just now,
    /// is within a tick of it.
    pub(crate) fn may_repeat(&self, later: &Stat) -> bool {
        let tick = if self.changed_ns % 1_000_000_000 == 0 { COARSE_TICK_NS } else { TICK_NS };
        changed_ns(later) < self.changed_ns + tick
    }

    pub(crate) fn of(stat: &Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino, size: stat.st_size, changed_ns: changed_ns(stat) }
    }
}

impl Staged {
    pub(crate) fn new(stat: &Stat, kind: Kind) -> Self {
        Self { mode: permissions(stat), inode: stat.st_ino, size: stat.st_size, changed_ns: changed_ns(stat), kind }
    }
}

impl Snapshot {
    /// What was copied from `source`, complete when the tree's root had the state `settled`.
    pub(crate) fn copied(source: OwnedFd, entries: impl IntoIterator<Item = (Vec<u8>, Staged)>, settled: &Stat) -> Self {
        // The root is the last that copying changes; so its time is the present, by the clock of the file system itself.
        Self { entries: entries.into_iter().collect(), settled_ns: changed_ns(settled), source: Some(source) }
    }

    /// Adds an entry that was just unpacked.
    pub(crate) fn record(&mut self, entry: Entry<'_>) {
        let Entry { name, stat, content } = entry;
        let kind = match content {
            Content::Directory => Kind::Directory,
            Content::File { sha256 } => Kind::File(Original::Digest(sha256)),
            Content::Link { target } => Kind::Link { target },
        };
        self.entries.insert(name.to_owned(), Staged::new(&stat, kind));
    }

    /// Says that staging is over; nothing may have changed a file before.
    pub(crate) fn settle(&mut self) {
        // Before 1970 nothing can be told by the clock, and 0 means so.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_nanos());
        self.settled_ns = i128::try_from(now).unwrap_or(0);
    }

    /// Judges a regular file by its name and state, and strikes it from the snapshot.
    pub(crate) fn judge_file(&mut self, name: &[u8], stat: &Stat) -> Verdict {
        let Some(staged) = self.entries.remove(name) else { return Verdict::Created };
        let Kind::File(original) = staged.kind else { return Verdict::Modified };
        if staged.mode != permissions(stat) || staged.size != stat.st_size {
            return Verdict::Modified;
        }
        // An old change time that still stands means that nothing was written. One from the last tick before the steps began could
        // be stamped again with the same value, and one of whole seconds is of a file system whose clock is too coarse to tell.
        let telling = staged.changed_ns < self.settled_ns - TICK_NS && staged.changed_ns % 1_000_000_000 != 0;
        if telling && staged.inode == stat.st_ino && staged.changed_ns == changed_ns(stat) {
            return Verdict::Same;
        }
        Verdict::Unless(original)
    }

    /// Whether `file`, which was staged as `name`, has its original content. Reads it from where it stands to its end.
    pub(crate) fn is_original(&self, name: &[u8], original: &Original, file: &mut File) -> io::Result<bool> {
        match original {
            Original::Digest(sha256) => {
                let mut hasher = Sha256::new();
                io::copy(file, &mut hasher)?;
                Ok(hasher.finalize().as_slice() == sha256)
            }
            Original::Source(stamp) => match self.unchanged_source(name, stamp) {
                // A source that cannot be read tells nothing.
                Some(mut source) => same_bytes(file, &mut source),
                None => Ok(false),
            },
        }
    }

    /// The file that `name` was copied from, if it is still as it was then.
    fn unchanged_source(&self, name: &[u8], stamp: &Stamp) -> Option<File> {
        let mut at = rustix::io::fcntl_dupfd_cloexec(self.source.as_ref()?, 0).ok()?;
        let mut segments = name.split(|byte| *byte == b'/').peekable();
        while let Some(segment) = segments.next() {
            let flags = if segments.peek().is_some() { OFlags::DIRECTORY } else { OFlags::NONBLOCK | OFlags::NOCTTY };
            at = files::open_beneath(&at, segment, flags, Mode::empty()).ok()?;
        }
        let stat = rustix::fs::fstat(&at).ok()?;
        (kind(&stat) == FileType::RegularFile && Stamp::of(&stat) == *stamp).then(|| File::from(at))
    }

    /// The same as [`Self::judge_file`] for a symbolic link.
    pub(crate) fn judge_link(&mut self, name: &[u8], target: &[u8]) -> Verdict {
        match self.entries.remove(name) {
            None => Verdict::Created,
            Some(Staged { kind: Kind::Link { target: staged }, .. }) if staged == target => Verdict::Same,
            Some(_) => Verdict::Modified,
        }
    }

    /// Strikes a directory, which is of no interest beyond that it is still there.
    pub(crate) fn strike_directory(&mut self, name: &[u8]) {
        if self.entries.get(name).is_some_and(|staged| staged.kind == Kind::Directory) {
            self.entries.remove(name);
        }
    }

    /// Strikes an entry and all below it: nobody looked, so nobody can say that it is gone.
    pub(crate) fn strike_below(&mut self, name: &[u8]) {
        self.entries.remove(name);
        let first = [name, b"/"].concat();
        let below: Vec<_> =
            self.entries.range(first.clone()..).map(|(name, _)| name).take_while(|name| name.starts_with(&first)).cloned().collect();
        below.iter().for_each(|name| drop(self.entries.remove(name)));
    }

    /// The files and links that were not struck, sorted: they are gone.
    pub(crate) fn into_deleted(self) -> impl Iterator<Item = Vec<u8>> {
        self.entries.into_iter().filter(|(_, staged)| staged.kind != Kind::Directory).map(|(name, _)| name)
    }
}

/// What kind of file it is.
pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn permissions(stat: &Stat) -> u32 {
    stat.st_mode & 0o7777
}

fn changed_ns(stat: &Stat) -> i128 {
    i128::from(stat.st_ctime) * 1_000_000_000 + i128::from(stat.st_ctime_nsec)
}

/// Whether both have the same content. What the other one gives in the place of its content is another.
fn same_bytes(one: &mut File, other: &mut File) -> io::Result<bool> {
    let (mut left, mut right) = (Vec::with_capacity(COMPARED_BYTES), Vec::with_capacity(COMPARED_BYTES));
    loop {
        left.clear();
        right.clear();
        one.by_ref().take(COMPARED_BYTES as u64).read_to_end(&mut left)?;
        if other.by_ref().take(COMPARED_BYTES as u64).read_to_end(&mut right).is_err() || left != right {
            return Ok(false);
        }
        if left.is_empty() {
            return Ok(true);
        }
    }
}
