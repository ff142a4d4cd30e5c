//! A disk that is small enough to be filled.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lifeline::Scratch;

/// A small file system in memory. Unmounted and gone when dropped; only who may mount has one.
#[derive(Debug)]
pub struct Disk {
    // Unmounts what is mounted on it.
    dir: Scratch,
}

impl Disk {
    /// Mounts one of this size, such as `64m`.
    ///
    /// # Errors
    /// Why it cannot be mounted here.
    pub fn mount(size: &str) -> Result<Self, String> {
        let disk = Self { dir: Scratch::new("longshore-disk-") };
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(disk.path()).output();
        let output = mounted.map_err(|error| format!("there is no `mount`: {error}"))?;
        if output.status.success() {
            return Ok(disk);
        }
        Err(format!("no file system can be mounted here: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Takes every free block.
    ///
    /// # Panics
    /// Something else gave blocks back meanwhile.
    pub fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.filler()).expect("a file can be made");
        for block in [1 << 20, 4096, 1] {
            let block = vec![0; block];
            while file.write_all(&block).is_ok() {}
        }
        assert!(self.is_full());
    }

    /// Whether no block is free.
    ///
    /// # Panics
    /// It is not mounted any more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        rustix::fs::statvfs(self.path()).expect("it is mounted").f_bavail == 0
    }

    /// Gives back what [`Self::fill`] took.
    ///
    /// # Panics
    /// It was not filled.
    pub fn make_room(&self) {
        std::fs::remove_file(self.filler()).expect("it was filled");
    }
}
