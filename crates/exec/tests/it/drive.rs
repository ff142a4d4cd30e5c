//! A shared drive with one job on it, and workspaces beside it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use longshore_exec::workspace::{CollectError, Hold, Results, Source, StageError, Staged, Workspace};
use longshore_model::DirectoryName;
use longshore_model::wire::result::FileChanges;
use tempfile::TempDir;

pub(crate) struct Drive {
    pub(crate) dir: TempDir,
}

/// What something in a tree is. Times are in nanoseconds, modes without the type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Thing {
    Directory { mode: u32, mtime: i128 },
    File { mode: u32, mtime: i128, content: Vec<u8> },
    Link { mtime: i128, target: Vec<u8> },
    Special,
}

impl Drive {
    pub(crate) fn new() -> Self {
        let drive = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir_all(drive.source()).unwrap();
        drive
    }

    /// The job's directory.
    pub(crate) fn source(&self) -> PathBuf {
        self.jobs().join("job 1")
    }

    pub(crate) fn jobs(&self) -> PathBuf {
        self.dir.path().join("jobs")
    }

    pub(crate) fn results(&self) -> PathBuf {
        self.source().join("results")
    }

    pub(crate) fn workspaces(&self) -> PathBuf {
        self.dir.path().join("workspaces")
    }

    /// Writes files into the source.
    pub(crate) fn with(self, files: &[(&str, &str)]) -> Self {
        crate::support::write(&self.source(), files);
        self
    }

    pub(crate) fn open(&self) -> (Source, Results) {
        let source = Source::resolve(&self.jobs(), &name("job 1")).unwrap();
        let results = source.results().unwrap();
        (source, results)
    }

    pub(crate) fn hold(&self) -> Hold {
        Hold::take(&self.workspaces(), &name("job 1"), "").unwrap()
    }

    pub(crate) fn sync(&self, workspace: &Workspace, staged: Staged, n_steps: usize) -> Result<FileChanges, CollectError> {
        workspace.sync(staged, &self.open().1, None, n_steps, &|| false)
    }

    pub(crate) fn try_stage(&self) -> Result<(Workspace, Staged), StageError> {
        let (source, results) = self.open();
        Workspace::stage(&source, &results, &self.hold(), &|| false)
    }

    pub(crate) fn stage(&self) -> (Workspace, Staged) {
        self.try_stage().unwrap()
    }

    /// Stages, lets `edit` do what steps do, and syncs.
    pub(crate) fn run(&self, edit: impl FnOnce(&Path)) -> FileChanges {
        self.try_run(edit).unwrap()
    }

    pub(crate) fn try_run(&self, edit: impl FnOnce(&Path)) -> Result<FileChanges, CollectError> {
        let (workspace, staged) = self.stage();
        edit(workspace.path());
        self.sync(&workspace, staged, 0)
    }

    #[track_caller]
    pub(crate) fn assert_no_workspace_is_left(&self) {
        let entries = fs::read_dir(self.workspaces()).unwrap().map(|entry| entry.unwrap().file_name());
        // What is held stays held until its end.
        let left: Vec<_> = entries.filter(|name| !name.to_string_lossy().starts_with(".longshore\\")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

pub(crate) fn name(text: &str) -> DirectoryName {
    text.parse().unwrap()
}

/// Everything below `dir`, by its path there. Follows nothing.
pub(crate) fn tree(dir: &Path) -> BTreeMap<Vec<u8>, Thing> {
    let mut things = BTreeMap::new();
    add(dir, b"", &mut things).unwrap();
    things
}

fn add(dir: &Path, prefix: &[u8], things: &mut BTreeMap<Vec<u8>, Thing>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (path, metadata) = (entry.path(), entry.path().symlink_metadata()?);
        let name = [prefix, entry.file_name().as_bytes()].concat();
        let (mode, mtime) = (metadata.mode() & 0o7777, i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()));
        let kind = metadata.file_type();
        let thing = if kind.is_dir() {
            add(&path, &[&name, &b"/"[..]].concat(), things)?;
            Thing::Directory { mode, mtime }
        } else if kind.is_symlink() {
            Thing::Link { mtime, target: fs::read_link(&path)?.into_os_string().as_bytes().to_vec() }
        } else if kind.is_file() {
            Thing::File { mode, mtime, content: fs::read(&path)? }
        } else {
            assert!(kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device());
            Thing::Special
        };
        things.insert(name, thing);
    }
    Ok(())
}

/// The names below `dir` of what is no directory, sorted.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let is_directory = |thing: &Thing| matches!(thing, Thing::Directory { .. });
    tree(dir).into_iter().filter(|(_, thing)| !is_directory(thing)).map(|(name, _)| String::from_utf8_lossy(&name).into_owned()).collect()
}

pub(crate) fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn path(dir: &Path, name: &[u8]) -> PathBuf {
    dir.join(OsStr::from_bytes(name))
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A small file system of its own; unmounted when dropped.
pub(crate) struct Small(PathBuf);

impl Small {
    /// None, and a word about it, where it may not be mounted.
    #[expect(clippy::print_stderr, reason = "whoever runs the tests sees that one did not happen")]
    pub(crate) fn mount(at: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mounted = is_root() && run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", at.to_str().unwrap()]);
        if !mounted {
            eprintln!("skipped: a file system can be mounted by root only");
        }
        mounted.then(|| Self(at.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        run("umount", &[self.0.to_str().unwrap()]);
    }
}

fn run(program: &str, args: &[&str]) -> bool {
    std::process::Command::new(program).args(args).status().is_ok_and(|status| status.success())
}
