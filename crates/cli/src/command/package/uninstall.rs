//! `longshore package uninstall`.

use clap::Args;
use longshore_exec::SupervisorCommand;
use longshore_exec::package::{HOOK_LIMIT, HookRule, InstallConfig, Installer, UninstallError};
use tokio_util::sync::CancellationToken;

use super::{Place, Which};
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;

/// What to remove.
#[derive(Debug, Args)]
pub(crate) struct Uninstall {
    /// The package; without a version: every version.
    #[arg(value_name = "NAME[@VERSION]")]
    package: Which,
    #[command(flatten)]
    place: Place,
    /// Run the hooks that the package brought along.
    #[arg(long)]
    allow_hooks: bool,
}

impl Uninstall {
    pub(super) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::new(Exit::Failed, "this program's own file cannot be found").caused_by(&error))?;
        let mut config = InstallConfig::new(SupervisorCommand { program, args: vec!["__supervise".into()] });
        if self.allow_hooks {
            config.hooks = HookRule::Run { limit: HOOK_LIMIT };
        }
        let installer = Installer::new(self.place.open(app)?, config);
        let Which { name, version } = self.package;
        let done = installer.uninstall(&name, version.as_ref(), &CancellationToken::new()).await;
        let report = done.map_err(|error| {
            let exit = match &error {
                UninstallError::NotInstalled { .. } => Exit::NotFound,
                UninstallError::Kept { .. } | UninstallError::Store(_) => Exit::Failed,
            };
            Failure::new(exit, format!("{name} is not uninstalled")).caused_by(&error).hint("`longshore package list` shows what is there")
        })?;
        let words = |_| {
            let line = |one: &longshore_exec::package::Removed| {
                let used = if one.in_use { "; it is in use, and its files go afterwards" } else { "" };
                format!("{name} {} uninstalled{used}", one.version)
            };
            report.removed.iter().map(line).collect::<Vec<_>>().join("\n")
        };
        app.out.item(&report, words, || name.to_string())?;
        for one in &report.removed {
            if let Some(why) = &one.hook_failure {
                app.out.say(format!("{name} {}: {why}", one.version));
            }
        }
        for kept in &report.kept {
            app.out.say(format!("{name} {} stays: {}", kept.version, kept.why));
        }
        Ok(if report.kept.is_empty() { Exit::Done } else { Exit::Partial })
    }
}
