//! Workspaces on a drive that this host shares with whoever submits jobs: a copy of the job's directory to run in, and what changed
//! brought back beside it.
//!
//! ```text
//!   Hold::take ─► Source::resolve ─► results ─► Workspace::stage ─► Runner::run ─► Workspace::sync ─► Results::write ─► drop ─► Hold::end
//! ```
//!
//! All of it but the run blocks.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longshore_model::limits::STAGED_ENTRIES_MAX;
use longshore_model::wire::result::{FileChanges, SkippedFile};

use super::changes::Snapshot;
use super::clean;
use super::collect::{CollectError, list};
use super::duplicate::{CopyError, Duplicate, duplicate};
use super::globs::Globs;
use super::hold::{Hold, temporary_name};
use super::results::{Results, sync};
use super::source::{RESULTS, Source};
use super::stage::Place;
use crate::files;
use crate::finished::is_host_fault;

/// A source that changes while it is copied is copied again, so often.
const ATTEMPTS: usize = 3;

/// A copy of a source to run steps in. Removed with all that is in it when dropped, which blocks.
pub struct Workspace {
    pub(super) place: Arc<Place>,
}

/// What a workspace was like before any step, which tells what changed.
pub struct Staged {
    snapshot: Snapshot,
    skipped: Vec<SkippedFile>,
    unlisted: usize,
}

/// Why there is no workspace. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The workspace's directory could not be made.
    #[error("make the workspace {path:?}")]
    Make {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The source was not copied.
    #[error(transparent)]
    Copy(#[from] CopyError),
}

impl Workspace {
    /// Copies the source, without its results, to `{workspaces_dir}/{id}`, whose name is held.
    ///
    /// Kept are names (any bytes), contents, modes, modification times and holes; symbolic links as they are, never followed. Owners
    /// become this process's, so that set-user-id and set-group-id bits of files are not kept. Sockets, devices and fifos are left
    /// out. All of that is in [`Staged::skipped`]. A source that changes while it is copied is copied again, three times in all.
    ///
    /// `is_stopped` is asked for every entry and within large files, by several threads.
    ///
    /// # Errors
    /// The workspace cannot be made, something cannot be copied (its name is in the error), the source keeps changing, or it
    /// `is_stopped`.
    pub fn stage(
        source: &Source,
        results: &Results,
        hold: &Hold,
        is_stopped: &(dyn Fn() -> bool + Sync),
    ) -> Result<(Self, Staged), StageError> {
        Self::fill(Place::beside(hold, results)?, source, is_stopped)
    }

    /// [`Self::stage`] to a place that is there, and empty.
    pub(super) fn fill(place: Place, source: &Source, is_stopped: &(dyn Fn() -> bool + Sync)) -> Result<(Self, Staged), StageError> {
        let workspace = Self { place: Arc::new(place) };
        let place = &workspace.place;
        let copy = || {
            let (from, into, workspaces) = (source.dir.as_fd(), place.tree.as_fd(), place.parent.as_fd());
            duplicate(from, into, workspaces, (RESULTS, STAGED_ENTRIES_MAX), is_stopped)
        };
        let mut copied = copy();
        for _ in 1..ATTEMPTS {
            let Err(CopyError::Changed { path }) = &copied else { break };
            tracing::debug!(path, "the source changed while it was copied; it is copied again");
            let failed = |source| StageError::Make { path: PathBuf::from(&place.tree_path), source };
            files::own(place.tree.as_fd()).map_err(|errno| failed(errno.into()))?;
            files::empty_dir_at(&place.tree).map_err(failed)?;
            copied = copy();
        }
        let Duplicate { snapshot, skipped, unlisted } = copied?;
        Ok((workspace, Staged { snapshot, skipped, unlisted }))
    }

    /// Its absolute path, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        Path::new(&self.place.tree_path)
    }

    /// Where the steps keep temporary files.
    pub(super) fn temporary(&self) -> PathBuf {
        let name = temporary_name(self.place.name.to_bytes());
        self.path().with_file_name(name)
    }

    /// Brings every file and link that steps made or changed to `results`, and says what it was. Every process of the steps has to
    /// be gone. `globs` choose, by default all; `n_steps` is how many steps have a log there: logs with higher numbers are of an
    /// earlier run and are removed.
    ///
    /// *Changed* means content or mode. Each file appears at once, and replaces whatever had its name; nothing else there is
    /// touched. Links that would point into this workspace are re-pointed. `result.json`, step logs and names beginning with
    /// `.longshore-` are the worker's: files of a job with such a name at the top are listed as skipped, like sockets, devices and
    /// fifos, and what staging had skipped. The files are not forced to disk. `is_stopped` is asked for every entry and within large files.
    ///
    /// # Errors
    /// The workspace cannot be read, the results not be written (a full drive), or it `is_stopped`. What was brought by then
    /// stays; every file of it is whole.
    pub fn sync(
        &self,
        staged: Staged,
        results: &Results,
        globs: Option<&Globs>,
        n_steps: usize,
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<FileChanges, CollectError> {
        let mut changes = sync(&self.place, staged.snapshot, globs, results, n_steps, is_stopped)?;
        let known: BTreeSet<_> = changes.skipped.iter().map(|skipped| (skipped.path.clone(), skipped.reason.clone())).collect();
        changes.unlisted += staged.unlisted;
        for skipped in staged.skipped {
            if !known.contains(&(skipped.path.clone(), skipped.reason.clone())) {
                list(&mut changes.skipped, &mut changes.unlisted, skipped);
            }
        }
        changes.skipped.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(changes)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        clean::clean(&self.place);
    }
}

impl Staged {
    /// What was left out of the workspace or not kept there, and why, sorted; the first of it if that is much.
    #[must_use]
    pub fn skipped(&self) -> &[SkippedFile] {
        &self.skipped
    }
}

impl StageError {
    /// Whether the host is at fault (a full disk, say), so that another attempt may succeed.
    #[must_use]
    pub fn is_host_fault(&self) -> bool {
        match self {
            Self::Make { source, .. } => is_host_fault(source),
            Self::Copy(error) => error.io().is_some_and(is_host_fault),
        }
    }
}
