//! Drives that hang: calls about what is on them do not return until they are let go. Only who may mount has them.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::lifeline::Scratch;

/// A file system in user space that nobody serves: whoever opens anything on it waits. Whoever waits gets an error when this is dropped.
#[derive(Debug)]
pub struct SilentDrive {
    // Closed first, which lets go of whoever waits; then it can be unmounted.
    _device: File,
    dir: Scratch,
}

impl SilentDrive {
    /// Mounts one.
    ///
    /// # Errors
    /// Why it cannot be mounted here.
    pub fn mount() -> Result<Self, String> {
        let device =
            File::options().read(true).write(true).open("/dev/fuse").map_err(|error| format!("/dev/fuse cannot be opened: {error}"))?;
        let dir = Scratch::new("longshore-silent-");
        let mut mount = Command::new("mount");
        // No helper, and the device as its standard input: both are what the kernel itself takes.
        mount.args(["-i", "-t", "fuse", "-o", "fd=0,rootmode=40000,user_id=0,group_id=0", "silent"]).arg(dir.path());
        mount.stdin(device.try_clone().map_err(|error| error.to_string())?);
        run(&mut mount)?;
        Ok(Self { _device: device, dir })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// A small ext4 that can be frozen: whoever writes waits, and cannot be killed until it is thawed.
#[derive(Debug)]
pub struct FreezableDrive {
    // Unmounted before its image goes.
    dir: Scratch,
    _store: Scratch,
}

impl FreezableDrive {
    /// Makes and mounts one of 16 MiB.
    ///
    /// # Errors
    /// Why it cannot be mounted here.
    pub fn mount() -> Result<Self, String> {
        let (store, dir) = (Scratch::new("longshore-image-"), Scratch::new("longshore-freezable-"));
        let image = store.path().join("image");
        File::create_new(&image).and_then(|file| file.set_len(16 << 20)).map_err(|error| error.to_string())?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).args([&image, dir.path()]))?;
        Ok(Self { dir, _store: store })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// From now on whoever writes waits.
    ///
    /// # Panics
    /// It cannot be frozen.
    pub fn freeze(&self) {
        run(Command::new("fsfreeze").arg("--freeze").arg(self.path())).expect("a file system that is mounted can be frozen");
    }

    /// Lets go of whoever waits. Nothing happens if it is not frozen.
    pub fn thaw(&self) {
        let _is_not_frozen = run(Command::new("fsfreeze").arg("--unfreeze").arg(self.path()));
    }
}

impl Drop for FreezableDrive {
    fn drop(&mut self) {
        self.thaw();
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().and_then(std::process::Child::wait_with_output);
    let output = output.map_err(|error| format!("there is no `{program}`: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{program}: {}", said.trim())) }
}
