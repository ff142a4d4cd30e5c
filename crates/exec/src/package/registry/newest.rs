//! The newest version of each package that was installed with a signature. What is older was signed once, and may have a hole that is known
//! by now: it is not taken any more unless somebody says so. The note only rises, and outlives the packages.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::{Packages, STORE};
use crate::files::{open_dir, read_beneath};
use crate::package::{PackageName, PackageVersion};

const NEWEST: &str = "newest.json";
const BYTES_MAX: u64 = 4 * 1024 * 1024;
const SCHEMA: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Note {
    /// The version of this form.
    schema: u32,
    versions: BTreeMap<PackageName, PackageVersion>,
}

impl Packages {
    /// The newest version of a package that was installed here with a signature, if one was. Blocks.
    ///
    /// # Errors
    /// The note cannot be read, or is of a later form: then nothing is known of any package.
    pub fn newest_signed(&self, name: &PackageName) -> io::Result<Option<PackageVersion>> {
        let noted = self.note()?.versions.remove(name);
        // Installed before there was a note.
        let is_its = |one: &super::Installed| one.name == *name && one.receipt().is_some_and(|receipt| receipt.signed_by.is_some());
        let there = if noted.is_some() { None } else { self.inventory()?.installed.into_iter().rfind(is_its).map(|one| one.version) };
        Ok(noted.or(there))
    }

    /// Notes a version, if it is newer than the one that is noted. For who has the lock of the store.
    pub(super) fn raise(&self, name: &PackageName, version: &PackageVersion) -> io::Result<()> {
        if self.newest_signed(name)?.is_some_and(|newest| newest > *version) {
            return Ok(());
        }
        let mut note = self.note()?;
        note.versions.insert(name.clone(), version.clone());
        let (path, new) = (self.root.join(STORE).join(NEWEST), self.root.join(STORE).join("newest.json.new"));
        let mut file = fs::File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(&note).map_err(io::Error::other)?)?;
        file.sync_all()?;
        fs::rename(&new, &path)
    }

    fn note(&self) -> io::Result<Note> {
        let Some(text) = read_beneath(open_dir(&self.root.join(STORE))?, NEWEST, BYTES_MAX)? else {
            return Ok(Note { schema: SCHEMA, versions: BTreeMap::new() });
        };
        let damaged = |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("{STORE}/{NEWEST} in the packages directory {why}"));
        let note: Note = serde_json::from_slice(&text).map_err(|error| damaged(format!("is damaged: {error}")))?;
        if note.schema == SCHEMA { Ok(note) } else { Err(damaged("is of a later version of this program".to_owned())) }
    }
}
