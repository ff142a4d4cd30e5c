//! What this worker was handed and has not been rid of, on disk: a task from before its dispatch is acknowledged, its answer from before it is sent until it is acknowledged,
//! and, for a while, answers after that, so that a task that is sent again is answered and not run again.
//!
//! One file that is only appended to, each record on a line that begins with a line feed, so that one that was torn spoils no other. It survives a kill at any
//! moment, not a power cut.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use longshore_session::{Message, Payload};
use serde::{Deserialize, Serialize};

/// The version of its records.
const VERSION: u32 = 1;
/// Answers that are kept after they were acknowledged.
const SETTLED_MAX: usize = 4096;
/// Bytes of them.
const SETTLED_BYTES_MAX: usize = 32 << 20;
/// The file is rewritten when it is this much larger than twice of what is in it.
const SLACK_BYTES: u64 = 4 << 20;

/// One logical execution: sent any number of times, run once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) run: String,
    pub(crate) task: String,
    /// The counter of the run; the same for each time it is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seq: Option<u64>,
    /// The dispatch's own id, if it has no counter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dispatch: Option<String>,
}

/// What is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) node: String,
    /// From the moment it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) answer: Option<Kept>,
    /// The answer was acknowledged.
    #[serde(default)]
    pub(crate) is_settled: bool,
}

/// An answer as it is sent, and sent again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) payload: Payload,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) corr: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seq: Option<u64>,
}

impl Kept {
    pub(crate) fn message(&self) -> Message {
        Message {
            id: Some(self.id.clone()),
            kind: self.kind.clone(),
            payload: self.payload.clone(),
            corr: self.corr.clone(),
            seq: self.seq,
            wants_ack: true,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Record {
    v: u32,
    key: Key,
    /// `None`: forgotten.
    entry: Option<Entry>,
}

/// Only that an answer was acknowledged: the answer is not written again.
#[derive(Serialize, Deserialize)]
struct Settled {
    v: u32,
    settled: Key,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Record(Record),
    Settled(Settled),
}

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

    /// Whether everything that is kept is on disk. What could not be written is tried again; to be asked now and then.
    pub(crate) fn check(&mut self) -> bool {
        if !self.is_whole && self.rewrite().is_ok() {
            tracing::info!(path = %self.path.display(), "the journal is whole again");
            self.is_whole = true;
        }
        self.is_whole
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

    fn append<T: Serialize>(&mut self, record: &T) -> usize {
        let mut line = vec![b'\n'];
        let written = serde_json::to_writer(&mut line, record).map_err(io::Error::other).and_then(|()| self.file.write_all(&line));
        self.bytes += line.len() as u64;
        if let Err(error) = &written
            && self.is_whole
        {
            tracing::error!(%error, path = %self.path.display(), "cannot write to the journal: what runs is lost if the worker is killed now");
        }
        // What an earlier write has missed is not there because this one succeeded.
        self.is_whole &= written.is_ok();
        line.len()
    }

    fn shorten(&mut self) {
        if self.bytes > self.rewrite_at
            && let Err(error) = self.rewrite()
        {
            tracing::warn!(%error, path = %self.path.display(), "cannot shorten the journal");
            self.rewrite_at = self.bytes + SLACK_BYTES;
        }
    }

    /// The file with nothing but what is kept, the settled ones in their order. One that fails leaves the file as it is, and nothing beside it.
    fn rewrite(&mut self) -> io::Result<()> {
        let draft = self.path.with_extension("draft");
        let written = self.write_draft(&draft).and_then(|bytes| fs::rename(&draft, &self.path).map(|()| bytes));
        let bytes = written.inspect_err(|_| drop(fs::remove_file(&draft)))?;
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        self.bytes = bytes;
        self.rewrite_at = 2 * bytes + SLACK_BYTES;
        Ok(())
    }

    fn write_draft(&self, draft: &Path) -> io::Result<u64> {
        let mut file = io::BufWriter::new(OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(draft)?);
        let mut bytes = 0;
        let live = self.entries.iter().filter(|(_, (entry, _))| !entry.is_settled).map(|(key, (entry, _))| (key, entry));
        let settled = self.settled.iter().filter_map(|key| self.entries.get(key).map(|(entry, _)| (key, entry)));
        for (key, entry) in settled.chain(live) {
            let line = serde_json::to_vec(&Record { v: VERSION, key: key.clone(), entry: Some(entry.clone()) })?;
            file.write_all(b"\n")?;
            file.write_all(&line)?;
            bytes += line.len() as u64 + 1;
        }
        file.flush()?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(n: usize) -> Key {
        Key { run: "r".to_owned(), task: format!("t-{n:06}"), seq: Some(1), dispatch: None }
    }

    fn kept(n: usize, fill: usize) -> Entry {
        let payload = json!({ "fill": "x".repeat(fill) }).as_object().unwrap().clone();
        let answer = Kept { id: format!("m-{n}"), kind: "biz.exec.result".to_owned(), payload, corr: Some("c".to_owned()), seq: Some(1) };
        Entry { node: "n".to_owned(), answer: Some(answer), is_settled: false }
    }

    fn running() -> Entry {
        Entry { node: "n".to_owned(), answer: None, is_settled: false }
    }

    #[test]
    fn what_was_noted_is_there_after_a_kill_and_a_torn_record_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        for n in 1..=4 {
            journal.note(key(n), running());
        }
        journal.note(key(2), kept(2, 10));
        journal.note(key(3), kept(3, 10));
        journal.settle(&key(3));
        journal.forget(&key(4));
        assert!(matches!(Journal::open(dir.path()), Err(JournalError::Busy(_))));
        drop(journal);
        let mut file = OpenOptions::new().append(true).open(dir.path().join("tasks")).unwrap();
        file.write_all(b"\n{\"v\":1,\"key\":{\"run\":\"to").unwrap();
        for _ in 0..2 {
            let mut journal = Journal::open(dir.path()).unwrap();
            assert_eq!(journal.unsettled(), [(key(1), running()), (key(2), kept(2, 10))]);
            assert!(journal.get(&key(3)).unwrap().is_settled && journal.get(&key(4)).is_none());
            journal.note(key(5), running());
            journal.forget(&key(5));
        }
    }

    #[test]
    fn a_kill_at_any_byte_of_the_file_leaves_a_beginning_of_what_happened() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        journal.note(key(1), running());
        journal.note(key(1), kept(1, 5));
        journal.settle(&key(1));
        drop(journal);
        let path = dir.path().join("tasks");
        let text = fs::read(&path).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for end in 0..=text.len() {
            fs::write(&path, &text[..end]).unwrap();
            let journal = Journal::open(dir.path()).unwrap();
            seen.insert(journal.get(&key(1)).map(|entry| (entry.answer.is_some(), entry.is_settled)));
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [None, Some((false, false)), Some((true, false)), Some((true, true))]);
    }

    #[test]
    fn what_could_not_be_written_is_written_when_that_is_possible_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        let good = std::mem::replace(&mut journal.file, File::open(dir.path().join("tasks")).unwrap());
        journal.note(key(1), running());
        journal.file = good;
        // A write that succeeds does not make good what an earlier one has missed.
        journal.note(key(2), running());
        assert!(!journal.is_whole);
        assert!(journal.check() && journal.check());
        journal.note(key(3), running());
        drop(journal);
        let journal = Journal::open(dir.path()).unwrap();
        assert_eq!(journal.unsettled(), [(key(1), running()), (key(2), running()), (key(3), running())]);
    }

    #[test]
    fn a_rewrite_that_fails_leaves_the_file_and_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        journal.note(key(1), running());
        fs::create_dir(dir.path().join("tasks.draft")).unwrap();
        assert!(journal.rewrite().is_err());
        journal.note(key(2), running());
        drop(journal);
        fs::remove_dir(dir.path().join("tasks.draft")).unwrap();
        assert_eq!(Journal::open(dir.path()).unwrap().unsettled().len(), 2);
    }

    #[test]
    fn answers_are_remembered_up_to_a_bound_and_the_file_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        for n in 0..SETTLED_MAX + 50 {
            journal.note(key(n), kept(n, 10));
            journal.settle(&key(n));
        }
        assert!(journal.get(&key(49)).is_none() && journal.get(&key(50)).is_some());
        for n in 0..60 {
            journal.note(key(1_000_000 + n), kept(n, 1 << 20));
            journal.settle(&key(1_000_000 + n));
        }
        assert!(journal.settled_bytes <= SETTLED_BYTES_MAX);
        let size = fs::metadata(dir.path().join("tasks")).unwrap().len();
        assert!(size <= 2 * SETTLED_BYTES_MAX as u64 + 2 * SLACK_BYTES, "{size}");
    }

    #[test]
    fn journals_of_the_first_version_stay_readable() {
        let golden = concat!(
            "\n",
            r#"{"v":1,"key":{"run":"r","task":"t","seq":3},"entry":{"node":"n","is_settled":false}}"#,
            "\n",
            r#"{"v":1,"key":{"run":"r","task":"u","dispatch":"d"},"entry":{"node":"n","answer":{"id":"m","kind":"biz.exec.result","payload":{"a":1},"corr":"c","seq":3},"is_settled":false}}"#,
            "\n",
            r#"{"v":1,"settled":{"run":"r","task":"u","dispatch":"d"}}"#,
        );
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tasks"), golden).unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let first = Key { run: "r".to_owned(), task: "t".to_owned(), seq: Some(3), dispatch: None };
        assert_eq!(journal.unsettled(), [(first, running())]);
        let second = Key { run: "r".to_owned(), task: "u".to_owned(), seq: None, dispatch: Some("d".to_owned()) };
        assert_eq!(journal.get(&second).unwrap().answer.as_ref().unwrap().payload["a"], 1);
    }
}
