//! What is tried: brokers, controllers and agents, each a process of its own that can be killed and started again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use longshore_client::{AgentCondition, Client, ClientConfig};
use longshore_testkit::{NatsServer, Role, Scratch, eventually, free_address, longshore};

use crate::host::network::Network;
use crate::load::GROUP;

/// How long anything may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// Agents, named `host-0` and so on.
pub(crate) const AGENTS: usize = 2;
/// Jobs that an agent does at once.
const SLOTS: &str = "24";
/// How long a claim lasts without being extended: work that was on its way to a killed agent is offered again after this.
const LEASE: (&str, &str) = ("LONGSHORE_AGENT__CONSUMER__ACK_WAIT", "5s");

/// What a cell wants.
pub(crate) struct Site {
    /// One, or the members of a cluster.
    pub(crate) brokers: Vec<NatsServer>,
    pub(crate) n_controllers: usize,
    /// Where the agents are, if not beside the others.
    pub(crate) network: Option<Network>,
}

impl Site {
    /// One broker and one controller.
    pub(crate) fn on(broker: NatsServer) -> Self {
        Self { brokers: vec![broker], n_controllers: 1, network: None }
    }
}

/// Running processes, all of which are ended when it is dropped.
pub(crate) struct Fleet {
    pub(crate) brokers: Vec<NatsServer>,
    pub(crate) controllers: Vec<Role>,
    pub(crate) agents: Vec<Role>,
    /// The way to each controller. Calls are made once: who calls decides what a failure means.
    pub(crate) doors: Vec<Client>,
    pub(crate) network: Option<Network>,
    dir: Scratch,
}

impl Fleet {
    /// Starts everything, and waits until every controller knows every agent.
    ///
    /// # Panics
    /// Something does not get ready.
    pub(crate) async fn start(site: Site, binary: &Path) -> anyhow::Result<Self> {
        let Site { brokers, n_controllers, network } = site;
        let dir = Scratch::new("fleet-");
        let mut fleet = Self { brokers, controllers: Vec::new(), agents: Vec::new(), doors: Vec::new(), network, dir };
        for n in 0..n_controllers {
            fleet.start_controller(n, binary).await?;
        }
        for n in 0..AGENTS {
            fleet.start_agent(n, binary).await;
        }
        for door in &fleet.doors {
            eventually("every agent to be known", PATIENCE, async || {
                let known = door.agents().await.ok()?.items;
                (known.iter().filter(|agent| agent.state == AgentCondition::Ready).count() == AGENTS).then_some(())
            })
            .await;
        }
        Ok(fleet)
    }

    /// A directory that goes with it.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What every process has written, by name; also those that were killed.
    pub(crate) fn logs(&self) -> Vec<(String, String)> {
        let mut logs: Vec<_> = self.brokers.iter().enumerate().map(|(n, broker)| (format!("broker-{n}"), broker.log())).collect();
        let mut add = |kind: &str, roles: &[Role]| {
            logs.extend(roles.iter().enumerate().map(|(n, role)| (format!("{kind}-{n}"), role.log())));
        };
        add("controller", &self.controllers);
        add("agent", &self.agents);
        logs
    }

    async fn start_controller(&mut self, n: usize, binary: &Path) -> anyhow::Result<()> {
        // A port of its own, so that a restarted controller is found where it was.
        let words = ["controller", "start", "--listen", &free_address()].map(str::to_owned);
        let role = self.role(words.to_vec(), &format!("controller-{n}"), binary, &self.urls("127.0.0.1"), None).await;
        let token = std::fs::read_to_string(role.said("token_file")).context("a controller's token cannot be read")?;
        let config = ClientConfig { url: role.said("url"), token: Some(token.trim().to_owned()) };
        self.doors.push(Client::new(config)?.with_retry_budget(Duration::ZERO));
        self.controllers.push(role);
        Ok(())
    }

    async fn start_agent(&mut self, n: usize, binary: &Path) {
        let words = ["agent", "start", "--agent-hostname", &format!("host-{n}"), "--max-jobs", SLOTS, "--label", GROUP].map(str::to_owned);
        let (urls, namespace) = match &self.network {
            Some(network) => (self.urls(Network::HUB), Some(network.namespace())),
            None => (self.urls("127.0.0.1"), None),
        };
        let role = self.role(words.to_vec(), &format!("agent-{n}"), binary, &urls, namespace).await;
        self.agents.push(role);
    }

    async fn role(&self, mut words: Vec<String>, data: &str, binary: &Path, urls: &str, namespace: Option<PathBuf>) -> Role {
        let data = self.dir().join(data).display().to_string();
        words.extend(["-o", "json", "--nats-url", urls, "--data", &data].map(str::to_owned));
        let (home, binary, replicas) = (self.dir().to_owned(), binary.to_owned(), self.brokers.len().to_string());
        Role::start(PATIENCE, move || {
            let mut command = longshore(&binary, &home, &words);
            command.env(LEASE.0, LEASE.1).env("LONGSHORE_NATS__STREAM__REPLICAS", &replicas).env("LONGSHORE_LOG", "warn");
            match &namespace {
                Some(namespace) => Network::inside(namespace, &command),
                None => command,
            }
        })
        .await
    }

    fn urls(&self, host: &str) -> String {
        self.brokers.iter().map(|broker| format!("nats://{host}:{}", broker.port())).collect::<Vec<_>>().join(",")
    }
}
