//! What this worker was handed and has not been rid of, on disk: a task from before its dispatch is acknowledged, its answer from before it is sent until it is acknowledged,
//! and, for a while, answers after that, so that a task that is sent again is answered and not run again.
//!
//! One file that is only appended to, each record on a line that begins with a line feed, so that one that was torn spoils no other. It survives a kill at any
//! moment, not a power cut.

mod file;
mod record;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub(crate) use record::{Entry, Kept, Key};
use record::{Line, Record, Settled, VERSION};

/// Answers that are kept after they were acknowledged.
const SETTLED_MAX: usize = 4096;
/// Bytes of them.
const SETTLED_BYTES_MAX: usize = 32 << 20;

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it.
    #[error("another worker runs as this instance: it holds {}", .0.display())]
    Busy(PathBuf),
    /// The directory or the file.
    #[error("cannot use {}", .path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The file, locked for this process, and what is in it.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
    rewrite_at: u64,
    entries: BTreeMap<Key, (Entry, usize)>,
    settled: VecDeque<Key>,
    settled_bytes: usize,
    /// Everything that is kept is in the file.
    is_whole: bool,
    _lock: File,
}

impl Journal {
    /// Opens or makes it below `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Self, JournalError> {
        let unusable = |source| JournalError::Unusable { path: dir.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(dir.join("lock")).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(JournalError::Busy(dir.join("lock"))),
            Err(fs::TryLockError::Error(source)) => return Err(unusable(source)),
        }
        let path = dir.join("tasks");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(unusable(error)),
        };
        let mut journal = Self {
            file: OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(unusable)?,
            path,
            bytes: 0,
            rewrite_at: 0,
            entries: BTreeMap::new(),
            settled: VecDeque::new(),
            settled_bytes: 0,
            is_whole: true,
            _lock: lock,
        };
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(Line::Record(Record { v: VERSION, key, entry: Some(entry) })) => journal.remember(key, entry, line.len()),
                Ok(Line::Record(Record { v: VERSION, key, entry: None })) => journal.drop_entry(&key),
                Ok(Line::Settled(Settled { v: VERSION, settled })) => journal.mark_settled(&settled),
                Ok(Line::Record(_) | Line::Settled(_)) => tracing::warn!("passed over a record of another version in the journal"),
                Err(error) => tracing::warn!(%error, "passed over an unreadable record of the journal"),
            }
        }
        journal.rewrite().map_err(unusable)?;
        Ok(journal)
    }

    /// What was handed over and not settled, oldest key first.
    pub(crate) fn unsettled(&self) -> Vec<(Key, Entry)> {
        self.entries.iter().filter(|(_, (entry, _))| !entry.is_settled).map(|(key, (entry, _))| (key.clone(), entry.clone())).collect()
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key).map(|(entry, _)| entry)
    }

    /// Replaces what was noted of it. A fault is told to the log and by [`Journal::check`]; work goes on.
    pub(crate) fn note(&mut self, key: Key, entry: Entry) {
        let record = Record { v: VERSION, key, entry: Some(entry) };
        let size = self.append(&record);
        if let Record { key, entry: Some(entry), .. } = record {
            self.remember(key, entry, size);
        }
        self.shorten();
    }

    /// The answer was acknowledged. It is kept for a while.
    pub(crate) fn settle(&mut self, key: &Key) {
        if self.get(key).is_some_and(|entry| !entry.is_settled) {
            self.append(&Settled { v: VERSION, settled: key.clone() });
            self.mark_settled(key);
            self.shorten();
        }
    }

    /// Nothing of it is kept. Safe to repeat.
    pub(crate) fn forget(&mut self, key: &Key) {
        if self.entries.contains_key(key) {
            self.append(&Record { v: VERSION, key: key.clone(), entry: None });
            self.drop_entry(key);
            self.shorten();
        }
    }

    fn remember(&mut self, key: Key, entry: Entry, size: usize) {
        self.drop_entry(&key);
        if entry.is_settled {
            self.settled.push_back(key.clone());
            self.settled_bytes += size;
        }
        self.entries.insert(key, (entry, size));
        self.forget_oldest();
    }

    fn drop_entry(&mut self, key: &Key) {
        if let Some((entry, size)) = self.entries.remove(key)
            && entry.is_settled
        {
            self.settled_bytes -= size;
            self.settled.retain(|settled| settled != key);
        }
    }

    fn mark_settled(&mut self, key: &Key) {
        if let Some((entry, size)) = self.entries.get_mut(key)
            && !entry.is_settled
        {
            entry.is_settled = true;
            self.settled_bytes += *size;
            self.settled.push_back(key.clone());
            self.forget_oldest();
        }
    }

    /// Not written: whoever finds the record finds one more than was kept.
    fn forget_oldest(&mut self) {
        while self.settled.len() > SETTLED_MAX || self.settled_bytes > SETTLED_BYTES_MAX {
            let Some(oldest) = self.settled.pop_front() else { return };
            if let Some((_, size)) = self.entries.remove(&oldest) {
                self.settled_bytes -= size;
            }
        }
    }
}
