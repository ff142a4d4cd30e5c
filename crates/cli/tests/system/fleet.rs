//! A fleet for tests: a broker, a controller and agents, each a process of its own that can be killed and started again.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use longshore_client::{Client, ClientConfig};
use longshore_model::wire::rest::{JobRequest, JobView, RetryRequest};
use longshore_testkit::{NatsServer, Process, eventually};
use serde_json::{Value, json};

/// How long anything may take that is only waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How long a claim lasts without being extended.
pub(crate) const LEASE: &str = "LONGSHORE_AGENT__CONSUMER__ACK_WAIT";
/// A delivery on its way to a killed agent is offered again after this; two minutes would be a long test.
const SHORT_LEASE: &str = "5s";

/// A role of the program: how it was started, and the process.
pub(crate) struct Role {
    words: Vec<String>,
    home: std::path::PathBuf,
    lease: &'static str,
    process: Process,
    ready: Value,
}

impl Role {
    async fn start(home: &Path, lease: &'static str, words: &[&str]) -> Self {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let (process, ready) = launch(home, lease, &words).await;
        Self { words, home: home.to_owned(), lease, process, ready }
    }

    /// What it said when it was ready.
    pub(crate) fn said(&self, key: &str) -> String {
        self.ready[key].as_str().unwrap_or_else(|| panic!("it did not say its {key}: {}", self.ready)).to_owned()
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    pub(crate) async fn kill_and_restart(&mut self) {
        self.process.kill9();
        (self.process, self.ready) = launch(&self.home, self.lease, &self.words).await;
    }
}

async fn launch(home: &Path, lease: &str, words: &[String]) -> (Process, Value) {
    let mut command = longshore(home, words);
    command.env(LEASE, lease);
    let process = Process::spawn(command);
    let line = process.wait_for_line(|line| line.starts_with('{'), PATIENCE).await;
    (process, serde_json::from_str(&line).unwrap())
}

/// The program with a home of its own and nothing of ours in its environment.
pub(crate) fn longshore<T: AsRef<std::ffi::OsStr>>(home: &Path, words: &[T]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    command.args(words).env("HOME", home).env("XDG_CONFIG_HOME", home.join("config")).env("XDG_STATE_HOME", home.join("state"));
    for name in ["LONGSHORE_URL", "LONGSHORE_TOKEN_FILE", "LONGSHORE_CONTEXT"] {
        command.env_remove(name);
    }
    command.env(LEASE, SHORT_LEASE);
    command.env("NATS_SERVER_BIN", longshore_testkit::nats_server_binary());
    command
}

pub(crate) struct Fleet {
    pub(crate) nats: NatsServer,
    pub(crate) controller: Role,
    pub(crate) agents: Vec<Role>,
    pub(crate) client: Client,
    pub(crate) dir: tempfile::TempDir,
}

impl Fleet {
    /// A broker, a controller and agents named `host-0` and so on.
    pub(crate) async fn start(n_agents: usize) -> Self {
        Self::start_on(NatsServer::start().await, n_agents).await
    }

    pub(crate) async fn start_on(nats: NatsServer, n_agents: usize) -> Self {
        Self::start_with(nats, SHORT_LEASE, n_agents).await
    }

    /// The same with claims that last for `lease`.
    pub(crate) async fn start_with(nats: NatsServer, lease: &'static str, n_agents: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = nats.url();
        let data = dir.path().join("controller").display().to_string();
        // A port of its own, so that a restarted controller is found where it was.
        let listen = free_address();
        let words = ["controller", "start", "-o", "json", "--nats-url", &url, "--data", &data, "--listen", &listen];
        let controller = Role::start(dir.path(), lease, &words).await;
        let token = std::fs::read_to_string(controller.said("token_file")).unwrap().trim().to_owned();
        let client = Client::new(ClientConfig { url: controller.said("url"), token: Some(token) }).unwrap().with_retry_budget(PATIENCE);
        let mut fleet = Self { nats, controller, agents: Vec::new(), client, dir };
        for _ in 0..n_agents {
            fleet.launch_agent(&[]).await;
        }
        fleet.all_known().await;
        fleet
    }

    /// Another agent, the next by name, started with `more` words.
    pub(crate) async fn add_agent(&mut self, more: &[&str]) {
        self.launch_agent(more).await;
        self.all_known().await;
    }

    /// An agent by its earlier name and flags.
    pub(crate) async fn add_worker(&mut self, hostname: &str) {
        let data = self.dir.path().join(hostname).display().to_string();
        let url = self.nats.url();
        let (_, port) = url.rsplit_once(':').unwrap();
        let words = ["job", "worker", "start", "-o", "json", "--worker-host", "127.0.0.1", "--worker-port", port, "--data", &data];
        let words = [&words[..], &["--worker-hostname", hostname, "--worker-max-jobs", "3", "--consumer-ack-wait", SHORT_LEASE]].concat();
        self.agents.push(Role::start(self.dir.path(), self.controller.lease, &words).await);
        self.all_known().await;
    }

    /// Another controller beside the first, on the same broker, and a client of its own.
    pub(crate) async fn another_controller(&self) -> (Role, Client) {
        let (data, url, listen) = (self.dir.path().join("controller-2").display().to_string(), self.nats.url(), free_address());
        let words = ["controller", "start", "-o", "json", "--nats-url", &url, "--data", &data, "--listen", &listen];
        let controller = Role::start(self.dir.path(), self.controller.lease, &words).await;
        let token = std::fs::read_to_string(controller.said("token_file")).unwrap().trim().to_owned();
        let client = Client::new(ClientConfig { url: controller.said("url"), token: Some(token) }).unwrap().with_retry_budget(PATIENCE);
        (controller, client)
    }

    async fn launch_agent(&mut self, more: &[&str]) {
        let (n, url) = (self.agents.len(), self.nats.url());
        let (data, host) = (self.dir.path().join(format!("agent-{n}")).display().to_string(), format!("host-{n}"));
        let mut words = vec!["agent", "start", "-o", "json", "--nats-url", &url, "--data", &data, "--agent-hostname", &host];
        words.extend(more);
        self.agents.push(Role::start(self.dir.path(), self.controller.lease, &words).await);
    }

    async fn all_known(&self) {
        eventually("every agent to be known", PATIENCE, async || {
            let list = self.client.agents().await.ok()?;
            (list.items.iter().filter(|agent| agent.state == longshore_client::AgentCondition::Ready).count() == self.agents.len())
                .then_some(())
        })
        .await;
    }

    /// Submits and waits for the end.
    pub(crate) async fn perform(&self, request: &JobRequest) -> JobView {
        let view = self.client.submit(request, Some(PATIENCE)).await.unwrap();
        assert!(view.status.is_final(), "{} did not end: {view:?}", view.id);
        view
    }
}

/// A job that runs a script.
pub(crate) fn shell(script: &str) -> JobRequest {
    Client::request("command.shell", json!({ "command": script }))
}

/// The same, run again when its agent is killed.
pub(crate) fn persistent(script: &str) -> JobRequest {
    JobRequest { retry: Some(RetryRequest { max_attempts: 50, backoff: Some(vec!["100ms".into()]) }), ..shell(script) }
}

/// An address on loopback below the range that connections are given by themselves, free at the moment and nobody else's in this process.
pub(crate) fn free_address() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() as u16).wrapping_mul(31);
    std::iter::repeat_with(|| 20_000 + start.wrapping_add(NEXT.fetch_add(7, Ordering::Relaxed)) % 10_000)
        .take(1000)
        .map(|port| format!("127.0.0.1:{port}"))
        .find(|address| std::net::TcpListener::bind(address).is_ok())
        .expect("a free port")
}
