//! What an install notes beside what it unpacked.

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::STORE;
use crate::files::{open_dir, read_beneath};
use crate::package::{Format, PackageName, PackageVersion};

pub(super) const RECEIPT: &str = "receipt.json";
const RECEIPT_BYTES_MAX: u64 = 64 * 1024;
const SCHEMA: u32 = 1;

/// Where an installed package came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The version of this form.
    pub schema: u32,
    /// Its name.
    pub name: PackageName,
    /// Its version.
    pub version: PackageVersion,
    /// SHA-256 of its archive, lower-case hex.
    pub sha256: String,
    /// Bytes of its archive.
    pub size: u64,
    /// What its archive was packed with.
    pub format: Format,
    /// Where its archive came from, without what may be secret in an address.
    pub source: String,
    /// The key that vouched for it, if one was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<String>,
    /// When it was installed, by the host's clock.
    pub installed_at: Timestamp,
}

impl Receipt {
    /// A note of now.
    pub(crate) fn new(
        (name, version): (PackageName, PackageVersion),
        sha256: String,
        size: u64,
        format: Format,
        source: String,
        signed_by: Option<String>,
    ) -> Self {
        Self { schema: SCHEMA, name, version, sha256, size, format, source, signed_by, installed_at: Timestamp::now() }
    }

    /// The note beside a directory of the store; nothing if it is not there or of a later form.
    pub(super) fn beside(package: &Path) -> Option<Self> {
        let kept = package.parent()?;
        if kept.parent()?.file_name()? != STORE {
            return None;
        }
        let text = read_beneath(open_dir(kept).ok()?, RECEIPT, RECEIPT_BYTES_MAX).ok()??;
        serde_json::from_slice(&text).ok().filter(|receipt: &Self| receipt.schema == SCHEMA)
    }
}
