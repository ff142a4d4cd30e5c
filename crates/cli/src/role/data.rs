//! The data directory (0700): keys, tokens, the broker's files, the agent's state. One process at a time.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::private;

/// Where packages are in it unless the settings say otherwise.
pub(crate) const PACKAGES: &str = "packages";

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

/// How long the lock of a process that was killed may still be held: a child that it was about to start has it until that runs its program.
const HELD_AFTER_DEATH: Duration = Duration::from_secs(3);
/// Between looks at it.
const LOOK: Duration = Duration::from_millis(20);

impl DataDir {
    /// Makes the directory if need be, and takes it.
    pub(crate) fn take(asked: Option<PathBuf>) -> Result<Self, Failure> {
        let path = directory(asked)?;
        let is_new = !path.exists();
        private::directory(&path).map_err(|error| unusable(&path, &error))?;
        let mut lock = private::open(&path.join("lock")).map_err(|error| unusable(&path, &error))?;
        let began = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {
                    let holder = holder(&mut lock);
                    if holder.is_some_and(is_alive) || began.elapsed() >= HELD_AFTER_DEATH {
                        return Err(taken(&path, holder));
                    }
                    #[expect(clippy::disallowed_methods, reason = "between looks, and nothing else runs yet")]
                    std::thread::sleep(LOOK);
                }
                Err(TryLockError::Error(error)) => return Err(unusable(&path, &error)),
            }
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

/// The process that took the lock last, as it has written.
fn holder(lock: &mut File) -> Option<u32> {
    let mut pid = String::new();
    lock.rewind().and_then(|()| lock.read_to_string(&mut pid)).ok()?;
    pid.trim().parse().ok()
}

/// One that has ended and waits for its parent to look is not.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn taken(path: &Path, holder: Option<u32>) -> Failure {
    let pid = holder.map_or_else(|| "not known".to_owned(), |pid| pid.to_string());
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
        // A child that another test starts just now may hold it until its `exec`.
        let again = (0..).map_while(|n| (n < 1000).then(|| DataDir::take(Some(path.clone()))));
        let again = again.inspect(|_| std::thread::yield_now()).find_map(Result::ok).unwrap();
        assert!(!again.is_new);
    }
    #[test]
    fn a_lock_that_a_killed_process_has_left_to_a_child_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        drop(DataDir::take(Some(path.clone())).unwrap());
        let mut killed = std::process::Command::new("true").spawn().unwrap();
        while is_alive(killed.id()) {
            std::thread::yield_now();
        }
        std::fs::write(path.join("lock"), format!("{}\n", killed.id())).unwrap();
        let childs = File::open(path.join("lock")).unwrap();
        childs.try_lock().unwrap();
        let taking = std::thread::spawn(move || DataDir::take(Some(path)).map(|_| ()));
        #[expect(clippy::disallowed_methods, reason = "it has looked by then; if not, the test shows less")]
        std::thread::sleep(LOOK * 5);
        drop(childs);
        assert!(taking.join().unwrap().is_ok(), "though nobody has looked at the killed one's end");
        killed.wait().unwrap();
    }
}
