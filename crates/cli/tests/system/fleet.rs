//! A fleet for tests: a broker, a controller and agents, each a process of its own that can be killed and started again.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use longshore_client::{Client, ClientConfig};
use longshore_model::wire::rest::{JobRequest, JobView, RetryRequest};
pub(crate) use longshore_testkit::free_address;
use longshore_testkit::{NatsServer, Role, eventually};
use serde_json::json;

/// How long anything may take that is only waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How long a claim lasts without being extended.
pub(crate) const LEASE: &str = "LONGSHORE_AGENT__CONSUMER__ACK_WAIT";
/// A delivery on its way to a killed agent is offered again after this; two minutes would be a long test.
const SHORT_LEASE: &str = "5s";

/// A role of the program with a lease of this length.
async fn role(home: &Path, lease: &'static str, words: &[&str]) -> Role {
    let (home, words) = (home.to_owned(), words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    Role::start(PATIENCE, move || {
        let mut command = longshore(&home, &words);
        command.env(LEASE, lease);
        command
    })
    .await
}

/// The program with a home of its own and nothing of ours in its environment.
pub(crate) fn longshore<T: AsRef<std::ffi::OsStr>>(home: &Path, words: &[T]) -> Command {
    let mut command = longshore_testkit::longshore(Path::new(env!("CARGO_BIN_EXE_longshore")), home, words);
    command.env(LEASE, SHORT_LEASE);
    command
}

pub(crate) struct Fleet {
    pub(crate) nats: NatsServer,
    pub(crate) controller: Role,
    pub(crate) agents: Vec<Role>,
    pub(crate) client: Client,
    lease: &'static str,
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
        let controller = role(dir.path(), lease, &words).await;
        let token = std::fs::read_to_string(controller.said("token_file")).unwrap().trim().to_owned();
        let client = Client::new(ClientConfig { url: controller.said("url"), token: Some(token) }).unwrap().with_retry_budget(PATIENCE);
        let mut fleet = Self { nats, controller, agents: Vec::new(), client, lease, dir };
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
        self.agents.push(role(self.dir.path(), self.lease, &words).await);
        self.all_known().await;
    }

    /// Another controller beside the first, on the same broker, and a client of its own.
    pub(crate) async fn another_controller(&self) -> (Role, Client) {
        let (data, url, listen) = (self.dir.path().join("controller-2").display().to_string(), self.nats.url(), free_address());
        let words = ["controller", "start", "-o", "json", "--nats-url", &url, "--data", &data, "--listen", &listen];
        let controller = role(self.dir.path(), self.lease, &words).await;
        let token = std::fs::read_to_string(controller.said("token_file")).unwrap().trim().to_owned();
        let client = Client::new(ClientConfig { url: controller.said("url"), token: Some(token) }).unwrap().with_retry_budget(PATIENCE);
        (controller, client)
    }

    async fn launch_agent(&mut self, more: &[&str]) {
        let (n, url) = (self.agents.len(), self.nats.url());
        let (data, host) = (self.dir.path().join(format!("agent-{n}")).display().to_string(), format!("host-{n}"));
        let mut words = vec!["agent", "start", "-o", "json", "--nats-url", &url, "--data", &data, "--agent-hostname", &host];
        words.extend(more);
        self.agents.push(role(self.dir.path(), self.lease, &words).await);
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
