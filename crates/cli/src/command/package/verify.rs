//! `longshore package verify`.

use std::fs::File;
use std::path::PathBuf;

use clap::Args;
use longshore_exec::package::{ArchiveLimits, Expected, Sha256Hex, verify};
use serde_json::json;

use super::Keys;
use super::build::refused;
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;

/// What to check.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The archive.
    archive: PathBuf,
    /// SHA-256 that it must have.
    #[arg(long, value_name = "HEX", value_parser = digest)]
    sha256: Option<Sha256Hex>,
    #[command(flatten)]
    keys: Keys,
    /// File with its signature; ARCHIVE.minisig unless given. Read only if a key is given.
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
}

/// A digest of the command line.
pub(super) fn digest(text: &str) -> Result<Sha256Hex, String> {
    Sha256Hex::try_from(text.to_owned())
}

impl Verify {
    pub(super) fn perform(self, app: &App) -> Result<Exit, Failure> {
        let trust = self.keys.trust()?;
        let unreadable = |path: &PathBuf, error: std::io::Error| {
            Failure::new(Exit::Usage, format!("{} cannot be read", path.display())).caused_by(&error)
        };
        let file = File::open(&self.archive).map_err(|error| unreadable(&self.archive, error))?;
        if !file.metadata().is_ok_and(|meta| meta.is_file()) {
            return Err(Failure::new(Exit::Usage, format!("{} is no file", self.archive.display())));
        }
        let mut beside = self.archive.clone().into_os_string();
        beside.push(".minisig");
        let signature = match (trust.is_asked(), &self.signature) {
            (false, _) => None,
            (true, Some(path)) => Some(std::fs::read(path).map_err(|error| unreadable(path, error))?),
            (true, None) => std::fs::read(&beside).ok(),
        };
        let expected = Expected { sha256: self.sha256, signature };
        let (sha256, examined) =
            verify(&file, &expected, &trust, ArchiveLimits::default()).map_err(|error| refused(&self.archive, &error))?;
        let manifest = &examined.manifest;
        let data = json!({
            "path": self.archive, "name": manifest.name, "version": manifest.version, "sha256": sha256, "format": examined.format,
            "entries": examined.entries, "bytes": examined.bytes, "signed_by": examined.signed_by, "remarks": examined.remarks,
        });
        let words = |_| {
            let signed = examined.signed_by.as_ref().map_or_else(String::new, |key| format!("\n  signed with {key}"));
            format!(
                "{} {} can be installed\n  {}, {} entries\n  sha256 {sha256}{signed}",
                manifest.name, manifest.version, examined.format, examined.entries
            )
        };
        app.out.item(&data, words, || sha256.clone())?;
        examined.remarks.iter().for_each(|remark| app.out.say(format!("remark: {remark}")));
        Ok(Exit::Done)
    }
}
