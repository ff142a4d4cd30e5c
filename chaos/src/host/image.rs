//! A disk with a power switch: ext4 in a file, mounted through a loop device.
//!
//! At a power loss everything is gone that the file system had not written to its disk. That is what `FS_IOC_SHUTDOWN` with
//! `NOLOGFLUSH` does (the way in which the tests of the kernel's file systems cut the power): from this instant on nothing reaches the
//! disk any more, neither data nor the journal, and what was dirty in memory is dropped. The next mount replays the journal, as after a
//! real one. The broker is stopped first, so that it neither sees the dying disk nor acknowledges anything after it, and killed then.
//!
//! Journal and data are kept from being written by time alone (`commit=`), so that only a sync makes a write survive. [`Image::cut`] shows
//! it each time, by a file that was synced and one that was not. What a disk had taken and kept in a volatile cache of its own
//! survives here; the broker's syncs flush that, too.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use longshore_testkit::{NatsServer, Scratch};
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

use super::{must_be_alone, tool};
use crate::keeper::Powers;

/// Sparse: it takes what is written.
const BYTES: u64 = 2 << 30;
/// `FS_IOC_SHUTDOWN` of `linux/fs.h`, which takes one of three words.
const SHUTDOWN: Opcode = opcode::read::<u32>(b'X', 125);
/// Neither data nor journal are written before it.
const NO_LOG_FLUSH: u32 = 2;
const MARK: &[u8] = b"a mark that is long enough to be data";

/// A mounted image. Unmounted and gone when dropped.
pub(crate) struct Image {
    // In this order: the mount is on top of the file.
    mount: Scratch,
    file: Scratch,
}

impl Image {
    /// Makes and mounts one.
    ///
    /// # Errors
    /// This user may not, or a tool is missing.
    pub(crate) fn make(powers: Powers) -> anyhow::Result<Self> {
        must_be_alone(powers)?;
        let image = Self { mount: Scratch::new("image-mount-"), file: Scratch::new("image-file-") };
        File::create(image.disk())?.set_len(BYTES)?;
        tool(&["mkfs.ext4", "-q", "-F", &image.disk().to_string_lossy()])?;
        image.mount()?;
        Ok(image)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        self.mount.path()
    }

    /// Cuts the power of a broker that keeps its files here, and gives it back. The broker is dead after that, and the disk is there again also
    /// if the power was not cut.
    ///
    /// # Errors
    /// A tool failed, or what was not synced survived: then it was no power cut.
    pub(crate) fn cut(&self, broker: &mut NatsServer) -> anyhow::Result<()> {
        let [synced, unsynced] = ["synced", "unsynced"].map(|name| self.path().join(name));
        let file = File::create(&synced).and_then(|mut file| std::io::Write::write_all(&mut file, MARK).map(|()| file));
        file.and_then(|file| file.sync_all()).context("the disk cannot be marked")?;
        File::open(self.path())?.sync_all()?;
        std::fs::write(&unsynced, MARK)?;

        broker.pause();
        let shut_down = self.shut_down();
        broker.kill();
        tool(&["umount", &self.path().to_string_lossy()])?;
        self.mount()?;
        shut_down?;

        ensure!(std::fs::read(&synced).is_ok_and(|found| found == MARK), "what was synced did not survive");
        ensure!(std::fs::read(&unsynced).is_ok_and(|found| found != MARK) || !unsynced.exists(), "what was not synced survived");
        for mark in [synced, unsynced] {
            let _ = std::fs::remove_file(mark);
        }
        Ok(())
    }

    fn disk(&self) -> PathBuf {
        self.file.path().join("disk")
    }

    fn mount(&self) -> anyhow::Result<()> {
        let (disk, dir) = (self.disk(), self.path().to_string_lossy());
        tool(&["mount", "-t", "ext4", "-o", "loop,noatime,commit=600", &disk.to_string_lossy(), &dir])
    }

    fn shut_down(&self) -> anyhow::Result<()> {
        let root = File::open(self.path())?;
        // SAFETY: the call reads one `u32` through the pointer, which is what `Setter` hands it, and changes no memory of ours.
        let done = unsafe { ioctl(&root, Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH)) };
        done.context("the file system cannot be shut down")
    }
}
