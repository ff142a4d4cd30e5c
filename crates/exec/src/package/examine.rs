//! Looks at an archive from its bytes to its manifest: what installing, verifying and building have in common.

use std::fs::File;
use std::io::{self, Read};
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
    remarks.extend(resources(&manifest, into)?);
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

/// Checks the files that the manifest names; gives those that are missing, which somebody may yet put there.
pub(super) fn resources(manifest: &Manifest, directory: &Path) -> Result<Vec<String>, ExamineError> {
    let mut missing = Vec::new();
    for resource in &manifest.resources {
        let refused = |reason: &str| ExamineError::Resource { path: resource.path.clone(), reason: reason.to_owned() };
        if plain(resource.path.as_bytes()).is_none() {
            return Err(refused("it is not plainly below the package's directory"));
        }
        let path = directory.join(&resource.path);
        match (File::open(&path), &resource.sha256) {
            (Err(_), _) => missing.push(format!("resources: {:?} is not in the package", resource.path)),
            (Ok(_), None) => {}
            (Ok(file), Some(expected)) => {
                let actual = digest(file).map_err(|error| refused(&error.to_string()))?;
                if actual != expected.as_str() {
                    return Err(refused("its SHA-256 is not the one the manifest names"));
                }
            }
        }
    }
    Ok(missing)
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
