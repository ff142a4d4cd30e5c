//! The real thing: controller and agent as processes of their own, on the same broker.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use longshore_client::{Client, ClientConfig};
use longshore_testkit::Process;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// A controller and an agent; end when dropped.
pub(crate) struct System {
    pub(crate) client: Client,
    agent: Process,
    controller: Controller,
}

/// A controller; ends when dropped.
pub(crate) struct Controller {
    pub(crate) client: Client,
    process: Process,
    dir: tempfile::TempDir,
}

impl Controller {
    pub(crate) async fn start(nats_url: &str) -> anyhow::Result<Self> {
        Self::start_with(nats_url, &[]).await
    }

    /// The same with settings from these variables.
    pub(crate) async fn start_with(nats_url: &str, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let process = role(&["controller", "start", "--listen", "127.0.0.1:0"], dir.path(), "controller", nats_url, settings)?;
        let ready: Value = serde_json::from_str(&process.wait_for_line(|line| line.starts_with('{'), PATIENCE).await)?;
        let text = |key: &str| ready[key].as_str().map(str::to_owned).with_context(|| format!("the controller did not say its {key}"));
        let token = std::fs::read_to_string(text("token_file")?)?.trim().to_owned();
        let client = Client::new(ClientConfig { url: text("url")?, token: Some(token) })?;
        Ok(Self { client, process, dir })
    }
}

impl Controller {
    /// Memory that its process has, in KiB.
    pub(crate) fn resident_kib(&self) -> anyhow::Result<u64> {
        resident_kib(&self.process.pid().to_string())
    }

    /// Processor time that it has had.
    pub(crate) fn processor_time(&self) -> anyhow::Result<Duration> {
        processor_time(&self.process.pid().to_string())
    }
}

/// Memory that a process has, in KiB: by its id, or `self`.
pub(crate) fn resident_kib(process: &str) -> anyhow::Result<u64> {
    kib(process, "VmRSS:")
}

/// The most memory that it has had.
pub(crate) fn peak_kib(process: &str) -> anyhow::Result<u64> {
    kib(process, "VmHWM:")
}

fn kib(process: &str, field: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("the system does not tell what a process takes")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Processor time that a process has had, also on threads that have ended, in steps of 10 ms as a rule: by its id, or `self`. Never less
/// than before.
pub(crate) fn processor_time(process: &str) -> anyhow::Result<Duration> {
    ticks(&std::fs::read_to_string(format!("/proc/{process}/stat"))?)
        .map(|ticks| Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
        .context("the system does not tell what a process spends")
}

/// Of a line of `/proc/PID/stat`: in user mode, and in the kernel. A program's name stands before it, with whatever it holds.
fn ticks(line: &str) -> Option<u64> {
    let (_, fields) = line.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11).map(str::parse);
    let (user, system): (u64, u64) = (fields.next()?.ok()?, fields.next()?.ok()?);
    Some(user + system)
}

/// The one in the middle; of an even number, the upper one there.
///
/// # Panics
/// There is none.
pub(crate) fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_by(|one, other| one.partial_cmp(other).unwrap_or(std::cmp::Ordering::Equal));
    values[values.len() / 2]
}

fn role(words: &[&str], dir: &Path, data: &str, nats_url: &str, settings: &[(&str, &str)]) -> anyhow::Result<Process> {
    let mut command = Command::new(binary()?);
    command.args(words).args(["-o", "json", "--nats-url", nats_url, "--data"]).arg(dir.join(data));
    command.env("XDG_CONFIG_HOME", dir).env("LONGSHORE_LOG", "error");
    command.envs(settings.iter().copied());
    Ok(Process::spawn(command))
}

impl System {
    pub(crate) async fn start(nats_url: &str, max_jobs: usize) -> anyhow::Result<Self> {
        let controller = Controller::start(nats_url).await?;
        let agent = role(&["agent", "start", "--max-jobs", &max_jobs.to_string()], controller.dir.path(), "agent", nats_url, &[])?;
        agent.wait_for_line(|line| line.starts_with('{'), PATIENCE).await;
        Ok(Self { client: controller.client.clone(), agent, controller })
    }

    /// The processes that it consists of.
    pub(crate) fn processes(&self) -> [(&'static str, u32); 2] {
        [("controller", self.controller.process.pid()), ("agent", self.agent.pid())]
    }

    /// One job: submitted over HTTP, run by the agent, its answer in hand.
    pub(crate) async fn job(&self) -> anyhow::Result<()> {
        let request = Client::request("node.hostname.get", serde_json::json!({}));
        let view = self.client.submit(&request, Some(Duration::from_secs(60))).await?;
        anyhow::ensure!(view.status.as_str() == "completed", "a job ended {}", view.status.as_str());
        Ok(())
    }
}

/// The program beside this one.
pub(crate) fn binary() -> anyhow::Result<PathBuf> {
    let binary = std::env::current_exe()?.with_file_name("longshore");
    anyhow::ensure!(binary.exists(), "{} is not built: use `cargo xtask bench jobs`", binary.display());
    Ok(binary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_past_any_name_and_counts_threads_that_ended() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 700 42 13 14 20 0 1";
        for name in ["bench", "a b) S 1 (", ")"] {
            assert_eq!(ticks(&format!("77 ({name}) {rest}")), Some(742), "{name}");
        }
        assert_eq!(ticks("77 (x) S 1 2"), None);
        let busy = || {
            let since = std::time::Instant::now();
            while since.elapsed() < Duration::from_millis(200) {
                std::hint::black_box(since.elapsed());
            }
        };
        let before = processor_time("self").expect("this system tells");
        std::thread::spawn(busy).join().expect("it ends");
        assert!(processor_time("self").expect("this system tells") > before);
    }
}
