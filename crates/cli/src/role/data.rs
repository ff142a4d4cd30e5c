//! The data directory (0700): keys, tokens, the broker's files, the agent's state. One process at a time.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::private;

/// A data directory that is ours until this is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// Whether it was made just now.
    pub(crate) is_new: bool,
    _lock: File,
}

/// The directory that was asked for, or the usual one. Absolute.
pub(crate) fn directory(asked: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let path = match asked {
        Some(path) => path,
        None => usual().ok_or_else(|| Failure::new(Exit::Usage, "there is no home directory: set HOME, or give --data DIR"))?,
    };
    std::path::absolute(&path).map_err(|error| unusable(&path, &error))
}

fn usual() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").filter(|path| path.is_absolute()).or_else(|| set("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("longshore"))
}

impl DataDir {
    /// Makes the directory if need be, and takes it.
    pub(crate) fn take(asked: Option<PathBuf>) -> Result<Self, Failure> {
        let path = directory(asked)?;
        let is_new = !path.exists();
        private::directory(&path).map_err(|error| unusable(&path, &error))?;
        let mut lock = private::open(&path.join("lock")).map_err(|error| unusable(&path, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(taken(&path, &mut lock)),
            Err(TryLockError::Error(error)) => return Err(unusable(&path, &error)),
        }
        let write_pid = |lock: &mut File| {
            lock.set_len(0)?;
            lock.rewind()?;
            writeln!(lock, "{}", std::process::id())
        };
        write_pid(&mut lock).map_err(|error| unusable(&path, &error))?;
        Ok(Self { path, is_new, _lock: lock })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn taken(path: &Path, lock: &mut File) -> Failure {
    let mut pid = String::new();
    let _ = lock.read_to_string(&mut pid);
    let pid = if pid.trim().is_empty() { "not known".to_owned() } else { pid.trim().to_owned() };
    Failure::new(Exit::Failed, format!("already running (pid {pid})"))
        .because(format!("it uses the data directory {}", path.display()))
        .hint("another one beside it:     longshore start --data DIR")
        .code("already_running")
}

/// What went wrong with a file of the data directory.
pub(crate) fn unusable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("{} cannot be used", path.display())).because(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_second_process_is_told_who_has_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let held = DataDir::take(Some(path.clone())).unwrap();
        assert!(held.is_new);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let refused = DataDir::take(Some(path.clone())).unwrap_err();
        assert!(refused.text().contains(&format!("already running (pid {})", std::process::id())), "{}", refused.text());
        assert_eq!(refused.exit.code(), 1);
        drop(held);
        assert!(!DataDir::take(Some(path)).unwrap().is_new);
    }
}
