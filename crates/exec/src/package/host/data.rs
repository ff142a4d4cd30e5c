//! The tasks' data directories: made before a task, and gone when the policy says so.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::settings::DataPolicy;
use crate::files;

/// Bytes of a component of a path.
const NAME_BYTES_MAX: usize = 200;

/// All data directories.
#[derive(Debug)]
pub(crate) struct DataDirs {
    root: PathBuf,
    policy: DataPolicy,
    /// Those of tasks that run, and how many: two ids may be cleaned to one name, and one task may come twice.
    in_use: Mutex<BTreeMap<(String, String), usize>>,
}

/// The data directory of a task that runs.
#[derive(Debug)]
pub(crate) struct DataDir<'a> {
    dirs: &'a DataDirs,
    name: (String, String),
    pub(crate) path: PathBuf,
}

impl DataDirs {
    pub(crate) fn new(root: PathBuf, policy: DataPolicy) -> Self {
        Self { root, policy, in_use: Mutex::default() }
    }

    /// Makes the directory of a task. Blocks for two short system calls.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn make(&self, run_id: &str, task_id: &str) -> io::Result<DataDir<'_>> {
        let name = (component(run_id, "run"), component(task_id, "task"));
        let path = self.root.join(&name.0).join(&name.1);
        *self.in_use().entry(name.clone()).or_default() += 1;
        let made = DataDir { dirs: self, name, path };
        fs::create_dir_all(&made.path)?;
        Ok(made)
    }

    fn in_use(&self) -> MutexGuard<'_, BTreeMap<(String, String), usize>> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what the policy lets go. Blocks; safe to repeat, and beside tasks that run.
    pub(crate) fn sweep(&self, now: SystemTime) {
        let DataPolicy::KeepFor(age) = self.policy else { return };
        let is_old = |path: &Path| {
            let modified = fs::symlink_metadata(path).and_then(|stat| stat.modified());
            modified.is_ok_and(|modified| now.duration_since(modified).is_ok_and(|since| since > age))
        };
        for run in names_in(&self.root) {
            for task in names_in(&self.root.join(&run)) {
                let name = (run.clone(), task.clone());
                if is_old(&self.root.join(&run).join(&task)) && !self.in_use().contains_key(&name) {
                    self.remove(&name);
                }
            }
        }
    }

    fn remove(&self, (run, task): &(String, String)) {
        let run_dir = self.root.join(run);
        let removed = files::open_dir(&run_dir).and_then(|dir| {
            let task = std::ffi::CString::new(task.as_str())?;
            files::remove(dir.as_fd(), &task)
        });
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "a task's data directory could not be removed");
        }
        // Not empty while other tasks of the run have theirs.
        let _others_are_there = fs::remove_dir(&run_dir);
    }
}

impl Drop for DataDir<'_> {
    fn drop(&mut self) {
        let mut in_use = self.dirs.in_use();
        if let Some(tasks @ 2..) = in_use.get_mut(&self.name) {
            *tasks -= 1;
            return;
        }
        // Held meanwhile: a task of the same name that begins now finds it gone, and not going.
        if self.dirs.policy == DataPolicy::Remove {
            self.dirs.remove(&self.name);
        }
        in_use.remove(&self.name);
    }
}

/// How often what is old is looked for.
pub(crate) const SWEEP_EVERY: Duration = Duration::from_secs(3600);

fn names_in(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let dirs = entries.filter_map(Result::ok).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// A single, harmless component of a path: the existing worker's rule, for runs as well, and a bound on its length.
fn component(id: &str, otherwise: &str) -> String {
    let replaced = id.replace(|c: char| matches!(c, '<' | '>' | ':' | '"' | '/' | '\\' | '|' | '?' | '*') || c.is_control(), "_");
    let name = replaced.trim_matches(['.', ' ']);
    if name.is_empty() {
        return otherwise.to_owned();
    }
    if name.len() <= NAME_BYTES_MAX {
        return name.to_owned();
    }
    let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(id.as_bytes())[..8]);
    format!("{}-{digest}", &name[..name.floor_char_boundary(NAME_BYTES_MAX - 17)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_id_leads_out_of_the_data_directory() {
        let rows = [
            ("run-1", "run-1"),
            ("../../etc", "_.._etc"),
            ("a/b\\c:d*e?f\"g<h>i|j", "a_b_c_d_e_f_g_h_i_j"),
            (" . x . ", "x"),
            ("..", "task"),
            ("", "task"),
            ("a\0b\n", "a_b_"),
        ];
        for (id, expected) in rows {
            assert_eq!(component(id, "task"), expected, "{id:?}");
        }
        let (one, other) = (component(&"x".repeat(1000), "task"), component(&"x".repeat(1001), "task"));
        assert!(one.len() <= NAME_BYTES_MAX && one != other);
    }

    #[test]
    fn directories_go_when_the_policy_says_so_and_never_under_a_task_that_runs() {
        let dir = tempfile::tempdir().unwrap();
        let later = SystemTime::now() + Duration::from_secs(7200);
        let dirs = DataDirs::new(dir.path().to_owned(), DataPolicy::KeepFor(Duration::from_secs(3600)));
        let path = dirs.make("r", "over").unwrap().path.clone();
        let running = dirs.make("r", "runs").unwrap();
        fs::write(path.join("file"), "x").unwrap();
        dirs.sweep(SystemTime::now());
        assert!(path.exists());
        dirs.sweep(later);
        assert!(!path.exists() && running.path.exists());
        drop(running);
        dirs.sweep(later);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

        let removing = DataDirs::new(dir.path().to_owned(), DataPolicy::Remove);
        let path = removing.make("r", "t").unwrap().path.clone();
        assert!(!path.exists());
        // Two that are cleaned to one name: the first to end leaves the other its own.
        let (one, other) = (removing.make("r", "a:b").unwrap(), removing.make("r", "a_b").unwrap());
        drop(one);
        assert!(other.path.exists());
        let path = other.path.clone();
        drop(other);
        assert!(!path.exists());
        let keeping = DataDirs::new(dir.path().to_owned(), DataPolicy::Keep);
        let path = keeping.make("r", "t").unwrap().path.clone();
        keeping.sweep(later);
        assert!(path.exists());
    }
}
