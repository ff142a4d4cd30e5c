//! Unpacks a bundle that nobody vouches for.
//!
//! - Entry by entry, into directory descriptors opened one level at a time without following links, so no name and no sequence of
//!   entries reaches outside. Links are made as they are and never followed: they are data.
//! - A name that is not plainly below the root, and every kind of entry but file, directory and symbolic link, is refused by name;
//!   so is a name that comes twice. Modes are masked to `0777`, owners are ignored.
//! - Announced sizes count against the limits before a byte is written. `tar`'s reader is used raw, since it would read a long name
//!   of any announced length into memory.

use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use longshore_model::limits::{BUNDLE_BYTES_MAX, BUNDLE_DEPTH_MAX, BUNDLE_ENTRIES_MAX, BUNDLE_UNPACKED_BYTES_MAX};
use rustix::fs::Stat;
use tar::EntryType;

use super::tree::Tree;
use crate::files::open_dir;

/// 32 MiB of window: more than the levels in use ever need, and a bound on what a hostile frame makes us allocate.
const WINDOW_LOG_MAX: u32 = 25;
const EXTENSION_BYTES_MAX: u64 = 64 * 1024;
const NAME_BYTES_MAX: usize = 255;
/// How much of a name an error shows.
const SHOWN_BYTES_MAX: usize = 512;
pub(super) const PATH_BYTES_MAX: usize = 4095;
const PADDING_BYTES_MAX: u64 = 1024 * 1024;

/// How much a bundle may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Packed bytes.
    pub packed_bytes: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Entries.
    pub entries: usize,
    /// Levels of directories.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { packed_bytes: BUNDLE_BYTES_MAX, bytes: BUNDLE_UNPACKED_BYTES_MAX, entries: BUNDLE_ENTRIES_MAX, depth: BUNDLE_DEPTH_MAX }
    }
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unpacked {
    /// Entries.
    pub entries: usize,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Why a bundle was not unpacked. What was written by then stays for the caller to remove.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// An entry that is not allowed.
    #[error("unpack {name:?}: {reason}")]
    Refused {
        /// Its name, with replacement characters where it is not UTF-8.
        name: String,
        /// Why.
        reason: Refusal,
    },
    /// Not a bundle, or a damaged one.
    #[error("read the bundle: {0}")]
    Malformed(&'static str),
    /// It could not be read.
    #[error("read the bundle")]
    Read(#[source] io::Error),
    /// An entry could not be written.
    #[error("write {name:?}")]
    Write {
        /// Which.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The caller asked for the end.
    #[error("unpack the bundle: interrupted")]
    Interrupted,
}

/// Why an entry is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Absolute, empty, with `.` or `..` segments, NUL, or too long.
    #[error("the name is not a plain path below the root")]
    Name,
    /// Something on its way is not a directory, such as a symbolic link.
    #[error("its path goes through something that is not a directory")]
    Through,
    /// There was one of that name.
    #[error("the name comes twice")]
    Duplicate,
    /// Hard link, device, fifo, or something unknown.
    #[error("entries of that type are not allowed")]
    Type,
    /// A symbolic link without a usable target.
    #[error("the link's target is empty or too long")]
    Target,
    /// Two statements of its size.
    #[error("its size is stated twice and differently")]
    Size,
    /// Too many entries.
    #[error("there are too many entries")]
    Entries,
    /// Too many bytes.
    #[error("there is too much in the archive")]
    Bytes,
    /// Too deep.
    #[error("there are too many levels of directories")]
    Depth,
    /// More than its packed form can honestly hold.
    #[error("it unpacks to more than its packed size allows")]
    Ratio,
    /// Differs from an earlier one in case or in the form of its letters alone.
    #[error("an earlier name differs from it in case or in the form of its letters alone")]
    Alike,
    /// A symbolic link that could lead outside.
    #[error("the link leads outside, or might")]
    Outward,
    /// Set-user-id or set-group-id.
    #[error("it would run with the rights of its owner or group")]
    Privileged,
    /// Stated twice and differently.
    #[error("the archive says two different things about it")]
    Contradiction,
    /// Packed in a way that is not read.
    #[error("it is encrypted, or packed in a way that is not read here")]
    Method,
}

/// Unpacks `from` into the directory `into_dir`, which must exist and should be empty.
///
/// Modes (masked to `0777`) and times are kept. Blocks.
///
/// # Errors
/// The bundle is refused or damaged, or could not be read or written.
pub fn unpack(from: impl Read, into_dir: &Path, limits: Limits) -> Result<Unpacked, UnpackError> {
    let name = || into_dir.display().to_string();
    let root = open_dir(into_dir).map_err(|source| UnpackError::Write { name: name(), source })?;
    unpack_into(from, &root, limits, &mut |_| Control::Continue)
}

/// An entry that was just unpacked.
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a [u8],
    /// As it is on disk now; a directory's is not final yet.
    pub(crate) stat: Stat,
    pub(crate) content: Content,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Directory,
    File { sha256: [u8; 32] },
    Link { target: Vec<u8> },
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    Continue,
    Interrupt,
}

/// As [`unpack`], into a descriptor, showing each entry to `visit`.
pub(crate) fn unpack_into(
    from: impl Read,
    root: &OwnedFd,
    limits: Limits,
    visit: &mut dyn FnMut(Entry<'_>) -> Control,
) -> Result<Unpacked, UnpackError> {
    let from = BufReader::with_capacity(128 * 1024, from.take(limits.packed_bytes.saturating_add(1)));
    let mut decoder = zstd::Decoder::with_buffer(from).map_err(UnpackError::Read)?.single_frame();
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(UnpackError::Read)?;
    let unpacked = untar_into(&mut decoder, root, limits, &mut |_, _, _| Ok(()), visit)?;
    nothing_follows(decoder.finish())?;
    Ok(unpacked)
}

/// Looks at an entry, by its name and its announced size, before anything of it is written. May change its mode.
pub(crate) type Screen<'a> = &'a mut dyn FnMut(&[u8], &mut Facts, u64) -> Result<(), Refusal>;

/// Unpacks a tar to its very end. What follows its end must be zeros.
pub(crate) fn untar_into(
    from: &mut impl Read,
    root: &OwnedFd,
    limits: Limits,
    screen: Screen<'_>,
    visit: &mut dyn FnMut(Entry<'_>) -> Control,
) -> Result<Unpacked, UnpackError> {
    let mut counting = Counting { from, bytes: 0 };
    let mut tree = Tree::new(root);
    let (unpacked, expected) = entries(&mut counting, &mut tree, limits, screen, visit)?;
    tree.finish()?;

    // The end of an archive is a block of zeros; without one it was cut off between two entries.
    if counting.bytes < expected + 512 {
        return Err(UnpackError::Malformed("it ends too early"));
    }
    rest_is_empty(counting.from)?;
    Ok(unpacked)
}

fn entries(
    from: &mut impl Read,
    tree: &mut Tree<'_>,
    limits: Limits,
    screen: Screen<'_>,
    visit: &mut dyn FnMut(Entry<'_>) -> Control,
) -> Result<(Unpacked, u64), UnpackError> {
    let mut archive = tar::Archive::new(from);
    let (mut unpacked, mut expected, mut extensions, mut n_extensions) = (Unpacked::default(), 0, Extensions::default(), 0);
    for entry in archive.entries().map_err(UnpackError::Read)?.raw(true) {
        let mut entry = entry.map_err(UnpackError::Read)?;
        let size = entry.size();
        expected += 512 + size.div_ceil(512) * 512;
        if let Some(slot) = extensions.slot(entry.header().entry_type()) {
            n_extensions += 1;
            if size > EXTENSION_BYTES_MAX || n_extensions > 4 * limits.entries {
                return Err(UnpackError::Malformed("a name in it is too long"));
            }
            entry.read_to_end(slot).map_err(UnpackError::Read)?;
            continue;
        }
        let mut facts = std::mem::take(&mut extensions).facts(&entry)?;
        let stated = facts.name.clone();
        let refuse = |reason| Err(UnpackError::Refused { name: lossy(&stated), reason });
        if unpacked.entries >= limits.entries {
            return refuse(Refusal::Entries);
        }
        if size > limits.bytes - unpacked.bytes {
            return refuse(Refusal::Bytes);
        }
        let name = match plain(&stated) {
            Some(name) if name.split(|byte| *byte == b'/').count() > limits.depth => return refuse(Refusal::Depth),
            Some(name) => name,
            // The root itself, as `tar -C dir .` writes it: nothing to do.
            None if matches!(stated.as_slice(), b"." | b"./") && entry.header().entry_type().is_dir() => continue,
            None => return refuse(Refusal::Name),
        };
        if let Err(reason) = screen(name, &mut facts, size) {
            return refuse(reason);
        }
        let (stat, content) = tree.write(name, &facts, &mut entry)?;
        unpacked.entries += 1;
        if matches!(content, Content::File { .. }) {
            unpacked.bytes += size;
        }
        if visit(Entry { name, stat, content }) == Control::Interrupt {
            return Err(UnpackError::Interrupted);
        }
    }
    Ok((unpacked, expected))
}

fn rest_is_empty(from: &mut impl Read) -> Result<(), UnpackError> {
    let (mut buffer, mut padding) = ([0; 4096], 0);
    loop {
        match from.read(&mut buffer).map_err(UnpackError::Read)? {
            0 => return Ok(()),
            n if buffer[..n].iter().any(|byte| *byte != 0) => return Err(UnpackError::Malformed("something follows its end")),
            n => padding += n as u64,
        }
        if padding > PADDING_BYTES_MAX {
            return Err(UnpackError::Malformed("too much follows its end"));
        }
    }
}

fn nothing_follows<R: Read>(mut packed: BufReader<io::Take<R>>) -> Result<(), UnpackError> {
    if !packed.fill_buf().map_err(UnpackError::Read)?.is_empty() {
        return Err(UnpackError::Malformed("something follows its end"));
    }
    // One byte more than allowed may be taken; if it was, there is more than allowed.
    match packed.get_ref().limit() {
        0 => Err(UnpackError::Malformed("it is larger than a bundle may be")),
        _left => Ok(()),
    }
}

/// What precedes an entry and speaks of it.
#[derive(Default)]
struct Extensions {
    long_name: Vec<u8>,
    long_link: Vec<u8>,
    pax: Vec<u8>,
    ignored: Vec<u8>,
}

/// What an entry says of itself.
pub(crate) struct Facts {
    pub(crate) name: Vec<u8>,
    pub(crate) target: Vec<u8>,
    pub(crate) kind: EntryType,
    /// As stated; what is beyond `0777` is not set.
    pub(crate) mode: u32,
    pub(crate) mtime: i64,
}

impl Extensions {
    fn slot(&mut self, kind: EntryType) -> Option<&mut Vec<u8>> {
        let slot = if kind.is_gnu_longname() {
            &mut self.long_name
        } else if kind.is_gnu_longlink() {
            &mut self.long_link
        } else if kind.is_pax_local_extensions() {
            &mut self.pax
        } else if kind.is_pax_global_extensions() {
            &mut self.ignored
        } else {
            return None;
        };
        slot.clear();
        Some(slot)
    }

    fn facts(self, entry: &tar::Entry<'_, impl Read>) -> Result<Facts, UnpackError> {
        let header = entry.header();
        let (mut name, mut target) = (without_nul(self.long_name), without_nul(self.long_link));
        if name.is_empty() {
            name = header.path_bytes().into_owned();
        }
        if target.is_empty() {
            target = header.link_name_bytes().unwrap_or_default().into_owned();
        }
        for pax in tar::PaxExtensions::new(&self.pax) {
            let pax = pax.map_err(|_| UnpackError::Malformed("an extended header in it is damaged"))?;
            match pax.key_bytes() {
                b"path" => name = pax.value_bytes().to_vec(),
                b"linkpath" => target = pax.value_bytes().to_vec(),
                // Readers that disagree about a size disagree about what follows, so there must be only one.
                b"size" if pax.value_bytes() != entry.size().to_string().as_bytes() => {
                    return Err(UnpackError::Refused { name: lossy(&name), reason: Refusal::Size });
                }
                _other => {}
            }
        }
        let mode = header.mode().map_err(|_| UnpackError::Malformed("a mode in it is damaged"))?;
        let mtime = header.mtime().map_err(|_| UnpackError::Malformed("a time in it is damaged"))?;
        Ok(Facts { name, target, kind: header.entry_type(), mode, mtime: i64::try_from(mtime).unwrap_or(0) })
    }
}

/// The name without a directory's slash, if it is plainly below the root.
pub(crate) fn plain(name: &[u8]) -> Option<&[u8]> {
    let name = name.strip_prefix(b"./").unwrap_or(name);
    let name = name.strip_suffix(b"/").unwrap_or(name);
    let fits = |segment: &[u8]| !matches!(segment, b"" | b"." | b"..") && segment.len() <= NAME_BYTES_MAX;
    (name.len() <= PATH_BYTES_MAX && !name.contains(&0) && name.split(|byte| *byte == b'/').all(fits)).then_some(name)
}

fn without_nul(mut name: Vec<u8>) -> Vec<u8> {
    if name.last() == Some(&0) {
        name.pop();
    }
    name
}

pub(crate) fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(SHOWN_BYTES_MAX)]).into_owned()
}

struct Counting<'a, R> {
    from: &'a mut R,
    bytes: u64,
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.bytes += n as u64;
        Ok(n)
    }
}
