//! A worker as its users start it: a process with a directory of its own, at a stand-in of the existing scheduler.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use longshore_testkit::{Process, Scheduler, SchedulerOptions};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::system::{binary, resident_kib};

/// For one answer, and for a worker to be there.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Between looks at whether a worker is there: short beside a start.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The package that every worker has. The program files are the only ones that are run.
const PACKAGE: [(&str, &str, u32); 5] = [
    ("manifest.json", include_str!("../../handlers/manifest.json"), 0o644),
    ("handlers.py", include_str!("../../handlers/handlers.py"), 0o644),
    ("bin/lines.py", include_str!("../../handlers/bin/lines.py"), 0o755),
    ("bin/once", include_str!("../../handlers/bin/once"), 0o755),
    ("echo.wat", include_str!("../../handlers/echo.wat"), 0o644),
];

/// Whose worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whose {
    Ours,
    /// The existing one, started by this line of a shell.
    Existing(String),
}

/// A directory with a package, and what starts a worker on it.
pub(super) struct Site {
    whose: Whose,
    dir: tempfile::TempDir,
    pub(super) scheduler: Scheduler,
}

impl Site {
    pub(super) async fn new(whose: Whose, options: SchedulerOptions) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let package = dir.path().join("packages/bench.pkg/1.0.0");
        fs::create_dir_all(package.join("bin"))?;
        for (name, text, mode) in PACKAGE {
            fs::write(package.join(name), text)?;
            fs::set_permissions(package.join(name), fs::Permissions::from_mode(mode))?;
        }
        Ok(Self { whose, dir, scheduler: Scheduler::start(options).await })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Starts a worker at the address and gives how long it took until it was registered.
    pub(super) async fn start(&self, url: &str, settings: &[(&str, &str)]) -> anyhow::Result<(Process, Duration)> {
        let mut command = match &self.whose {
            Whose::Ours => {
                let mut command = Command::new(binary()?);
                command.args(["worker", "start"]);
                command
            }
            Whose::Existing(line) => {
                let mut command = Command::new("/bin/sh");
                // The shell makes room for it, so that the process is the worker's.
                command.args(["-c", &format!("exec {line}")]);
                command
            }
        };
        let path = |name: &str| self.path().join(name).display().to_string();
        let usual = [
            ("SCHEDULER_WS_URL", url.to_owned()),
            ("AUTH_TOKEN", "bench".to_owned()),
            ("PACKAGES_DIR", path("packages")),
            ("DATA_DIR", path("var/data")),
            ("LOG_LEVEL", "ERROR".to_owned()),
        ];
        command.current_dir(self.path()).env("HOME", self.path()).env_remove("ASTRA_WORKER_CONFIG_FILE");
        for (name, value) in usual.iter().map(|(name, value)| (*name, value.as_str())).chain(settings.iter().copied()) {
            command.env(format!("ASTRA_WORKER_{name}"), value);
        }
        let began = Instant::now();
        let mut process = Process::spawn(command);
        while !self.scheduler.has_worker() {
            ensure!(began.elapsed() < PATIENCE && process.is_running(), "the worker is not there: {}", process.output());
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok((process, began.elapsed()))
    }

    /// One task of a node type, answered.
    pub(super) async fn task(&self, name: &str, node: &str, parameters: &Value) -> anyhow::Result<()> {
        let answer = timeout(PATIENCE, self.scheduler.ask(&task(name, node, parameters))).await.context("a task is not answered")?;
        ensure!(answer["payload"]["status"] == "SUCCEEDED", "a task failed: {answer}");
        Ok(())
    }
}

/// A task as the existing scheduler hands it out.
pub(super) fn task(name: &str, node: &str, parameters: &Value) -> Value {
    let mut task = Scheduler::task("run", name, parameters);
    (task["package_name"], task["package_version"], task["node_type"]) = (json!("bench.pkg"), json!("1.0.0"), json!(node));
    task
}

/// Memory that a process and all that it has started have, in KiB, and how many they are. A page that several share counts for each.
pub(super) fn tree_kib(root: u32) -> anyhow::Result<(u64, usize)> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(id) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        // One that has ended meanwhile has no memory.
        if let Some(parent) = fs::read_to_string(format!("/proc/{id}/stat")).ok().as_deref().and_then(parent_of) {
            parents.push((id, parent));
        }
    }
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(&parent) = tree.get(next) {
        tree.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(id, _)| *id));
        next += 1;
    }
    let kib = tree.iter().filter_map(|id| resident_kib(&id.to_string()).ok()).sum();
    Ok((kib, tree.len()))
}

/// Of a line of `/proc/PID/stat`, whose second field may hold anything.
fn parent_of(line: &str) -> Option<u32> {
    line.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_and_what_it_started_are_counted_together() {
        assert_eq!(parent_of("7 (a) b) S 42 7 7"), Some(42));
        assert_eq!(parent_of("7 (a"), None);
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let (kib, processes) = tree_kib(std::process::id()).unwrap();
        assert!(processes >= 2 && kib >= resident_kib("self").unwrap() / 2, "{processes} processes, {kib} KiB");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
