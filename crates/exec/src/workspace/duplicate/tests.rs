//! Copies of what stands still, and refusals by name of what does not.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags};

use super::crew::CHUNK_NAMES;
use super::*;
use crate::files;

fn copy(from: &Path, into: &Path, stop: &(dyn Fn() -> bool + Sync)) -> Result<Duplicate, CopyError> {
    let workspaces = into.parent().unwrap();
    let open = |path: &Path| files::open_dir(path).unwrap();
    duplicate(open(from).as_fd(), open(into).as_fd(), open(workspaces).as_fd(), "results", stop)
}

/// Two directories, `from` and `workspaces/into`.
fn pair(dir: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let (from, into) = (dir.join("from"), dir.join("workspaces/into"));
    fs::create_dir_all(&from).unwrap();
    fs::create_dir_all(&into).unwrap();
    (from, into)
}

#[test]
fn a_file_that_is_written_to_while_it_is_copied_is_no_copy() {
    let dir = tempfile::tempdir().unwrap();
    let (from, into) = pair(dir.path());
    fs::write(from.join("log"), "begin").unwrap();
    // The question comes after the file was looked at and before its content is read.
    let append = || {
        let mut log = File::options().append(true).open(from.join("log")).unwrap();
        std::io::Write::write_all(&mut log, b"more").unwrap();
        false
    };
    assert!(matches!(copy(&from, &into, &append), Err(CopyError::Changed { path }) if path == "log"));
}

#[test]
fn a_directory_that_changes_while_it_is_copied_is_no_copy() {
    let dir = tempfile::tempdir().unwrap();
    let (from, into) = pair(dir.path());
    fs::create_dir(from.join("sub")).unwrap();
    fs::write(from.join("sub/file"), "x").unwrap();
    let add = || {
        if into.join("sub").exists() {
            fs::write(from.join("sub/late"), "x").unwrap();
        }
        false
    };
    assert!(matches!(copy(&from, &into, &add), Err(CopyError::Changed { path }) if path == "sub"));
}

#[test]
fn a_race_of_renames_leads_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let (from, into) = pair(dir.path());
    let foreign = dir.path().join("foreign");
    for (at, content) in [(&foreign, "FOREIGN"), (&from.join("dir"), "own")] {
        fs::create_dir(at).unwrap();
        for index in 0..50 {
            fs::write(at.join(index.to_string()), content).unwrap();
        }
    }
    symlink(&foreign, from.join("dir-link")).unwrap();
    fs::write(from.join("file"), "own").unwrap();
    symlink(foreign.join("0"), from.join("file-link")).unwrap();

    let (over, swaps, mut copies, mut refused) = (AtomicBool::new(false), AtomicU64::new(0), 0_u32, 0_u32);
    let began = Instant::now();
    // On a busy machine until there was a race indeed.
    let goes_on = |refused: u32| {
        let was_raced = swaps.load(Ordering::Relaxed) > 1000 && refused > 10;
        began.elapsed() < if was_raced { Duration::from_millis(1500) } else { Duration::from_secs(60) }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let all = ["dir", "file"].map(|name| (from.join(name), from.join(format!("{name}-link"))));
            while !over.load(Ordering::Relaxed) {
                for (one, other) in &all {
                    rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        while goes_on(refused) {
            match copy(&from, &into, &|| false) {
                Ok(_) => copies += 1,
                Err(CopyError::Changed { .. }) => refused += 1,
                Err(other) => panic!("{other:?}"),
            }
            let foreign = foreign_files(&into);
            files::empty_dir_at(&files::open_dir(&into).unwrap()).unwrap();
            if !foreign.is_empty() {
                over.store(true, Ordering::Relaxed);
                panic!("{foreign:?} came from elsewhere");
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    let swaps = swaps.into_inner();
    assert!(swaps > 1000 && refused > 10, "no race: {swaps} swaps, {refused} refused, {copies} copies");
}

fn foreign_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut foreign = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            foreign.extend(foreign_files(&entry.path()));
        } else if entry.file_type().unwrap().is_file() && fs::read(entry.path()).unwrap() == b"FOREIGN" {
            foreign.push(entry.path());
        }
    }
    foreign
}

#[test]
fn workspaces_within_the_source_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (from, into) = (dir.path().join("from"), dir.path().join("from/sub/workspaces/into"));
    fs::create_dir_all(&into).unwrap();
    assert!(matches!(copy(&from, &into, &|| false), Err(CopyError::Within { path }) if path == "sub/workspaces"));
}

#[test]
fn too_many_levels_are_refused_by_name_and_as_many_as_may_be_are_copied() {
    let dir = tempfile::tempdir().unwrap();
    let (from, into) = pair(dir.path());
    let deepest = from.join(vec!["d"; BUNDLE_DEPTH_MAX - 1].join("/"));
    fs::create_dir_all(&deepest).unwrap();
    fs::write(deepest.join("file"), "x").unwrap();
    copy(&from, &into, &|| false).unwrap();
    assert_eq!(fs::read(into.join(deepest.strip_prefix(&from).unwrap()).join("file")).unwrap(), b"x");

    fs::create_dir(deepest.join("below")).unwrap();
    files::empty_dir_at(&files::open_dir(&into).unwrap()).unwrap();
    assert!(matches!(copy(&from, &into, &|| false), Err(CopyError::Depth { path }) if path.ends_with("/below")));
}

#[test]
fn many_files_in_many_directories_all_arrive_and_are_known() {
    let dir = tempfile::tempdir().unwrap();
    let (from, into) = pair(dir.path());
    for directory in 0..70 {
        let directory = from.join(directory.to_string());
        fs::create_dir(&directory).unwrap();
        let n_files = if directory.ends_with("7") { 2 * CHUNK_NAMES + 1 } else { 100 };
        (0..n_files).for_each(|file| fs::write(directory.join(file.to_string()), file.to_string()).unwrap());
    }
    let copied = copy(&from, &into, &|| false).unwrap();
    for directory in fs::read_dir(&from).unwrap() {
        let directory = directory.unwrap().path();
        for file in fs::read_dir(&directory).unwrap() {
            let file = file.unwrap().path();
            let copy = into.join(file.strip_prefix(&from).unwrap());
            assert_eq!(
                (fs::read(&copy).unwrap(), copy.metadata().unwrap().mtime()),
                (fs::read(&file).unwrap(), file.metadata().unwrap().mtime())
            );
        }
    }
    assert_eq!(copied.snapshot.into_deleted().count(), 69 * 100 + 2 * CHUNK_NAMES + 1);
}
