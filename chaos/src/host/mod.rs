//! Parts of a host that can be made to fail, and nothing of the host itself: a network, a disk with a power switch.

pub(crate) mod image;
pub(crate) mod network;

use std::process::Command;

use anyhow::{Context, ensure};

use crate::keeper::Powers;

/// Refuses to go on where networks and mounts are not ours alone.
pub(crate) fn must_be_alone(powers: Powers) -> anyhow::Result<()> {
    ensure!(powers.is_alone, "it takes namespaces of its own, which only root has (`unshare --net --mount`)");
    Ok(())
}

/// Runs a tool to its end.
pub(crate) fn tool(words: &[&str]) -> anyhow::Result<()> {
    let (program, args) = words.split_first().context("a tool has a name")?;
    let output = Command::new(program).args(args).output().with_context(|| format!("there is no `{program}`"))?;
    ensure!(output.status.success(), "`{}` failed: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
