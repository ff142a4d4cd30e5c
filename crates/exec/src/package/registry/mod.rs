//! The packages directory: what is in it, and who uses what of it.
//!
//! ```text
//!   ROOT/NAME/VERSION            a link to ../.store/ID/package, put there in one step by an install
//!   ROOT/NAME/VERSION/           a directory somebody put there: read as well
//!   ROOT/ANYTHING/               a package laid flat: read as well
//!   ROOT/.store/ID/package       what an install unpacked; ID is never used twice
//!   ROOT/.store/ID/venv          its Python environment, if its manifest asks for one
//!   ROOT/.store/newest.json      the newest version of each package that was installed with a signature
//! ```
//!
//! A tree in the store never moves, so whoever runs from it is not disturbed by what happens to the link. It goes when nobody holds
//! it ([`Lease`]) and no link leads to it.

mod lease;
mod newest;
mod receipt;
mod scan;
mod store;

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub use self::lease::{HoldError, Lease};
pub use self::receipt::Receipt;
pub(crate) use self::scan::{Look, Stamp};
pub(crate) use self::store::{Placed, Staged, Withdrawn};
use super::{Manifest, ManifestError, PackageName, PackageVersion};

/// Where installs are kept, below the root.
pub(crate) const STORE: &str = ".store";

/// How often a package is looked for that is replaced again and again.
const HOLD_TRIES: usize = 10;

/// The packages directory. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packages {
    root: PathBuf,
}

/// A package that is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Installed {
    /// Its name, by its manifest.
    pub name: PackageName,
    /// Its version, by its manifest.
    pub version: PackageVersion,
    /// Where it really is: absolute, and through no link. It stays as it is as long as a [`Lease`] is held.
    pub directory: PathBuf,
    /// What it says of itself.
    pub manifest: Manifest,
    /// The same as it was written.
    pub raw: Value,
    /// The interpreter of its own Python environment, if it has one.
    pub python: Option<PathBuf>,
}

/// Something in the packages directory that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Where it is.
    pub directory: PathBuf,
    /// What it is, as far as that is known.
    pub name: Option<String>,
    /// In which version, as far as that is known.
    pub version: Option<String>,
    /// Why it cannot be used.
    pub why: String,
}

/// All of the packages directory, each list by name and version.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Inventory {
    /// What can be used.
    pub installed: Vec<Installed>,
    /// What cannot, and why.
    pub broken: Vec<Broken>,
}

/// The packages directory could not be prepared.
#[derive(Debug, thiserror::Error)]
#[error("prepare the packages directory {path:?}")]
pub struct OpenError {
    /// Which.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

impl Packages {
    /// Opens the packages directory, making it if it is missing, and sweeps what installs and removals that were killed left behind.
    ///
    /// Blocks. Several processes may have it open at once.
    ///
    /// # Errors
    /// It cannot be made or entered.
    pub fn open(root: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = root.as_ref();
        let fault = |source| OpenError { path: path.to_owned(), source };
        std::fs::create_dir_all(path.join(STORE)).map_err(fault)?;
        let packages = Self::read(path)?;
        packages.sweep();
        Ok(packages)
    }

    /// Opens the packages directory for reading: nothing is made, and nothing swept.
    ///
    /// # Errors
    /// It cannot be entered.
    pub fn read(root: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = root.as_ref();
        let fault = |source| OpenError { path: path.to_owned(), source };
        Ok(Self { root: path.canonicalize().map_err(fault)? })
    }

    /// Where it is: absolute.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What is in the directory now. Blocks; reads every manifest.
    ///
    /// # Errors
    /// The directory itself cannot be listed. What is wrong with a package is in the inventory.
    pub fn inventory(&self) -> io::Result<Inventory> {
        scan::inventory(&self.root)
    }

    /// A package by what its manifest says. Blocks; reads one manifest as a rule, and all of them if it lies somewhere unusual.
    #[must_use]
    pub fn find(&self, name: &PackageName, version: &PackageVersion) -> Option<Installed> {
        let is_it = |installed: &Installed| installed.name == *name && installed.version == *version;
        if let Ok(Some(installed)) = scan::read(&self.usual(name, version))
            && is_it(&installed)
        {
            return Some(installed);
        }
        self.inventory().ok()?.installed.into_iter().find(is_it)
    }

    /// Tells one state of the directory from another. Blocks, and reads no manifest.
    pub(crate) fn stamp(&self) -> io::Result<Stamp> {
        scan::stamp(&self.root)
    }

    /// How a package that was found looks from outside now. While that stays the same, it would be found again.
    pub(crate) fn look_at(&self, installed: &Installed) -> Look {
        Look { usual: scan::mark(&self.usual(&installed.name, &installed.version)), own: scan::mark(&installed.directory) }
    }

    /// [`Self::hold`], and how it looked from outside just before: what takes its place meanwhile looks different.
    pub(crate) fn hold_and_look(&self, name: &PackageName, version: &PackageVersion) -> Option<(Installed, Lease, Look)> {
        let usual = scan::mark(&self.usual(name, version));
        let (installed, lease) = self.hold(name, version)?;
        let own = scan::mark(&installed.directory);
        Some((installed, lease, Look { usual, own }))
    }

    fn usual(&self, name: &PackageName, version: &PackageVersion) -> PathBuf {
        self.root.join(name.as_str()).join(version.as_str())
    }

    /// Finds a package and keeps it where it is for as long as the lease lives, also if another takes its place meanwhile. Blocks.
    #[must_use]
    pub fn hold(&self, name: &PackageName, version: &PackageVersion) -> Option<(Installed, Lease)> {
        for _ in 0..HOLD_TRIES {
            let installed = self.find(name, version)?;
            // What was replaced between the two looks is found anew.
            if let Ok(lease) = installed.hold() {
                return Some((installed, lease));
            }
        }
        None
    }
}

impl Installed {
    /// Keeps the package where it is for as long as the lease lives, whatever is installed or removed meanwhile.
    ///
    /// # Errors
    /// It is gone, or being removed right now.
    pub fn hold(&self) -> Result<Lease, HoldError> {
        Lease::shared(&self.directory)
    }

    /// What was noted when it was installed; nothing if somebody put it there by hand.
    #[must_use]
    pub fn receipt(&self) -> Option<Receipt> {
        Receipt::beside(&self.directory)
    }
}

impl From<ManifestError> for String {
    fn from(error: ManifestError) -> Self {
        error.to_string()
    }
}
