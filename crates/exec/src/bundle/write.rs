//! Writes a bundle entry by entry.
//!
//! Headers are made here byte by byte: `tar`'s own path helpers tidy names up, and a file name is not ours to tidy.

use std::io::{self, Read, Write};

use data_encoding::HEXLOWER;
use longshore_model::wire::result::ArchiveInfo;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

const ZSTD_LEVEL: i32 = 3;

/// Writes a tar packed with zstd into `W`, keeping its digest.
pub(crate) struct Writer<W: Write> {
    tar: tar::Builder<zstd::Encoder<'static, Digesting<W>>>,
    entries: usize,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(into: W) -> io::Result<Self> {
        let mut encoder = zstd::Encoder::new(Digesting::new(into), ZSTD_LEVEL)?;
        encoder.include_checksum(true)?;
        Ok(Self { tar: tar::Builder::new(encoder), entries: 0 })
    }

    /// Entries so far.
    pub(crate) fn entries(&self) -> usize {
        self.entries
    }

    /// Packed bytes so far, without what is still being compressed.
    pub(crate) fn packed_bytes(&self) -> u64 {
        self.tar.get_ref().get_ref().bytes
    }

    pub(crate) fn directory(&mut self, name: &[u8], mode: u32, mtime: i64) -> io::Result<()> {
        let name = [name, b"/"].concat();
        self.entry(EntryType::Directory, &name, None, (mode, mtime, 0), &mut io::empty())
    }

    pub(crate) fn link(&mut self, name: &[u8], target: &[u8], mtime: i64) -> io::Result<()> {
        self.entry(EntryType::Symlink, name, Some(target), (0o777, mtime, 0), &mut io::empty())
    }

    /// Writes a file of exactly `size` bytes.
    ///
    /// # Errors
    /// Writing failed, or `content` ended early (`UnexpectedEof`); the archive is of no use then.
    pub(crate) fn file(&mut self, name: &[u8], mode: u32, mtime: i64, size: u64, content: &mut dyn Read) -> io::Result<()> {
        let mut counted = Exactly { content, left: size };
        self.entry(EntryType::Regular, name, None, (mode, mtime, size), &mut counted)
    }

    /// Ends the archive.
    pub(crate) fn finish(self) -> io::Result<(W, ArchiveInfo)> {
        let digesting = self.tar.into_inner()?.finish()?;
        let info = ArchiveInfo { size: digesting.bytes, sha256: HEXLOWER.encode(&digesting.digest.finalize()), entries: self.entries };
        Ok((digesting.into, info))
    }

    fn entry(
        &mut self,
        kind: EntryType,
        name: &[u8],
        target: Option<&[u8]>,
        (mode, mtime, size): (u32, i64, u64),
        content: &mut dyn Read,
    ) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode & 0o777);
        header.set_mtime(u64::try_from(mtime).unwrap_or(0));
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(size);
        if let Some(target) = target {
            self.place(EntryType::GNULongLink, target, |header| &mut header.as_old_mut().linkname, &mut header)?;
        }
        self.place(EntryType::GNULongName, name, |header| &mut header.as_old_mut().name, &mut header)?;
        header.set_cksum();
        self.entries += 1;
        self.tar.append(&header, content)
    }

    /// Puts a name into its field, or before the entry if it is too long for the field.
    fn place(&mut self, long: EntryType, text: &[u8], field: fn(&mut Header) -> &mut [u8; 100], header: &mut Header) -> io::Result<()> {
        let fits = text.len().min(100);
        field(header)[..fits].copy_from_slice(&text[..fits]);
        // A name of exactly the field's length has no room for the NUL that some readers want.
        if text.len() < 100 {
            return Ok(());
        }
        let mut extension = Header::new_gnu();
        extension.as_old_mut().name[..13].copy_from_slice(b"././@LongLink");
        extension.set_entry_type(long);
        extension.set_mode(0o644);
        extension.set_uid(0);
        extension.set_gid(0);
        extension.set_mtime(0);
        extension.set_size(text.len() as u64 + 1);
        extension.set_cksum();
        self.tar.append(&extension, text.chain(&[0][..]))
    }
}

/// Reads exactly as much as was announced in the header.
struct Exactly<'a> {
    content: &'a mut dyn Read,
    left: u64,
}

impl Read for Exactly<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        match self.content.read(&mut buffer[..most])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.left -= n as u64;
                Ok(n)
            }
        }
    }
}

/// Passes bytes on and keeps their SHA-256 and number; reads or writes.
pub(crate) struct Digesting<T> {
    into: T,
    digest: Sha256,
    bytes: u64,
}

impl<T> Digesting<T> {
    pub(crate) fn new(into: T) -> Self {
        Self { into, digest: Sha256::new(), bytes: 0 }
    }

    pub(crate) fn sha256(self) -> [u8; 32] {
        self.digest.finalize().into()
    }
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.into.write(bytes)?;
        self.digest.update(&bytes[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.into.flush()
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.into.read(buffer)?;
        self.digest.update(&buffer[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}
