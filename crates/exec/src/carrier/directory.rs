//! A job's own directory: what its carrier and its agent keep there, and how it is cleared away.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longshore_model::{ExecutionId, JobId};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::SCHEMA;
use super::errand::Ended;
use super::follow::Left;
use super::record::{Reader, Writer};
use crate::files;
use crate::finished::Archive;
use crate::process::{Marked, end_marked};

const WHOSE: &str = "errand";
const CONTROL: &str = "control";
const OUTPUT: &str = "output";
const ENDED: &str = "ended";
const BUNDLE: &str = "bundle";
/// Where a carrier leaves its archive.
pub(crate) const ARCHIVE: &str = "artifacts.tar.zst";
/// A carrier's last word holds a result that fits an answer.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Whose {
    schema: u32,
    pub(crate) job: JobId,
    pub(crate) execution: ExecutionId,
    pub(crate) attempt: u32,
}

impl Whose {
    pub(crate) fn new(job: JobId, execution: ExecutionId, attempt: u32) -> Self {
        Self { schema: SCHEMA, job, execution, attempt }
    }
}

/// A job's own directory, open.
#[derive(Debug)]
pub(crate) struct Directory {
    parent: PathBuf,
    name: CString,
    path: PathBuf,
    dir: OwnedFd,
}

impl Directory {
    /// Makes it. `name` must not have been used before.
    pub(crate) fn create(parent: &Path, name: &str, whose: &Whose) -> io::Result<Self> {
        rustix::fs::mkdirat(files::open_dir(parent)?, name, Mode::RWXU)?;
        let directory = Self::open(parent, OsStr::new(name))?;
        if let Err(error) = directory.write(WHOSE, whose) {
            // The next start looks again for what could not be removed.
            let _the_first_error_is_the_better_one = directory.remove();
            return Err(error);
        }
        Ok(directory)
    }

    /// Opens one that is there.
    pub(crate) fn open(parent: &Path, name: &OsStr) -> io::Result<Self> {
        let path = parent.join(name);
        let name = CString::new(name.as_encoded_bytes())?;
        let dir = files::open_dir_at(files::open_dir(parent)?, &name)?;
        Ok(Self { parent: parent.to_owned(), name, path, dir })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whose it is, if this version can go on with it.
    pub(crate) fn whose(&self) -> Option<Whose> {
        self.read::<Whose>(WHOSE).filter(|whose| whose.schema == SCHEMA)
    }

    /// A name for the bundle that does not end with the agent that fetched it, if the file system can give it one.
    pub(crate) fn keep_bundle(&self, bundle: &Path) -> PathBuf {
        let kept = self.path.join(BUNDLE);
        match fs::hard_link(bundle, &kept) {
            Ok(()) => kept,
            Err(_) => bundle.to_owned(),
        }
    }

    pub(crate) fn listen(&self) -> io::Result<UnixListener> {
        UnixListener::bind(self.control())
    }

    /// Connects to its carrier; fails if there is none.
    pub(crate) fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(self.control())
    }

    /// Through the descriptor: a socket's path has room for a hundred bytes only.
    fn control(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{CONTROL}", self.dir.as_raw_fd()))
    }

    pub(crate) fn write_output(&self) -> io::Result<Writer> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        Ok(Writer::new(File::from(files::open_beneath(&self.dir, OUTPUT, flags, Mode::RUSR | Mode::WUSR)?)))
    }

    /// The output so far; `None` before its carrier has begun.
    pub(crate) fn read_output(&self) -> Option<Reader> {
        let file = files::open_beneath(&self.dir, OUTPUT, OFlags::NONBLOCK, Mode::empty()).ok()?;
        Some(Reader::new(File::from(file)))
    }

    pub(crate) fn write_ended(&self, ended: &Ended) -> io::Result<()> {
        self.write(ENDED, ended)
    }

    /// How the job ended, if its carrier has said so.
    pub(crate) fn ended(&self) -> Option<Ended> {
        self.read::<Ended>(ENDED).filter(Ended::is_known)
    }

    /// What the job brought back. The directory stays until that is not needed any more: should the agent be killed before it is stored,
    /// the next one finds it here.
    pub(crate) fn archive(self: &Arc<Self>, ended: &Ended) -> Option<Archive> {
        Some(Archive::new(self.path.join(ARCHIVE), ended.archive()?.clone()).within(Arc::clone(self)))
    }

    /// Removes it, with all that is in it.
    pub(crate) fn remove(&self) -> io::Result<()> {
        files::remove(files::open_dir(&self.parent)?.as_fd(), &self.name)
    }

    /// In one step: who reads it finds all of it or nothing.
    fn write<T: Serialize>(&self, name: &str, content: &T) -> io::Result<()> {
        let draft = format!("{name}.draft");
        let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY;
        let file = File::from(files::open_beneath(&self.dir, draft.as_str(), flags, Mode::RUSR | Mode::WUSR)?);
        serde_json::to_writer(&mut io::BufWriter::new(&file), content)?;
        Ok(rustix::fs::renameat(&self.dir, draft, &self.dir, name)?)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let content = files::read_beneath(&self.dir, name, FILE_BYTES_MAX).ok()??;
        serde_json::from_slice(&content).ok()
    }
}

/// Ends every process of the job and removes its directory. Blocks. True if every process is known to be gone; what could not be removed
/// is reported, and tried again at the next start.
pub(crate) fn clear(directory: &Directory) -> bool {
    let verified = end_marked(Marked::Agent(&directory.path.to_string_lossy()));
    if let Err(error) = directory.remove() {
        tracing::warn!(%error, workspace = %directory.path.display(), "a workspace could not be removed");
    }
    verified
}

/// Removes what is in a directory of workspaces, with the processes that belong to it, but for what an agent can go on with.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn sweep(workspaces: &Path) -> io::Result<Vec<Left>> {
    let mut kept = Vec::new();
    for (name, _) in files::listing(files::open_dir(workspaces)?)? {
        let name = OsStr::from_bytes(name.to_bytes());
        if let Some(left) = Left::find(workspaces, name) {
            kept.push(left);
        } else if let Ok(directory) = Directory::open(workspaces, name) {
            clear(&directory);
        } else {
            let name = CString::new(name.as_bytes())?;
            if let Err(error) = files::remove(files::open_dir(workspaces)?.as_fd(), &name) {
                tracing::warn!(%error, workspace = %name.to_string_lossy(), "something an earlier agent left could not be removed");
            }
        }
    }
    Ok(kept)
}
