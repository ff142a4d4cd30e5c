//! Looks at an archive from its bytes to its manifest: what installing, verifying and building have in common.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use data_encoding::HEXLOWER;
use longshore_model::limits::PACKAGE_MANIFEST_BYTES_MAX;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::archive::{self, ArchiveError, ArchiveLimits, Format};
use super::{Manifest, ManifestError, Sha256Hex, Trust, TrustError};
use crate::bundle::{Unpacked, plain};
use crate::files::{open_dir, read_beneath};

/// Why an archive is no package that is believed.
#[derive(Debug, thiserror::Error)]
pub enum ExamineError {
    /// It is not what was meant.
    #[error("believe the archive: its SHA-256 is {actual}, and {expected} was asked for")]
    Digest {
        /// What was asked for.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// Nobody's word stands for it.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// It cannot be unpacked.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// It is no package.
    #[error("find manifest.json at the archive's root: {0}")]
    NoManifest(String),
    /// Its manifest is none.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A file is not what the manifest says.
    #[error("check the resource {path:?}: {reason}")]
    Resource {
        /// Which.
        path: String,
        /// Why.
        reason: String,
    },
}

/// What is known of an archive that was unpacked.
#[derive(Debug, Clone, PartialEq)]
pub struct Examined {
    /// What it says of itself.
    pub manifest: Manifest,
    /// The same as it was written.
    pub raw: Value,
    /// What it is packed with.
    pub format: Format,
    /// Entries in it.
    pub entries: usize,
    /// Bytes of its files.
    pub bytes: u64,
    /// The key that vouched for it, if one was asked.
    pub signed_by: Option<String>,
    /// What will not work, with its place.
    pub remarks: Vec<String>,
}

/// What an archive is measured by.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Its digest, if somebody named one.
    pub sha256: Option<Sha256Hex>,
    /// The text of its signature, if there is one.
    pub signature: Option<Vec<u8>>,
}

/// Unpacks an archive that is open into an empty directory, if it is believed. Blocks; asks `stopped` between pieces.
pub(super) fn examine(
    archive: &File,
    sha256: &str,
    expected: &Expected,
    trust: &Trust,
    limits: ArchiveLimits,
    into: &Path,
    stopped: &dyn Fn() -> bool,
) -> Result<Examined, ExamineError> {
    if let Some(expected) = expected.sha256.as_ref().filter(|expected| expected.as_str() != sha256) {
        return Err(ExamineError::Digest { expected: expected.to_string(), actual: sha256.to_owned() });
    }
    let signed_by = match (&expected.signature, trust.is_asked()) {
        (_, false) => None,
        (None, true) => return Err(TrustError::Missing.into()),
        (Some(signature), true) => Some(trust.vouched(archive, signature)?),
    };
    let root = open_dir(into).map_err(|source| ArchiveError::Write { name: String::new(), source })?;
    let (format, Unpacked { entries, bytes }) = archive::unpack(archive, &root, limits, stopped)?;
    let (manifest, raw) = manifest(into)?;
    let mut remarks: Vec<String> = manifest.remarks().into_iter().map(|remark| remark.to_string()).collect();
    remarks.extend(resources(&manifest, into, stopped)?);
    remarks.extend(super::host::remarks(&manifest, into));
    Ok(Examined { manifest, raw, format, entries, bytes, signed_by, remarks })
}

/// The manifest of a directory.
pub(super) fn manifest(directory: &Path) -> Result<(Manifest, Value), ExamineError> {
    let root = open_dir(directory).map_err(|error| ExamineError::NoManifest(error.to_string()))?;
    match read_beneath(&root, "manifest.json", PACKAGE_MANIFEST_BYTES_MAX) {
        Ok(Some(text)) => Ok(Manifest::parse(&text)?),
        Ok(None) => {
            let below =
                std::fs::read_dir(directory).into_iter().flatten().flatten().find(|entry| entry.path().join("manifest.json").is_file());
            Err(ExamineError::NoManifest(below.map_or_else(
                || "there is none".to_owned(),
                |entry| format!("there is one in {:?}: pack what is in that directory, not the directory", entry.file_name()),
            )))
        }
        Err(error) => Err(ExamineError::NoManifest(error.to_string())),
    }
}

/// Checks the files that the manifest names; gives those that are missing, which somebody may yet put there. A file is read once, however
/// often it is named.
fn resources(manifest: &Manifest, directory: &Path, stopped: &dyn Fn() -> bool) -> Result<Vec<String>, ExamineError> {
    let (mut missing, mut digests) = (Vec::new(), BTreeMap::new());
    for resource in &manifest.resources {
        let refused = |reason: &str| ExamineError::Resource { path: resource.path.clone(), reason: reason.to_owned() };
        let unreadable = |error: io::Error| refused(&error.to_string());
        if plain(resource.path.as_bytes()).is_none() {
            return Err(refused("it is not plainly below the package's directory"));
        }
        let Ok(file) = File::open(directory.join(&resource.path)) else {
            missing.push(format!("resources: {:?} is not in the package", resource.path));
            continue;
        };
        let Some(expected) = &resource.sha256 else { continue };
        let found = file.metadata().map_err(unreadable)?;
        let actual = match digests.entry((found.dev(), found.ino())) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => match digest(Stoppable { from: file, stopped }) {
                Err(_) if stopped() => return Err(ArchiveError::Stopped.into()),
                read => unknown.insert(read.map_err(unreadable)?),
            },
        };
        if actual.as_str() != expected.as_str() {
            return Err(refused("its SHA-256 is not the one the manifest names"));
        }
    }
    Ok(missing)
}

/// Ends early when it is told to.
struct Stoppable<'a, R> {
    from: R,
    stopped: &'a dyn Fn() -> bool,
}

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.stopped)() { Err(io::ErrorKind::TimedOut.into()) } else { self.from.read(buffer) }
    }
}

/// SHA-256 of what a reader gives, lower-case hex.
pub(super) fn digest(mut from: impl Read) -> io::Result<String> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(HEXLOWER.encode(&digest.finalize())),
            n => digest.update(&buffer[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::json;

    use super::*;

    fn manifest_with(resources: &serde_json::Value) -> Manifest {
        let manifest = json!({
            "schemaVersion": "1.0.0", "name": "p", "version": "1.0.0", "description": "", "python": { "requires": ">=3" },
            "adapters": [{ "name": "a", "entrypoint": "m", "capabilities": ["x"] }],
            "nodes": [{ "type": "t", "status": "draft", "category": "c", "label": "l", "adapter": "a", "handler": "h", "schema": true }],
            "resources": resources,
        });
        Manifest::parse(manifest.to_string().as_bytes()).unwrap().0
    }

    #[test]
    fn a_resource_that_is_named_ten_thousand_times_is_read_once_and_ends_when_it_is_told_to() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "content").unwrap();
        std::os::unix::fs::symlink("f", dir.path().join("g")).unwrap();
        let sha256 = digest(b"content".as_slice()).unwrap();
        let all: Vec<_> =
            (0..5_000).map(|n| json!({ "path": if n % 2 == 0 { "f" } else { "g" }, "type": "x", "sha256": sha256 })).collect();
        let reads = Cell::new(0);
        let counting = || {
            reads.set(reads.get() + 1);
            false
        };
        assert_eq!(resources(&manifest_with(&json!(all)), dir.path(), &counting).unwrap(), Vec::<String>::new());
        assert!(reads.get() < 10, "{}", reads.get());
        let stopped = resources(&manifest_with(&json!(all)), dir.path(), &|| true).unwrap_err();
        assert!(matches!(stopped, ExamineError::Archive(ArchiveError::Stopped)), "{stopped}");
        let other = json!([{ "path": "f", "type": "x", "sha256": sha256 }, { "path": "g", "type": "x", "sha256": "0".repeat(64) }]);
        assert!(
            matches!(resources(&manifest_with(&other), dir.path(), &|| false), Err(ExamineError::Resource { path, .. }) if path == "g")
        );
    }
}
