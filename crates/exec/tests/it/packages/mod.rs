//! Packages from an archive to the directory they are found in, and out of it again.

mod fetching;
mod installing;
mod programs;
mod removing;
mod running;
mod trusting;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use longshore_exec::SupervisorCommand;
use longshore_exec::package::{
    ArchiveLimits, InstallConfig, InstallError, InstallReport, InstallRequest, Installed, Installer, Packages, build,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// A packages directory, and archives to fill it with.
pub(super) struct Site {
    pub(super) dir: TempDir,
    pub(super) installer: Installer,
}

impl Site {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with(change: impl FnOnce(&mut InstallConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let installer = installer(&dir.path().join("packages"), change);
        Self { dir, installer }
    }

    pub(super) fn packages(&self) -> &Packages {
        self.installer.packages()
    }

    /// An archive of a package with one file of that content.
    pub(super) fn archive(&self, name: &str, version: &str, content: &str) -> PathBuf {
        self.archive_of(manifest(name, version), content)
    }

    pub(super) fn archive_of(&self, manifest: Value, content: &str) -> PathBuf {
        let source = tempfile::tempdir_in(self.dir.path()).unwrap();
        fs::write(source.path().join("manifest.json"), manifest.to_string()).unwrap();
        fs::create_dir(source.path().join("adapters")).unwrap();
        fs::write(source.path().join("adapters/echo.py"), content).unwrap();
        packed(source.path(), &self.dir.path().join(format!("{}.zip", uuid(self.dir.path()))))
    }

    pub(super) async fn install(&self, archive: &Path) -> Result<InstallReport, InstallError> {
        self.installer.install(request(archive), &CancellationToken::new()).await
    }

    pub(super) fn find(&self, name: &str, version: &str) -> Option<Installed> {
        self.packages().find(&name.parse().unwrap(), &version.parse().unwrap())
    }

    pub(super) fn content(&self, name: &str, version: &str) -> Option<String> {
        fs::read_to_string(self.find(name, version)?.directory.join("adapters/echo.py")).ok()
    }

    /// What the inventory has, as `NAME VERSION`.
    pub(super) fn names(&self) -> Vec<String> {
        let inventory = self.packages().inventory().unwrap();
        assert_eq!(inventory.broken, []);
        inventory.installed.iter().map(|one| format!("{} {}", one.name, one.version)).collect()
    }

    /// Trees in the store, those that nobody finds included.
    pub(super) fn trees(&self) -> usize {
        fs::read_dir(self.packages().root().join(".store")).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
    }
}

pub(super) fn installer(root: &Path, change: impl FnOnce(&mut InstallConfig)) -> Installer {
    let supervisor = SupervisorCommand { program: env!("CARGO_BIN_EXE_longshore-supervise").into(), args: Vec::new() };
    let mut config = InstallConfig::new(supervisor);
    change(&mut config);
    Installer::new(Packages::open(root).unwrap(), config)
}

pub(super) fn packed(source: &Path, archive: &Path) -> PathBuf {
    let file = File::options().read(true).write(true).create_new(true).open(archive).unwrap();
    build(source, &file, ArchiveLimits::default()).unwrap();
    archive.to_owned()
}

pub(super) fn request(archive: &Path) -> InstallRequest {
    InstallRequest { url: Some(format!("file://{}", archive.display())), ..InstallRequest::default() }
}

pub(super) fn manifest(name: &str, version: &str) -> Value {
    json!({
        "schemaVersion": "1.0.0", "name": name, "version": version, "description": "A package of the tests.",
        "adapters": [{ "name": "a", "entrypoint": "adapters.echo", "capabilities": ["x"] }], "python": { "requires": ">=3.8" },
        "nodes": [{ "type": "t", "status": "draft", "category": "c", "label": "l", "adapter": "a", "handler": "echo", "schema": true }],
    })
}

/// A name that nothing in the directory has yet.
fn uuid(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}
