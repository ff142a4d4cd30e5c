//! Packs a directory.
//!
//! - What is below the directory is opened step by step and never through a link, whatever is renamed or replaced meanwhile.
//! - A directory that changes while it is packed makes no bundle that is a mixture of before and after: each file is looked at before and after
//!   it is read, and at the end the names and states of all are compared with what they were.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ignore::overrides::{Override, OverrideBuilder};
use ignore::{DirEntry, Walk, WalkBuilder};
use longshore_model::limits::{BUNDLE_BYTES_MAX, BUNDLE_DEPTH_MAX, BUNDLE_ENTRIES_MAX, BUNDLE_UNPACKED_BYTES_MAX};
use longshore_model::unit::ByteSize;
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;

use super::write::Writer;
use crate::files;
use crate::process::pause;
use crate::workspace::{Stamp, TICK};

/// What of a directory goes into its bundle.
#[derive(Debug, Clone, Default)]
pub struct PackOptions {
    /// Globs of what stays out, read as lines of a `.gitignore` are: `target/`, `*.o`, `/only/here`.
    pub exclude: Vec<String>,
    /// Whether `.gitignore` and `.git/info/exclude` are respected; `.git` itself stays out then.
    pub gitignore: bool,
}

/// A bundle that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// SHA-256 of the packed bytes, lower-case hex.
    pub sha256: String,
    /// Packed bytes.
    pub size: u64,
    /// Entries in it.
    pub entries: usize,
    /// Sockets, devices and fifos that stayed out, by their paths below the directory.
    pub skipped: Vec<PathBuf>,
}

/// Why a directory could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A glob that is none.
    #[error("understand the exclude pattern {pattern:?}")]
    Exclude {
        /// Which.
        pattern: String,
        /// Why.
        source: ignore::Error,
    },
    /// The directory, or one below it, could not be listed.
    #[error("list the directory")]
    List(#[source] ignore::Error),
    /// A file could not be read.
    #[error("read {path:?}")]
    Read {
        /// Which, below the directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It was written to, replaced or removed while it was packed.
    #[error("pack {path:?}: it changed meanwhile")]
    Changed {
        /// Which, below the directory; `.` for what came or went somewhere in it.
        path: PathBuf,
    },
    /// The bundle could not be written.
    #[error("write the bundle")]
    Write(#[source] io::Error),
    /// There is too much.
    #[error("pack the directory: {0}")]
    TooMuch(String),
}

/// Packs `dir` into `into`, calling `progress` with the bytes and files read so far.
///
/// Modes, times (to the second), names that are not UTF-8 and symbolic links are kept, links as links. A top-level `results`
/// directory stays out: that is where the artifacts of the last run are. Blocks.
///
/// # Errors
/// Something could not be read or written, changed meanwhile ([`PackError::Changed`]: once more may succeed), or there is more than a bundle may
/// hold. What was written by then is of no use.
pub fn pack(dir: &Path, options: &PackOptions, into: impl Write, progress: &mut dyn FnMut(u64, u64)) -> Result<Packed, PackError> {
    let unreadable = |source| PackError::Read { path: dir.to_owned(), source };
    // The directory itself may be named through links; nothing below it is followed.
    let root = dir.canonicalize().map_err(unreadable)?;
    let opened = files::open_dir(&root).map_err(unreadable)?;
    let writer = Writer::new(into).map_err(PackError::Write)?;
    let mut packing = Packing { root: &opened, writer, bytes: 0, files: 0, skipped: Vec::new(), seen: DefaultHasher::new(), progress };
    for entry in walk(&root, options)? {
        packing.entry(&below(&entry.map_err(PackError::List)?, &root))?;
    }
    let seen = packing.seen.finish();
    let Packing { writer, skipped, .. } = packing;
    if seen != look(&root, &opened, options)? {
        return Err(PackError::Changed { path: PathBuf::from(".") });
    }
    let (_, info) = writer.finish().map_err(PackError::Write)?;
    if info.size > BUNDLE_BYTES_MAX {
        return Err(PackError::TooMuch(format!("packed it has more than {}", ByteSize(BUNDLE_BYTES_MAX))));
    }
    Ok(Packed { sha256: info.sha256, size: info.size, entries: info.entries, skipped })
}

/// Everything in the directory, sorted, without itself.
fn walk(root: &Path, options: &PackOptions) -> Result<impl Iterator<Item = Result<DirEntry, ignore::Error>>, PackError> {
    let gitignore = options.gitignore;
    let walk: Walk = WalkBuilder::new(root)
        .standard_filters(false)
        .git_ignore(gitignore)
        .git_exclude(gitignore)
        .parents(gitignore)
        .require_git(false)
        .overrides(excludes(root, &options.exclude)?)
        .sort_by_file_name(std::cmp::Ord::cmp)
        .filter_entry(move |entry| !stays_out(entry, gitignore))
        .build();
    Ok(walk.filter(|entry| entry.as_ref().map_or(true, |entry| entry.depth() > 0)))
}

fn excludes(root: &Path, patterns: &[String]) -> Result<Override, PackError> {
    let mut builder = OverrideBuilder::new(root);
    for pattern in patterns {
        // An override without `!` would mean "only this".
        let added = builder.add(&format!("!{pattern}"));
        added.map_err(|source| PackError::Exclude { pattern: pattern.clone(), source })?;
    }
    builder.build().map_err(|source| PackError::Exclude { pattern: patterns.join(" "), source })
}

fn stays_out(entry: &DirEntry, gitignore: bool) -> bool {
    let is_dir = entry.file_type().is_some_and(|kind| kind.is_dir());
    (entry.depth() == 1 && is_dir && entry.file_name() == "results") || (gitignore && entry.depth() > 0 && entry.file_name() == ".git")
}

/// One entry of the walk.
struct Found {
    path: PathBuf,
    depth: usize,
    /// What it was listed as; unknown for what does not go into a bundle.
    kind: FileType,
}

fn below(entry: &DirEntry, root: &Path) -> Found {
    let path = entry.path().strip_prefix(root).unwrap_or_else(|_| entry.path()).to_owned();
    let kind = match entry.file_type() {
        Some(kind) if kind.is_file() => FileType::RegularFile,
        Some(kind) if kind.is_dir() => FileType::Directory,
        Some(kind) if kind.is_symlink() => FileType::Symlink,
        Some(_) | None => FileType::Unknown,
    };
    Found { path, depth: entry.depth(), kind }
}

/// What all that is there looks like now, without reading it.
fn look(root: &Path, opened: &OwnedFd, options: &PackOptions) -> Result<u64, PackError> {
    let mut seen = DefaultHasher::new();
    for entry in walk(root, options)? {
        let Found { path, .. } = below(&entry.map_err(PackError::List)?, root);
        let fd = files::open_below(opened, path.as_os_str().as_bytes(), OFlags::PATH).map_err(not_opened(&path))?;
        let stat = rustix::fs::fstat(&fd).map_err(not_opened(&path))?;
        note(&mut seen, &path, &stat);
    }
    Ok(seen.finish())
}

/// A directory is what is in it, which is noted by itself.
fn note(seen: &mut DefaultHasher, path: &Path, stat: &Stat) {
    let kind = FileType::from_raw_mode(stat.st_mode);
    (path, stat.st_mode, (kind != FileType::Directory).then(|| Stamp::of(stat))).hash(seen);
}

/// For what was listed a moment ago: it may be gone by now, or something else.
fn not_opened(path: &Path) -> impl Fn(Errno) -> PackError {
    move |errno| match errno {
        Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO | Errno::STALE => PackError::Changed { path: path.to_owned() },
        other => PackError::Read { path: path.to_owned(), source: other.into() },
    }
}

struct Packing<'a, W: Write> {
    root: &'a OwnedFd,
    writer: Writer<W>,
    bytes: u64,
    files: u64,
    skipped: Vec<PathBuf>,
    /// What there was, in the order of the walk.
    seen: DefaultHasher,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl<W: Write> Packing<'_, W> {
    fn entry(&mut self, Found { path, depth, kind }: &Found) -> Result<(), PackError> {
        let name = path.as_os_str().as_bytes();
        if self.writer.entries() >= BUNDLE_ENTRIES_MAX || *depth > BUNDLE_DEPTH_MAX {
            return Err(PackError::TooMuch(format!("{path:?} is beyond {BUNDLE_ENTRIES_MAX} entries or {BUNDLE_DEPTH_MAX} levels")));
        }
        // Should a file have become a fifo since, opening it does not wait; of what is no file nothing is opened but the name.
        let flags = if *kind == FileType::RegularFile { OFlags::NONBLOCK | OFlags::NOCTTY } else { OFlags::PATH };
        let opened = files::open_below(self.root, name, flags).map_err(not_opened(path))?;
        let stat = settled(&opened).map_err(not_opened(path))?;
        note(&mut self.seen, path, &stat);
        let mtime = i64::try_from(i128::from(stat.st_mtime)).unwrap_or(0);
        if *kind != FileType::Unknown && *kind != FileType::from_raw_mode(stat.st_mode) {
            return Err(PackError::Changed { path: path.clone() });
        }
        match kind {
            FileType::RegularFile => self.file(path, name, &stat, File::from(opened)),
            FileType::Directory => self.writer.directory(name, stat.st_mode, mtime).map_err(PackError::Write),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&opened, "", Vec::new()).map_err(not_opened(path))?;
                self.writer.link(name, target.as_bytes(), mtime).map_err(PackError::Write)
            }
            FileType::Socket | FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice | FileType::Unknown => {
                self.skipped.push(path.clone());
                Ok(())
            }
        }
    }

    fn file(&mut self, path: &Path, name: &[u8], stat: &Stat, file: File) -> Result<(), PackError> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if self.bytes.saturating_add(size) > BUNDLE_UNPACKED_BYTES_MAX {
            return Err(PackError::TooMuch(format!("with {path:?} it has more than {}", ByteSize(BUNDLE_UNPACKED_BYTES_MAX))));
        }
        let (before, files) = (self.bytes, self.files);
        let reading = BufReader::with_capacity(256 * 1024, &file);
        let mut reader = Progressing { file: reading, bytes: before, files, progress: self.progress, failed: false };
        let mtime = i64::try_from(i128::from(stat.st_mtime)).unwrap_or(0);
        let written = self.writer.file(name, stat.st_mode, mtime, size, &mut reader);
        let failed = reader.failed;
        written.map_err(|source| {
            if source.kind() == io::ErrorKind::UnexpectedEof {
                PackError::Changed { path: path.to_owned() }
            } else if failed {
                PackError::Read { path: path.to_owned(), source }
            } else {
                PackError::Write(source)
            }
        })?;
        if Stamp::of(&rustix::fs::fstat(&file).map_err(not_opened(path))?) != Stamp::of(stat) {
            return Err(PackError::Changed { path: path.to_owned() });
        }
        self.bytes += size;
        self.files += 1;
        (self.progress)(self.bytes, self.files);
        Ok(())
    }
}

/// Its state, at a moment after which every change shows in it.
fn settled(opened: &OwnedFd) -> Result<Stat, Errno> {
    let stat = rustix::fs::fstat(opened)?;
    if !Stamp::of(&stat).is_new() {
        return Ok(stat);
    }
    pause(&mut [], TICK);
    rustix::fs::fstat(opened)
}

struct Progressing<'a, R> {
    file: R,
    bytes: u64,
    files: u64,
    progress: &'a mut dyn FnMut(u64, u64),
    failed: bool,
}

impl<R: Read> Read for Progressing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer);
        match &read {
            Ok(n) => {
                self.bytes += *n as u64;
                // Small files are counted when they are done; only within large ones is there anything to see.
                if self.bytes % (1024 * 1024) < *n as u64 {
                    (self.progress)(self.bytes, self.files);
                }
            }
            Err(_) => self.failed = true,
        }
        read
    }
}
