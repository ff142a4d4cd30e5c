//! `longshore node package`: the packages of agents and attached workers, from here. Those of this host, without a controller: `longshore package`.

use clap::{Args, Subcommand};
use longshore_model::operation::Operation;
use longshore_model::unit::Span;
use longshore_model::wire::args::{NoArgs, PackageInstallArgs, PackageUninstallArgs};
use longshore_model::wire::result::{PackageInstallResult, PackageUninstallResult, PackagesResult};

use super::Ask;
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;

/// Packages of agents and attached workers.
#[derive(Debug, Subcommand)]
pub(crate) enum Package {
    /// What is installed, and what is there but broken.
    List(Ask),
    /// Install a version, from an address that the hosts themselves can reach.
    Install(Install),
    /// Remove a version, or every version; what runs goes on.
    Uninstall(Uninstall),
}

/// What to install, and where.
#[derive(Debug, Args)]
pub(crate) struct Install {
    /// What the archive must be.
    #[arg(value_name = "NAME@VERSION", value_parser = name_and_version)]
    package: (String, String),
    /// Where its archive is: http, https, or a file of the hosts. A signature lies beside it, with .minisig after its path.
    #[arg(value_name = "URL")]
    archive: String,
    /// SHA-256 that it must have.
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    /// Give it up after this; 15m unless given.
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Span>,
    #[command(flatten)]
    ask: Ask,
}

/// What to remove, and where.
#[derive(Debug, Args)]
pub(crate) struct Uninstall {
    /// The package; without a version: every version.
    #[arg(value_name = "NAME[@VERSION]")]
    package: String,
    #[command(flatten)]
    ask: Ask,
}

impl Package {
    pub(super) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        match self {
            Self::List(ask) => ask.perform::<PackagesResult>(app, Operation::PackageList, &NoArgs {}).await,
            Self::Install(Install { package: (package, version), archive: url, sha256, timeout, mut ask }) => {
                let args = PackageInstallArgs { package, version, url, sha256: sha256.map(|hex| hex.to_ascii_lowercase()) };
                ask.timeout = timeout;
                ask.perform::<PackageInstallResult>(app, Operation::PackageInstall, &args).await
            }
            Self::Uninstall(Uninstall { package, ask }) => {
                let (package, version) = match package.split_once('@') {
                    Some((name, version)) => (name.to_owned(), Some(version.to_owned())),
                    None => (package, None),
                };
                let args = PackageUninstallArgs { package, version };
                ask.perform::<PackageUninstallResult>(app, Operation::PackageUninstall, &args).await
            }
        }
    }
}

fn name_and_version(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('@').filter(|(name, version)| !name.is_empty() && !version.is_empty());
    let (name, version) = parts.ok_or("write it as NAME@VERSION, such as my-package@1.0.0")?;
    Ok((name.to_owned(), version.to_owned()))
}
