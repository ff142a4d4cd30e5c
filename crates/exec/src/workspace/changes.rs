//! What a tree was like when it was staged, and whether a file has changed since: the one way to know it, whatever the tree was
//! staged from and wherever changes go.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use rustix::fs::{FileType, OFlags, Stat};
use sha2::{Digest, Sha256};

use crate::bundle::{Content, Entry};
use crate::files;

/// A kernel stamps files by a clock that ticks at least this often.
pub(crate) const TICK: Duration = Duration::from_millis(20);
const TICK_NS: i64 = 20_000_000;
/// The same where stamps are whole seconds.
const COARSE_TICK_NS: i64 = 2_000_000_000;
const COMPARED_BYTES: usize = 64 * 1024;

/// The staged state of a tree.
#[derive(Default)]
pub(crate) struct Snapshot {
    entries: BTreeMap<Vec<u8>, Staged>,
    /// When it was complete, in nanoseconds by the clock that stamps files.
    settled_ns: i64,
    /// The directory it was copied from, if that is how it came to be.
    source: Option<OwnedFd>,
}

/// One staged entry.
pub(crate) struct Staged {
    mode: u32,
    inode: u64,
    size: i64,
    changed_ns: i64,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: i64,
    changed_ns: i64,
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
    pub(crate) fn is_new(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_nanos());
        i64::try_from(now).unwrap_or(0) < self.changed_ns.saturating_add(TICK_NS)
    }

    /// Whether somebody could still change the file and leave this stamp as it is: `later`, of a file that was written to just now,
    /// is within a tick of it.
    pub(crate) fn may_repeat(&self, later: &Stat) -> bool {
        let tick = if self.changed_ns % 1_000_000_000 == 0 { COARSE_TICK_NS } else { TICK_NS };
        changed_ns(later) < self.changed_ns.saturating_add(tick)
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
    pub(crate) fn copied(source: OwnedFd, copied: impl IntoIterator<Item = (Vec<u8>, Staged)>, settled: &Stat) -> Self {
        let mut entries = BTreeMap::new();
        // One by one: collecting them would have all of them in memory once more.
        entries.extend(copied);
        // The root is the last that copying changes; so its time is the present, by the clock of the file system itself.
        Self { entries, settled_ns: changed_ns(settled), source: Some(source) }
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
        self.settled_ns = i64::try_from(now).unwrap_or(0);
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

    /// Whether `file`, which was staged as `name`, has its original content. Reads it from where it stands to its end; nobody knows if it
    /// `is_stopped` before.
    pub(crate) fn is_original(&self, name: &[u8], original: &Original, file: &mut File, is_stopped: &dyn Fn() -> bool) -> io::Result<bool> {
        match original {
            Original::Digest(sha256) => Ok(digest_unless(file, is_stopped)?.is_some_and(|digest| digest.as_slice() == sha256)),
            Original::Source(stamp) => match self.unchanged_source(name, stamp) {
                // A source that cannot be read tells nothing.
                Some(mut source) => same_bytes(file, &mut source, is_stopped),
                None => Ok(false),
            },
        }
    }

    /// The file that `name` was copied from, if it is still as it was then.
    fn unchanged_source(&self, name: &[u8], stamp: &Stamp) -> Option<File> {
        let at = files::open_below(self.source.as_ref()?, name, OFlags::NONBLOCK | OFlags::NOCTTY).ok()?;
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

    /// Strikes an entry and all below it, or everything for an empty name: nobody looked, so nobody can say that it is gone.
    pub(crate) fn strike_below(&mut self, name: &[u8]) {
        if name.is_empty() {
            self.entries.clear();
        }
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

fn changed_ns(stat: &Stat) -> i64 {
    // Until the year 2262.
    stat.st_ctime.saturating_mul(1_000_000_000).saturating_add(i64::try_from(stat.st_ctime_nsec).unwrap_or(0))
}

/// The SHA-256 of what follows in `file`, unless it `is_stopped` before the end.
pub(super) fn digest_unless(file: &mut File, is_stopped: &dyn Fn() -> bool) -> io::Result<Option<sha2::digest::Output<Sha256>>> {
    let (mut hasher, mut piece) = (Sha256::new(), Vec::with_capacity(COMPARED_BYTES));
    while !is_stopped() {
        piece.clear();
        if file.by_ref().take(COMPARED_BYTES as u64).read_to_end(&mut piece)? == 0 {
            return Ok(Some(hasher.finalize()));
        }
        hasher.update(&piece);
    }
    Ok(None)
}

/// Whether both have the same content. What the other one gives in the place of its content is another.
fn same_bytes(one: &mut File, other: &mut File, is_stopped: &dyn Fn() -> bool) -> io::Result<bool> {
    let (mut left, mut right) = (Vec::with_capacity(COMPARED_BYTES), Vec::with_capacity(COMPARED_BYTES));
    while !is_stopped() {
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
    Ok(false)
}
