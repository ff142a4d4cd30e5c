//! What this agent has in hand, on disk: one small file per execution, so that a killed process's work is given back, and its finished
//! answers delivered, as soon as the agent is started again.
//!
//! The files survive the process, not a power cut; after one, the broker's own time-outs give the work back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longshore_model::wire::record::Answer;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::dispatcher::Key;

const SUFFIX: &str = ".json";

/// One execution in hand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// What the broker takes the work back by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    /// The answer, from the moment the work has ended until the ledger has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) answer: Option<Answer>,
}

/// The directory, locked for this process.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    dir: PathBuf,
    _lock: Arc<File>,
}

impl Journal {
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        let state = |source| Error::State { path: dir.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(state)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(dir.join("lock")).map_err(state)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { dir: dir.to_owned(), _lock: Arc::new(lock) }),
            Err(fs::TryLockError::WouldBlock) => Err(Error::Busy(dir.to_owned())),
            Err(fs::TryLockError::Error(source)) => Err(state(source)),
        }
    }

    /// Notes an execution, replacing what was noted of it. A fault is reported to the log only: the journal makes recovery quick, not possible.
    pub(crate) fn note(&self, key: Key, entry: &Entry) {
        if let Err(error) = self.try_note(key, entry) {
            tracing::warn!(%error, job.id = %key.0, "could not note an execution in the journal");
        }
    }

    fn try_note(&self, key: Key, entry: &Entry) -> io::Result<()> {
        let (path, text) = (self.path(key), serde_json::to_vec(entry)?);
        let open = |path: &Path| OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path);
        if entry.answer.is_none() {
            // A token that a kill tears is unreadable, is removed at the next start, and its claim lapses by itself.
            return open(&path)?.write_all(&text);
        }
        let draft = path.with_extension("draft");
        open(&draft)?.write_all(&text)?;
        fs::rename(draft, path)
    }

    pub(crate) fn forget(&self, key: Key) {
        if let Err(error) = fs::remove_file(self.path(key))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, job.id = %key.0, "could not remove an execution from the journal");
        }
    }

    /// What an earlier process had in hand. Unreadable files are removed: the broker's time-outs stand in for them.
    pub(crate) fn left_behind(&self) -> Vec<(Key, Entry)> {
        let Ok(files) = fs::read_dir(&self.dir) else { return Vec::new() };
        let mut entries: Vec<_> = files.filter_map(Result::ok).filter_map(|file| Self::read(&file.path())).collect();
        entries.sort_by_key(|(key, _)| *key);
        entries
    }

    fn read(path: &Path) -> Option<(Key, Entry)> {
        let name = path.file_name()?.to_str()?;
        let key =
            name.strip_suffix(SUFFIX)?.split_once('.').and_then(|(job, execution)| Some((job.parse().ok()?, execution.parse().ok()?)));
        let entry = fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        match (key, entry) {
            (Some(key), Some(entry)) => Some((key, entry)),
            _ => {
                tracing::warn!(path = %path.display(), "removed an unreadable journal entry");
                let _ = fs::remove_file(path);
                None
            }
        }
    }

    fn path(&self, (job, execution): Key) -> PathBuf {
        self.dir.join(format!("{job}.{execution}{SUFFIX}"))
    }
}

#[cfg(test)]
mod tests {
    use longshore_model::{ExecutionId, JobId};

    use super::*;

    #[test]
    fn entries_survive_the_process_and_nonsense_is_cleared_away() {
        let dir = tempfile::tempdir().unwrap();
        let key = (JobId::from_bits(1), ExecutionId::Any);
        let entry = Entry { token: Some("$JS.ACK.x".into()), answer: None };
        let journal = Journal::open(dir.path()).unwrap();
        journal.note(key, &entry);
        assert!(matches!(Journal::open(dir.path()), Err(Error::Busy(_))));
        drop(journal);
        let nonsense = dir.path().join(format!("{}.any.json", JobId::from_bits(2)));
        fs::write(&nonsense, "{").unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        assert_eq!(journal.left_behind(), [(key, entry)]);
        assert!(!nonsense.exists());
        journal.forget(key);
        assert_eq!(journal.left_behind(), []);
    }
}
