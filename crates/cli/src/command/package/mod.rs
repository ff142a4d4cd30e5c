//! `longshore package`: packages of handlers, built, checked, and installed on this host.

mod build;
mod install;
mod list;
mod uninstall;
mod verify;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use longshore_exec::package::{PackageName, PackageVersion, Packages, Trust};

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::role::data;

/// Packages of handlers on this host.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Examples\n  longshore package build my-package               an archive, and its digest\n  longshore package verify my-package-1.0.0.zip    would an install take it?\n  longshore package install my-package-1.0.0.zip   for the agent of this host\n  longshore package list"
)]
pub(crate) enum Package {
    /// Pack a directory with a manifest.json; the same files give the same archive.
    Build(build::Build),
    /// Check an archive as an install would, and install nothing.
    Verify(verify::Verify),
    /// Install an archive from a file or an address.
    Install(Box<install::Install>),
    /// What is installed, and what is there but broken, and why.
    #[command(visible_alias = "ls")]
    List(list::List),
    /// Remove a version of a package, or every version.
    #[command(visible_alias = "rm")]
    Uninstall(uninstall::Uninstall),
}

/// Where packages are.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Packages directory; that of the agent's settings, or `packages` in the data directory, unless given.
    #[arg(long, value_name = "DIR", env = "ASTRA_WORKER_PACKAGES_DIR")]
    packages_dir: Option<PathBuf>,
}

/// Whose signature an archive needs.
#[derive(Debug, Args)]
pub(crate) struct Keys {
    /// File with a public key of minisign; may be repeated. With one, an archive has to be signed with one of them.
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,
}

impl Place {
    fn path(&self, app: &App) -> Result<PathBuf, Failure> {
        if let Some(path) = &self.packages_dir {
            return Ok(path.clone());
        }
        match app.settings(Vec::new())?.settings.agent.packages.dir {
            Some(path) => Ok(path.into()),
            None => Ok(data::directory(None)?.join(data::PACKAGES)),
        }
    }

    /// The packages directory, made if it is missing.
    fn open(&self, app: &App) -> Result<Packages, Failure> {
        Packages::open(self.path(app)?).map_err(|error| {
            Failure::new(Exit::Failed, "the packages directory cannot be used")
                .caused_by(&error)
                .hint("name another with --packages-dir DIR")
        })
    }
}

impl Keys {
    fn trust(&self) -> Result<Trust, Failure> {
        let mut texts = Vec::new();
        for path in &self.keys {
            let text = std::fs::read_to_string(path);
            texts.push(text.map_err(|error| Failure::new(Exit::Usage, format!("{} cannot be read", path.display())).caused_by(&error))?);
        }
        Trust::new(texts).map_err(|error| Failure::new(Exit::Usage, "a key cannot be used").caused_by(&error))
    }
}

/// A package as people write it: `NAME` or `NAME@VERSION`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Which {
    name: PackageName,
    version: Option<PackageVersion>,
}

impl std::str::FromStr for Which {
    type Err = longshore_exec::package::IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.split_once('@') {
            Some((name, version)) => Self { name: name.parse()?, version: Some(version.parse()?) },
            None => Self { name: text.parse()?, version: None },
        })
    }
}

impl Package {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        match self {
            Self::Build(build) => build.perform(app),
            Self::Verify(verify) => verify.perform(app),
            Self::Install(install) => install.perform(app).await,
            Self::List(list) => list.perform(app),
            Self::Uninstall(uninstall) => uninstall.perform(app).await,
        }
    }
}
