//! Makes workspaces, and fills one from a bundle. Filling one from a directory is [`mod@super::duplicate`]'s.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode};

use super::beside;
use super::changes::Snapshot;
use super::hold::Hold;
use super::results::Results;
use crate::bundle::{Control, Limits, UnpackError, unpack_into};
use crate::drive::Pulse;
use crate::files;
use crate::process::Stops;

/// A workspace on disk: a directory of its own with the tree the steps run in and the directory their logs go to. All later work
/// goes through the descriptors, so it stays with these directories whatever the steps do to their names.
pub(crate) struct Place {
    /// The directory of all workspaces.
    pub(crate) parent: OwnedFd,
    /// This one's name there.
    pub(crate) name: CString,
    /// The tree.
    pub(crate) tree: OwnedFd,
    /// The logs, and what steps put beside them.
    pub(crate) results: OwnedFd,
    /// The tree's path, UTF-8.
    pub(crate) tree_path: String,
    /// The results' path, UTF-8.
    pub(crate) results_path: String,
}

/// Why a workspace was not prepared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    #[error("prepare the workspace: its bundle is not here")]
    NoBundle,
    #[error("open the bundle {path:?}")]
    Open { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    #[error("prepare the workspace: interrupted")]
    Interrupted,
}

impl Place {
    /// Makes a workspace. `name` must not have been used before.
    pub(crate) fn create(workspaces: &Path, name: &str) -> io::Result<Self> {
        let parent = files::open_dir(workspaces)?;
        rustix::fs::mkdirat(&parent, name, Mode::RWXU)?;
        let root = files::open_dir_at(&parent, name)?;
        let inside = |name: &str| -> io::Result<OwnedFd> {
            rustix::fs::mkdirat(&root, name, Mode::RWXU)?;
            Ok(files::open_dir_at(&root, name)?)
        };
        let path = |inner: &str| workspaces.join(name).join(inner).to_string_lossy().into_owned();
        Ok(Self {
            tree: inside("workspace")?,
            results: inside("results")?,
            tree_path: path("workspace"),
            results_path: path("results"),
            name: CString::new(name)?,
            parent,
        })
    }

    /// Makes a workspace of the name that is held, which is the tree itself, beside results that are elsewhere.
    pub(crate) fn beside(hold: &Hold, results: &Results) -> Result<Self, beside::StageError> {
        let path = hold.workspace();
        let made = rustix::io::fcntl_dupfd_cloexec(&hold.workspaces, 0)
            .map_err(io::Error::from)
            .and_then(|parent| Self::made(parent, &path, hold.id.as_str(), results));
        made.map_err(|source| beside::StageError::Make { path, source })
    }

    /// The same in the directory of all workspaces. `name` must not be used there.
    pub(crate) fn for_results(workspaces: &Path, name: &str, results: &Results) -> io::Result<Self> {
        Self::made(files::open_dir(workspaces)?, &workspaces.join(name), name, results)
    }

    fn made(parent: OwnedFd, path: &Path, name: &str, results: &Results) -> io::Result<Self> {
        let results_path = results.path().canonicalize()?;
        let name = CString::new(name)?;
        let results = rustix::io::fcntl_dupfd_cloexec(&results.dir, 0)?;
        rustix::fs::mkdirat(&parent, &name, Mode::RWXU)?;
        let tree = files::open_dir_at(&parent, &name).inspect_err(|_| {
            // It is empty, as nobody else uses the name.
            let _the_first_error_is_the_better_one = rustix::fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR);
        })?;
        Ok(Self {
            tree,
            results,
            tree_path: path.to_string_lossy().into_owned(),
            results_path: results_path.to_string_lossy().into_owned(),
            name,
            parent,
        })
    }
}

/// Fills the tree from the bundle, and gives its state before any step.
pub(crate) fn stage(place: &Place, bundle: Option<&Path>, stops: &Stops, pulse: &Pulse) -> Result<Snapshot, PrepareError> {
    let mut snapshot = Snapshot::default();
    if let Some(path) = bundle {
        let file = File::open(path).map_err(|source| PrepareError::Open { path: path.to_owned(), source })?;
        unpack_into(Interruptible { from: file, stops, pulse }, &place.tree, Limits::default(), &mut |entry| {
            snapshot.record(entry);
            pulse.beat();
            if stops.now().is_some() { Control::Interrupt } else { Control::Continue }
        })?;
    }
    if stops.now().is_some() {
        return Err(PrepareError::Interrupted);
    }
    snapshot.settle();
    Ok(snapshot)
}

impl PrepareError {
    pub(crate) fn is_interrupted(&self) -> bool {
        match self {
            Self::Interrupted | Self::Unpack(UnpackError::Interrupted) => true,
            Self::Unpack(UnpackError::Read(error)) => error.get_ref().is_some_and(|inner| inner.is::<Stopped>()),
            Self::NoBundle | Self::Open { .. } => false,
            Self::Unpack(UnpackError::Refused { .. } | UnpackError::Malformed(_) | UnpackError::Write { .. }) => false,
        }
    }

    /// The system's error behind it.
    pub(crate) fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Open { source, .. } | Self::Unpack(UnpackError::Read(source) | UnpackError::Write { source, .. }) => Some(source),
            Self::NoBundle | Self::Interrupted => None,
            Self::Unpack(UnpackError::Refused { .. } | UnpackError::Malformed(_) | UnpackError::Interrupted) => None,
        }
    }
}

/// Ends within one large file, too.
struct Interruptible<'a> {
    from: File,
    stops: &'a Stops,
    pulse: &'a Pulse,
}

#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
struct Stopped;

impl io::Read for Interruptible<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.pulse.beat();
        match self.stops.now() {
            Some(_) => Err(io::Error::other(Stopped)),
            None => self.from.read(buffer),
        }
    }
}
