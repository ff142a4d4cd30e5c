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
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("the system does not tell what a process takes")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Processor time that a process has had, on all its threads: by its id, or `self`.
pub(crate) fn processor_time(process: &str) -> anyhow::Result<Duration> {
    let mut spent = 0;
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let Ok(line) = std::fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        spent += line.split(' ').next().context("the system does not tell what a process spends")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(spent))
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
fn binary() -> anyhow::Result<PathBuf> {
    let binary = std::env::current_exe()?.with_file_name("longshore");
    anyhow::ensure!(binary.exists(), "{} is not built: use `cargo xtask bench jobs`", binary.display());
    Ok(binary)
}
