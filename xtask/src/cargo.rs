//! Calls of cargo, and where it puts things.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The workspace's top directory.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package lies one level below the workspace")
}

/// Where cargo builds.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// A cargo command in the workspace.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(args);
    command
}

/// Runs a command with its output shown.
pub(crate) fn run(mut command: Command) -> Result<()> {
    let text = display(&command);
    let status = command.status().with_context(|| format!("`{text}` could not be started"))?;
    ensure!(status.success(), "`{text}` failed ({status})");
    Ok(())
}

/// Builds the `longshore` program and gives its path. Features are resolved for the whole workspace, as for the tests, so that one
/// compilation of the dependencies serves both.
pub(crate) fn build_longshore() -> Result<PathBuf> {
    run(cargo(&["build", "--workspace", "--bin", "longshore", "--locked"]))?;
    Ok(target_dir().join("debug/longshore"))
}

fn display(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
