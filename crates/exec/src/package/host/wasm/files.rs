//! The files a module may use: those below its task's data directory, and nothing else. No name leads through a link.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, SeekFrom, Stat};

use super::wasi::Errno;
use crate::files::{listing, open_beneath, open_dir, open_dir_at};

/// Files that are open at a time.
const OPEN_MAX: usize = 64;
/// Bytes that a task may write in all.
const WRITTEN_BYTES_MAX: u64 = 1 << 30;
/// Files and directories that a task may make.
const MADE_MAX: u32 = 10_000;
/// Bytes of a path.
const PATH_BYTES_MAX: usize = 4096;
/// Where the first descriptor is that is not stdin, stdout or stderr.
const FIRST: u32 = 3;
/// What can be asked for when a file is opened: to read, to write, to list.
const RIGHT_READ: u64 = 1 << 1;
const RIGHT_WRITE: u64 = 1 << 6;
const RIGHT_LIST: u64 = 1 << 14;
const RIGHTS_ALL: u64 = (1 << 29) - 1;

/// The open files of one task.
#[derive(Default)]
pub(super) struct Files {
    open: Vec<Option<Open>>,
    written: u64,
    made: u32,
}

struct Open {
    fd: OwnedFd,
    is_dir: bool,
    appends: bool,
    /// Its name, for a directory that was open from the beginning.
    preopened: Option<String>,
    /// What was in it when it was read from its beginning.
    entries: Vec<(CString, FileType)>,
}

impl Files {
    /// With the directory `dir`, under its own path and as the place of relative paths.
    pub(super) fn beneath(dir: &Path) -> std::io::Result<Self> {
        let mut files = Self::default();
        for name in [dir.to_string_lossy().into_owned(), ".".to_owned()] {
            let open = Open { fd: open_dir(dir)?, is_dir: true, appends: false, preopened: Some(name), entries: Vec::new() };
            files.open.push(Some(open));
        }
        Ok(files)
    }

    fn get(&self, fd: u32) -> Result<&Open, Errno> {
        let idx = fd.checked_sub(FIRST).ok_or(Errno::BADF)? as usize;
        self.open.get(idx).and_then(Option::as_ref).ok_or(Errno::BADF)
    }

    fn get_mut(&mut self, fd: u32) -> Result<&mut Open, Errno> {
        let idx = fd.checked_sub(FIRST).ok_or(Errno::BADF)? as usize;
        self.open.get_mut(idx).and_then(Option::as_mut).ok_or(Errno::BADF)
    }

    fn file(&self, fd: u32) -> Result<&Open, Errno> {
        let open = self.get(fd)?;
        if open.is_dir { Err(Errno::ISDIR) } else { Ok(open) }
    }

    pub(super) fn preopened(&self, fd: u32) -> Result<&str, Errno> {
        self.get(fd)?.preopened.as_deref().ok_or(Errno::BADF)
    }

    pub(super) fn close(&mut self, fd: u32) -> Result<(), Errno> {
        if fd < FIRST {
            return Ok(());
        }
        self.get(fd)?;
        self.open[(fd - FIRST) as usize] = None;
        Ok(())
    }

    pub(super) fn sync(&self, fd: u32) -> Result<(), Errno> {
        rustix::fs::fsync(&self.get(fd)?.fd).map_err(of)
    }

    pub(super) fn fdstat(&self, fd: u32) -> Result<[u8; 24], Errno> {
        let (kind, appends) =
            if fd < FIRST { (0, false) } else { self.get(fd).map(|open| (if open.is_dir { 3 } else { 4 }, open.appends))? };
        let mut stat = [0; 24];
        stat[0] = kind;
        stat[2] = appends.into();
        stat[8..16].copy_from_slice(&RIGHTS_ALL.to_le_bytes());
        stat[16..24].copy_from_slice(&RIGHTS_ALL.to_le_bytes());
        Ok(stat)
    }

    pub(super) fn stat(&self, fd: u32) -> Result<[u8; 64], Errno> {
        if fd < FIRST {
            return Ok([0; 64]);
        }
        Ok(filestat(&rustix::fs::fstat(&self.get(fd)?.fd).map_err(of)?))
    }

    pub(super) fn stat_path(&self, fd: u32, path: &str) -> Result<[u8; 64], Errno> {
        let (dir, name) = self.walk(fd, path)?;
        let Some(name) = name else { return rustix::fs::fstat(&dir).map(|stat| filestat(&stat)).map_err(of) };
        rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| filestat(&stat)).map_err(of)
    }

    pub(super) fn set_size(&mut self, fd: u32, size: u64) -> Result<(), Errno> {
        if size > WRITTEN_BYTES_MAX {
            return Err(Errno::FBIG);
        }
        rustix::fs::ftruncate(&self.file(fd)?.fd, size).map_err(of)
    }

    pub(super) fn read(&self, fd: u32, into: &mut [u8], offset: Option<u64>) -> Result<usize, Errno> {
        let file = &self.file(fd)?.fd;
        match offset {
            None => rustix::io::read(file, into).map_err(of),
            Some(offset) => rustix::io::pread(file, into, offset).map_err(of),
        }
    }

    pub(super) fn write(&mut self, fd: u32, from: &[u8], offset: Option<u64>) -> Result<usize, Errno> {
        let open = self.file(fd)?;
        let at = match offset {
            Some(offset) => offset,
            None if open.appends => rustix::fs::seek(&open.fd, SeekFrom::End(0)).map_err(of)?,
            None => rustix::fs::tell(&open.fd).map_err(of)?,
        };
        if at.saturating_add(from.len() as u64) > WRITTEN_BYTES_MAX {
            return Err(Errno::FBIG);
        }
        if self.written + from.len() as u64 > WRITTEN_BYTES_MAX {
            return Err(Errno::DQUOT);
        }
        let n = match offset {
            None => rustix::io::write(&open.fd, from).map_err(of)?,
            Some(offset) => rustix::io::pwrite(&open.fd, from, offset).map_err(of)?,
        };
        self.written += n as u64;
        Ok(n)
    }

    pub(super) fn seek(&self, fd: u32, offset: i64, whence: u32) -> Result<u64, Errno> {
        if fd < FIRST {
            return Err(Errno::SPIPE);
        }
        let to = match whence {
            0 => SeekFrom::Start(offset.try_into().map_err(|_| Errno::INVAL)?),
            1 => SeekFrom::Current(offset),
            2 => SeekFrom::End(offset),
            _ => return Err(Errno::INVAL),
        };
        rustix::fs::seek(&self.file(fd)?.fd, to).map_err(of)
    }

    /// Counts what may be new.
    fn make(&mut self) -> Result<(), Errno> {
        self.made = self.made.saturating_add(1);
        if self.made > MADE_MAX { Err(Errno::DQUOT) } else { Ok(()) }
    }

    pub(super) fn open(&mut self, fd: u32, path: &str, how: u32, rights: u64, flags: u32) -> Result<u32, Errno> {
        let (dir, name) = self.walk(fd, path)?;
        let [creates, wants_dir, is_new, truncates] = [1, 2, 4, 8].map(|bit| how & bit != 0);
        if creates {
            self.make()?;
        }
        let appends = flags & 1 != 0;
        let writes = rights & RIGHT_WRITE != 0 || truncates || appends;
        let mut open = match (writes, rights & (RIGHT_READ | RIGHT_LIST) != 0) {
            (false, _) => OFlags::RDONLY,
            (true, true) => OFlags::RDWR,
            (true, false) => OFlags::WRONLY,
        };
        for (wanted, flag) in [
            (creates, OFlags::CREATE),
            (wants_dir, OFlags::DIRECTORY),
            (is_new, OFlags::EXCL),
            (truncates, OFlags::TRUNC),
            (appends, OFlags::APPEND),
        ] {
            open.set(flag, wanted);
        }
        // The kernel refuses a mode for what is not made.
        let mode = Mode::from_raw_mode(if creates { 0o644 } else { 0 });
        let opened = match name {
            // Nothing that would wait for another process is opened to the end: what it is, is looked at below.
            Some(name) => open_beneath(&dir, name, open | OFlags::NONBLOCK | OFlags::NOCTTY, mode).map_err(of)?,
            None => dir,
        };
        let is_dir = match FileType::from_raw_mode(rustix::fs::fstat(&opened).map_err(of)?.st_mode) {
            FileType::Directory => true,
            FileType::RegularFile => false,
            FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => {
                return Err(Errno::ACCES);
            }
        };
        let open = Open { fd: opened, is_dir, appends, preopened: None, entries: Vec::new() };
        let idx = match self.open.iter().position(Option::is_none) {
            Some(idx) => idx,
            None if self.open.len() < OPEN_MAX => {
                self.open.push(None);
                self.open.len() - 1
            }
            None => return Err(Errno::MFILE),
        };
        self.open[idx] = Some(open);
        Ok(u32::try_from(idx).expect("a few files are open") + FIRST)
    }

    pub(super) fn make_dir(&mut self, fd: u32, path: &str) -> Result<(), Errno> {
        self.make()?;
        let (dir, name) = self.walk(fd, path)?;
        rustix::fs::mkdirat(&dir, name.ok_or(Errno::EXIST)?, Mode::from_raw_mode(0o755)).map_err(of)
    }

    pub(super) fn remove(&self, fd: u32, path: &str, is_dir: bool) -> Result<(), Errno> {
        let (dir, name) = self.walk(fd, path)?;
        let flags = if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(&dir, name.ok_or(Errno::INVAL)?, flags).map_err(of)
    }

    pub(super) fn rename(&self, from_fd: u32, from: &str, to_fd: u32, to: &str) -> Result<(), Errno> {
        let ((from_dir, from), (to_dir, to)) = (self.walk(from_fd, from)?, self.walk(to_fd, to)?);
        rustix::fs::renameat(&from_dir, from.ok_or(Errno::INVAL)?, &to_dir, to.ok_or(Errno::INVAL)?).map_err(of)
    }

    /// Fills `into` with entries from the `cookie`-th on, and gives how much of it was used: all of it if there are more.
    pub(super) fn read_dir(&mut self, fd: u32, into: &mut [u8], cookie: u64) -> Result<u32, Errno> {
        let open = self.get_mut(fd)?;
        if !open.is_dir {
            return Err(Errno::NOTDIR);
        }
        if cookie == 0 {
            open.entries = listing(open.fd.as_fd()).map_err(|_| Errno::IO)?;
            open.entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        }
        let mut used = 0;
        for (idx, (name, kind)) in open.entries.iter().enumerate().skip(usize::try_from(cookie).unwrap_or(usize::MAX)) {
            let mut entry = [0; 24].to_vec();
            entry[..8].copy_from_slice(&(idx as u64 + 1).to_le_bytes());
            entry[16..20].copy_from_slice(&u32::try_from(name.to_bytes().len()).unwrap_or(u32::MAX).to_le_bytes());
            entry[20] = filetype(*kind);
            entry.extend_from_slice(name.to_bytes());
            let n = entry.len().min(into.len() - used);
            into[used..used + n].copy_from_slice(&entry[..n]);
            used += n;
            if used == into.len() {
                break;
            }
        }
        Ok(u32::try_from(used).unwrap_or(u32::MAX))
    }

    /// The directory that `path` ends in and the name there; no name for the directory itself. Links are not followed, and nothing
    /// leads above the directory it begins at.
    fn walk<'p>(&self, fd: u32, path: &'p str) -> Result<(OwnedFd, Option<&'p str>), Errno> {
        if path.len() > PATH_BYTES_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let open = self.get(fd)?;
        if !open.is_dir {
            return Err(Errno::NOTDIR);
        }
        if path.starts_with('/') || path.split('/').any(|part| part == "..") {
            return Err(Errno::NOTCAPABLE);
        }
        if path.is_empty() || path.contains('\0') {
            return Err(if path.is_empty() { Errno::NOENT } else { Errno::ILSEQ });
        }
        let mut dir = rustix::io::fcntl_dupfd_cloexec(&open.fd, 0).map_err(of)?;
        let mut parts = path.split('/').filter(|part| !matches!(*part, "" | ".")).peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return Ok((dir, Some(part)));
            }
            dir = open_dir_at(&dir, part).map_err(of)?;
        }
        Ok((dir, None))
    }
}

fn filetype(kind: FileType) -> u8 {
    match kind {
        FileType::Unknown | FileType::Fifo => 0,
        FileType::BlockDevice => 1,
        FileType::CharacterDevice => 2,
        FileType::Directory => 3,
        FileType::RegularFile => 4,
        FileType::Socket => 6,
        FileType::Symlink => 7,
    }
}

fn filestat(stat: &Stat) -> [u8; 64] {
    let nanoseconds =
        |seconds: i64, rest: u64| u64::try_from(seconds).unwrap_or_default().saturating_mul(1_000_000_000).saturating_add(rest);
    let words = [
        stat.st_dev,
        stat.st_ino,
        filetype(FileType::from_raw_mode(stat.st_mode)).into(),
        stat.st_nlink,
        u64::try_from(stat.st_size).unwrap_or_default(),
        nanoseconds(stat.st_atime, stat.st_atime_nsec),
        nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
        nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
    ];
    let mut bytes = [0; 64];
    for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn of(errno: rustix::io::Errno) -> Errno {
    use rustix::io::Errno as System;
    match errno {
        System::ACCESS => Errno::ACCES,
        System::BADF => Errno::BADF,
        System::DQUOT => Errno::DQUOT,
        System::EXIST => Errno::EXIST,
        System::FBIG => Errno::FBIG,
        System::INVAL => Errno::INVAL,
        System::ISDIR => Errno::ISDIR,
        System::LOOP => Errno::LOOP,
        System::MFILE | System::NFILE => Errno::MFILE,
        System::NAMETOOLONG => Errno::NAMETOOLONG,
        System::NOENT => Errno::NOENT,
        System::NOSPC => Errno::NOSPC,
        System::NOTDIR => Errno::NOTDIR,
        System::NOTEMPTY => Errno::NOTEMPTY,
        System::PERM => Errno::PERM,
        System::ROFS => Errno::ROFS,
        System::SPIPE => Errno::SPIPE,
        _ => Errno::IO,
    }
}
