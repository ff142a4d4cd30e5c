//! Brings what changed to an archive, with the steps' logs and the manifest: for a controller's object store.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek};

use longshore_model::limits::{BUNDLE_BYTES_MAX, BUNDLE_ENTRIES_MAX, BUNDLE_UNPACKED_BYTES_MAX};
use longshore_model::wire::result::{ArchiveInfo, FileChanges, WorkspaceResult};
use rustix::fs::Stat;

use super::changes::Snapshot;
use super::collect::{Above, CollectError, Destination, Root, collect, lossy, mtime};
use super::globs::Globs;
use super::run::log_name;
use super::stage::Place;
use crate::bundle::{Digesting, Writer};
use crate::drive::Pulse;

/// Writes the archive: changed files, step logs, and the manifest that `manifest` makes from the list of changes.
pub(crate) fn archive(
    place: &Place,
    snapshot: Snapshot,
    globs: Option<&Globs>,
    logs: Vec<File>,
    manifest: impl FnOnce(FileChanges) -> WorkspaceResult,
    into: File,
    pulse: &Pulse,
) -> Result<(WorkspaceResult, ArchiveInfo), CollectError> {
    let writer = Writer::new(BufWriter::with_capacity(256 * 1024, into)).map_err(CollectError::Write)?;
    let mut artifacts = Artifacts { writer, bytes: 0, n_logs: logs.len(), pulse };
    let changes = collect(place, snapshot, globs, &[Root::Tree, Root::Results], &mut artifacts)?;
    artifacts.finish(logs, changes, manifest)
}

struct Artifacts<'a> {
    writer: Writer<BufWriter<File>>,
    bytes: u64,
    n_logs: usize,
    pulse: &'a Pulse,
}

impl Destination for Artifacts<'_> {
    fn reserves(&self, _name: &[u8]) -> bool {
        false
    }

    fn is_stopped(&self) -> bool {
        self.pulse.beat();
        // Whoever stops a job with a bundle still gets what there was.
        false
    }

    fn no_room(&self, bytes: u64, n_directories: usize) -> Option<&'static str> {
        if self.bytes.saturating_add(bytes) > BUNDLE_UNPACKED_BYTES_MAX {
            Some("the artifacts would be too large with it")
        } else if self.writer.entries() + n_directories + self.n_logs + 2 > BUNDLE_ENTRIES_MAX {
            Some("there are too many artifacts")
        } else {
            None
        }
    }

    fn directory(&mut self, Above { name, mode, mtime }: &Above) -> Result<(), CollectError> {
        self.writer.directory(name, *mode, *mtime).map_err(CollectError::Write)
    }

    fn file(&mut self, path: &[u8], stat: &Stat, content: File) -> Result<(u64, [u8; 32]), CollectError> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let mut reading = Noting { from: Digesting::new(content), failed: false, pulse: self.pulse };
        let written = self.writer.file(path, stat.st_mode, mtime(stat), size, &mut reading);
        let failed = reading.failed;
        written.map_err(|source| {
            // The end came early: somebody still writes to it, or truncated it after it was looked at.
            if failed || source.kind() == io::ErrorKind::UnexpectedEof {
                CollectError::Read { path: lossy(path), source }
            } else {
                CollectError::Write(source)
            }
        })?;
        self.bytes += size;
        self.fits()?;
        Ok((size, reading.from.sha256()))
    }

    fn link(&mut self, path: &[u8], target: &[u8], stat: &Stat) -> Result<(), CollectError> {
        self.writer.link(path, target, mtime(stat)).map_err(CollectError::Write)?;
        self.fits()
    }
}

impl Artifacts<'_> {
    fn fits(&self) -> Result<(), CollectError> {
        if self.writer.packed_bytes() > BUNDLE_BYTES_MAX { Err(CollectError::TooBig) } else { Ok(()) }
    }

    fn finish(
        mut self,
        logs: Vec<File>,
        changes: FileChanges,
        manifest: impl FnOnce(FileChanges) -> WorkspaceResult,
    ) -> Result<(WorkspaceResult, ArchiveInfo), CollectError> {
        let now = jiff::Timestamp::now().as_second();
        for (index, mut log) in logs.into_iter().enumerate() {
            self.pulse.beat();
            let name = log_name(index);
            let unreadable = |source| CollectError::Read { path: name.clone(), source };
            log.rewind().map_err(unreadable)?;
            let size = log.metadata().map_err(unreadable)?.len();
            self.writer.file(name.as_bytes(), 0o644, now, size, &mut log).map_err(CollectError::Write)?;
        }
        let result = manifest(changes);
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

/// Remembers whether it was reading that failed, as opposed to writing what was read.
struct Noting<'a, R> {
    from: R,
    failed: bool,
    pulse: &'a Pulse,
}

impl<R: Read> Read for Noting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.pulse.beat();
        self.from.read(buffer).inspect_err(|_| self.failed = true)
    }
}
