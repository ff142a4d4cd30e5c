//! Files and directories that only their owner may read.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use data_encoding::HEXLOWER;

/// Makes a directory and those above it; new ones are 0700.
pub(crate) fn directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Replaces a file in one step, 0600 from its first moment. Readers see the old content or the new one.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    directory(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Reads a file, making it from `content` first if there is none.
pub(crate) fn read_or_make(path: &Path, content: impl FnOnce() -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
    match std::fs::read(path) {
        // An empty one is what a crash left between making and writing.
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => {
            replace_file(path, &content()?)?;
            std::fs::read(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            replace_file(path, &content()?)?;
            std::fs::read(path)
        }
        Err(error) => Err(error),
    }
}

/// Opens a file to write, made 0600 if it is new.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// As many random bytes as asked for, in hex.
pub(crate) fn random_hex(n_bytes: usize) -> io::Result<String> {
    let mut bytes = vec![0; n_bytes];
    let mut filled = 0;
    while filled < n_bytes {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(HEXLOWER.encode(&bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_made_is_private_and_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a").join("key");
        let first = read_or_make(&path, || random_hex(16).map(String::into_bytes)).unwrap();
        let second = read_or_make(&path, || random_hex(16).map(String::into_bytes)).unwrap();
        assert_eq!((first.len(), &first), (32, &second));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    }
}
