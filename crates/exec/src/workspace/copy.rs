//! Copies what is in one file into another, by the cheapest means that the two file systems offer: as a reflink, which shares the
//! blocks; within the kernel; or through a buffer. Memory does not depend on a file's size, and holes stay holes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{SeekFrom, Stat};
use rustix::io::Errno;

/// What is copied between two looks at whether somebody wants it to end.
const PIECE_BYTES: u64 = 32 * 1024 * 1024;
const BUFFER_BYTES: u64 = 128 * 1024;

/// Copies many files between the same two file systems and asks only once for what these do not have.
pub(super) struct Copier<'a> {
    reflinks: AtomicBool,
    ranges: AtomicBool,
    stop: &'a (dyn Fn() -> bool + Sync),
}

/// Why a content was not copied.
pub(super) enum CopyFault {
    Interrupted,
    Io(io::Error),
}

impl From<io::Error> for CopyFault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Errno> for CopyFault {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

impl<'a> Copier<'a> {
    pub(super) fn new(stop: &'a (dyn Fn() -> bool + Sync)) -> Self {
        Self { reflinks: AtomicBool::new(true), ranges: AtomicBool::new(true), stop }
    }

    #[cfg(test)]
    pub(super) fn without(self, reflinks: bool, ranges: bool) -> Self {
        Self { reflinks: AtomicBool::new(!reflinks), ranges: AtomicBool::new(!ranges), ..self }
    }

    /// Whether somebody wants it to end.
    pub(super) fn is_stopped(&self) -> bool {
        (self.stop)()
    }

    /// Copies `from`, seen as `stat`, into the empty file `into`. A file that changes meanwhile gives a mixture of about that
    /// length; the caller looks at its state again.
    pub(super) fn copy(&self, from: &File, into: &File, stat: &Stat) -> Result<(), CopyFault> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if size == 0 || self.reflink(from, into)? {
            return Ok(());
        }
        let has_holes = u64::try_from(stat.st_blocks).unwrap_or(0) < size.div_ceil(512);
        let mut at = 0;
        while at < size {
            let (start, end) = if has_holes { data(from, at, size)? } else { (at, size) };
            self.range(from, into, start, end)?;
            at = end;
        }
        if has_holes {
            into.set_len(size)?;
        }
        Ok(())
    }

    fn reflink(&self, from: &File, into: &File) -> Result<bool, CopyFault> {
        if !self.reflinks.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match rustix::fs::ioctl_ficlone(into, from) {
            Ok(()) => Ok(true),
            Err(errno) if is_not_offered(errno) => {
                self.reflinks.store(false, Ordering::Relaxed);
                Ok(false)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn range(&self, from: &File, into: &File, start: u64, end: u64) -> Result<(), CopyFault> {
        let (mut read_at, mut write_at) = (start, start);
        while read_at < end {
            if self.is_stopped() {
                return Err(CopyFault::Interrupted);
            }
            let wanted = (end - read_at).min(PIECE_BYTES);
            if self.ranges.load(Ordering::Relaxed) {
                match rustix::fs::copy_file_range(from, Some(&mut read_at), into, Some(&mut write_at), usize::try_from(wanted).unwrap_or(1))
                {
                    // The end; or, by file systems that make up what they hold, not the truth.
                    Ok(0) => {}
                    Ok(_) | Err(Errno::INTR) => continue,
                    Err(errno) if is_not_offered(errno) => self.ranges.store(false, Ordering::Relaxed),
                    Err(errno) => return Err(errno.into()),
                }
            }
            let copied = through_a_buffer(from, into, read_at, wanted)?;
            if copied == 0 {
                return Ok(());
            }
            (read_at, write_at) = (read_at + copied, write_at + copied);
        }
        Ok(())
    }
}

/// Whether an error says that this way of copying cannot be had here, by the file systems, the kernel, or a filter on its calls.
fn is_not_offered(errno: Errno) -> bool {
    matches!(errno, Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOTTY | Errno::XDEV | Errno::INVAL | Errno::PERM | Errno::TXTBSY)
}

/// Where from `at` on the next data begins and where they end; both are the file's end if there are none.
fn data(from: &File, at: u64, size: u64) -> Result<(u64, u64), CopyFault> {
    let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
        Ok(start) if start < size => start,
        Ok(_) | Err(Errno::NXIO) => return Ok((size, size)),
        Err(Errno::INVAL) => return Ok((at, size)),
        Err(errno) => return Err(errno.into()),
    };
    let end = match rustix::fs::seek(from, SeekFrom::Hole(start)) {
        Ok(end) => end.min(size),
        // It was cut; the caller sees that when it looks at the file's state again.
        Err(Errno::NXIO) => size,
        Err(errno) => return Err(errno.into()),
    };
    // A file that is cut meanwhile must not keep us here.
    Ok((start, if end > at { end } else { size }))
}

fn through_a_buffer(from: &File, into: &File, at: u64, bytes: u64) -> Result<u64, CopyFault> {
    let mut buffer = vec![0; usize::try_from(bytes.min(BUFFER_BYTES)).unwrap_or(1)];
    let mut copied = 0;
    while copied < bytes {
        let wanted = buffer.len().min(usize::try_from(bytes - copied).unwrap_or(usize::MAX));
        match from.read_at(&mut buffer[..wanted], at + copied) {
            Ok(0) => break,
            Ok(n) => {
                into.write_all_at(&buffer[..n], at + copied)?;
                copied += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn copied(content: &[u8], copier: &Copier<'_>) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("from"), content).unwrap();
        let (from, into) = (File::open(dir.path().join("from")).unwrap(), File::create(dir.path().join("into")).unwrap());
        assert!(copier.copy(&from, &into, &rustix::fs::fstat(&from).unwrap()).is_ok());
        std::fs::read(dir.path().join("into")).unwrap()
    }

    #[test]
    fn every_way_of_copying_gives_the_same_bytes() {
        let long: Vec<u8> = (0..3_000_001_u32).flat_map(u32::to_le_bytes).collect();
        for (without_reflinks, without_ranges) in [(false, false), (true, false), (true, true)] {
            for content in [&b""[..], b"x", &[0; 4096], &long] {
                let copier = Copier::new(&|| false).without(without_reflinks, without_ranges);
                assert!(copied(content, &copier) == content, "{} bytes", content.len());
            }
        }
    }

    #[test]
    fn a_terabyte_of_nothing_is_copied_as_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let from = File::options().read(true).write(true).create_new(true).open(dir.path().join("from")).unwrap();
        from.set_len(1 << 40).unwrap();
        from.write_all_at(b"in the middle", 1 << 39).unwrap();
        let into = File::options().read(true).write(true).create_new(true).open(dir.path().join("into")).unwrap();
        assert!(Copier::new(&|| false).copy(&from, &into, &rustix::fs::fstat(&from).unwrap()).is_ok());

        let mut read = [0; 13];
        into.read_exact_at(&mut read, 1 << 39).unwrap();
        let metadata = into.metadata().unwrap();
        assert_eq!((metadata.len(), &read), (1 << 40, b"in the middle"));
        assert!(metadata.blocks() * 512 < 1024 * 1024, "{} blocks", metadata.blocks());
    }

    #[test]
    fn copying_a_large_file_ends_when_it_is_told_to() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("from"), vec![1; 1024]).unwrap();
        let (from, into) = (File::open(dir.path().join("from")).unwrap(), File::create(dir.path().join("into")).unwrap());
        let copier = Copier::new(&|| true).without(true, false);
        assert!(matches!(copier.copy(&from, &into, &rustix::fs::fstat(&from).unwrap()), Err(CopyFault::Interrupted)));
    }
}
