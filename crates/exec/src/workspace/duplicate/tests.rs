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
    copy_up_to(100_000, from, into, stop)
}

fn copy_up_to(max: usize, from: &Path, into: &Path, stop: &(dyn Fn() -> bool + Sync)) -> Result<Duplicate, CopyError> {
    let workspaces = into.parent().unwrap();
    let open = |path: &Path| files::open_dir(path).unwrap();
    duplicate(open(from).as_fd(), open(into).as_fd(), open(workspaces).as_fd(), ("results", max), stop)
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

#[test]
fn what_becomes_a_link_between_being_listed_and_being_opened_is_not_followed() {
    for moment in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let (from, into) = pair(dir.path());
        let foreign = dir.path().join("foreign");
        for (at, content) in [(&foreign, "FOREIGN"), (&from.join("dir"), "own")] {
            fs::create_dir(at).unwrap();
            fs::write(at.join("inside"), content).unwrap();
        }
        symlink(&foreign, from.join("dir-link")).unwrap();
        fs::write(from.join("file"), "own").unwrap();
        symlink(foreign.join("inside"), from.join("file-link")).unwrap();
        // The question comes before each entry that was listed is opened.
        let questions = AtomicUsize::new(0);
        let swap = || {
            if questions.fetch_add(1, Ordering::Relaxed) == moment {
                for (one, other) in [("dir", "dir-link"), ("file", "file-link")] {
                    rustix::fs::renameat_with(CWD, from.join(one), CWD, from.join(other), RenameFlags::EXCHANGE).unwrap();
                }
            }
            false
        };
        let copied = copy(&from, &into, &swap).map(drop);
        assert_eq!(foreign_files(&into), Vec::<std::path::PathBuf>::new(), "{moment}");
        if questions.into_inner() > moment {
            assert!(matches!(copied, Err(CopyError::Changed { .. })), "{moment}: {copied:?}");
        }
    }
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

#[test]
fn more_entries_than_there_may_be_are_refused_with_their_number_before_any_of_them_is_copied() {
    const MAX: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    let (from, into) = pair(dir.path());
    fs::create_dir_all(from.join("results/of another run")).unwrap();
    (1..MAX).for_each(|file| fs::write(from.join(file.to_string()), "").unwrap());
    fs::create_dir(from.join("dir")).unwrap();
    let copied = copy_up_to(MAX, &from, &into, &|| false).unwrap();
    assert_eq!(copied.snapshot.into_deleted().count(), MAX - 1);

    for one_more in ["one-more", "dir/one-more"] {
        files::empty_dir_at(&files::open_dir(&into).unwrap()).unwrap();
        fs::write(from.join(one_more), "").unwrap();
        let refused = copy_up_to(MAX, &from, &into, &|| false).map(drop).unwrap_err();
        assert_eq!(refused.to_string(), "copy the source into the workspace: it has more than 300 entries");
        assert!(!into.join(one_more).exists());
        fs::remove_file(from.join(one_more)).unwrap();
    }
}

/// Peak memory of this process, in KiB.
fn peak_kib() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok()).unwrap()
}

/// Copies so many empty files in a process of its own, whose memory stays within the bound.
fn memory_of(test: &str, n_files: usize, kib_max: usize) {
    const CHILD: &str = "LONGSHORE_TEST_MEMORY";
    if std::env::var_os(CHILD).is_none() {
        let this = [&format!("workspace::duplicate::tests::{test}"), "--exact", "--nocapture", "--include-ignored"];
        let child = std::process::Command::new(std::env::current_exe().unwrap()).args(this).env(CHILD, "1").status().unwrap();
        assert!(child.success());
        return;
    }
    // So many files are quickly made in memory only.
    let in_memory = Path::new("/dev/shm");
    let dir = if in_memory.is_dir() { tempfile::tempdir_in(in_memory) } else { tempfile::tempdir() }.unwrap();
    let (from, into) = pair(dir.path());
    for index in 0..n_files {
        let above = from.join((index / 10_000).to_string());
        if index % 10_000 == 0 {
            fs::create_dir(&above).unwrap();
        }
        File::create(above.join(index.to_string())).unwrap();
    }
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = peak_kib();
    let max = n_files + n_files / 10_000;
    let copied = copy_up_to(max, &from, &into, &|| false).unwrap();
    let peak = peak_kib() - before;
    assert_eq!(copied.snapshot.into_deleted().count(), n_files);
    println!("{n_files} files: {peak} KiB");
    assert!(peak < kib_max, "{peak} KiB");
}

#[test]
fn the_memory_that_entries_take_is_bounded() {
    memory_of("the_memory_that_entries_take_is_bounded", 20_000, 20 * 1024);
}

#[test]
#[ignore = "a million files take minutes; the test above is the same with fewer"]
fn a_million_entries_take_half_a_gibibyte_at_most() {
    memory_of("a_million_entries_take_half_a_gibibyte_at_most", 990_000, 512 * 1024);
}
