//! Unpacks a package's archive that nobody vouches for, whatever it is packed with.
//!
//! - What it is says its content, never its name: zip, or a tar, plain or packed with gzip, xz, bzip2 or zstd.
//! - Every form goes through the same [`Screen`] and is written by the same `bundle::Tree`: below an open directory, one level at a
//!   time, without following a link. What is refused is refused by name, and then nothing of the package is used.
//! - Sizes are counted before a byte is written, and again while it is: what an archive says of itself is not believed.

mod screen;
#[cfg(test)]
mod tests;
mod zip;

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;

use longshore_model::limits::{
    PACKAGE_BYTES_MAX, PACKAGE_DEPTH_MAX, PACKAGE_ENTRIES_MAX, PACKAGE_RATIO_FREE_BYTES, PACKAGE_RATIO_MAX, PACKAGE_UNPACKED_BYTES_MAX,
};
use serde::{Deserialize, Serialize};

use self::screen::Screen;
use crate::bundle::{self, Control, Refusal, UnpackError, Unpacked, untar_into};

/// 72 MiB: what `xz -9` needs.
const XZ_MEMORY_KIB_MAX: u32 = 72 * 1024;
/// 32 MiB of window.
const ZSTD_WINDOW_LOG_MAX: u32 = 25;

/// How much a package may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveLimits {
    /// Bytes of the archive.
    pub packed_bytes: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Entries.
    pub entries: usize,
    /// Levels of directories.
    pub depth: usize,
    /// How many times its packed size it may unpack to, beyond 8 MiB.
    pub ratio: u64,
}

impl Default for ArchiveLimits {
    fn default() -> Self {
        Self {
            packed_bytes: PACKAGE_BYTES_MAX,
            bytes: PACKAGE_UNPACKED_BYTES_MAX,
            entries: PACKAGE_ENTRIES_MAX,
            depth: PACKAGE_DEPTH_MAX,
            ratio: PACKAGE_RATIO_MAX,
        }
    }
}

/// What an archive is packed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// Zip.
    #[serde(rename = "zip")]
    Zip,
    /// Tar.
    #[serde(rename = "tar")]
    Tar,
    /// Tar, gzip.
    #[serde(rename = "tar.gz")]
    TarGzip,
    /// Tar, xz.
    #[serde(rename = "tar.xz")]
    TarXz,
    /// Tar, bzip2.
    #[serde(rename = "tar.bz2")]
    TarBzip2,
    /// Tar, zstd.
    #[serde(rename = "tar.zst")]
    TarZstd,
}

/// Why an archive was not unpacked. What was written by then is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It is nothing that is known.
    #[error("unpack the archive: it is neither a zip nor a tar, plain or packed with gzip, xz, bzip2 or zstd")]
    Unknown,
    /// An entry that is not allowed.
    #[error("unpack {name:?}: {reason}")]
    Refused {
        /// Its name, with replacement characters where it is not UTF-8.
        name: String,
        /// Why.
        reason: Refusal,
    },
    /// It is damaged, or not one archive from its first byte to its last.
    #[error("unpack the archive: {0}")]
    Damaged(String),
    /// There is more of it than allowed.
    #[error("unpack the archive: {0}")]
    TooMuch(&'static str),
    /// It could not be read.
    #[error("read the archive")]
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
    #[error("unpack the archive: stopped")]
    Stopped,
}

impl From<UnpackError> for ArchiveError {
    fn from(error: UnpackError) -> Self {
        match error {
            UnpackError::Refused { name, reason } => Self::Refused { name, reason },
            UnpackError::Malformed(what) => Self::Damaged(what.to_owned()),
            UnpackError::Read(source) => Self::from_read(source),
            UnpackError::Write { name, source } => Self::Write { name, source },
            UnpackError::Interrupted => Self::Stopped,
        }
    }
}

impl ArchiveError {
    /// What reading failed of: errors of the kernel have a number, and everything else is what is wrong with the archive.
    fn from_read(source: io::Error) -> Self {
        match source.get_ref().and_then(|inner| inner.downcast_ref::<Stop>()) {
            Some(Stop::Ratio) => Self::TooMuch("it unpacks to more than its packed size allows"),
            Some(Stop::Asked) => Self::Stopped,
            None if source.raw_os_error().is_some() => Self::Read(source),
            None => Self::Damaged(source.to_string()),
        }
    }
}

/// Unpacks an archive into an open directory, which should be empty. Blocks; asks `stopped` between pieces.
pub(crate) fn unpack(
    mut file: &File,
    root: &OwnedFd,
    limits: ArchiveLimits,
    stopped: &dyn Fn() -> bool,
) -> Result<(Format, Unpacked), ArchiveError> {
    let packed_bytes = file.metadata().map_err(ArchiveError::Read)?.len();
    if packed_bytes > limits.packed_bytes {
        return Err(ArchiveError::TooMuch("it has more bytes than a package may have"));
    }
    let format = recognise(file)?;
    file.seek(SeekFrom::Start(0)).map_err(ArchiveError::Read)?;
    let honest = packed_bytes.saturating_mul(limits.ratio).max(PACKAGE_RATIO_FREE_BYTES);
    if format == Format::Zip {
        return Ok((format, zip::unpack(file, root, limits, honest, stopped)?));
    }
    let packed = || BufReader::with_capacity(128 * 1024, file);
    let decoder: Box<dyn Read + '_> = match format {
        Format::Tar | Format::Zip => Box::new(packed()),
        Format::TarGzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed())),
        Format::TarXz => Box::new(lzma_rust2::XzReader::new_mem_limit(packed(), true, XZ_MEMORY_KIB_MAX)),
        Format::TarBzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(packed())),
        Format::TarZstd => {
            let mut decoder = zstd::Decoder::with_buffer(packed()).map_err(ArchiveError::Read)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(ArchiveError::Read)?;
            Box::new(decoder)
        }
    };
    let mut screen = Screen::new(honest, limits.entries);
    let mut metered = Metered { from: decoder, left: honest.saturating_add(headers(limits)), stopped };
    let limits = bundle::Limits { packed_bytes: limits.packed_bytes, bytes: limits.bytes, entries: limits.entries, depth: limits.depth };
    let mut look = |name: &[u8], facts: &mut bundle::Facts, size: u64| screen.look(name, facts, size);
    let unpacked = untar_into(&mut metered, root, limits, &mut look, &mut |_| Control::Continue)?;
    Ok((format, unpacked))
}

/// Bytes of a tar that are no content of a file: a header and some padding an entry.
fn headers(limits: ArchiveLimits) -> u64 {
    2048 * limits.entries as u64
}

fn recognise(mut file: &File) -> Result<Format, ArchiveError> {
    let mut first = Vec::with_capacity(512);
    file.seek(SeekFrom::Start(0)).and_then(|_| file.take(512).read_to_end(&mut first)).map_err(ArchiveError::Read)?;
    let starts = |magic: &[u8]| first.starts_with(magic);
    if starts(b"PK\x03\x04") || starts(b"PK\x05\x06") {
        Ok(Format::Zip)
    } else if starts(b"\x1f\x8b") {
        Ok(Format::TarGzip)
    } else if starts(b"\xfd7zXZ\0") {
        Ok(Format::TarXz)
    } else if starts(b"BZh") {
        Ok(Format::TarBzip2)
    } else if starts(b"\x28\xb5\x2f\xfd") {
        Ok(Format::TarZstd)
    } else if first.get(257..262) == Some(b"ustar") || is_old_tar(&first) {
        Ok(Format::Tar)
    } else {
        Err(ArchiveError::Unknown)
    }
}

/// Whether that is the first header of a tar from before there was a mark: its checksum is right.
fn is_old_tar(first: &[u8]) -> bool {
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    let Ok(block) = <&[u8; 512]>::try_from(first) else { return false };
    let header = tar::Header::from_byte_slice(block);
    let sum = |at: usize| u32::from(if CHECKSUM.contains(&at) { b' ' } else { block[at] });
    header.cksum().is_ok_and(|stated| block[0] != 0 && (0..512).map(sum).sum::<u32>() == stated)
}

/// Why reading ended before the archive did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Stop {
    #[error("it unpacks to more than its packed size allows")]
    Ratio,
    #[error("stopped")]
    Asked,
}

/// Counts what comes out of a decoder, and stops it.
struct Metered<'a, R> {
    from: R,
    left: u64,
    stopped: &'a dyn Fn() -> bool,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.stopped)() {
            return Err(io::Error::other(Stop::Asked));
        }
        let n = self.from.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| io::Error::other(Stop::Ratio))?;
        Ok(n)
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Zip => "zip",
            Self::Tar => "tar",
            Self::TarGzip => "tar.gz",
            Self::TarXz => "tar.xz",
            Self::TarBzip2 => "tar.bz2",
            Self::TarZstd => "tar.zst",
        })
    }
}
