//! Archives that mean harm, and those that do not.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use tar::{EntryType, Header};
use tempfile::TempDir;

use super::*;
use crate::files::open_dir;

/// An entry of a tar, and of a zip where that has such a thing.
struct Item<'a> {
    name: &'a [u8],
    kind: EntryType,
    mode: u32,
    target: &'a str,
    content: &'a [u8],
}

fn file<'a>(name: &'a str, content: &'a str) -> Item<'a> {
    Item { name: name.as_bytes(), kind: EntryType::Regular, mode: 0o644, target: "", content: content.as_bytes() }
}

fn of_kind(kind: EntryType, name: &str) -> Item<'_> {
    Item { kind, ..file(name, "") }
}

fn link<'a>(name: &'a str, target: &'a str) -> Item<'a> {
    Item { kind: EntryType::Symlink, target, ..file(name, "") }
}

fn tar(items: &[Item<'_>]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for item in items {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..item.name.len()].copy_from_slice(item.name);
        header.as_old_mut().linkname[..item.target.len()].copy_from_slice(item.target.as_bytes());
        header.set_entry_type(item.kind);
        header.set_mode(item.mode);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(item.content.len() as u64);
        header.set_cksum();
        builder.append(&header, item.content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// What a zip says of an entry; everything can be a lie.
#[derive(Clone)]
struct Said {
    local_name: Vec<u8>,
    name: Vec<u8>,
    flags: u16,
    local_method: u16,
    method: u16,
    crc: u32,
    size: u32,
    local_size: u32,
    mode: u32,
    data: Vec<u8>,
    offset: Option<u32>,
    extra: Vec<u8>,
    /// Bytes before its local header that are nobody's.
    before: Vec<u8>,
}

fn said(name: &[u8], mode: u32, content: &[u8]) -> Said {
    let mut deflated = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    deflated.write_all(content).unwrap();
    let size = u32::try_from(content.len()).unwrap();
    Said {
        local_name: name.to_owned(),
        name: name.to_owned(),
        flags: 0,
        local_method: 8,
        method: 8,
        crc: rawzip::crc32(content),
        size,
        local_size: size,
        mode,
        data: deflated.finish().unwrap(),
        offset: None,
        extra: Vec::new(),
        before: Vec::new(),
    }
}

fn zip(entries: &[Said]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    let numbers = |numbers: &[(u32, usize)]| -> Vec<u8> {
        numbers.iter().flat_map(|(number, n_bytes)| number.to_le_bytes().into_iter().take(*n_bytes)).collect()
    };
    for entry in entries {
        out.extend(&entry.before);
        let offset = entry.offset.unwrap_or(out.len() as u32);
        let (packed, names) = (entry.data.len() as u32, (entry.local_name.len() as u32, entry.name.len() as u32));
        let common = |method: u16, size: u32| {
            numbers(&[(entry.flags.into(), 2), (method.into(), 2), (0, 2), (0x21, 2), (entry.crc, 4), (packed, 4), (size, 4)])
        };
        out.extend(b"PK\x03\x04\x14\x00");
        out.extend(common(entry.local_method, entry.local_size));
        out.extend(numbers(&[(names.0, 2), (0, 2)]));
        out.extend(&entry.local_name);
        out.extend(&entry.data);
        // Made on Unix.
        directory.extend(b"PK\x01\x02\x14\x03\x14\x00");
        directory.extend(common(entry.method, entry.size));
        directory.extend(numbers(&[
            (names.1, 2),
            (entry.extra.len() as u32, 2),
            (0, 2),
            (0, 2),
            (0, 2),
            (entry.mode << 16, 4),
            (offset, 4),
        ]));
        directory.extend(&entry.name);
        directory.extend(&entry.extra);
    }
    let (count, at) = (entries.len() as u32, out.len() as u32);
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend(numbers(&[(count, 2), (count, 2), (directory.len() as u32, 4), (at, 4), (0, 2)]));
    out
}

fn as_zip(items: &[Item<'_>]) -> Vec<u8> {
    let entries: Vec<_> = items
        .iter()
        .map(|item| {
            let kind = if item.kind.is_dir() {
                0o040_000
            } else if item.kind.is_symlink() {
                0o120_000
            } else {
                0o100_000
            };
            let content = if item.kind.is_symlink() { item.target.as_bytes() } else { item.content };
            let name = if item.kind.is_dir() { [item.name, b"/"].concat() } else { item.name.to_owned() };
            said(&name, kind | item.mode, content)
        })
        .collect();
    zip(&entries)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ::bzip2::write::BzEncoder::new(Vec::new(), ::bzip2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    use std::process::{Command, Stdio};
    let mut child = Command::new("xz").args(["-c", "-9"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_owned();
    let feeding = std::thread::spawn(move || stdin.write_all(&bytes));
    let packed = child.wait_with_output().unwrap().stdout;
    feeding.join().unwrap().unwrap();
    packed
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ::zstd::encode_all(bytes, 3).unwrap()
}

fn unpacked(bytes: &[u8], limits: ArchiveLimits) -> (TempDir, Result<(Format, Unpacked), ArchiveError>) {
    let dir = tempfile::tempdir().unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    let into = dir.path().join("inner").join("root");
    fs::create_dir_all(&into).unwrap();
    let result = unpack(&file, &open_dir(&into).unwrap(), limits, &|| false);
    // Whatever it was: nothing was written beside the directory that was given.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(fs::read_dir(dir.path().join("inner")).unwrap().count(), 1);
    (dir, result)
}

fn refused(bytes: &[u8]) -> String {
    let (_dir, result) = unpacked(bytes, ArchiveLimits::default());
    result.expect_err("it is refused").to_string()
}

#[test]
fn archives_are_recognised_by_their_content_and_unpacked_alike() {
    let items = [
        of_kind(EntryType::Directory, "src"),
        file("src/a.py", "print()"),
        Item { mode: 0o777, ..file("run", "#!") },
        link("src/l", "../run"),
    ];
    let packed = tar(&items);
    let forms = [
        (as_zip(&items), Format::Zip),
        (gzip(&packed), Format::TarGzip),
        (xz(&packed), Format::TarXz),
        (bzip2(&packed), Format::TarBzip2),
        (zstd(&packed), Format::TarZstd),
        (packed, Format::Tar),
    ];
    for (bytes, format) in forms {
        let (dir, result) = unpacked(&bytes, ArchiveLimits::default());
        assert_eq!(result.unwrap(), (format, Unpacked { entries: 4, bytes: 9 }));
        let root = dir.path().join("inner/root");
        assert_eq!(fs::read_to_string(root.join("src/a.py")).unwrap(), "print()");
        assert_eq!(fs::read_to_string(root.join("src/l")).unwrap(), "#!");
        let mode = |name: &str| fs::metadata(root.join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("run"), mode("src/a.py"), mode("src")), (0o755, 0o644, 0o755), "{format}: modes are masked");
    }
    let mut old = tar(&[file("a", "x")]);
    let mut header = Header::new_old();
    header.as_mut_bytes()[..257].copy_from_slice(&old[..257]);
    header.set_cksum();
    old[..512].copy_from_slice(header.as_bytes());
    assert_eq!(unpacked(&old, ArchiveLimits::default()).1.unwrap().0, Format::Tar, "from before there was a mark");
    old[3] ^= 1;
    assert!(refused(&old).contains("neither a zip nor a tar"));
    assert!(refused(b"#!/bin/sh\necho hello\n").contains("neither a zip nor a tar"));
    assert!(refused(b"").contains("neither a zip nor a tar"));
}

#[test]
fn hostile_entries_of_packages_are_refused_by_name_in_every_form() {
    let plain = "not a plain path below the root";
    let both: Vec<(Vec<Item<'_>>, &str, &str)> = vec![
        (vec![file("../evil", "x")], "../evil", plain),
        (vec![file("a/../../evil", "x")], "a/../../evil", plain),
        (vec![file("/etc/evil", "x")], "/etc/evil", plain),
        (vec![file("C:evil", "x")], "C:evil", plain),
        (vec![file("a\\..\\evil", "x")], "a\\\\..\\\\evil", plain),
        (vec![file("a\nb", "x")], "a\\nb", plain),
        (vec![Item { name: b"\xff\xfe", ..file("", "x") }], "\u{fffd}", plain),
        (vec![link("l", "/etc"), file("l/passwd", "x")], "\"l\"", "leads outside"),
        (vec![link("l", "../../etc")], "\"l\"", "leads outside"),
        (vec![link("a", "."), link("b", "a/..")], "\"b\"", "leads outside"),
        (vec![file("d/x", "x"), link("l", "d"), file("l/y", "y")], "l/y", "not a directory"),
        (vec![link("l", "d"), of_kind(EntryType::Directory, "l")], "\"l\"", "twice"),
        (vec![file("x", "1"), file("x", "2")], "\"x\"", "twice"),
        (vec![file("x", "1"), of_kind(EntryType::Directory, "x")], "\"x\"", "twice"),
        (vec![file("Read.me", "1"), file("README", "2"), file("read.ME", "3")], "read.ME", "in case or in the form"),
        (vec![file("A/x", "1"), file("a/y", "2")], "a/y", "in case or in the form"),
        (vec![file("caf\u{e9}", "1"), file("cafe\u{301}", "2")], "cafe", "in case or in the form"),
        (vec![Item { mode: 0o4755, ..file("su", "x") }], "\"su\"", "rights of its owner"),
        (vec![Item { mode: 0o2755, ..file("sg", "x") }], "\"sg\"", "rights of its owner"),
    ];
    for (items, name, reason) in &both {
        for (form, bytes) in [("tar", tar(items)), ("zip", as_zip(items)), ("tar.gz", gzip(&tar(items)))] {
            let message = refused(&bytes);
            assert!(message.contains(name) && message.contains(reason), "{form} {name}: {message}");
        }
    }
    for kind in [EntryType::Link, EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::GNUSparse, EntryType::new(b'Z')] {
        let message = refused(&tar(&[Item { target: "/etc/passwd", ..of_kind(kind, "thing") }]));
        assert!(message.contains("\"thing\"") && message.contains("not allowed"), "{kind:?}: {message}");
    }
    for kind in [0o010_000, 0o020_000, 0o060_000, 0o140_000] {
        let message = refused(&zip(&[said(b"thing", kind | 0o644, b"")]));
        assert!(message.contains("\"thing\"") && message.contains("not allowed"), "{kind:o}: {message}");
    }
    let nul = refused(&zip(&[said(b"a\0b", 0o100_644, b"")]));
    assert!(nul.contains("a\\0b") && nul.contains(plain), "{nul}");
    for long in ["x".repeat(256), "x/".repeat(40) + "y", "a/".repeat(3000) + "b"] {
        let message = refused(&zip(&[said(long.as_bytes(), 0o100_644, b"")]));
        assert!(message.contains(plain) || message.contains("too many levels"), "{message}");
        assert!(message.len() < 1024, "however long the name is");
    }
}

#[test]
fn zips_that_say_two_things_are_refused() {
    let honest = said(b"a", 0o100_644, b"hello");
    let unicode = |name: &[u8]| {
        let mut field = vec![0x75, 0x70, u8::try_from(name.len() + 5).unwrap(), 0, 1, 0, 0, 0, 0];
        field.extend(name);
        field
    };
    let cases: Vec<(&str, Vec<Said>)> = vec![
        ("two names", vec![Said { local_name: b"b".to_vec(), ..honest.clone() }]),
        ("two methods", vec![Said { local_method: 0, ..honest.clone() }]),
        ("two sizes", vec![Said { local_size: 4, ..honest.clone() }]),
        ("a smaller size than there is", vec![Said { size: 2, local_size: 2, ..honest.clone() }]),
        ("a larger size than there is", vec![Said { size: 9, local_size: 9, ..honest.clone() }]),
        ("another checksum", vec![Said { crc: 1, ..honest.clone() }]),
        ("encrypted", vec![Said { flags: 1, ..honest.clone() }]),
        ("a method nobody knows", vec![Said { method: 98, local_method: 98, ..honest.clone() }]),
        ("another name beside", vec![Said { extra: unicode(b"../evil"), ..honest.clone() }]),
        ("a descriptor that is not there", vec![Said { flags: 8, ..honest.clone() }]),
        (
            "shared content",
            vec![honest.clone(), Said { offset: Some(0), local_name: b"a".to_vec(), name: b"a2".to_vec(), ..honest.clone() }],
        ),
        (
            "another entry that is not listed",
            vec![honest.clone(), Said { before: zip(&[said(b"h", 0, b"")])[..31].to_vec(), ..said(b"b", 0o100_644, b"") }],
        ),
        ("a byte that is nobody's", vec![honest.clone(), Said { before: vec![0], ..said(b"b", 0o100_644, b"") }]),
        ("a directory without its slash", vec![said(b"d", 0o040_755, b"")]),
        ("a file with a directory's slash", vec![said(b"d/", 0o100_644, b"x")]),
    ];
    for (what, entries) in cases {
        let message = refused(&zip(&entries));
        assert!(!message.is_empty(), "{what}");
    }
    let good = zip(&[honest, Said { extra: unicode(b"b"), ..said(b"b", 0o100_600, b"") }]);
    unpacked(&good, ArchiveLimits::default()).1.unwrap();
    for (what, bytes) in [
        ("something before it", [b"PK\x03\x04 or so".as_slice(), &good].concat()),
        ("something behind it", [good.as_slice(), b"x"].concat()),
        ("two of them", [good.as_slice(), &good].concat()),
        ("cut off", good[..good.len() - 5].to_vec()),
    ] {
        assert!(!refused(&bytes).is_empty(), "{what}");
    }
    // The count in the end record.
    let mut counted = good.clone();
    let at = counted.len() - 22;
    (counted[at + 8], counted[at + 10]) = (1, 1);
    assert!(refused(&counted).contains("more entries than it says"));
    // Its comment holds the end of another one.
    let mut commented = good;
    let inner = [END.as_slice(), &[0; 18]].concat();
    let end = commented.len();
    commented[end - 2] = u8::try_from(inner.len()).unwrap();
    commented.extend(inner);
    assert!(!refused(&commented).is_empty());
}

const END: [u8; 4] = *b"PK\x05\x06";

#[test]
fn bombs_of_every_form_are_refused_before_they_are_written() {
    let zeros = vec![0; 12 * 1024 * 1024];
    let inside = tar(&[Item { content: &zeros, ..file("zeros", "") }]);
    let forms = [zip(&[said(b"zeros", 0o100_644, &zeros)]), gzip(&inside), xz(&inside), bzip2(&inside), zstd(&inside)];
    for bytes in forms {
        assert!(bytes.len() < 256 * 1024, "{} bytes are a poor bomb", bytes.len());
        let (dir, result) = unpacked(&bytes, ArchiveLimits::default());
        let message = result.unwrap_err().to_string();
        assert!(message.contains("packed size allows"), "{message}");
        assert!(!dir.path().join("inner/root/zeros").exists());
    }
    // What lies about its size is stopped where it said to end.
    let liar = Said { size: 10, local_size: 10, ..said(b"zeros", 0o100_644, &zeros) };
    let (dir, result) = unpacked(&zip(&[liar]), ArchiveLimits::default());
    result.unwrap_err();
    assert!(fs::metadata(dir.path().join("inner/root/zeros")).map_or(0, |meta| meta.len()) < 1024 * 1024);
    // Frames that say nothing of their content, one behind the other, and a header that announces terabytes.
    let frame = zstd(&vec![0; 128 * 1024]);
    let many = frame.repeat(2000);
    assert!(!refused(&many).is_empty());
    let mut announced = tar(&[file("huge", "x")]);
    announced[124..136].copy_from_slice(b"77777777777\0");
    let mut header = Header::new_ustar();
    header.as_mut_bytes().copy_from_slice(&announced[..512]);
    header.set_cksum();
    announced[..512].copy_from_slice(header.as_bytes());
    assert!(refused(&announced).contains("too much") || refused(&announced).contains("packed size"), "{}", refused(&announced));
}

#[test]
fn every_limit_of_a_package_is_held() {
    let items = [file("a", "12345"), file("b", "12345"), file("c/d/e", "1")];
    let limits = ArchiveLimits::default();
    let cases = [
        (ArchiveLimits { entries: 2, ..limits }, "too many entries"),
        (ArchiveLimits { entries: 4, ..limits }, "too many entries"),
        (ArchiveLimits { bytes: 8, ..limits }, "too much"),
        (ArchiveLimits { depth: 2, ..limits }, "too many levels"),
        (ArchiveLimits { packed_bytes: 100, ..limits }, "more bytes than a package may have"),
    ];
    for (limits, reason) in cases {
        for bytes in [tar(&items), as_zip(&items)] {
            let message = unpacked(&bytes, limits).1.unwrap_err().to_string();
            assert!(message.contains(reason), "{reason}: {message}");
        }
    }
    // Directories that are only on the way count too: each costs as much as one that is named.
    let fits = ArchiveLimits { entries: 5, bytes: 11, depth: 3, ..limits };
    for bytes in [tar(&items), as_zip(&items)] {
        unpacked(&bytes, fits).1.unwrap();
    }
}

#[test]
fn trailing_and_missing_bytes_are_refused_in_every_form() {
    let one = tar(&[file("a", "hello")]);
    let two = [one.as_slice(), &one].concat();
    for pack in [|bytes: &[u8]| bytes.to_owned(), gzip, xz, bzip2, zstd] {
        assert!(!refused(&pack(&two)).is_empty(), "a second archive inside");
        let whole = pack(&one);
        unpacked(&whole, ArchiveLimits::default()).1.unwrap();
        assert!(!refused(&[whole.as_slice(), b"trailing"].concat()).is_empty(), "something behind it");
        assert!(!refused(&[whole.as_slice(), &pack(&one)].concat()).is_empty(), "a second one behind it");
        assert!(!refused(&pack(&one[..one.len() - 1024])).is_empty(), "no end");
        // A tar's second block of zeros is for tapes.
        for cut in [whole.len() / 4, whole.len() / 2] {
            assert!(!refused(&whole[..cut]).is_empty(), "cut at {cut} of {}", whole.len());
        }
    }
    // A flipped byte is found by whatever checksum there is.
    let packed = gzip(&one);
    for at in [packed.len() - 1, packed.len() - 6] {
        let mut flipped = packed.clone();
        flipped[at] ^= 1;
        assert!(!refused(&flipped).is_empty());
    }
}

#[test]
fn unpacking_ends_when_it_is_told_to() {
    let content = "x".repeat(4 * 1024 * 1024);
    let items = [file("a", &content)];
    for bytes in [tar(&items), as_zip(&items)] {
        let dir = tempfile::tempdir().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let asked = std::cell::Cell::new(0);
        let stopped = || asked.replace(asked.get() + 1) > 5;
        let result = unpack(&file, &open_dir(dir.path()).unwrap(), ArchiveLimits::default(), &stopped);
        assert!(matches!(result, Err(ArchiveError::Stopped)), "{result:?}");
    }
}

#[test]
fn nonsense_is_refused_and_never_a_panic() {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let items = [of_kind(EntryType::Directory, "d"), file("d/a", "hello, hello, hello"), link("l", "d/a"), file("b", "")];
    let tar = tar(&items);
    for form in [as_zip(&items), gzip(&tar), xz(&tar), bzip2(&tar), zstd(&tar), tar] {
        for _ in 0..150 {
            let mut broken = form.clone();
            for _ in 0..=random() % 4 {
                let at = usize::try_from(random() % broken.len() as u64).unwrap();
                broken[at] = u8::try_from(random() % 256).unwrap();
            }
            // Some changes mean nothing; none may do harm.
            let _either = unpacked(&broken, ArchiveLimits::default());
        }
    }
}
