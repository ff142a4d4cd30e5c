//! What this agent has in hand, on disk, so that a killed process's work is given back, and its finished answers delivered, as soon as
//! the agent is started again.
//!
//! One file that is only appended to: a file for each execution costs more than the rest of a small job together (ext4 looks for an inode
//! that was not freed a moment ago). Each record begins with a line feed, so one that was torn spoils no other. What is forgotten is cut
//! off when nothing is in hand, and rewritten away when the file has grown large.
//!
//! The file survives the process, not a power cut; after one, the broker's own time-outs give the work back.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use longshore_model::wire::read::read_text;
use longshore_model::wire::record::Answer;
use longshore_model::{ExecutionId, JobId};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::dispatcher::Key;

/// Where the file is cut off, if nothing is in hand.
const IDLE_BYTES_MAX: u64 = 64 << 10;
/// Where it is rewritten; or at twice of what is in hand, if that is more.
const BYTES_MAX: u64 = 16 << 20;

/// One execution in hand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What the broker takes the work back by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The answer, from the moment the work has ended until the ledger has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    /// An attempt that is recorded as started, or about to be, while nothing of it has been done yet. Only said of what may not be tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unbegun: Option<Unbegun>,
}

/// An attempt that nothing has been done of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unbegun {
    /// Which, from 1.
    pub attempt: u32,
    /// The boot and the directory of whoever says so: a file that comes back after a power cut, or with a copy of a host, may be older than what
    /// was done since.
    pub place: String,
}

#[derive(Serialize, Deserialize)]
struct Record<E> {
    job: JobId,
    execution: ExecutionId,
    /// `None` when it was forgotten.
    entry: Option<E>,
}

/// The file. Whoever opens it has the lock of the executor's state directory, in which it is: a lock of its own would cost every agent a file.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    path: PathBuf,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    file: File,
    /// Answered work that is forgotten. It is written with the next record, or when nothing is in hand: whoever finds it still noted
    /// finds its answer stored.
    unwritten: Vec<u8>,
    bytes: u64,
    rewrite_at: u64,
    /// And whether its answer is noted.
    in_hand: BTreeMap<Key, bool>,
}

impl Journal {
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        let state = |source| Error::State { path: dir.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(state)?;
        let path = dir.join("in-hand");
        let state = State::rewritten(&path).map_err(state)?;
        Ok(Self { path, state: Arc::new(Mutex::new(state)) })
    }

    /// Notes an execution, replacing what was noted of it. A fault is reported to the log only: the journal makes recovery quick, not possible.
    /// True if it is noted.
    pub(crate) fn note(&self, key: Key, entry: &Entry) -> bool {
        self.record(key, Some(entry))
    }

    /// Safe to repeat.
    pub(crate) fn forget(&self, key: Key) {
        let _found_and_settled_again_by_the_next = self.record(key, None);
    }

    fn record(&self, key: Key, entry: Option<&Entry>) -> bool {
        let mut state = self.state.lock().expect("no holder of this lock panics");
        let written = state.append(key, entry).and_then(|()| state.shorten(&self.path));
        if let Err(error) = &written {
            tracing::warn!(%error, job.id = %key.0, "could not write to the journal");
        }
        written.is_ok()
    }

    /// What an earlier process had in hand. What cannot be read is left out: the broker's time-outs stand in for it.
    pub(crate) fn left_behind(&self) -> Vec<(Key, Entry)> {
        match fs::read(&self.path) {
            Ok(text) => newest(&text).into_iter().collect(),
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "could not read the journal");
                Vec::new()
            }
        }
    }
}

impl State {
    /// The file with nothing but what is in hand.
    fn rewritten(path: &Path) -> io::Result<Self> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let draft = path.with_extension("draft");
        let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
        let mut state = Self { file, unwritten: Vec::new(), bytes: 0, rewrite_at: 0, in_hand: BTreeMap::new() };
        for (key, entry) in newest(&text) {
            state.append(key, Some(&entry))?;
        }
        fs::rename(&draft, path)?;
        state.rewrite_at = BYTES_MAX.max(2 * state.bytes);
        Ok(state)
    }

    fn append(&mut self, key: Key, entry: Option<&Entry>) -> io::Result<()> {
        let can_wait = match entry {
            Some(entry) => {
                self.in_hand.insert(key, entry.answer.is_some());
                false
            }
            None => match self.in_hand.remove(&key) {
                Some(is_answered) => is_answered && !self.in_hand.is_empty(),
                None => return Ok(()),
            },
        };
        self.unwritten.push(b'\n');
        serde_json::to_writer(&mut self.unwritten, &Record { job: key.0, execution: key.1, entry })?;
        if can_wait { Ok(()) } else { self.write() }
    }

    fn write(&mut self) -> io::Result<()> {
        self.bytes += self.unwritten.len() as u64;
        let written = self.file.write_all(&self.unwritten);
        self.unwritten.clear();
        written
    }

    fn shorten(&mut self, path: &Path) -> io::Result<()> {
        if self.bytes > self.rewrite_at || (self.in_hand.is_empty() && self.bytes > IDLE_BYTES_MAX) {
            self.write()?;
            *self = Self::rewritten(path)?;
        }
        Ok(())
    }
}

/// The newest entry of every execution that was not forgotten.
fn newest(text: &[u8]) -> BTreeMap<Key, Entry> {
    let mut entries = BTreeMap::new();
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match read_text(line) {
            Ok(Record { job, execution, entry: Some(entry) }) => entries.insert((job, execution), entry),
            Ok(Record { job, execution, entry: None }) => entries.remove(&(job, execution)),
            Err(error) => {
                tracing::warn!(%error, "passed over an unreadable record of the journal");
                None
            }
        };
    }
    entries
}

#[cfg(test)]
mod tests {
    use longshore_model::wire::record::Outcome;

    use super::*;

    fn key(n: u128) -> Key {
        (JobId::from_bits(n), ExecutionId::Any)
    }

    fn answer(n: u128) -> Answer {
        Answer::new(key(n).0, ExecutionId::Any, Outcome::Completed, 1, jiff::Timestamp::UNIX_EPOCH)
    }

    fn entry(token: &str) -> Entry {
        Entry { token: Some(token.to_owned()), answer: None, unbegun: None }
    }

    #[test]
    fn entries_survive_the_process_and_nonsense_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        journal.note(key(1), &entry("first"));
        journal.note(key(1), &entry("second"));
        journal.note(key(2), &entry("other"));
        journal.forget(key(2));
        drop(journal);
        let mut file = OpenOptions::new().append(true).open(dir.path().join("in-hand")).unwrap();
        file.write_all(b"\n{\"job\":\"torn").unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        journal.note(key(3), &entry("third"));
        assert_eq!(journal.left_behind(), [(key(1), entry("second")), (key(3), entry("third"))]);
        journal.forget(key(1));
        journal.forget(key(3));
        assert_eq!(journal.left_behind(), []);
    }

    #[test]
    fn answered_work_is_forgotten_on_disk_with_the_next_record_and_at_the_latest_when_nothing_is_in_hand() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        // What another process would find after a kill at this point.
        let on_disk = || newest(&fs::read(dir.path().join("in-hand")).unwrap()).into_keys().collect::<Vec<_>>();
        let answered = Entry { answer: Some(answer(1)), ..entry("token") };
        journal.note(key(1), &answered);
        journal.note(key(2), &entry("unanswered"));
        journal.note(key(3), &answered);
        journal.forget(key(1));
        assert_eq!(on_disk(), [key(1), key(2), key(3)]);
        // Without an answer it was given back, and must not be given back again.
        journal.forget(key(2));
        assert_eq!(on_disk(), [key(3)]);
        journal.forget(key(3));
        assert_eq!(on_disk(), []);
    }

    #[test]
    fn the_file_stays_small_however_much_passes_through() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let size = || fs::metadata(dir.path().join("in-hand")).unwrap().len();
        for n in 1..=2000 {
            journal.note(key(n), &entry("short"));
            journal.forget(key(n));
            assert!(size() <= IDLE_BYTES_MAX);
        }
        journal.note(key(1), &entry("stays"));
        let long = "x".repeat(1 << 20);
        for n in 2..=40 {
            journal.note(key(n), &entry(&long));
            journal.forget(key(n));
            assert!(size() <= BYTES_MAX);
        }
        assert_eq!(journal.left_behind(), [(key(1), entry("stays"))]);
    }
}
