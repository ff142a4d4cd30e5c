//! Workspaces that are copies of a job's directory.

use std::fs;
use std::fs::{File, FileTimes};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, SystemTime};

use longshore_exec::workspace::{CopyError, Hold, ResolveError, Source, StageError, Workspace, leftovers};
use rustix::fs::{CWD, FileType, Mode};

use crate::drive::{Drive, Small, Thing, chmod, is_root, name, names, path, tree};

#[test]
fn a_workspace_is_a_copy_of_everything_but_results() {
    let drive = Drive::new().with(&[
        ("file", "content"),
        ("empty", ""),
        ("dir/sub/deep", "deep"),
        ("dir/results/kept", "only the one at the top is left out"),
        ("closed/file", "x"),
        ("results/old", "not staged"),
        (".hidden", "x"),
        ("script", "#!/bin/sh"),
    ]);
    let source = drive.source();
    fs::write(path(&source, b"not \xff UTF-8"), "x").unwrap();
    fs::write(path(&source, b"line\nbreak \x1b[2J"), "x").unwrap();
    fs::write(source.join("x".repeat(255)), "x").unwrap();
    fs::write(source.join("large"), (0..2_000_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>()).unwrap();
    fs::create_dir(source.join("nothing in it")).unwrap();
    for (link, target) in
        [("to-file", "file"), ("dangling", "no/where"), ("absolute", "/etc/passwd"), ("dir/up", "../.."), ("loop", "loop")]
    {
        symlink(target, source.join(link)).unwrap();
    }
    symlink(Path::new(std::ffi::OsStr::new("dir")), path(&source, b"\xfe")).unwrap();
    for (name, mode) in [("file", 0o640), ("script", 0o755), ("empty", 0o444), ("dir/sub/deep", 0), ("dir", 0o1770), ("closed", 0o500)] {
        chmod(&source.join(name), mode);
    }
    for (name, seconds) in [("file", 1), ("large", 1_000_000_000), ("closed", 5_000_000_000), ("nothing in it", 1_234_567_890)] {
        let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, 123_456_789);
        File::open(source.join(name)).unwrap().set_times(FileTimes::new().set_modified(time).set_accessed(time)).unwrap();
    }
    let mut expected = tree(&source);
    expected.retain(|name, _| name != b"results" && !name.starts_with(b"results/"));

    let (workspace, staged) = drive.stage();

    let copy = tree(workspace.path());
    assert_eq!(copy.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, thing) in expected {
        assert_eq!(copy[&name], thing, "{:?}", String::from_utf8_lossy(&name));
    }
    let (top, copied_top) = (source.metadata().unwrap(), workspace.path().metadata().unwrap());
    assert_eq!((top.mode(), top.mtime(), top.mtime_nsec()), (copied_top.mode(), copied_top.mtime(), copied_top.mtime_nsec()));
    assert!(staged.skipped().is_empty(), "{:?}", staged.skipped());
    assert_eq!(workspace.path(), drive.workspaces().canonicalize().unwrap().join("job 1"));
    drop(workspace);
    drive.assert_no_workspace_is_left();
}

#[test]
fn a_source_is_only_read() {
    let drive = Drive::new().with(&[("file", "x"), ("dir/file", "x"), ("results/old", "old")]);
    symlink("file", drive.source().join("link")).unwrap();
    let before = tree(drive.dir.path());
    drop(drive.stage());
    drive.hold().end();
    fs::remove_dir(drive.workspaces()).unwrap();
    assert_eq!(tree(drive.dir.path()), before);
}

#[test]
fn sockets_devices_and_fifos_are_left_out_and_listed() {
    let drive = Drive::new().with(&[("dir/file", "x")]);
    let source = drive.source();
    let _listener = UnixListener::bind(source.join("socket")).unwrap();
    rustix::fs::mknodat(CWD, source.join("dir/fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let mut expected = vec![("dir/fifo", "it is a fifo"), ("socket", "it is a socket")];
    if rustix::fs::mknodat(CWD, source.join("device"), FileType::CharacterDevice, Mode::RWXU, rustix::fs::makedev(1, 3)).is_ok() {
        expected.insert(0, ("device", "it is a device"));
        expected.sort();
    }

    let (workspace, staged) = drive.stage();
    let skipped: Vec<_> = staged.skipped().iter().map(|file| (file.path.as_str(), file.reason.as_str())).collect();
    assert_eq!(skipped, expected);
    assert_eq!(names(workspace.path()), ["dir/file"]);

    let changes = drive.sync(&workspace, staged, 0).unwrap();
    assert_eq!(changes.skipped.len(), expected.len(), "the manifest has them too: {changes:?}");
    assert!(changes.deleted.is_empty(), "what was never there is not deleted");
}

#[test]
fn a_file_does_not_get_the_rights_of_the_worker() {
    let drive = Drive::new().with(&[("shell", "x"), ("grouped", "x"), ("shared/file", "x")]);
    chmod(&drive.source().join("shell"), 0o4755);
    chmod(&drive.source().join("grouped"), 0o2711);
    chmod(&drive.source().join("shared"), 0o2775);
    let (workspace, staged) = drive.stage();
    let mode = |name: &str| workspace.path().join(name).metadata().unwrap().mode() & 0o7777;
    assert_eq!((mode("shell"), mode("grouped"), mode("shared")), (0o755, 0o711, 0o2775));
    assert_eq!(staged.skipped().iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["grouped", "shell"]);
}

#[test]
fn names_of_one_file_become_files_of_their_own() {
    let drive = Drive::new().with(&[("one", "x")]);
    fs::hard_link(drive.source().join("one"), drive.source().join("two")).unwrap();
    let (workspace, _) = drive.stage();
    fs::write(workspace.path().join("one"), "changed").unwrap();
    assert_eq!(fs::read(workspace.path().join("two")).unwrap(), b"x");
    assert_eq!(fs::read(drive.source().join("one")).unwrap(), b"x");
}

#[test]
fn holes_stay_holes() {
    let drive = Drive::new();
    File::create(drive.source().join("sparse")).unwrap().set_len(1 << 36).unwrap();
    let (workspace, _) = drive.stage();
    let copy = workspace.path().join("sparse").metadata().unwrap();
    assert_eq!(copy.len(), 1 << 36);
    assert!(copy.blocks() < 1000, "{} blocks", copy.blocks());
}

#[test]
fn what_cannot_be_copied_fails_with_its_name_and_leaves_nothing() {
    let drive = Drive::new().with(&[("dir/first", "x"), ("dir/secret", "x"), ("z", "x")]);
    chmod(&drive.source().join("dir/secret"), 0);
    let dir = drive.dir.path();
    fs::create_dir(drive.workspaces()).unwrap();
    let (source, results) = drive.open();
    let stage = || {
        if is_root() {
            [dir, &drive.workspaces()].iter().for_each(|dir| chmod(dir, 0o777));
            // SAFETY: changes only with whose rights this thread, and those it starts, use the file system.
            unsafe { libc::setfsuid(65534) };
        }
        Workspace::stage(&source, &results, &drive.hold(), &|| false).map(drop)
    };
    let error = std::thread::scope(|scope| scope.spawn(stage).join().unwrap()).unwrap_err();

    assert_eq!(error.to_string(), "copy \"dir/secret\" into the workspace");
    let StageError::Copy(CopyError::Failed { source, .. }) = &error else { panic!("{error:?}") };
    assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);
    assert!(!error.is_host_fault(), "the same will happen elsewhere");
    drive.assert_no_workspace_is_left();
}

#[test]
fn a_full_disk_fails_with_the_name_and_leaves_nothing() {
    let drive = Drive::new().with(&[("small", "x"), ("dir/large", &"x".repeat(2 * 1024 * 1024))]);
    let Some(_small) = Small::mount(&drive.workspaces(), "1m") else { return };
    let error = drive.try_stage().map(drop).unwrap_err();
    assert_eq!(error.to_string(), "copy \"dir/large\" into the workspace");
    assert!(error.is_host_fault(), "another host may have room");
    drive.assert_no_workspace_is_left();
}

#[test]
fn workspaces_may_be_on_another_file_system() {
    let drive = Drive::new().with(&[("file", "x"), ("dir/file", &"y".repeat(100_000))]);
    let Some(_small) = Small::mount(&drive.workspaces(), "8m") else { return };
    let changes = drive.run(|workspace| fs::write(workspace.join("made"), "made").unwrap());
    assert_eq!(changes.created.len() + changes.modified.len() + changes.deleted.len(), 1, "{changes:?}");
    assert_eq!(names(&drive.results()), ["made"]);
}

#[test]
fn staging_ends_when_it_is_told_to_and_leaves_nothing() {
    let drive = Drive::new().with(&[("file", "x")]);
    let (source, results) = drive.open();
    let staged = Workspace::stage(&source, &results, &drive.hold(), &|| true);
    assert!(matches!(staged.map(drop), Err(StageError::Copy(CopyError::Interrupted))));
    drive.assert_no_workspace_is_left();
}

#[test]
fn two_jobs_of_one_name_never_share_a_workspace() {
    let drive = Drive::new().with(&[("file", "x")]);
    let hold = drive.hold();
    let (source, results) = drive.open();
    let (workspace, _) = Workspace::stage(&source, &results, &hold, &|| false).unwrap();
    fs::write(workspace.path().join("file"), "mine").unwrap();
    assert!(Hold::take(&drive.workspaces(), &name("job 1"), "").unwrap_err().is_busy());
    Hold::take(&drive.workspaces(), &name("job 2"), "").unwrap().end();
    assert_eq!(fs::read(workspace.path().join("file")).unwrap(), b"mine");
    drop(workspace);
    hold.end();
    assert_eq!(fs::read_dir(drive.workspaces()).unwrap().count(), 0, "nothing is left beside the workspaces either");
}

#[test]
fn what_a_killed_job_left_is_known_by_its_note_and_removed() {
    let drive = Drive::new().with(&[("file", "x")]);
    let leave = |id: &str, note: &str| {
        drop(Hold::take(&drive.workspaces(), &name(id), note).unwrap());
        crate::support::write(&drive.workspaces().join(id), &[("half", "x"), ("dir/more", "x")]);
    };
    leave("job 1", "ours");
    leave("job 2", "theirs");
    crate::support::write(&drive.workspaces().join("a person's"), &[("file", "x")]);
    let running = Hold::take(&drive.workspaces(), &name("job 3"), "ours").unwrap();
    crate::support::write(&drive.workspaces().join("job 3"), &[("file", "x")]);

    let found = leftovers(&drive.workspaces(), &|note| note == "ours").unwrap();
    assert_eq!(found.iter().map(|left| (left.id().as_str(), left.note.as_str())).collect::<Vec<_>>(), [("job 1", "ours")]);
    drop(found);
    assert!(!drive.workspaces().join("job 1").exists());
    assert!(["job 2", "job 3", "a person's"].iter().all(|kept| drive.workspaces().join(kept).exists()));
    leftovers(&drive.workspaces(), &|note| note == "ours").unwrap().into_iter().for_each(|left| left.end());
    assert!(leftovers(&drive.workspaces(), &|note| note == "ours").unwrap().is_empty(), "what was ended is forgotten");

    Hold::take(&drive.workspaces(), &name("job 2"), "").unwrap().end();
    assert!(!drive.workspaces().join("job 2").exists(), "whoever takes the name clears it as well");
    drop(running);
    assert!(leftovers(&drive.dir.path().join("none"), &|_| true).unwrap().is_empty());
}

#[test]
fn processes_of_a_killed_job_are_ended_also_when_it_had_moved_its_workspace_away() {
    let drive = Drive::new();
    for taken_again in [false, true] {
        drop(Hold::take(&drive.workspaces(), &name("job 1"), "ours").unwrap());
        let mark = format!("0@{}", drive.workspaces().canonicalize().unwrap().join("job 1").display());
        let mut left = std::process::Command::new("sleep").arg("1000").env("LONGSHORE_TREE", mark).spawn().unwrap();
        if taken_again {
            Hold::take(&drive.workspaces(), &name("job 1"), "ours").unwrap().end();
        } else {
            leftovers(&drive.workspaces(), &|_| true).unwrap().into_iter().for_each(|left| left.end());
        }
        assert!(left.try_wait().unwrap().is_some(), "taken again: {taken_again}");
    }
}

#[test]
fn a_source_that_was_changed_a_moment_ago_is_compared_with_its_copy() {
    let drive = Drive::new().with(&[("file", "staged"), ("dir/file", "staged")]);
    let (workspace, staged) = drive.stage();
    // Under the stamp that it had, as far as a clock with ticks can tell.
    fs::write(drive.source().join("file"), "edited").unwrap();
    fs::write(workspace.path().join("file"), "edited").unwrap();
    let changes = drive.sync(&workspace, staged, 0).unwrap();
    assert_eq!(changes.modified.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["file"], "{changes:?}");
}

#[test]
fn a_source_is_a_directory_of_that_very_name() {
    let drive = Drive::new().with(&[("file", "x")]);
    let jobs = drive.jobs();
    fs::write(jobs.join("file"), "x").unwrap();
    fs::create_dir(drive.dir.path().join("elsewhere")).unwrap();
    symlink("../elsewhere", jobs.join("out")).unwrap();
    symlink("job 1", jobs.join("alias")).unwrap();
    let resolve = |id: &str| Source::resolve(&jobs, &name(id));
    assert!(matches!(resolve("missing"), Err(ResolveError::Missing { path }) if path == jobs.join("missing")));
    for id in ["out", "alias", "file"] {
        assert!(matches!(resolve(id), Err(ResolveError::NotADirectory { path }) if path == jobs.join(id)), "{id}");
    }
    assert!(matches!(Source::resolve(&jobs.join("no"), &name("job 1")), Err(ResolveError::Jobs { .. })));
    symlink(&jobs, drive.dir.path().join("jobs-link")).unwrap();
    assert!(Source::resolve(&drive.dir.path().join("jobs-link"), &name("job 1")).is_ok(), "an operator's own link is fine");
}

#[test]
fn files_beside_the_job_are_read_and_never_through_a_link() {
    let drive = Drive::new().with(&[("job.json", "{}")]);
    symlink("/etc/passwd", drive.source().join("link")).unwrap();
    fs::create_dir(drive.source().join("dir")).unwrap();
    let (source, results) = drive.open();
    assert_eq!(source.read("job.json", 2).unwrap().as_deref(), Some(&b"{}"[..]));
    assert_eq!(source.read("none", 2).unwrap(), None);
    assert_eq!(source.read("job.json", 1).unwrap_err().kind(), std::io::ErrorKind::FileTooLarge);
    for name in ["link", "dir", "..", "../job 1/job.json"] {
        assert!(source.read(name, 1000).is_err(), "{name}");
    }
    results.write("result.json", b"one").unwrap();
    results.write("result.json", b"two").unwrap();
    assert_eq!(results.read("result.json", 10).unwrap().as_deref(), Some(&b"two"[..]));
    assert_eq!(names(&drive.results()), ["result.json"]);
}

#[test]
fn a_large_file_is_staged_and_brought_back_in_little_memory() {
    const CHILD: &str = "LONGSHORE_TEST_MEMORY";
    if std::env::var_os(CHILD).is_none() {
        // Memory is counted of a whole process, so this one gets its own.
        let this = ["staging::a_large_file_is_staged_and_brought_back_in_little_memory", "--exact", "--nocapture"];
        let child = std::process::Command::new(std::env::current_exe().unwrap()).args(this).env(CHILD, "1").status().unwrap();
        assert!(child.success());
        return;
    }
    const MIB: usize = 1024 * 1024;
    let drive = Drive::new();
    let file = File::create(drive.source().join("large")).unwrap();
    (0..=255_u8).for_each(|index| std::io::Write::write_all(&mut &file, &vec![index; MIB]).unwrap());
    let changes = drive.run(|workspace| {
        std::io::Write::write_all(&mut File::options().append(true).open(workspace.join("large")).unwrap(), b"more").unwrap();
    });
    assert_eq!(changes.modified[0].size, 256 * MIB as u64 + 4);
    assert_eq!(drive.results().join("large").metadata().unwrap().len(), 256 * MIB as u64 + 4);
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<usize>().ok()).unwrap();
    assert!(peak * 1024 < 64 * MIB, "{peak} KiB");
}

#[test]
fn links_are_never_followed_while_staging() {
    let drive = Drive::new().with(&[("file", "x")]);
    let foreign = drive.dir.path().join("foreign");
    crate::support::write(&foreign, &[("secret", "secret")]);
    for (link, target) in [
        ("dir", "../../foreign"),
        ("dots", "./../jobs/../../foreign"),
        ("chain", "dir"),
        ("secret", "../../foreign/secret"),
        ("loop", "."),
        ("self", "self"),
    ] {
        symlink(target, drive.source().join(link)).unwrap();
    }
    let (workspace, _) = drive.stage();
    let copy = tree(workspace.path());
    assert!(copy.iter().all(|(name, thing)| name == b"file" || matches!(thing, Thing::Link { .. })), "{copy:?}");
    assert_eq!(copy.len(), 7);
}
