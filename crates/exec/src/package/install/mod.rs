//! Installs and uninstalls packages.
//!
//! ```text
//!   fetch ─► digest, signature ─► unpack ─► manifest, resources ─► environment ─► hooks ─► to the disk ─► one rename
//!     any of them fails, is stopped, or is killed: what was there before is there still, and nothing else
//! ```

mod report;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use longshore_model::limits::{PACKAGE_SIGNATURE_BYTES_MAX, PACKAGES_MAX};
use rustix::fs::{Mode, OFlags};
use tokio_util::sync::CancellationToken;
use url::Url;

pub use self::report::{Change, HooksDone, InstallError, InstallReport, Kept, Removed, UninstallError, UninstallReport};
use super::examine::{self, ExamineError, Examined, Expected};
use super::fetch::{self, FetchConfig, FetchError, Fetched};
use super::program::{self, Run};
use super::registry::{Placed, Receipt, Staged, Withdrawn};
use super::{ArchiveError, ArchiveLimits, Installed, PackageName, PackageVersion, Packages, PythonConfig, Sha256Hex, Trust, python};
use crate::SupervisorCommand;
use crate::process::Launcher;

/// The longest that one hook may take, unless somebody says otherwise.
pub const HOOK_LIMIT: Duration = Duration::from_secs(300);

/// Whether what a package brings along is run when it comes and goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HookRule {
    /// Never: an install runs no code of the package.
    #[default]
    Never,
    /// Every one, each for at most this long.
    Run {
        /// The longest that one hook may take.
        limit: Duration,
    },
}

/// How packages are installed.
#[derive(Debug, Clone)]
pub struct InstallConfig {
    /// What starts a supervisor, for the programs of environments and hooks.
    pub supervisor: SupervisorCommand,
    /// How much a package may hold.
    pub limits: ArchiveLimits,
    /// How archives are fetched.
    pub fetch: FetchConfig,
    /// Whose signature is asked for.
    pub trust: Trust,
    /// How Python environments are made.
    pub python: PythonConfig,
    /// Whether a signed package is taken that is older than the newest signed one of its name that was installed here.
    pub downgrade: bool,
    /// Whether hooks are run.
    pub hooks: HookRule,
    /// The longest that unpacking may take.
    pub unpack_timeout: Duration,
}

impl InstallConfig {
    /// The defaults: the public network, no signature asked, no hooks, dependencies from nowhere.
    #[must_use]
    pub fn new(supervisor: SupervisorCommand) -> Self {
        Self {
            supervisor,
            limits: ArchiveLimits::default(),
            fetch: FetchConfig::default(),
            trust: Trust::default(),
            downgrade: false,
            python: PythonConfig::default(),
            hooks: HookRule::default(),
            unpack_timeout: Duration::from_secs(600),
        }
    }
}

/// What to install.
#[derive(Debug, Clone, Default)]
pub struct InstallRequest {
    /// The name it must have, if that is known.
    pub name: Option<PackageName>,
    /// The version it must have, if that is known.
    pub version: Option<PackageVersion>,
    /// Where its archive is.
    pub url: Option<String>,
    /// The digest its archive must have, if that is known.
    pub sha256: Option<Sha256Hex>,
    /// Where its signature is; beside the archive, with `.minisig` after its path, unless given. Fetched only if one is asked for.
    pub signature_url: Option<String>,
}

impl InstallRequest {
    /// For an archive of this host.
    ///
    /// # Errors
    /// There is no such file.
    pub fn of_file(path: &std::path::Path) -> std::io::Result<Self> {
        let url = Url::from_file_path(path.canonicalize()?).map_err(|()| std::io::ErrorKind::InvalidInput)?;
        Ok(Self { url: Some(url.into()), ..Self::default() })
    }
}

/// Installs and uninstalls. Cheap to clone; any number at once, also in several processes.
#[derive(Debug, Clone)]
pub struct Installer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    packages: Packages,
    config: InstallConfig,
    launcher: Launcher,
    /// Installs of the same package wait for each other, so the second finds the work done.
    turns: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Installer {
    /// For that packages directory.
    #[must_use]
    pub fn new(packages: Packages, config: InstallConfig) -> Self {
        let state_dir = packages.root().display().to_string();
        let launcher = Launcher { supervisor: config.supervisor.clone(), kill_grace: Duration::from_secs(2), state_dir, nursery: None };
        Self(Arc::new(Inner { packages, config, launcher, turns: Mutex::default() }))
    }

    /// The packages directory.
    #[must_use]
    pub fn packages(&self) -> &Packages {
        &self.0.packages
    }

    /// Installs a package, or finds that it is there. On every error, a cancel and a dropped future, what was there before is still there.
    ///
    /// Safe to repeat: the same archive again changes nothing. Another archive of the same name and version takes the place of the
    /// earlier one in one step; whoever runs from that one goes on with it.
    ///
    /// # Errors
    /// Why it is not installed; [`InstallError::details`] is for a `pkg.event`.
    pub async fn install(&self, request: InstallRequest, cancel: &CancellationToken) -> Result<InstallReport, InstallError> {
        let stop = cancel.child_token();
        let _stopped_with_this_future = stop.clone().drop_guard();
        let turn = self.turn(&request);
        let _turn = turn.lock().await;
        let began = Instant::now();
        if let Some(report) = self.there_already(&request, request.sha256.as_ref().map(Sha256Hex::as_str), began).await {
            return Ok(report);
        }
        let arrived = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(FetchError::Stopped.into()),
            arrived = self.fetch(&request) => arrived?,
        };
        // From here on the steps look for a stop themselves: what they started ends with them.
        arrived.finish(self, request, &stop, began).await
    }

    /// Removes a version of a package, or every version.
    ///
    /// It cannot be found from the moment this begins; what runs from it goes on, and its files go when nobody uses them.
    ///
    /// # Errors
    /// There is no such package, or nothing of it could be removed.
    pub async fn uninstall(
        &self,
        name: &PackageName,
        version: Option<&PackageVersion>,
        cancel: &CancellationToken,
    ) -> Result<UninstallReport, UninstallError> {
        let packages = self.0.packages.clone();
        let inventory = blocking(move || packages.inventory()).await.map_err(UninstallError::Store)?.map_err(UninstallError::Store)?;
        let wanted = |one: &Installed| one.name == *name && version.is_none_or(|version| one.version == *version);
        let (mut removed, mut kept) = (Vec::new(), Vec::new());
        for installed in inventory.installed.into_iter().filter(wanted) {
            let (version, directory) = (installed.version.clone(), installed.directory.clone());
            match self.withdraw(installed, cancel).await {
                Ok(one) => removed.push(one),
                Err(error) => kept.push(Kept { version, directory, why: error.to_string() }),
            }
        }
        if removed.is_empty() && kept.is_empty() {
            return Err(UninstallError::NotInstalled { name: name.clone(), version: version.cloned() });
        }
        if removed.is_empty() {
            return Err(UninstallError::Kept { name: name.clone(), kept });
        }
        Ok(UninstallReport { name: name.clone(), removed, kept })
    }

    fn turn(&self, request: &InstallRequest) -> Arc<tokio::sync::Mutex<()>> {
        let text = |part: Option<&str>| part.unwrap_or("*").to_owned();
        let key = text(request.name.as_ref().map(PackageName::as_str)) + "@" + &text(request.version.as_ref().map(PackageVersion::as_str));
        let mut turns = self.0.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.len() > PACKAGES_MAX {
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        Arc::clone(turns.entry(key).or_default())
    }

    /// What is there, if it came from an archive of that digest and whose word was asked for stands for it.
    async fn there_already(&self, request: &InstallRequest, sha256: Option<&str>, began: Instant) -> Option<InstallReport> {
        let (name, version, sha256) = (request.name.clone()?, request.version.clone()?, sha256?.to_owned());
        let packages = self.0.packages.clone();
        let installed = blocking(move || packages.find(&name, &version)).await.ok()??;
        let receipt = installed.receipt()?;
        let trusted = !self.0.config.trust.is_asked() || receipt.signed_by.as_deref().is_some_and(|key| self.0.config.trust.has(key));
        (receipt.sha256 == sha256 && trusted).then(|| {
            let remarks = installed.manifest.remarks().iter().map(ToString::to_string).collect();
            let signed_by = receipt.signed_by;
            let (format, hooks) = (receipt.format, HooksDone::None);
            InstallReport { installed, sha256, format, change: Change::Unchanged, signed_by, hooks, remarks, elapsed: began.elapsed() }
        })
    }

    async fn fetch(&self, request: &InstallRequest) -> Result<Arrived, InstallError> {
        let config = &self.0.config;
        let parse = |text: &str| {
            let shown = text.split(['?', '#']).next().unwrap_or_default().chars().take(200).collect();
            Url::parse(text).map_err(|_| FetchError::Address { url: shown, reason: "it is no address" })
        };
        let url = parse(request.url.as_deref().ok_or(InstallError::NoSource)?)?;
        let packages = self.0.packages.clone();
        let (staged, file) = blocking(move || {
            let staged = packages.stage()?;
            let file = unnamed(&staged)?;
            Ok((staged, file))
        })
        .await
        .and_then(|made: std::io::Result<_>| made)
        .map_err(InstallError::Store)?;
        let fetched = fetch::fetch(&url, file, config.limits.packed_bytes, &config.fetch).await?;
        let signature = if config.trust.is_asked() {
            let beside = match &request.signature_url {
                Some(text) => parse(text)?,
                None => {
                    let mut beside = url.clone();
                    beside.set_path(&format!("{}.minisig", url.path()));
                    beside
                }
            };
            let file = unnamed(&staged).map_err(InstallError::Store)?;
            match fetch::fetch(&beside, file, PACKAGE_SIGNATURE_BYTES_MAX, &config.fetch).await {
                Ok(fetched) => Some(read_all(fetched.file).map_err(InstallError::Store)?),
                // Not there is told as such: it is what everybody sees who forgot to sign.
                Err(FetchError::Answer { what, .. }) if what.starts_with("it answered 404") => None,
                Err(FetchError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => return Err(error.into()),
            }
        } else {
            None
        };
        Ok(Arrived { source: fetch::shown(&url), staged, fetched, signature })
    }

    async fn hooks(
        &self,
        hooks: &[String],
        (name, version): (&PackageName, &PackageVersion),
        package: &std::path::Path,
        python: Option<&PathBuf>,
        home: &std::path::Path,
        stop: &CancellationToken,
    ) -> Result<HooksDone, program::ProgramError> {
        let limit = match self.0.config.hooks {
            _ if hooks.is_empty() => return Ok(HooksDone::None),
            HookRule::Never => return Ok(HooksDone::Skipped { hooks: hooks.len() }),
            HookRule::Run { limit } => limit,
        };
        let not_run = |error: std::io::Error| program::ProgramError::NotRun { program: "hook".to_owned(), reason: error.to_string() };
        std::fs::create_dir_all(home).map_err(not_run)?;
        let variables = [("LONGSHORE_PACKAGE_NAME", name.to_string()), ("LONGSHORE_PACKAGE_VERSION", version.to_string())];
        for hook in hooks {
            let mut words: Vec<String> = hook.split_ascii_whitespace().map(str::to_owned).collect();
            let Some(first) = words.first_mut() else { continue };
            if matches!(first.as_str(), "python" | "python3") {
                *first = python.map_or_else(|| self.0.config.python.program.clone(), |python| python.display().to_string());
            }
            program::run(&self.0.launcher, Run { words, cwd: package, home, variables: &variables, limit }, stop).await?;
        }
        let _left_for_nobody = std::fs::remove_dir_all(home);
        Ok(HooksDone::Ran { hooks: hooks.len() })
    }

    async fn withdraw(&self, installed: Installed, cancel: &CancellationToken) -> Result<Removed, std::io::Error> {
        // Held, so that its hooks still find its files when nobody else finds it.
        let runs =
            !installed.manifest.hooks.uninstall.is_empty() && self.0.config.hooks != HookRule::Never && installed.receipt().is_some();
        let held = if runs { installed.hold().ok() } else { None };
        let (packages, taken) = (self.0.packages.clone(), installed.clone());
        let mut withdrawn = blocking(move || packages.withdraw(&taken)).await??;
        let home = installed.directory.with_file_name("home");
        let hooks = &installed.manifest.hooks.uninstall;
        let of = (&installed.name, &installed.version);
        let done = match &held {
            Some(_files_are_there) => self.hooks(hooks, of, &installed.directory, installed.python.as_ref(), &home, cancel).await,
            None if hooks.is_empty() => Ok(HooksDone::None),
            None => Ok(HooksDone::Skipped { hooks: hooks.len() }),
        };
        let (hooks, hook_failure) = match done {
            Ok(done) => (done, None),
            Err(error) => (HooksDone::None, Some(longshore_model::wire::problem::chain(&error))),
        };
        if held.is_some() {
            drop(held);
            let packages = self.0.packages.clone();
            blocking(move || packages.sweep()).await?;
            withdrawn = if installed.directory.exists() { Withdrawn::InUse } else { Withdrawn::Removed };
        }
        Ok(Removed { version: installed.version, in_use: withdrawn == Withdrawn::InUse, hooks, hook_failure })
    }
}

/// An archive that came, and the tree it will be unpacked into.
struct Arrived {
    source: String,
    staged: Staged,
    fetched: Fetched,
    signature: Option<Vec<u8>>,
}

impl Arrived {
    async fn finish(
        self,
        installer: &Installer,
        request: InstallRequest,
        stop: &CancellationToken,
        began: Instant,
    ) -> Result<InstallReport, InstallError> {
        let Self { source, staged, fetched, signature } = self;
        let Fetched { file, size, sha256 } = fetched;
        if request.sha256.as_ref().is_none_or(|expected| expected.as_str() == sha256)
            && let Some(report) = installer.there_already(&request, Some(&sha256), began).await
        {
            return Ok(report);
        }
        let config = &installer.0.config;
        let expected = Expected { sha256: request.sha256, signature };
        let (trust, limits, deadline) = (config.trust.clone(), config.limits, Instant::now() + config.unpack_timeout);
        let (digest, stopping) = (sha256.clone(), stop.clone());
        let (staged, examined) = blocking(move || {
            let stopped = || stopping.is_cancelled() || Instant::now() > deadline;
            let examined = examine::examine(&file, &digest, &expected, &trust, limits, &staged.package(), &stopped);
            (staged, examined)
        })
        .await
        .map_err(InstallError::Store)?;
        let examined = examined?;
        let (name, version) = (examined.manifest.name.clone(), examined.manifest.version.clone());
        let is_meant =
            request.name.as_ref().is_none_or(|asked| *asked == name) && request.version.as_ref().is_none_or(|asked| *asked == version);
        if !is_meant {
            let text = |part: Option<String>| part.unwrap_or_else(|| "any".to_owned());
            let expected = format!("{} {}", text(request.name.map(Into::into)), text(request.version.map(Into::into)));
            return Err(InstallError::Other { expected, found: format!("{name} {version}") });
        }
        if examined.signed_by.is_some() && !config.downgrade {
            // Looked at again when it is placed; here, before anything of it runs.
            let (packages, asked) = (installer.0.packages.clone(), name.clone());
            let newest = blocking(move || packages.newest_signed(&asked)).await.and_then(|read| read).map_err(InstallError::Store)?;
            if let Some(newest) = newest.filter(|newest| *newest > version) {
                return Err(InstallError::Older { name, version, newest });
            }
        }
        let python = python::environment(&examined.manifest.python, &staged, &config.python, &installer.0.launcher, stop).await?;
        let hooks = &examined.manifest.hooks.install;
        let (package, home) = (staged.package(), staged.scratch("home"));
        let hooks = installer.hooks(hooks, (&name, &version), &package, python.as_ref(), &home, stop).await.map_err(InstallError::Hook)?;
        if stop.is_cancelled() {
            return Err(InstallError::Examine(ExamineError::Archive(ArchiveError::Stopped)));
        }
        let Examined { manifest, raw, format, entries: _, bytes: _, signed_by, remarks } = examined;
        let receipt = Receipt::new((name.clone(), version.clone()), sha256.clone(), size, format, source, signed_by.clone());
        let (packages, downgrade) = (installer.0.packages.clone(), config.downgrade);
        let (directory, placed) = blocking(move || {
            staged.seal(&receipt)?;
            let placed = packages.place(staged, &receipt, downgrade)?;
            // What was in use when it was replaced or removed may be so no more.
            packages.sweep();
            Ok(placed)
        })
        .await
        .and_then(|placed: std::io::Result<_>| placed)
        .map_err(InstallError::Store)?;
        let change = match placed {
            Placed::Older { newest } => return Err(InstallError::Older { name, version, newest }),
            Placed::New => Change::New,
            Placed::Replaced => Change::Replaced,
        };
        let installed = Installed { name, version, directory, manifest, raw, python };
        Ok(InstallReport { installed, sha256, format, change, signed_by, hooks, remarks, elapsed: began.elapsed() })
    }
}

/// A file in the tree that no other process can open by name.
fn unnamed(staged: &Staged) -> std::io::Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let path = staged.scratch("archive");
    let file = File::from(rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?);
    std::fs::remove_file(&path)?;
    Ok(file)
}

fn read_all(mut file: File) -> std::io::Result<Vec<u8>> {
    use std::io::{Read, Seek, SeekFrom};
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)
}
