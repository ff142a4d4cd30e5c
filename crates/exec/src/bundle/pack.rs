//! Packs a directory.

use std::fs::{File, Metadata};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ignore::overrides::{Override, OverrideBuilder};
use ignore::{DirEntry, WalkBuilder};
use longshore_model::limits::{BUNDLE_BYTES_MAX, BUNDLE_DEPTH_MAX, BUNDLE_ENTRIES_MAX, BUNDLE_UNPACKED_BYTES_MAX};
use longshore_model::unit::ByteSize;
use rustix::fs::OFlags;

use super::write::Writer;

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
    /// A file became shorter while it was packed.
    #[error("pack {path:?}: it changed meanwhile")]
    Changed {
        /// Which, below the directory.
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
/// Something could not be read or written, or there is more than a bundle may hold.
pub fn pack(dir: &Path, options: &PackOptions, into: impl Write, progress: &mut dyn FnMut(u64, u64)) -> Result<Packed, PackError> {
    // The directory itself may be named through links; nothing below it is followed.
    let root = dir.canonicalize().map_err(|source| PackError::Read { path: dir.to_owned(), source })?;
    if !root.is_dir() {
        return Err(PackError::Read { path: dir.to_owned(), source: io::ErrorKind::NotADirectory.into() });
    }
    let gitignore = options.gitignore;
    let mut packing = Packing { writer: Writer::new(into).map_err(PackError::Write)?, bytes: 0, files: 0, skipped: Vec::new(), progress };
    let walk = WalkBuilder::new(&root)
        .standard_filters(false)
        .git_ignore(gitignore)
        .git_exclude(gitignore)
        .parents(gitignore)
        .require_git(false)
        .overrides(excludes(&root, &options.exclude)?)
        .sort_by_file_name(std::cmp::Ord::cmp)
        .filter_entry(move |entry| !stays_out(entry, gitignore))
        .build();
    for entry in walk {
        let entry = entry.map_err(PackError::List)?;
        if entry.depth() > 0 {
            packing.entry(&entry, &root)?;
        }
    }
    let Packing { writer, skipped, .. } = packing;
    let (_, info) = writer.finish().map_err(PackError::Write)?;
    if info.size > BUNDLE_BYTES_MAX {
        return Err(PackError::TooMuch(format!("packed it has more than {}", ByteSize(BUNDLE_BYTES_MAX))));
    }
    Ok(Packed { sha256: info.sha256, size: info.size, entries: info.entries, skipped })
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

struct Packing<'a, W: Write> {
    writer: Writer<W>,
    bytes: u64,
    files: u64,
    skipped: Vec<PathBuf>,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl<W: Write> Packing<'_, W> {
    fn entry(&mut self, entry: &DirEntry, root: &Path) -> Result<(), PackError> {
        let path = entry.path().strip_prefix(root).unwrap_or_else(|_| entry.path());
        let name = path.as_os_str().as_bytes();
        if self.writer.entries() >= BUNDLE_ENTRIES_MAX || entry.depth() > BUNDLE_DEPTH_MAX {
            return Err(PackError::TooMuch(format!("{path:?} is beyond {BUNDLE_ENTRIES_MAX} entries or {BUNDLE_DEPTH_MAX} levels")));
        }
        let unreadable = |source| PackError::Read { path: path.to_owned(), source };
        let meta = entry.path().symlink_metadata().map_err(unreadable)?;
        let kind = meta.file_type();
        if kind.is_dir() {
            return self.writer.directory(name, meta.mode(), meta.mtime()).map_err(PackError::Write);
        }
        if kind.is_symlink() {
            let target = entry.path().read_link().map_err(unreadable)?;
            return self.writer.link(name, target.as_os_str().as_bytes(), meta.mtime()).map_err(PackError::Write);
        }
        if !kind.is_file() {
            self.skipped.push(path.to_owned());
            return Ok(());
        }
        // Non-blocking, should it have become a fifo since; the descriptor's own type decides.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let open = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(entry.path());
        let file = open.map_err(unreadable)?;
        let meta = file.metadata().map_err(unreadable)?;
        if !meta.is_file() {
            return Err(PackError::Changed { path: path.to_owned() });
        }
        self.file(path, name, &meta, file)
    }

    fn file(&mut self, path: &Path, name: &[u8], meta: &Metadata, file: File) -> Result<(), PackError> {
        if self.bytes.saturating_add(meta.len()) > BUNDLE_UNPACKED_BYTES_MAX {
            return Err(PackError::TooMuch(format!("with {path:?} it has more than {}", ByteSize(BUNDLE_UNPACKED_BYTES_MAX))));
        }
        let (before, files) = (self.bytes, self.files);
        let mut reader =
            Progressing { file: BufReader::with_capacity(256 * 1024, file), bytes: before, files, progress: self.progress, failed: false };
        let written = self.writer.file(name, meta.mode(), meta.mtime(), meta.len(), &mut reader);
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
        self.bytes += meta.len();
        self.files += 1;
        (self.progress)(self.bytes, self.files);
        Ok(())
    }
}

struct Progressing<'a> {
    file: BufReader<File>,
    bytes: u64,
    files: u64,
    progress: &'a mut dyn FnMut(u64, u64),
    failed: bool,
}

impl Read for Progressing<'_> {
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
