//! `longshore package install`.

use std::path::{Path, PathBuf};

use clap::Args;
use longshore_exec::SupervisorCommand;
use longshore_exec::package::{
    Change, HOOK_LIMIT, HookRule, HooksDone, InstallConfig, InstallError, InstallReport, InstallRequest, Installer, Reach, Sha256Hex,
};
use longshore_model::unit::Span;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::verify::digest;
use super::{Keys, Place, Which};
use crate::app::App;
use crate::command::job::interrupts;
use crate::exit::Exit;
use crate::failure::Failure;

/// What to install.
#[derive(Debug, Args)]
pub(crate) struct Install {
    /// A file, or an address: file, http or https.
    source: String,
    /// Package that it must be.
    #[arg(long, value_name = "NAME[@VERSION]")]
    expect: Option<Which>,
    /// SHA-256 that it must have.
    #[arg(long, value_name = "HEX", value_parser = digest)]
    sha256: Option<Sha256Hex>,
    #[command(flatten)]
    keys: Keys,
    /// Address of its signature; that of the archive with .minisig after it unless given.
    #[arg(long, value_name = "URL")]
    signature: Option<String>,
    #[command(flatten)]
    place: Place,
    /// Directory of wheels that its Python dependencies come from.
    #[arg(long, value_name = "DIR")]
    wheels: Option<PathBuf>,
    /// Index that its Python dependencies come from, if there is no directory of wheels.
    #[arg(long, value_name = "URL")]
    index: Option<String>,
    /// Python that its environment is made with.
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: String,
    /// Fetch from addresses of private networks too.
    #[arg(long)]
    allow_private: bool,
    /// Fetch from this host too; for tests.
    #[arg(long, hide = true)]
    allow_loopback: bool,
    /// Take a signed package that is older than the newest signed one of its name that was installed here.
    #[arg(long)]
    allow_downgrade: bool,
    /// Run the hooks that the package brings along.
    #[arg(long)]
    allow_hooks: bool,
    /// The longest that fetching may take.
    #[arg(long, value_name = "SPAN", default_value = "10m")]
    timeout: Span,
}

impl Install {
    pub(super) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        let installer = Installer::new(self.place.open(app)?, self.config()?);
        let request = self.request()?;
        let cancel = CancellationToken::new();
        let mut interrupts = interrupts()?;
        let install = installer.install(request, &cancel);
        tokio::pin!(install);
        let done = tokio::select! {
            done = &mut install => done,
            _signal = interrupts.recv() => {
                cancel.cancel();
                match install.await {
                    Ok(report) => Ok(report),
                    Err(_stopped) => {
                        app.out.say("interrupted: what was there before is there still");
                        return Err(Failure::quiet(Exit::Interrupted));
                    }
                }
            }
        };
        let report = done.map_err(|error| refused(&self.source, &error))?;
        let mut data = report.details();
        data["name"] = json!(report.installed.name);
        data["version"] = json!(report.installed.version);
        app.out.item(&data, |_| words(&report), || format!("{}@{}", report.installed.name, report.installed.version))?;
        report.remarks.iter().for_each(|remark| app.out.say(format!("remark: {remark}")));
        if let HooksDone::Skipped { hooks } = report.hooks {
            app.out.say(format!("{hooks} install hooks were not run; --allow-hooks runs them"));
        }
        Ok(Exit::Done)
    }

    fn config(&self) -> Result<InstallConfig, Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::new(Exit::Failed, "this program's own file cannot be found").caused_by(&error))?;
        let mut config = InstallConfig::new(SupervisorCommand { program, args: vec!["__supervise".into()] });
        config.trust = self.keys.trust()?;
        config.downgrade = self.allow_downgrade;
        config.fetch.reach = match (self.allow_private, self.allow_loopback) {
            (_, true) => Reach::Loopback,
            (true, false) => Reach::Private,
            (false, false) => Reach::Public,
        };
        config.fetch.timeout = self.timeout.0;
        config.python.program.clone_from(&self.python);
        config.python.wheels = match &self.wheels {
            Some(dir) => {
                let fault = |error| Failure::new(Exit::Usage, format!("{} cannot be read", dir.display())).caused_by(&error);
                Some(dir.canonicalize().map_err(fault)?)
            }
            None => None,
        };
        config.python.index.clone_from(&self.index);
        if self.allow_hooks {
            config.hooks = HookRule::Run { limit: HOOK_LIMIT };
        }
        Ok(config)
    }

    fn request(&self) -> Result<InstallRequest, Failure> {
        let named = if self.source.contains("://") {
            InstallRequest { url: Some(self.source.clone()), ..InstallRequest::default() }
        } else {
            let unreadable = |error| Failure::new(Exit::Usage, format!("{} cannot be read", self.source)).caused_by(&error);
            InstallRequest::of_file(Path::new(&self.source)).map_err(unreadable)?
        };
        let (name, version) = self.expect.clone().map(|which| (Some(which.name), which.version)).unwrap_or_default();
        Ok(InstallRequest { name, version, sha256: self.sha256.clone(), signature_url: self.signature.clone(), ..named })
    }
}

fn words(report: &InstallReport) -> String {
    let what = match report.change {
        Change::New => "installed",
        Change::Replaced => "installed, in place of another archive of that version",
        Change::Unchanged => "is there already, from the same archive",
    };
    let installed = &report.installed;
    format!("{} {} {what}\n  {}\n  sha256 {}", installed.name, installed.version, installed.directory.display(), report.sha256)
}

fn refused(source: &str, error: &InstallError) -> Failure {
    let exit = match error.step() {
        "verify" => Exit::NotAllowed,
        "unpack" | "manifest" => Exit::Invalid,
        _other => Exit::Failed,
    };
    // What follows a question mark may be a secret.
    let shown = source.split(['?', '#']).next().unwrap_or_default();
    let shown = if shown.contains('@') { "the package" } else { shown };
    let failure = Failure::new(exit, format!("{shown} is not installed; what was there before is there still")).caused_by(error);
    if matches!(error, InstallError::Older { .. }) {
        failure.hint("--allow-downgrade takes it all the same")
    } else if error.is_retryable() {
        failure.hint("the same again may succeed")
    } else {
        failure
    }
}
