//! What a tree was like when it was staged, and whether a file has changed since.

use std::collections::BTreeMap;
use std::time::SystemTime;

use rustix::fs::{FileType, Stat};

use crate::bundle::{Content, Entry};

/// A kernel stamps files by a clock that ticks at least this often.
const TICK_NS: i128 = 20_000_000;

/// The staged state of a tree.
#[derive(Default)]
pub(crate) struct Snapshot {
    entries: BTreeMap<Vec<u8>, Staged>,
    /// When it was complete, in nanoseconds by the clock that stamps files.
    settled_ns: i128,
}

/// One staged entry.
pub(crate) struct Staged {
    mode: u32,
    inode: u64,
    size: i64,
    changed_ns: i128,
    content: Content,
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
    /// Modified unless its content has this SHA-256.
    Unless([u8; 32]),
}

impl Snapshot {
    /// Adds an entry that was just staged.
    pub(crate) fn record(&mut self, entry: Entry<'_>) {
        let Entry { name, stat, content } = entry;
        let staged = Staged { mode: permissions(&stat), inode: stat.st_ino, size: stat.st_size, changed_ns: changed_ns(&stat), content };
        self.entries.insert(name.to_owned(), staged);
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
        let Content::File { sha256 } = staged.content else { return Verdict::Modified };
        if staged.mode != permissions(stat) || staged.size != stat.st_size {
            return Verdict::Modified;
        }
        // Nobody can set a file's change time, so an old one that still stands means that nothing was written. One from the last
        // tick before the steps began could be stamped again with the same value, and one of whole seconds is of a file system
        // whose clock is too coarse to tell.
        let telling = staged.changed_ns < self.settled_ns - TICK_NS && staged.changed_ns % 1_000_000_000 != 0;
        if telling && staged.inode == stat.st_ino && staged.changed_ns == changed_ns(stat) {
            return Verdict::Same;
        }
        Verdict::Unless(sha256)
    }

    /// The same for a symbolic link.
    pub(crate) fn judge_link(&mut self, name: &[u8], target: &[u8]) -> Verdict {
        match self.entries.remove(name) {
            None => Verdict::Created,
            Some(Staged { content: Content::Link { target: staged }, .. }) if staged == target => Verdict::Same,
            Some(_) => Verdict::Modified,
        }
    }

    /// Strikes a directory, which is of no interest beyond that it is still there.
    pub(crate) fn strike_directory(&mut self, name: &[u8]) {
        if self.entries.get(name).is_some_and(|staged| staged.content == Content::Directory) {
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
        self.entries.into_iter().filter(|(_, staged)| staged.content != Content::Directory).map(|(name, _)| name)
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
