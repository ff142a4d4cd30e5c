//! The machine whose settings are read and changed: its files, its name, its interfaces. Tests put a directory in its place.
//!
//! Paths are those of the machine; where they are for us is decided here alone. Files are replaced in one step.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use longshore_model::operation::{InterfaceName, NodeName};
use rustix::io::Errno;

use crate::process::random_text;

const FILE_BYTES_MAX: u64 = 1024 * 1024;
const LINKS_MAX: usize = 8;
const NAMES_MAX: usize = 1024;
const KERNEL_NAME: &str = "/proc/sys/kernel/hostname";

/// Which machine.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Where its file tree begins: `/`, but in tests.
    pub root: PathBuf,
    /// Where its programs are, as in `PATH`; where those of the agent are unless given.
    pub path: Option<String>,
}

impl Default for Machine {
    fn default() -> Self {
        Self { root: "/".into(), path: None }
    }
}

impl Machine {
    /// Where a path of the machine is for us.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The content of a small file.
    pub(crate) fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        // A pipe in the file's place would block for ever.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(self.at(path))?;
        if file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content)? as u64 > FILE_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(content)
    }

    /// The same as text; `None` if there is no such file. Bytes that are not UTF-8 are replaced.
    pub(crate) fn read_text(&self, path: &str) -> io::Result<Option<String>> {
        match self.read(path) {
            Ok(content) => Ok(Some(String::from_utf8_lossy(&content).into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where a path leads by symbolic links of its last part, as a path of the machine. What is there need not exist.
    pub(crate) fn real_path(&self, path: &str) -> io::Result<String> {
        let mut path = path.to_owned();
        for _ in 0..LINKS_MAX {
            let Ok(target) = fs::read_link(self.at(&path)) else { return Ok(path) };
            let base = Path::new(&path).parent().unwrap_or(Path::new("/"));
            path = normal(&base.join(target)).ok_or(io::ErrorKind::InvalidData)?;
        }
        Err(Errno::LOOP.into())
    }

    /// The names in a directory that `wanted` takes, sorted; none if there is no such directory.
    pub(crate) fn names(&self, dir: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.at(dir)) else { return Vec::new() };
        let mut names: Vec<_> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| wanted(name))
            .take(NAMES_MAX)
            .collect();
        names.sort_unstable();
        names
    }

    /// Its network interfaces, sorted.
    pub(crate) fn interfaces(&self) -> Vec<String> {
        self.names("/sys/class/net", |name| name.parse::<InterfaceName>().is_ok())
    }

    /// Its name as the kernel has it.
    pub(crate) fn hostname(&self) -> String {
        if self.is_ours() {
            return crate::host_name();
        }
        self.read_text(KERNEL_NAME).ok().flatten().unwrap_or_default().trim().to_owned()
    }

    /// Gives the kernel a name, until the next boot.
    pub(crate) fn set_hostname(&self, name: &NodeName) -> io::Result<()> {
        if self.is_ours() {
            return Ok(rustix::system::sethostname(name.as_str().as_bytes())?);
        }
        fs::write(self.at(KERNEL_NAME), name.as_str())
    }

    /// Replaces a file, or makes it, with its directories: afterwards it has all of the content, or it is as it was, whatever
    /// happens. An existing one keeps its owner and, without `mode`, its mode.
    pub(crate) async fn replace(&self, path: &str, content: impl Into<Vec<u8>>, mode: Option<u32>) -> io::Result<()> {
        let (path, content) = (self.at(path), content.into());
        tokio::task::spawn_blocking(move || replace(&path, &content, mode)).await.map_err(io::Error::other)?
    }

    /// Removes a file; one that is not there is fine.
    pub(crate) fn remove(&self, path: &str) -> io::Result<()> {
        match fs::remove_file(self.at(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.root == Path::new("/")
    }
}

/// An absolute path without `.` and `..`.
fn normal(path: &Path) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.to_str()?.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Some(format!("/{}", parts.join("/")))
}

fn replace(path: &Path, content: &[u8], mode: Option<u32>) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Err(io::ErrorKind::InvalidInput.into()) };
    fs::create_dir_all(dir)?;
    let before = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file);
    let mode = mode.or_else(|| before.as_ref().map(|before| before.mode() & 0o777)).unwrap_or(0o644);
    // No program that reads a directory of settings takes a name that begins with a dot.
    let temporary = dir.join(format!(".{}.longshore-{}", name.to_string_lossy(), random_text()));
    let written = write_new(&temporary, content, mode, before.as_ref()).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        let _never_made = fs::remove_file(&temporary);
        // Containers mount single files, which cannot be renamed over; then writing into it is the only way there is.
        if error.raw_os_error() != Some(Errno::BUSY.raw_os_error()) {
            return Err(error);
        }
        let mut file = OpenOptions::new().write(true).truncate(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
        file.write_all(content)?;
        return file.sync_all();
    }
    File::open(dir)?.sync_all()
}

fn write_new(path: &Path, content: &[u8], mode: u32, before: Option<&fs::Metadata>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    if let Some(before) = before {
        let now = file.metadata()?;
        if (before.uid(), before.gid()) != (now.uid(), now.gid()) {
            fchown(&file, Some(before.uid()), Some(before.gid()))?;
        }
    }
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_whole_and_keep_their_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etc/resolv.conf");
        replace(&path, b"one", Some(0o640)).unwrap();
        replace(&path, b"two", None).unwrap();
        assert_eq!((fs::read(&path).unwrap(), fs::metadata(&path).unwrap().mode() & 0o777), (b"two".to_vec(), 0o640));
        assert_eq!(fs::read_dir(dir.path().join("etc")).unwrap().count(), 1);
    }

    #[test]
    fn links_are_followed_as_the_machine_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine { root: dir.path().into(), path: None };
        fs::create_dir(dir.path().join("etc")).unwrap();
        let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, dir.path().join("etc").join(name)).unwrap();
        link("../run/systemd/resolve/stub-resolv.conf", "relative");
        link("/run/x/../y", "absolute");
        link("absolute", "twice");
        link("loop", "loop");
        assert_eq!(machine.real_path("/etc/relative").unwrap(), "/run/systemd/resolve/stub-resolv.conf");
        assert_eq!(machine.real_path("/etc/absolute").unwrap(), "/run/y");
        assert_eq!(machine.real_path("/etc/twice").unwrap(), "/run/y");
        assert_eq!(machine.real_path("/etc/plain").unwrap(), "/etc/plain");
        assert!(machine.real_path("/etc/loop").is_err());
    }

    #[test]
    fn what_is_too_large_or_no_file_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine { root: dir.path().into(), path: None };
        fs::write(dir.path().join("large"), vec![b'x'; 1024 * 1024 + 1]).unwrap();
        assert_eq!(machine.read("/large").unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(machine.read("/").is_err());
        assert_eq!(machine.read_text("/missing").unwrap(), None);
    }
}
