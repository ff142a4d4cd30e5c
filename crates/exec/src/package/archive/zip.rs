//! Zip archives, which say everything twice: what the central directory and the local headers disagree on is refused.
//!
//! An archive is taken only if it is one from its first byte to its last, with entries that do not overlap.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rawzip::extra_fields::ExtraFields;
use rawzip::path::{RawPath, ZipFilePath};
use rawzip::{CompressionMethod, CreatorSystem, FileReader, ZipArchive, ZipArchiveEntryWayfinder, ZipEntry, ZipFileHeaderRecord};
use tar::EntryType;

use super::screen::NAMES_BYTES_MAX;
use super::{ArchiveError, ArchiveLimits, Metered, Screen};
use crate::bundle::{Content, Facts, Refusal, Tree, Unpacked, lossy, plain};

const END_SIGNATURE: &[u8] = b"PK\x05\x06";
const UNICODE_PATH: u16 = 0x7075;
const TARGET_BYTES_MAX: u64 = 4095;
const KIND: u32 = 0o170_000;
/// With a signature, and sizes of eight bytes. A local header, which another reader might find, has more.
const DESCRIPTOR_BYTES_MAX: u64 = 24;

pub(super) fn unpack(
    file: &File,
    root: &OwnedFd,
    limits: ArchiveLimits,
    honest: u64,
    stopped: &dyn Fn() -> bool,
) -> Result<Unpacked, ArchiveError> {
    let file_bytes = file.metadata().map_err(ArchiveError::Read)?.len();
    // Large enough for any record: a smaller one would be an error for a long comment.
    let mut buffer = vec![0; rawzip::MAX_CENTRAL_DIRECTORY_RECORD_SIZE];
    let own = file.try_clone().map_err(ArchiveError::Read)?;
    let archive = ZipArchive::from_file(own, &mut buffer).map_err(|error| damaged(&error))?;
    whole(&archive, file_bytes)?;
    if archive.entries_hint() > limits.entries as u64 {
        return Err(ArchiveError::TooMuch("there are too many entries"));
    }
    let listed = list(&archive, &mut buffer)?;
    apart(&listed, &archive)?;

    let mut tree = Tree::new(root);
    let mut screen = Screen::new(honest, limits.entries);
    let mut unpacked = Unpacked::default();
    for entry in listed {
        let refuse = |reason| Err(ArchiveError::Refused { name: lossy(&entry.facts.name), reason });
        if entry.size > limits.bytes - unpacked.bytes {
            return refuse(Refusal::Bytes);
        }
        let name = match plain(&entry.facts.name) {
            Some(name) if name.split(|byte| *byte == b'/').count() > limits.depth => return refuse(Refusal::Depth),
            Some(name) => name,
            None => return refuse(Refusal::Name),
        };
        let packed = archive.get_entry(entry.at).map_err(|error| damaged(&error))?;
        let mut content = Metered { from: packed.verifying_reader(decoder(&packed, entry.method)?), left: entry.size, stopped };
        let mut facts = Facts { name: entry.facts.name.clone(), target: Vec::new(), ..entry.facts };
        if facts.kind.is_symlink() {
            if entry.size > TARGET_BYTES_MAX {
                return refuse(Refusal::Target);
            }
            content.read_to_end(&mut facts.target).map_err(ArchiveError::from_read)?;
        }
        if let Err(reason) = screen.look(name, &mut facts, entry.size) {
            return refuse(reason);
        }
        let (_, written) = tree.write(name, &facts, &mut content)?;
        unpacked.entries += 1;
        if matches!(written, Content::File { .. }) {
            unpacked.bytes += entry.size;
        }
    }
    tree.finish()?;
    Ok(unpacked)
}

/// An entry as the central directory and its local header agree on.
struct Listed {
    facts: Facts,
    method: CompressionMethod,
    size: u64,
    at: ZipArchiveEntryWayfinder,
    /// From its local header to the end of its content.
    span: (u64, u64),
    /// Bytes that its data descriptor may take after that.
    descriptor: u64,
}

/// Refuses an archive with something before, behind or beside it, in which readers find different archives.
fn whole(archive: &ZipArchive<FileReader>, file_bytes: u64) -> Result<(), ArchiveError> {
    if archive.end_offset() != file_bytes {
        return Err(ArchiveError::Damaged("something follows its end".to_owned()));
    }
    let mut comment = Vec::new();
    archive.comment().read_to_end(&mut comment).map_err(ArchiveError::from_read)?;
    if comment.windows(END_SIGNATURE.len()).any(|window| window == END_SIGNATURE) {
        return Err(ArchiveError::Damaged("its comment holds another archive's end".to_owned()));
    }
    Ok(())
}

fn list(archive: &ZipArchive<FileReader>, buffer: &mut [u8]) -> Result<Vec<Listed>, ArchiveError> {
    let expected = archive.entries_hint();
    let (mut listed, mut names_bytes) = (Vec::new(), 0);
    let mut entries = archive.entries(buffer);
    while let Some(record) = entries.next_entry().map_err(|error| damaged(&error))? {
        if listed.len() as u64 >= expected {
            return Err(ArchiveError::Damaged("it has more entries than it says".to_owned()));
        }
        names_bytes += record.file_path().as_bytes().len();
        if names_bytes > NAMES_BYTES_MAX {
            return Err(ArchiveError::TooMuch("its names are too long"));
        }
        listed.push(agreed(archive, &record)?);
    }
    if listed.len() as u64 != expected {
        return Err(ArchiveError::Damaged("it has fewer entries than it says".to_owned()));
    }
    Ok(listed)
}

/// Reads the local header of an entry, and refuses it where the two differ.
fn agreed(archive: &ZipArchive<FileReader>, record: &ZipFileHeaderRecord<'_>) -> Result<Listed, ArchiveError> {
    let name = record.file_path().as_bytes().to_vec();
    let refuse = |reason| Err(ArchiveError::Refused { name: lossy(&name), reason });
    let entry = archive.get_entry(record.wayfinder()).map_err(|error| damaged(&error))?;
    let mut buffer = vec![0; 2 * usize::from(u16::MAX)];
    let local = entry.local_header(&mut buffer).map_err(|error| damaged(&error))?;
    let (flags, method) = (record.flags(), record.compression_method());
    if flags.is_encrypted() || flags.has_strong_encryption() || !KNOWN.contains(&method) {
        return refuse(Refusal::Method);
    }
    let described = local.flags().has_data_descriptor();
    let stated = (record.crc32(), record.compressed_size_hint(), record.uncompressed_size_hint());
    let as_stated = |crc, packed, size| (crc, packed, size) == stated;
    let afterwards = match entry.reader().data_descriptor().map_err(|error| damaged(&error))? {
        Some(descriptor) => as_stated(descriptor.crc32(), descriptor.compressed_size(), descriptor.uncompressed_size()),
        None => !described,
    };
    let before = as_stated(local.crc32(), local.compressed_size_hint(), local.uncompressed_size_hint());
    let named = |path: ZipFilePath<RawPath<'_>>, extra: ExtraFields<'_>| {
        path.as_bytes() == name && extra.into_iter().all(|(id, data)| id.as_u16() != UNICODE_PATH || data.get(5..) == Some(&name))
    };
    let same = named(local.file_path(), local.extra_fields())
        && named(record.file_path(), record.extra_fields())
        && local.compression_method() == method
        && described == flags.has_data_descriptor()
        && afterwards
        && (described || before);
    if !same {
        return refuse(Refusal::Contradiction);
    }
    // Others than Unix have no modes, and say of a directory what its name says.
    let unix = matches!(record.version_made_by().creator_system(), CreatorSystem::UNIX | CreatorSystem::MACOS);
    let mode = if unix { record.external_attributes() >> 16 } else { 0 };
    let kind = match (mode & KIND, name.ends_with(b"/")) {
        (0o040_000 | 0, true) => EntryType::Directory,
        (0o100_000 | 0, false) => EntryType::Regular,
        (0o120_000, false) => EntryType::Symlink,
        (0o100_000 | 0o040_000, _) => return refuse(Refusal::Contradiction),
        (_other, _) => return refuse(Refusal::Type),
    };
    let size = record.uncompressed_size_hint();
    if kind.is_dir() && size > 0 {
        return refuse(Refusal::Contradiction);
    }
    let span = (record.local_header_offset(), entry.compressed_data_range().1);
    let facts = Facts { name, target: Vec::new(), kind, mode: mode & 0o7777, mtime: 0 };
    let descriptor = if described { DESCRIPTOR_BYTES_MAX } else { 0 };
    Ok(Listed { facts, method, size, at: record.wayfinder(), span, descriptor })
}

const KNOWN: [CompressionMethod; 4] =
    [CompressionMethod::STORE, CompressionMethod::DEFLATE, CompressionMethod::BZIP2, CompressionMethod::ZSTD];

/// Refuses entries that share bytes (a small archive of any size inside), and bytes that are nobody's (where another reader finds another).
fn apart(listed: &[Listed], archive: &ZipArchive<FileReader>) -> Result<(), ArchiveError> {
    let spans: BTreeMap<u64, &Listed> = listed.iter().map(|entry| (entry.span.0, entry)).collect();
    if spans.len() != listed.len() {
        return Err(ArchiveError::Damaged("two of its entries have the same content".to_owned()));
    }
    let (mut end, mut room) = (0, 0);
    for (start, entry) in spans {
        let refused = ArchiveError::Refused { name: lossy(&entry.facts.name), reason: Refusal::Contradiction };
        if start < end || entry.span.1 > archive.directory_offset() {
            return Err(refused);
        }
        if start - end > room {
            return Err(ArchiveError::Damaged(format!("something precedes {:?} that is no entry", lossy(&entry.facts.name))));
        }
        (end, room) = (entry.span.1, entry.descriptor);
    }
    if archive.directory_offset() - end > room {
        return Err(ArchiveError::Damaged("something follows its last entry".to_owned()));
    }
    Ok(())
}

fn decoder<'a>(entry: &ZipEntry<'a, FileReader>, method: CompressionMethod) -> Result<Box<dyn Read + 'a>, ArchiveError> {
    let packed = entry.reader();
    Ok(if method == CompressionMethod::STORE {
        Box::new(packed)
    } else if method == CompressionMethod::DEFLATE {
        Box::new(flate2::read::DeflateDecoder::new(packed))
    } else if method == CompressionMethod::BZIP2 {
        Box::new(bzip2::read::BzDecoder::new(packed))
    } else {
        let mut decoder = zstd::Decoder::new(packed).map_err(ArchiveError::Read)?;
        decoder.window_log_max(super::ZSTD_WINDOW_LOG_MAX).map_err(ArchiveError::Read)?;
        Box::new(decoder)
    })
}

fn damaged(error: &rawzip::Error) -> ArchiveError {
    if let rawzip::ErrorKind::IO(source) = error.kind()
        && source.raw_os_error().is_some()
    {
        return ArchiveError::Read(io::Error::new(source.kind(), source.to_string()));
    }
    ArchiveError::Damaged(error.to_string())
}
