//! What changed in a workspace comes back beside its source.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::fs::{File, FileTimes};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use longshore_exec::workspace::{CollectError, Globs, ResolveError, Workspace};
use longshore_model::wire::result::{FileChanges, FileInfo};
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode};
use sha2::Digest;

use crate::drive::{Drive, Small, Thing, chmod, names, tree};
use crate::support::write;

fn paths(files: &[FileInfo]) -> Vec<&str> {
    files.iter().map(|file| file.path.as_str()).collect()
}

fn read(drive: &Drive, name: &str) -> String {
    fs::read_to_string(drive.results().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn files_that_were_made_or_changed_come_back_also_over_older_results() {
    let drive = Drive::new().with(&[
        ("edited", "old"),
        ("chmodded", "same"),
        ("touched", "same"),
        ("rewritten", "same"),
        ("same size", "one"),
        ("untouched", "same"),
        ("dir/edited", "old"),
        ("results/edited", "of the last run"),
        ("results/chmodded", "same"),
        ("results/untouched", "of the last run"),
    ]);
    let changes = drive.run(|workspace| {
        write(workspace, &[("edited", "new"), ("dir/edited", "new"), ("made", "made"), ("new/dir/made", "made"), ("same size", "two")]);
        chmod(&workspace.join("chmodded"), 0o751);
        File::open(workspace.join("touched")).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        fs::remove_file(workspace.join("rewritten")).unwrap();
        fs::write(workspace.join("rewritten"), "same").unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::new(77, 99);
        File::open(workspace.join("made")).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
        chmod(&workspace.join("new/dir"), 0o750);
    });
    assert_eq!(paths(&changes.created), ["made", "new/dir/made"]);
    assert_eq!(paths(&changes.modified), ["chmodded", "dir/edited", "edited", "same size"]);
    assert_eq!((changes.deleted.len(), changes.skipped.len(), changes.unlisted), (0, 0, 0));
    assert_eq!(names(&drive.results()), ["chmodded", "dir/edited", "edited", "made", "new/dir/made", "same size", "untouched"]);
    assert_eq!((read(&drive, "edited"), read(&drive, "untouched")), ("new".into(), "of the last run".into()));
    let of = |name: &str| drive.results().join(name).metadata().unwrap();
    assert_eq!((of("chmodded").mode() & 0o7777, of("new/dir").mode() & 0o7777), (0o751, 0o750));
    assert_eq!((of("made").mtime(), of("made").mtime_nsec()), (77, 99));
    assert_eq!(changes.created[0].size, 4);
    assert_eq!(changes.created[0].sha256, "ea0890697a77af0a2e054cccec587c8a42feb5cf38e778c6c6e2a96bfb945c0b", "{changes:?}");
    drive.assert_no_workspace_is_left();
}

#[test]
fn files_staged_long_ago_are_known_by_their_times_and_still_compared_when_touched() {
    let drive = Drive::new().with(&[("a", "same"), ("b", "same"), ("c", "old")]);
    let (workspace, staged) = drive.stage();
    // Longer than a tick of the clock that stamps files: only then do their times tell anything.
    let stamped = |name: &str| File::create(drive.dir.path().join(name)).unwrap().metadata().unwrap();
    let first = stamped("clock");
    let now = |at: &fs::Metadata| at.ctime() * 1_000_000_000 + at.ctime_nsec();
    while now(&stamped("clock")) < now(&first) + 40_000_000 {}
    File::open(workspace.path().join("b")).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let time = workspace.path().join("c").metadata().unwrap().modified().unwrap();
    fs::write(workspace.path().join("c"), "new").unwrap();
    File::open(workspace.path().join("c")).unwrap().set_modified(time).unwrap();
    let changes = drive.sync(&workspace, staged, 0).unwrap();
    assert_eq!((paths(&changes.modified), paths(&changes.created)), (vec!["c"], vec![]));
}

#[test]
fn what_is_gone_is_listed_and_nothing_in_the_results_is_removed() {
    let drive =
        Drive::new().with(&[("gone", "x"), ("dir/gone", "x"), ("moved", "x"), ("results/gone", "earlier"), ("results/other/x", "x")]);
    symlink("gone", drive.source().join("link")).unwrap();
    let changes = drive.run(|workspace| {
        fs::remove_file(workspace.join("gone")).unwrap();
        fs::remove_file(workspace.join("link")).unwrap();
        fs::remove_dir_all(workspace.join("dir")).unwrap();
        fs::rename(workspace.join("moved"), workspace.join("to")).unwrap();
    });
    assert_eq!(changes.deleted, ["dir/gone", "gone", "link", "moved"]);
    assert_eq!(paths(&changes.created), ["to"]);
    assert_eq!(names(&drive.results()), ["gone", "other/x", "to"]);
}

#[test]
fn links_come_back_as_links_and_do_not_point_into_the_workspace() {
    let drive = Drive::new().with(&[("file", "x")]);
    for link in ["same", "changed", "became-file"] {
        symlink("file", drive.source().join(link)).unwrap();
    }
    let changes = drive.run(|workspace| {
        fs::create_dir_all(workspace.join("a/b")).unwrap();
        let own = workspace.file_name().unwrap().to_str().unwrap();
        let absolute = |name: &str| workspace.join(name).to_str().unwrap().to_owned();
        for (link, target) in [
            ("a/b/absolute", absolute("a/file")),
            ("a/b/root", absolute("")),
            ("a/b/around", format!("../../../{own}/file")),
            ("a/b/inside", "../x".to_owned()),
            ("a/b/foreign", "/etc/passwd".to_owned()),
            ("a/b/dangling", "nowhere".to_owned()),
            ("a/out", "/".to_owned()),
        ] {
            symlink(target, workspace.join(link)).unwrap();
        }
        for link in ["changed", "became-file"] {
            fs::remove_file(workspace.join(link)).unwrap();
        }
        symlink("elsewhere", workspace.join("changed")).unwrap();
        fs::write(workspace.join("became-file"), "x").unwrap();
    });
    let target = |name: &str| fs::read_link(drive.results().join(name)).unwrap().to_str().unwrap().to_owned();
    assert_eq!(
        (target("a/b/absolute"), target("a/b/root"), target("a/b/around")),
        ("../../a/file".into(), "../..".into(), "../../file".into())
    );
    assert_eq!(
        (target("a/b/inside"), target("a/b/foreign"), target("a/b/dangling")),
        ("../x".into(), "/etc/passwd".into(), "nowhere".into())
    );
    assert_eq!((target("a/out"), target("changed")), ("/".into(), "elsewhere".into()));
    assert_eq!(paths(&changes.modified), ["became-file", "changed"]);
    assert_eq!(changes.created.len(), 7);
    assert!(!drive.results().join("same").is_symlink());
}

#[test]
fn special_files_and_names_of_ours_are_skipped_and_listed() {
    let drive = Drive::new().with(&[("fifo", "was a file")]);
    let changes = drive.run(|workspace| {
        fs::remove_file(workspace.join("fifo")).unwrap();
        rustix::fs::mknodat(CWD, workspace.join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        drop(UnixListener::bind(workspace.join("socket")).unwrap());
        write(
            workspace,
            &[("result.json", "x"), ("step_0.log", "x"), ("step_17.log", "x"), (".longshore-x", "x"), ("dir/result.json", "fine")],
        );
    });
    let skipped: Vec<_> = changes.skipped.iter().map(|file| (file.path.as_str(), file.reason.as_str())).collect();
    let ours = "the name belongs to Longshore";
    let expected = [
        (".longshore-x", ours),
        ("fifo", "it is a fifo"),
        ("result.json", ours),
        ("socket", "it is a socket"),
        ("step_0.log", ours),
        ("step_17.log", ours),
    ];
    assert_eq!(skipped, expected);
    assert_eq!(names(&drive.results()), ["dir/result.json"]);
    assert!(changes.deleted.is_empty(), "it is not simply gone: {changes:?}");
}

#[test]
fn a_root_shell_of_a_step_comes_back_as_a_plain_file() {
    let drive = Drive::new();
    drive.run(|workspace| {
        fs::write(workspace.join("shell"), "x").unwrap();
        chmod(&workspace.join("shell"), 0o6755);
    });
    assert_eq!(drive.results().join("shell").metadata().unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn logs_of_an_earlier_longer_run_are_removed_and_nothing_else() {
    let drive = Drive::new().with(&[("file", "x")]);
    let logs = ["step_0.log", "step_1.log", "step_2.log", "step_10.log", "step_02.log", "step_x.log", "dir/step_9.log", "result.json"];
    logs.iter().for_each(|name| write(&drive.results(), &[(name, "x")]));
    let (workspace, staged) = drive.stage();
    drive.sync(&workspace, staged, 2).unwrap();
    assert_eq!(names(&drive.results()), ["dir/step_9.log", "result.json", "step_0.log", "step_02.log", "step_1.log", "step_x.log"]);
}

#[test]
fn what_has_the_name_of_an_artifact_is_replaced_and_no_link_is_followed() {
    let drive = Drive::new();
    let foreign = drive.dir.path().join("foreign");
    write(&foreign, &[("canary", "canary")]);
    write(&drive.results(), &[("was-file", "x"), ("was-dir/deep/file", "x"), ("keeps/this", "x")]);
    symlink(&foreign, drive.results().join("was-link")).unwrap();
    symlink(foreign.join("canary"), drive.results().join("link-to-file")).unwrap();
    let before = tree(&foreign);
    drive.run(|workspace| {
        write(
            workspace,
            &[("was-file/now/dir", "new"), ("was-dir", "new"), ("was-link/canary", "new"), ("link-to-file", "new"), ("keeps/that", "new")],
        );
    });
    let expected = ["keeps/that", "keeps/this", "link-to-file", "was-dir", "was-file/now/dir", "was-link/canary"];
    assert_eq!(names(&drive.results()), expected);
    assert_eq!(tree(&foreign), before);
}

#[test]
fn globs_choose_what_comes_back() {
    let drive = Drive::new();
    let (workspace, staged) = drive.stage();
    write(workspace.path(), &[("out/a.txt", "x"), ("out/b.bin", "x"), ("c.txt", "x")]);
    let globs = Globs::new(&["out/*.txt".to_owned()]).unwrap();
    let changes = workspace.sync(staged, &drive.open().1, Some(&globs), 0, &|| false).unwrap();
    assert_eq!((paths(&changes.created), names(&drive.results())), (vec!["out/a.txt"], vec!["out/a.txt".to_owned()]));
}

#[test]
fn only_the_results_are_written_to() {
    let drive = Drive::new().with(&[("file", "x"), ("dir/file", "x")]);
    fs::create_dir(drive.results()).unwrap();
    write(&drive.jobs(), &[("job 2/file", "x"), ("canary", "x")]);
    let results = |name: &[u8]| name.starts_with(b"job 1/results");
    let outside = || tree(&drive.jobs()).into_iter().filter(|(name, _)| !results(name)).collect::<BTreeMap<_, _>>();
    let before = outside();
    drive.run(|workspace| {
        write(workspace, &[("file", "changed"), ("dir/new", "x")]);
        symlink("../job 2/file", workspace.join("link")).unwrap();
    });
    assert_eq!(outside(), before);
}

#[test]
fn whoever_looks_sees_the_old_file_or_the_new_one() {
    const BYTES: usize = 8 * 1024 * 1024;
    let drive = Drive::new();
    write(&drive.results(), &[("large", &"o".repeat(BYTES))]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut looks = 0;
            while !over.load(Ordering::Relaxed) {
                let content = fs::read(drive.results().join("large")).unwrap();
                assert!(content == vec![b'o'; BYTES] || content == vec![b'n'; BYTES], "{} bytes", content.len());
                looks += 1;
            }
            looks
        });
        for _ in 0..3 {
            drive.run(|workspace| fs::write(workspace.join("large"), vec![b'n'; BYTES]).unwrap());
        }
        over.store(true, Ordering::Relaxed);
        assert!(looking.join().unwrap() > 0);
    });
    assert_eq!(names(&drive.results()), ["large"]);
}

#[test]
fn a_full_drive_is_named_and_shows_no_part_of_a_file() {
    let drive = Drive::new();
    let Some(_small) = Small::mount(&drive.jobs(), "1m") else { return };
    write(&drive.source(), &[("results/large", "of the last run")]);
    let error = drive
        .try_run(|workspace| write(workspace, &[("a", "fits"), ("large", &"x".repeat(2 * 1024 * 1024)), ("z", "after it")]))
        .unwrap_err();
    assert_eq!(error.to_string(), "write \"large\" in the results");
    assert!(error.is_host_fault());
    assert_eq!((names(&drive.results()), read(&drive, "large")), (vec!["a".to_owned(), "large".to_owned()], "of the last run".to_owned()));
    drive.assert_no_workspace_is_left();
}

#[test]
fn what_a_killed_sync_left_is_removed_by_the_next() {
    let drive = Drive::new();
    write(&drive.results(), &[(".longshore-0123456789abcdef", "half"), ("kept", "x")]);
    fs::create_dir(drive.results().join(".longshore-dir")).unwrap();
    drive.run(|_| {});
    assert_eq!(tree(&drive.results()).into_keys().collect::<Vec<_>>(), [b"kept".to_vec()]);
}

#[test]
fn two_do_not_work_on_the_same_results_at_once() {
    let drive = Drive::new();
    let (source, results) = drive.open();
    let busy = source.results().unwrap_err();
    assert!(matches!(busy, ResolveError::Busy { .. }) && busy.is_host_fault());
    drop(results);
    source.results().unwrap().write("result.json", b"x").unwrap();
}

#[test]
fn what_an_earlier_run_brought_is_forgotten_and_nothing_else() {
    let drive = Drive::new();
    let foreign = drive.dir.path().join("foreign");
    write(&foreign, &[("secret", "made")]);
    let brought = drive.run(|workspace| {
        write(workspace, &[("made", "made"), ("dir/deep/made", "made"), ("edited", "made"), ("full/made", "made")]);
        symlink("made", workspace.join("link")).unwrap();
    });
    write(&drive.results(), &[("edited", "by a person"), ("full/kept", "by a person"), ("kept", "made"), ("step_0.log", "log")]);
    let mut forged = brought.clone();
    for path in ["../../../foreign/secret", "/etc/hostname", "..", "", "out/secret", "kept/x", "full"] {
        forged.created.push(FileInfo { path: path.to_owned(), ..brought.created[0].clone() });
    }
    symlink(&foreign, drive.results().join("out")).unwrap();
    let (_, results) = drive.open();
    results.forget(&forged, &|| false).unwrap();
    results.forget(&forged, &|| false).unwrap();
    assert_eq!(names(&drive.results()), ["edited", "full/kept", "kept", "out", "step_0.log"]);
    assert!(!drive.results().join("dir").exists());
    assert_eq!(names(&foreign), ["secret"]);
}

#[test]
fn holes_come_back_as_holes() {
    let drive = Drive::new();
    let changes = drive.run(|workspace| {
        let mut file = File::create(workspace.join("sparse")).unwrap();
        file.set_len(64 * 1024 * 1024).unwrap();
        file.seek(SeekFrom::Start(40 * 1024 * 1024)).unwrap();
        file.write_all(b"in the middle").unwrap();
    });
    let metadata = drive.results().join("sparse").metadata().unwrap();
    assert_eq!((metadata.len(), changes.created[0].size), (64 * 1024 * 1024, 64 * 1024 * 1024));
    assert!(metadata.blocks() * 512 < 1024 * 1024, "{} blocks", metadata.blocks());
    let mut expected = vec![0; 64 * 1024 * 1024];
    expected[40 * 1024 * 1024..][..13].copy_from_slice(b"in the middle");
    assert!(fs::read(drive.results().join("sparse")).unwrap() == expected);
    assert_eq!(changes.created[0].sha256, data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(&expected)));
}

#[test]
fn bringing_back_ends_when_it_is_told_to() {
    let drive = Drive::new();
    let (workspace, staged) = drive.stage();
    write(workspace.path(), &[("file", "x")]);
    let error = workspace.sync(staged, &drive.open().1, None, 0, &|| true).unwrap_err();
    assert!(matches!(error, CollectError::Interrupted) && !error.is_host_fault());
    assert!(names(&drive.results()).is_empty());
}

#[test]
fn results_that_are_a_link_are_refused() {
    let drive = Drive::new();
    fs::create_dir(drive.dir.path().join("elsewhere")).unwrap();
    symlink(drive.dir.path().join("elsewhere"), drive.results()).unwrap();
    let source = longshore_exec::workspace::Source::resolve(&drive.jobs(), &crate::drive::name("job 1")).unwrap();
    assert!(matches!(source.results(), Err(ResolveError::NotADirectory { path }) if path == drive.results()));
}

#[test]
fn a_workspace_and_results_that_are_moved_away_lead_nowhere_else() {
    let drive = Drive::new().with(&[("file", "x")]);
    let foreign = drive.dir.path().join("foreign");
    write(&foreign, &[("secret", "secret")]);
    let (source, results) = drive.open();
    let (workspace, staged) = Workspace::stage(&source, &results, &drive.hold(), &|| false).unwrap();
    write(workspace.path(), &[("made", "made")]);
    let (moved, moved_results) = (drive.dir.path().join("moved"), drive.dir.path().join("moved-results"));
    fs::rename(workspace.path(), &moved).unwrap();
    symlink(&foreign, workspace.path()).unwrap();
    fs::rename(drive.results(), &moved_results).unwrap();
    symlink(&foreign, drive.results()).unwrap();

    let changes = workspace.sync(staged, &results, None, 0, &|| false).unwrap();
    assert_eq!(paths(&changes.created), ["made"]);
    assert_eq!((names(&moved_results), names(&foreign)), (vec!["made".to_owned()], vec!["secret".to_owned()]));
    drop(workspace);
    assert_eq!(names(&foreign), ["secret"]);
}

#[test]
fn rights_that_steps_took_away_keep_nothing_from_coming_back_or_being_removed() {
    let drive = Drive::new().with(&[("dir/file", "x")]);
    let changes = drive.run(|workspace| {
        write(workspace, &[("locked/file", "x"), ("dir/file", "new")]);
        for (name, mode) in [("locked/file", 0), ("locked", 0), ("dir", 0o000), ("", 0o500)] {
            chmod(&workspace.join(name), mode);
        }
    });
    assert_eq!((paths(&changes.created), paths(&changes.modified)), (vec!["locked/file"], vec!["dir/file"]));
    drive.assert_no_workspace_is_left();
}

/// One thing that a step may do to its workspace; what cannot be done is left out.
#[derive(Debug, Clone)]
enum Edit {
    Write(usize, u8),
    Append(usize),
    Rewrite(usize),
    Chmod(usize, u32),
    Touch(usize),
    Remove(usize),
    Rename(usize, usize),
    Link(usize, usize),
    Directory(usize),
    Fifo(usize),
}

const NAMES: [&str; 9] = ["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "f/g/h", "f"];

fn edit() -> impl Strategy<Value = Edit> {
    let name = || 0..NAMES.len();
    prop_oneof![
        3 => (name(), 0..3_u8).prop_map(|(name, content)| Edit::Write(name, content)),
        1 => name().prop_map(Edit::Append),
        1 => name().prop_map(Edit::Rewrite),
        1 => (name(), prop_oneof![Just(0o600), Just(0o644), Just(0o755)]).prop_map(|(name, mode)| Edit::Chmod(name, mode)),
        1 => name().prop_map(Edit::Touch),
        2 => name().prop_map(Edit::Remove),
        1 => (name(), name()).prop_map(|(from, to)| Edit::Rename(from, to)),
        1 => (name(), name()).prop_map(|(name, target)| Edit::Link(name, target)),
        1 => name().prop_map(Edit::Directory),
        1 => name().prop_map(Edit::Fifo),
    ]
}

fn apply(dir: &Path, edit: &Edit) {
    let at = |name: &usize| dir.join(NAMES[*name]);
    let _may_fail = match edit {
        Edit::Write(name, content) => {
            let made = at(name).parent().map(fs::create_dir_all);
            // Nobody reads from the other end of a fifo.
            let is_fifo = at(name).symlink_metadata().is_ok_and(|metadata| metadata.mode() & 0o170_000 == 0o010_000);
            if at(name).is_symlink() || is_fifo { made.unwrap_or(Ok(())) } else { fs::write(at(name), vec![b'0' + content; 3]) }
        }
        Edit::Append(name) if at(name).is_file() && !at(name).is_symlink() => {
            File::options().append(true).open(at(name)).and_then(|mut file| std::io::Write::write_all(&mut file, b"+"))
        }
        Edit::Rewrite(name) if at(name).is_file() && !at(name).is_symlink() => {
            fs::read(at(name)).and_then(|content| fs::remove_file(at(name)).and_then(|()| fs::write(at(name), content)))
        }
        Edit::Chmod(name, mode) if at(name).is_file() && !at(name).is_symlink() => {
            chmod(&at(name), *mode);
            Ok(())
        }
        Edit::Touch(name) if at(name).is_file() => File::open(at(name)).and_then(|file| file.set_modified(SystemTime::UNIX_EPOCH)),
        Edit::Append(_) | Edit::Rewrite(_) | Edit::Chmod(..) | Edit::Touch(_) => Ok(()),
        Edit::Remove(name) => fs::remove_file(at(name)).or_else(|_| fs::remove_dir_all(at(name))),
        Edit::Rename(from, to) => fs::rename(at(from), at(to)),
        Edit::Link(name, target) => symlink(NAMES[*target], at(name)),
        Edit::Directory(name) => fs::create_dir_all(at(name)),
        Edit::Fifo(name) => rustix::fs::mknodat(CWD, at(name), FileType::Fifo, Mode::RWXU, 0).map_err(Into::into),
    };
}

/// A file or link without what is no part of a change: its times.
type Artifact = (u32, Vec<u8>);

fn artifacts(dir: &Path) -> BTreeMap<Vec<u8>, Artifact> {
    let artifact = |thing| match thing {
        Thing::File { mode, content, .. } => Some((mode, content)),
        Thing::Link { target, .. } => Some((0o120_000, target)),
        Thing::Directory { .. } | Thing::Special => None,
    };
    tree(dir).into_iter().filter_map(|(name, thing)| Some((name, artifact(thing)?))).collect()
}

/// What there should be, from nothing but both trees and the earlier results.
struct Expected {
    results: BTreeMap<Vec<u8>, Artifact>,
    created: BTreeSet<String>,
    modified: BTreeSet<String>,
    deleted: BTreeSet<String>,
}

fn expected(
    before: &BTreeMap<Vec<u8>, Artifact>,
    directories: &BTreeSet<Vec<u8>>,
    after: &Path,
    mut results: BTreeMap<Vec<u8>, Artifact>,
) -> Expected {
    let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    let (now, all) = (artifacts(after), tree(after));
    let (mut created, mut modified) = (BTreeSet::new(), BTreeSet::new());
    for (name, artifact) in &now {
        match before.get(name) {
            Some(old) if old == artifact => continue,
            Some(_) => modified.insert(text(name)),
            // A name that was a directory's is not new.
            None if directories.contains(name) => modified.insert(text(name)),
            None => created.insert(text(name)),
        };
        let within = |inner: &[u8], outer: &[u8]| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with(b"/"));
        results.retain(|other, _| !within(other, name) && !within(name, other));
        results.insert(name.clone(), artifact.clone());
    }
    let special = |name: &[u8]| {
        let mut above = all.iter().filter(|(other, thing)| {
            matches!(thing, Thing::Special)
                && (other.as_slice() == name || name.strip_prefix(other.as_slice()).is_some_and(|rest| rest.starts_with(b"/")))
        });
        above.next().is_some()
    };
    let deleted = before.keys().filter(|name| !now.contains_key(*name) && !special(name)).map(|name| text(name)).collect();
    Expected { results, created, modified, deleted }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_edits_bring_back_exactly_what_a_comparison_of_both_trees_says(
        source in proptest::collection::vec(edit(), 0..8),
        earlier in proptest::collection::vec(edit(), 0..5),
        script in proptest::collection::vec(edit(), 0..12),
    ) {
        let drive = Drive::new();
        source.iter().for_each(|edit| apply(&drive.source(), edit));
        fs::create_dir(drive.results()).unwrap();
        earlier.iter().for_each(|edit| apply(&drive.results(), edit));
        let (workspace, staged) = drive.stage();
        let before = artifacts(workspace.path());
        let directories = tree(workspace.path()).into_keys().filter(|name| !before.contains_key(name)).collect();
        let earlier = artifacts(&drive.results());
        script.iter().for_each(|edit| apply(workspace.path(), edit));
        let expected = expected(&before, &directories, workspace.path(), earlier);

        let changes = drive.sync(&workspace, staged, 0).unwrap();

        let FileChanges { created, modified, deleted, .. } = &changes;
        prop_assert_eq!(created.iter().map(|file| file.path.clone()).collect::<BTreeSet<_>>(), expected.created);
        prop_assert_eq!(modified.iter().map(|file| file.path.clone()).collect::<BTreeSet<_>>(), expected.modified);
        prop_assert_eq!(deleted.iter().cloned().collect::<BTreeSet<_>>(), expected.deleted);
        prop_assert_eq!(artifacts(&drive.results()), expected.results);
    }
}
