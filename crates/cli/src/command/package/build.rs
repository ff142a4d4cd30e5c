//! `longshore package build`.

use std::path::{Path, PathBuf};

use clap::Args;
use longshore_exec::package::{ArchiveLimits, BuildError, ExamineError, build};
use longshore_model::unit::ByteSize;
use serde_json::json;

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;

/// What to pack.
#[derive(Debug, Args)]
pub(crate) struct Build {
    /// Directory with a manifest.json.
    dir: PathBuf,
    /// File to write; NAME-VERSION.zip here unless given.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write over a file that is there.
    #[arg(long)]
    force: bool,
}

impl Build {
    pub(super) fn perform(self, app: &App) -> Result<Exit, Failure> {
        let into = self.out.as_deref().and_then(Path::parent).filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let unwritable = |error: &(dyn std::error::Error + 'static)| {
            Failure::new(Exit::Failed, format!("no archive can be written in {}", into.display())).caused_by(error)
        };
        let file = tempfile::NamedTempFile::new_in(into).map_err(|error| unwritable(&error))?;
        let built = build(&self.dir, file.as_file(), ArchiveLimits::default()).map_err(|error| refused(&self.dir, &error))?;
        let manifest = &built.examined.manifest;
        let path = self.out.clone().unwrap_or_else(|| format!("{}-{}.zip", manifest.name, manifest.version).into());
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.as_file().set_permissions(readable).and_then(|()| file.as_file().sync_all()).map_err(|error| unwritable(&error))?;
        if self.force {
            file.persist(&path).map_err(|error| unwritable(&error.error))?;
        } else {
            file.persist_noclobber(&path).map_err(|error| {
                if error.error.kind() == std::io::ErrorKind::AlreadyExists {
                    Failure::new(Exit::Failed, format!("{} is there already", path.display())).hint("write over it with --force")
                } else {
                    unwritable(&error.error)
                }
            })?;
        }
        let data = json!({
            "path": path, "name": manifest.name, "version": manifest.version, "sha256": built.sha256, "size": built.size,
            "entries": built.examined.entries, "remarks": built.examined.remarks,
        });
        let words = |_| {
            let size = ByteSize(built.size);
            format!(
                "{}\n  {} {}, {} entries, {size}\n  sha256 {}",
                path.display(),
                manifest.name,
                manifest.version,
                built.examined.entries,
                built.sha256
            )
        };
        app.out.item(&data, words, || built.sha256.clone())?;
        built.examined.remarks.iter().for_each(|remark| app.out.say(format!("remark: {remark}")));
        Ok(Exit::Done)
    }
}

/// A directory or an archive that is no package.
pub(super) fn refused(what: &Path, error: &BuildError) -> Failure {
    let exit = match error {
        BuildError::Read { .. } | BuildError::Write(_) => Exit::Failed,
        BuildError::Examine(ExamineError::Trust(_)) => Exit::NotAllowed,
        BuildError::Refused { .. } | BuildError::Remark(_) | BuildError::Examine(_) => Exit::Invalid,
    };
    Failure::new(exit, format!("{} is no package that can be installed", what.display())).caused_by(error)
}
