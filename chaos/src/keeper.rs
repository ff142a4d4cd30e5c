//! Sees to it that nothing stays behind, however the run ends: at its end, after Ctrl-C, after `kill -9` of any part of it.
//!
//! The program calls itself inside: in a directory that a watcher removes once the keeper is gone, in a process group that another watcher
//! kills, and, where it may, in a network and a mount namespace of its own. So no address, interface or mount of the host is touched,
//! and the kernel takes them away, loop devices included, with the last process inside. Processes that the inside starts have watchers of
//! their own ([`longshore_testkit::Process`]).

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context;
use longshore_testkit::{Lifeline, Scratch};

/// The word by which the program calls itself.
const INSIDE: &str = "__inside";
/// The same in namespaces of its own.
const ALONE: &str = "__alone";
/// What precedes the program to have them. It becomes the program, without a process between.
const UNSHARE: [&str; 4] = ["--net", "--mount", "--propagation", "private"];

/// Which of the two this process is.
pub(crate) enum Stage {
    Outside,
    Inside(Powers),
}

/// What may be done here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Powers {
    /// Whether networks and mounts are ours alone, and may be changed.
    pub(crate) is_alone: bool,
}

/// Takes the word off, if it is there.
pub(crate) fn stage(args: &mut Vec<String>) -> Stage {
    let is_alone = match args.first().map(String::as_str) {
        Some(INSIDE) => false,
        Some(ALONE) => true,
        Some(_) | None => return Stage::Outside,
    };
    args.remove(0);
    Stage::Inside(Powers { is_alone })
}

/// Runs this program inside, and gives its end.
pub(crate) fn run_inside(args: &[String]) -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe().context("the system does not tell where this program is")?;
    let scratch = Scratch::new("longshore-chaos-");
    let mut command = if may_be_alone() {
        let mut command = Command::new("unshare");
        command.args(UNSHARE).arg(program).arg(ALONE);
        command
    } else {
        let mut command = Command::new(program);
        command.arg(INSIDE);
        command
    };
    // All temporary files of the inside, those of the kit's servers too, go with the directory.
    command.args(args).env("TMPDIR", scratch.path()).stdin(Stdio::null()).process_group(0);
    let mut inside = command.spawn().context("the run could not be started")?;
    let lifeline = Lifeline::to_group_of(inside.id());
    let status = inside.wait();
    drop(lifeline);
    let status = status.context("the run cannot be waited for")?;
    if let Some(signal) = status.signal() {
        anyhow::bail!("the run was killed by signal {signal}");
    }
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

/// Whether this user may have namespaces of its own.
fn may_be_alone() -> bool {
    let tried = Command::new("unshare").args(UNSHARE).arg("true").stdout(Stdio::null()).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}
