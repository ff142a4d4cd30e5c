//! The file: records are appended, and it is written anew when it has grown too long or lacks something.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Serialize;

use super::Journal;
use super::record::{Record, VERSION};

/// The file is rewritten when it is this much larger than twice of what is in it.
pub(super) const SLACK_BYTES: u64 = 4 << 20;

impl Journal {
    pub(super) fn append<T: Serialize>(&mut self, record: &T) -> usize {
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

    pub(super) fn shorten(&mut self) {
        if self.bytes > self.rewrite_at
            && let Err(error) = self.rewrite()
        {
            tracing::warn!(%error, path = %self.path.display(), "cannot shorten the journal");
            self.rewrite_at = self.bytes + SLACK_BYTES;
        }
    }

    /// The file with nothing but what is kept, the settled ones in their order. One that fails leaves the file as it is, and nothing beside it.
    pub(super) fn rewrite(&mut self) -> io::Result<()> {
        let draft = self.path.with_extension("draft");
        let written = self.write_draft(&draft).and_then(|bytes| fs::rename(&draft, &self.path).map(|()| bytes));
        let bytes = written.inspect_err(|_| drop(fs::remove_file(&draft)))?;
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        self.bytes = bytes;
        self.rewrite_at = 2 * bytes + SLACK_BYTES;
        Ok(())
    }

    pub(super) fn write_draft(&self, draft: &Path) -> io::Result<u64> {
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

    /// Whether everything that is kept is on disk. What could not be written is tried again; to be asked now and then.
    pub(crate) fn check(&mut self) -> bool {
        if !self.is_whole && self.rewrite().is_ok() {
            tracing::info!(path = %self.path.display(), "the journal is whole again");
            self.is_whole = true;
        }
        self.is_whole
    }
}
