//! Bundles: the same bytes for the same tree, back as it was, and nothing of what a hostile one wants.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use longshore_exec::bundle::{Limits, PackError, PackOptions, Packed, Refusal, UnpackError, pack, unpack};
use tar::{EntryType, Header};

use crate::support::write;

fn packed(dir: &Path, options: &PackOptions) -> (Vec<u8>, Packed) {
    let mut bytes = Vec::new();
    let packed = pack(dir, options, &mut bytes, &mut |_, _| {}).unwrap();
    assert_eq!(packed.size, bytes.len() as u64);
    (bytes, packed)
}

fn listing(root: &Path) -> Vec<String> {
    fn walk(dir: &Path, root: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let (path, meta) = {
                let entry = entry.unwrap();
                (entry.path(), entry.metadata().unwrap())
            };
            let target = fs::read_link(&path).ok();
            let content = meta.is_file().then(|| fs::read(&path).unwrap());
            let name = path.strip_prefix(root).unwrap();
            found.push(format!("{name:?} {:o} {} {target:?} {content:?}", meta.mode(), meta.mtime()));
            if meta.is_dir() {
                walk(&path, root, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found.sort();
    found
}

fn sample() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    write(root, &[("b", "content"), ("a/x", ""), ("a/run.sh", "#!/bin/sh"), (&long, "long"), ("results/old", "no")]);
    fs::write(root.join(OsStr::from_bytes(b"\xff\xfe\nname")), "odd").unwrap();
    fs::write(root.join(OsStr::from_bytes(&[0xff; 150])), "odd and long").unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    fs::set_permissions(root.join("a/run.sh"), PermissionsExt::from_mode(0o750)).unwrap();
    fs::set_permissions(root.join("empty"), PermissionsExt::from_mode(0o500)).unwrap();
    symlink("b", root.join("link")).unwrap();
    symlink("/nowhere/at/all", root.join("dangling")).unwrap();
    symlink("x".repeat(300), root.join("far")).unwrap();
    symlink("a", root.join("to-a")).unwrap();
    let old = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    for name in ["b", "a/x", "a", "empty"] {
        File::open(root.join(name)).unwrap().set_times(old).unwrap();
    }
    dir
}

#[test]
fn packing_is_deterministic_and_unpacking_its_reverse() {
    let (source, target) = (sample(), tempfile::tempdir().unwrap());
    let (bytes, first) = packed(source.path(), &PackOptions::default());
    assert_eq!(packed(source.path(), &PackOptions::default()), (bytes.clone(), first.clone()));

    let unpacked = unpack(bytes.as_slice(), target.path(), Limits::default()).unwrap();
    assert_eq!(unpacked.entries, first.entries);
    fs::remove_dir_all(source.path().join("results")).unwrap();
    assert_eq!(listing(target.path()), listing(source.path()));
    assert_eq!(packed(target.path(), &PackOptions::default()).1.sha256, first.sha256);
}

#[test]
fn a_change_changes_the_digest() {
    let source = sample();
    let digest = || packed(source.path(), &PackOptions::default()).1.sha256;
    let before = digest();
    fs::set_permissions(source.path().join("b"), PermissionsExt::from_mode(0o600)).unwrap();
    assert_ne!(digest(), before);
}

#[test]
fn what_is_excluded_stays_out() {
    let source = tempfile::tempdir().unwrap();
    write(
        source.path(),
        &[("keep", ""), ("a.o", ""), ("sub/b.o", ""), ("target/x", ""), (".git/HEAD", ""), (".hidden", ""), ("log/1", "")],
    );
    write(source.path(), &[(".gitignore", "/log\n"), ("sub/results/x", "")]);
    let names = |options: &PackOptions| {
        let target = tempfile::tempdir().unwrap();
        unpack(packed(source.path(), options).0.as_slice(), target.path(), Limits::default()).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(target.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!(names(&PackOptions::default()), ".git .gitignore .hidden a.o keep log sub target");
    assert_eq!(names(&PackOptions { gitignore: true, exclude: vec!["*.o".into(), "target/".into()] }), ".gitignore .hidden keep sub");
    let wrong = pack(source.path(), &PackOptions { gitignore: false, exclude: vec!["a{".into()] }, Vec::new(), &mut |_, _| {});
    assert!(matches!(wrong, Err(PackError::Exclude { pattern, .. }) if pattern == "a{"));
}

#[test]
fn progress_ends_at_the_whole() {
    let source = tempfile::tempdir().unwrap();
    write(source.path(), &[("a", &"x".repeat(3_000_000)), ("b", "y")]);
    let mut seen = Vec::new();
    pack(source.path(), &PackOptions::default(), std::io::sink(), &mut |bytes, files| seen.push((bytes, files))).unwrap();
    assert!(seen.len() > 3 && seen.is_sorted());
    assert_eq!(seen.last(), Some(&(3_000_001, 2)));
}

#[test]
fn a_directory_that_changes_while_it_is_packed_makes_no_mixture() {
    let foreign = tempfile::tempdir().unwrap();
    write(foreign.path(), &[("file", "FOREIGN")]);
    type Change<'a> = &'a dyn Fn(&Path);
    let changes: [(Change<'_>, &str); 6] = [
        (&|dir| writeln!(File::options().append(true).open(dir.join("a-large")).unwrap(), "more").unwrap(), "a-large"),
        (&|dir| fs::write(dir.join("b"), "new content").unwrap(), "."),
        (&|dir| fs::write(dir.join("a-late"), "").unwrap(), "."),
        (&|dir| fs::remove_file(dir.join("z")).unwrap(), "z"),
        (
            &|dir| {
                fs::rename(dir.join("dir"), dir.join("moved")).unwrap();
                symlink(foreign.path(), dir.join("dir")).unwrap();
            },
            "dir",
        ),
        (
            &|dir| {
                fs::remove_file(dir.join("z")).unwrap();
                rustix::fs::mknodat(rustix::fs::CWD, dir.join("z"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
            },
            "z",
        ),
    ];
    for (change, changed) in changes {
        let source = tempfile::tempdir().unwrap();
        write(source.path(), &[("a-large", &"x".repeat(3 << 20)), ("b", "content"), ("dir/file", "own"), ("z", "")]);
        // `b` has been read when it changes, and what comes later has been listed.
        let when = if changed == "." { 2 } else { 0 };
        let (mut bytes, mut is_over) = (Vec::new(), false);
        let mut progress = |_: u64, files: u64| {
            if files == when && !std::mem::replace(&mut is_over, true) {
                change(source.path());
            }
        };
        let refused = pack(source.path(), &PackOptions::default(), &mut bytes, &mut progress).unwrap_err();
        assert!(matches!(&refused, PackError::Changed { path } if path == Path::new(changed)), "{changed}: {refused}");
        assert!(pack(source.path(), &PackOptions::default(), std::io::sink(), &mut |_, _| {}).is_ok(), "what stands still is packed");
    }
}

#[test]
fn holes_take_up_no_room_where_they_are_unpacked() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = File::create(source.path().join("sparse")).unwrap();
    file.set_len(8 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"in the middle", 3 << 20).unwrap();
    File::create(source.path().join("nothing but a hole")).unwrap().set_len((1 << 20) + 1).unwrap();
    unpack(packed(source.path(), &PackOptions::default()).0.as_slice(), target.path(), Limits::default()).unwrap();
    assert!(fs::read(target.path().join("sparse")).unwrap() == fs::read(source.path().join("sparse")).unwrap());
    let hole = target.path().join("nothing but a hole").metadata().unwrap();
    assert_eq!(hole.len(), (1 << 20) + 1);
    assert!(hole.blocks() * 512 <= 8192 && target.path().join("sparse").metadata().unwrap().blocks() * 512 < 1 << 20);
}

/// An entry of a hostile archive: type, name, link target, content.
type Hostile<'a> = (EntryType, &'a [u8], &'a str, &'a [u8]);

const FILE: EntryType = EntryType::Regular;
const DIR: EntryType = EntryType::Directory;
const LINK: EntryType = EntryType::Symlink;

fn archive(entries: &[Hostile<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (kind, name, target, content) in entries {
        append(&mut tar, *kind, name, target, content.len() as u64, content);
    }
    zstd::encode_all(tar.into_inner().unwrap().as_slice(), 1).unwrap()
}

fn append(tar: &mut tar::Builder<Vec<u8>>, kind: EntryType, name: &[u8], target: &str, size: u64, content: &[u8]) {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o7755);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    tar.append(&header, content).unwrap();
}

/// Unpacks beside a directory that nothing may touch.
fn attempt(bytes: &[u8], limits: Limits) -> Result<(), UnpackError> {
    let dir = tempfile::tempdir().unwrap();
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    fs::create_dir(&root).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::set_permissions(&outside, PermissionsExt::from_mode(0o711)).unwrap();
    let outcome = unpack(bytes, &root, limits);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(outside.metadata().unwrap().mode() & 0o7777, 0o711);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    outcome.map(|_| ())
}

#[test]
fn hostile_entries_are_refused_by_name() {
    let rows: &[(&str, &[Hostile<'_>], Refusal)] = &[
        ("../x", &[(FILE, b"../x", "", b"x")], Refusal::Name),
        ("a/../../x", &[(FILE, b"a/../../x", "", b"x")], Refusal::Name),
        ("a/../x", &[(FILE, b"a/../x", "", b"x")], Refusal::Name),
        ("/x", &[(FILE, b"/x", "", b"x")], Refusal::Name),
        ("..", &[(DIR, b"..", "", b"")], Refusal::Name),
        ("", &[(FILE, b"", "", b"x")], Refusal::Name),
        (".", &[(FILE, b".", "", b"x")], Refusal::Name),
        ("a//b", &[(FILE, b"a//b", "", b"x")], Refusal::Name),
        ("l/x", &[(LINK, b"l", "../outside", b""), (FILE, b"l/x", "", b"x")], Refusal::Through),
        ("l/x", &[(LINK, b"l", "../outside", b""), (DIR, b"l/x", "", b"")], Refusal::Through),
        ("l/x", &[(LINK, b"l", "../outside", b""), (LINK, b"l/x", "y", b"")], Refusal::Through),
        ("l/m/x", &[(LINK, b"l", "m", b""), (LINK, b"m", "../outside", b""), (FILE, b"l/m/x", "", b"x")], Refusal::Through),
        // A link, then a directory of its name, so that the directory's mode would go to the link's target (RUSTSEC-2026-0067).
        ("l", &[(LINK, b"l", "../outside", b""), (DIR, b"l/", "", b"")], Refusal::Duplicate),
        ("l", &[(LINK, b"l", "../outside/x", b""), (FILE, b"l", "", b"x")], Refusal::Duplicate),
        ("f/x", &[(FILE, b"f", "", b""), (FILE, b"f/x", "", b"x")], Refusal::Through),
        ("f", &[(FILE, b"f", "", b"1"), (FILE, b"f", "", b"2")], Refusal::Duplicate),
        ("f", &[(FILE, b"f", "", b"1"), (FILE, b"./f", "", b"2")], Refusal::Duplicate),
        ("d", &[(DIR, b"d", "", b""), (DIR, b"d/", "", b"")], Refusal::Duplicate),
        ("d", &[(DIR, b"d", "", b""), (FILE, b"d", "", b"")], Refusal::Duplicate),
        ("d", &[(FILE, b"d/x", "", b""), (FILE, b"d", "", b"")], Refusal::Duplicate),
        ("d", &[(FILE, b"d/x", "", b""), (LINK, b"d", "..", b"")], Refusal::Duplicate),
        ("h", &[(EntryType::Link, b"h", "/etc/passwd", b"")], Refusal::Type),
        ("c", &[(EntryType::Char, b"c", "", b"")], Refusal::Type),
        ("b", &[(EntryType::Block, b"b", "", b"")], Refusal::Type),
        ("p", &[(EntryType::Fifo, b"p", "", b"")], Refusal::Type),
        ("s", &[(EntryType::GNUSparse, b"s", "", b"")], Refusal::Type),
        ("?", &[(EntryType::new(b'V'), b"?", "", b"")], Refusal::Type),
        ("l", &[(LINK, b"l", "", b"")], Refusal::Target),
        ("../y", &[(EntryType::XHeader, b"p", "", b"13 path=../y\n"), (FILE, b"x", "", b"x")], Refusal::Name),
        ("../y", &[(EntryType::GNULongName, b"L", "", b"../y\0"), (FILE, b"x", "", b"x")], Refusal::Name),
        ("x", &[(EntryType::XHeader, b"p", "", b"12 size=512\n"), (FILE, b"x", "", b"x")], Refusal::Size),
    ];
    for (name, entries, expected) in rows {
        let outcome = attempt(&archive(entries), Limits::default());
        assert!(
            matches!(&outcome, Err(UnpackError::Refused { name: refused, reason }) if refused.trim_end_matches('/') == *name && reason == expected),
            "{name}: {outcome:?}"
        );
    }
}

#[test]
fn bombs_are_refused_at_their_limits() {
    let limits = Limits { packed_bytes: 1 << 20, bytes: 1000, entries: 3, depth: 2 };
    let thousand = [b'x'; 1000];
    attempt(&archive(&[(FILE, b"a", "", &thousand), (DIR, b"d", "", b""), (FILE, b"d/b", "", b"")]), limits).unwrap();
    for (entries, expected) in [
        (&[(FILE, &b"a"[..], "", &thousand[..]), (FILE, b"b", "", b"1")][..], Refusal::Bytes),
        (&[(FILE, b"a", "", b""), (FILE, b"b", "", b""), (FILE, b"c", "", b""), (FILE, b"d", "", b"")], Refusal::Entries),
        (&[(FILE, b"a/b/c", "", b"")], Refusal::Depth),
    ] {
        let outcome = attempt(&archive(entries), limits);
        assert!(matches!(outcome, Err(UnpackError::Refused { reason, .. }) if reason == expected), "{outcome:?}");
    }

    // Announced only: refused before anything of it is read.
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, FILE, b"huge", "", u64::MAX / 4, b"");
    let bytes = zstd::encode_all(tar.into_inner().unwrap().as_slice(), 1).unwrap();
    assert!(matches!(attempt(&bytes, Limits::default()), Err(UnpackError::Refused { reason: Refusal::Bytes, .. })));

    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, EntryType::GNULongName, b"L", "", 1 << 40, b"");
    let bytes = zstd::encode_all(tar.into_inner().unwrap().as_slice(), 1).unwrap();
    assert!(matches!(attempt(&bytes, Limits::default()), Err(UnpackError::Malformed(_))));
}

#[test]
fn damaged_bundles_are_refused() {
    let good = archive(&[(FILE, b"a", "", b"hello")]);
    attempt(&good, Limits::default()).unwrap();
    let twice = [good.clone(), good.clone()].concat();
    let rubbish = [good.clone(), b"rubbish".to_vec()].concat();
    // Cut after the first entry, but packed as if that were all.
    let cut = zstd::encode_all(&zstd::decode_all(good.as_slice()).unwrap()[..1024], 1).unwrap();
    let more = zstd::encode_all([zstd::decode_all(good.as_slice()).unwrap(), vec![1; 512]].concat().as_slice(), 1).unwrap();
    for (name, bytes) in [
        ("empty", &b""[..]),
        ("not zstd", b"hello"),
        ("half", &good[..good.len() / 2]),
        ("last byte", &good[..good.len() - 1]),
        ("two", &twice),
        ("followed by rubbish", &rubbish),
        ("no end", &cut),
        ("followed by more inside", &more),
    ] {
        assert!(attempt(bytes, Limits::default()).is_err(), "{name}");
    }
    let small = Limits { packed_bytes: good.len() as u64 - 1, ..Limits::default() };
    assert!(attempt(&good, small).is_err());
    attempt(&good, Limits { packed_bytes: good.len() as u64, ..Limits::default() }).unwrap();
}

#[test]
fn modes_are_masked() {
    let dir = tempfile::tempdir().unwrap();
    unpack(archive(&[(FILE, b"a", "", b"x"), (DIR, b"d", "", b"")]).as_slice(), dir.path(), Limits::default()).unwrap();
    for name in ["a", "d"] {
        assert_eq!(dir.path().join(name).metadata().unwrap().mode() & 0o7777, 0o755);
    }
}

#[test]
fn archives_of_others_are_read() {
    let (source, target) = (sample(), tempfile::tempdir().unwrap());
    for format in ["gnu", "posix", "ustar"] {
        let tar = std::process::Command::new("tar")
            .args(["-C", source.path().to_str().unwrap(), "--format", format, "-cf", "-", "a", "b"])
            .output();
        let tar = tar.unwrap().stdout;
        let dir = target.path().join(format);
        fs::create_dir(&dir).unwrap();
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.write_all(&tar).unwrap();
        unpack(encoder.finish().unwrap().as_slice(), &dir, Limits::default()).unwrap();
        assert_eq!(fs::read_to_string(dir.join("b")).unwrap(), "content", "{format}");
    }
}
