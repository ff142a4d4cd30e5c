//! Packs a directory as a package's archive: the same files give the same bytes.
//!
//! A zip, since that is what every worker reads. Entries are sorted, times are left out, modes are what they will be when unpacked.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rawzip::{CompressionMethod, ZipArchiveWriter};

use super::examine::{self, ExamineError, Examined, Expected};
use super::host::engine_remarks;
use super::{ArchiveLimits, ManifestError, PackageVersion, Trust};

/// What never belongs into a package: of editors, of caches, of version control.
const STAYS_OUT: &[&str] = &[".git", ".hg", ".svn", "__pycache__", ".DS_Store", ".pytest_cache", ".mypy_cache", ".venv"];

/// Why a package was not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Something could not be read.
    #[error("pack {path:?}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something that has no place in a package.
    #[error("pack {path:?}: {reason}")]
    Refused {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// The archive could not be written.
    #[error("write the archive")]
    Write(#[source] io::Error),
    /// Something in the manifest would not work.
    #[error(transparent)]
    Remark(#[from] ManifestError),
    /// The directory is no package.
    #[error(transparent)]
    Examine(#[from] ExamineError),
}

/// A package that was built.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    /// SHA-256 of the archive, lower-case hex.
    pub sha256: String,
    /// Bytes of the archive.
    pub size: u64,
    /// What is in it, as an install will see it.
    pub examined: Examined,
}

/// Packs `dir` into `into`, an empty file that can be read too, and unpacks it again to see that an install would take it. Blocks.
///
/// # Errors
/// The directory is no package, holds what a package may not, or something could not be read or written.
pub fn build(dir: &Path, mut into: &File, limits: ArchiveLimits) -> Result<Built, BuildError> {
    let (manifest, _) = examine::manifest(dir)?;
    if let Some(remark) = manifest.remarks().into_iter().next() {
        return Err(remark.into());
    }
    let mut archive = ZipArchiveWriter::new(into);
    let itself = into.metadata().map_err(BuildError::Write)?;
    let of_builds = OfBuilds { itself: (itself.dev(), itself.ino()), prefix: format!("{}-", manifest.name) };
    walk(dir, Path::new(""), &of_builds, &mut archive)?;
    archive.finish().map_err(zip_fault)?;
    into.flush().and_then(|()| into.seek(SeekFrom::Start(0))).map_err(BuildError::Write)?;
    let sha256 = examine::digest(into).map_err(BuildError::Write)?;
    let size = into.metadata().map_err(BuildError::Write)?.len();
    let examined = again(into, &sha256, limits)?;
    Ok(Built { sha256, size, examined })
}

/// Checks an archive as an install would, without installing it. Blocks.
///
/// # Errors
/// An install would refuse it.
pub fn verify(mut archive: &File, expected: &Expected, trust: &Trust, limits: ArchiveLimits) -> Result<(String, Examined), BuildError> {
    archive.seek(SeekFrom::Start(0)).map_err(BuildError::Write)?;
    let sha256 = examine::digest(archive).map_err(BuildError::Write)?;
    let dir = Scratch::new().map_err(BuildError::Write)?;
    let mut examined = examine::examine(archive, &sha256, expected, trust, limits, &dir.0, &|| false)?;
    examined.remarks.extend(engine_remarks(&examined.manifest, &dir.0));
    Ok((sha256, examined))
}

fn again(archive: &File, sha256: &str, limits: ArchiveLimits) -> Result<Examined, BuildError> {
    let dir = Scratch::new().map_err(BuildError::Write)?;
    let mut examined = examine::examine(archive, sha256, &Expected::default(), &Trust::default(), limits, &dir.0, &|| false)?;
    examined.remarks.extend(engine_remarks(&examined.manifest, &dir.0));
    Ok(examined)
}

/// A directory for as long as it is looked into.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("longshore-package-{}", crate::process::random_text()));
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _left_to_the_system = crate::files::empty_dir(&self.0).and_then(|()| fs::remove_dir(&self.0));
    }
}

/// What builds leave in the package's directory when they are run there: none of it is the package's.
struct OfBuilds {
    /// The archive that is being written.
    itself: (u64, u64),
    /// How the names of its archives begin.
    prefix: String,
}

impl OfBuilds {
    fn has(&self, path: &Path, meta: &fs::Metadata) -> bool {
        let version =
            path.to_str().and_then(|name| name.strip_prefix(&self.prefix)).map(|rest| rest.strip_suffix(".minisig").unwrap_or(rest));
        let is_archive =
            version.and_then(|rest| rest.strip_suffix(".zip")).is_some_and(|version| version.parse::<PackageVersion>().is_ok());
        is_archive || (meta.dev(), meta.ino()) == self.itself
    }
}

fn walk(root: &Path, below: &Path, of_builds: &OfBuilds, archive: &mut ZipArchiveWriter<&File>) -> Result<(), BuildError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| BuildError::Read { path, source }
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(root.join(below)).map_err(unreadable(below))? {
        names.push(entry.map_err(unreadable(below))?.file_name());
    }
    names.sort_unstable();
    for name in names {
        let path = below.join(&name);
        let refused = |reason| Err(BuildError::Refused { path: path.clone(), reason });
        let Some(text) = path.to_str() else { return refused("its name is not UTF-8") };
        if STAYS_OUT.contains(&name.to_string_lossy().as_ref()) || path.extension().is_some_and(|extension| extension == "pyc") {
            continue;
        }
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full).map_err(unreadable(&path))?;
        if of_builds.has(&path, &meta) {
            continue;
        }
        if meta.is_dir() {
            archive.new_dir(format!("{text}/")).unix_permissions(0o040_755).create().map_err(zip_fault)?;
            walk(root, &path, of_builds, archive)?;
        } else if meta.is_symlink() {
            let target = fs::read_link(&full).map_err(unreadable(&path))?;
            file(archive, text, 0o120_777, &mut target.as_os_str().as_encoded_bytes(), unreadable(&path))?;
        } else if meta.is_file() {
            let runs = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o100 != 0;
            let mut content = File::open(&full).map_err(unreadable(&path))?;
            file(archive, text, if runs { 0o100_755 } else { 0o100_644 }, &mut content, unreadable(&path))?;
        } else {
            return refused("only files, directories and symbolic links have a place in a package");
        }
    }
    Ok(())
}

fn file(
    archive: &mut ZipArchiveWriter<&File>,
    name: &str,
    mode: u32,
    content: &mut dyn io::Read,
    unreadable: impl FnOnce(io::Error) -> BuildError,
) -> Result<(), BuildError> {
    let new = archive.new_file(name).compression_method(CompressionMethod::DEFLATE).unix_permissions(mode);
    let (mut entry, config) = new.start().map_err(zip_fault)?;
    let mut writer = config.wrap(flate2::write::DeflateEncoder::new(&mut entry, flate2::Compression::default()));
    io::copy(content, &mut writer).map_err(unreadable)?;
    let (encoder, descriptor) = writer.finish().map_err(zip_fault)?;
    encoder.finish().map_err(BuildError::Write)?;
    entry.finish(descriptor).map_err(zip_fault)?;
    Ok(())
}

fn zip_fault(error: rawzip::Error) -> BuildError {
    BuildError::Write(io::Error::other(error))
}
