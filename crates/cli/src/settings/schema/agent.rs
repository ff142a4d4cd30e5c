//! `agent`: the agent on this host. Defaults come from the configurations of those who follow them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use longshore_agent::{FactsPolicy, Thresholds};
use longshore_model::Label;
use longshore_model::label::ParseLabelError;
use longshore_model::retry::standard_backoff;
use longshore_model::unit::Span;
use longshore_store::jetstream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::secret::Secret;

/// The agent on this host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Agent {
    /// Name the agent goes by. Empty: the system's host name.
    pub(crate) hostname: String,
    /// Executions it runs at once.
    pub(crate) max_jobs: usize,
    /// Groups it belongs to, such as `{group: web.dev.us-east}`: jobs for `group:web` and `group:web.dev` are for it, too.
    pub(crate) labels: BTreeMap<String, String>,
    /// Name under which agents share the work for `_any`; the same for all agents of a fleet, since the work goes to one group.
    pub(crate) queue_group: String,
    /// Name of an agent's connection, for whoever looks at the broker.
    pub(crate) client_name: String,
    /// Which jobs it believes, and what opens their secrets.
    pub(crate) jobs: AgentJobs,
    /// How agents take work from the broker.
    pub(crate) consumer: Consumer,
    /// What it knows of its host.
    pub(crate) facts: AgentFacts,
    /// From where on its host counts as short of something.
    pub(crate) conditions: Conditions,
    /// Where workspace jobs run, and what they may run in a copy of.
    pub(crate) workspace: Workspace,
    /// Packages whose nodes it runs.
    pub(crate) packages: AgentPackages,
}

/// Where workspace jobs run, and what they may run in a copy of.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Workspace {
    /// Directory whose directories a job may name as its source; its results go to `results` there. None: jobs bring their files as bundles only.
    pub(crate) jobs_dir: Option<PathBuf>,
    /// Directory, of this agent alone, in which workspaces are made. None: the data directory.
    pub(crate) workspaces_dir: Option<PathBuf>,
}

/// Packages whose nodes an agent runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AgentPackages {
    /// Where they are installed. None: `packages` in the data directory, where `longshore package install` puts them.
    pub(crate) dir: Option<String>,
    /// Python of packages that have no environment of their own.
    pub(crate) python: String,
}

/// What an agent knows of its host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AgentFacts {
    /// How often it looks, 1s to 24h.
    #[schemars(with = "String")]
    pub(crate) interval: Span,
}

/// From where on an agent's host counts as short of something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Conditions {
    /// Percent of memory in use, 1 to 100.
    pub(crate) memory_pressure_threshold: u32,
    /// Load of the last minute by the number of processors, 0.01 to 1000.
    pub(crate) high_load_multiplier: f64,
    /// Percent of space in use on a file system, 1 to 100.
    pub(crate) disk_pressure_threshold: u32,
}

/// Which jobs an agent believes, and what opens their secrets.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AgentJobs {
    /// Keys that open jobs' secrets, `longshore-open-…`, one a line, the newest first. None: `secrets.key` in the data directory; without one jobs with secrets fail.
    pub(crate) opening_keys: Option<Secret>,
    /// Public keys of the controllers whose jobs it runs, `longshore-trust-…`, comma separated. None: `jobs.pub` in the data directory; without one unsigned jobs are run.
    pub(crate) trusted_keys: Option<String>,
}

/// How agents take work from the broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Consumer {
    /// How often the broker offers the same work. Attempts are counted apart from this.
    pub(crate) max_deliver: i64,
    /// How long a claim lasts without being extended.
    #[schemars(with = "String")]
    pub(crate) ack_wait: Span,
    /// How many claims there may be at once, over all agents.
    pub(crate) max_ack_pending: i64,
    /// `instant`, or `original` for the pace the work came in.
    pub(crate) replay_policy: ReplayPolicy,
    /// Waits between the attempts of jobs that do not say what theirs are; the last one is repeated. Claims last `ack_wait` all the same.
    #[schemars(with = "Vec<String>")]
    pub(crate) back_off: Vec<Span>,
}

/// The pace at which waiting work is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReplayPolicy {
    #[default]
    Instant,
    Original,
}

impl Default for AgentFacts {
    fn default() -> Self {
        Self { interval: Span(FactsPolicy::default().every) }
    }
}

impl Default for AgentPackages {
    fn default() -> Self {
        Self { dir: None, python: "python3".to_owned() }
    }
}

impl Default for Conditions {
    fn default() -> Self {
        let Thresholds { memory_percent, load_percent, disk_percent } = Thresholds::default();
        Self {
            memory_pressure_threshold: memory_percent,
            high_load_multiplier: f64::from(load_percent) / 100.0,
            disk_pressure_threshold: disk_percent,
        }
    }
}

impl Agent {
    /// Its labels, or the first that is none.
    pub(crate) fn labels(&self) -> Result<Vec<Label>, ParseLabelError> {
        self.labels.iter().map(|(key, value)| format!("{key}:{value}").parse()).collect()
    }
}

impl Default for Agent {
    fn default() -> Self {
        let consumer = jetstream::Config::default().consumer;
        Self {
            hostname: String::new(),
            max_jobs: 10,
            labels: BTreeMap::new(),
            queue_group: consumer.queue_group,
            client_name: "longshore-agent".to_owned(),
            jobs: AgentJobs::default(),
            consumer: Consumer::default(),
            facts: AgentFacts::default(),
            conditions: Conditions::default(),
            workspace: Workspace::default(),
            packages: AgentPackages::default(),
        }
    }
}

impl Default for Consumer {
    fn default() -> Self {
        let consumer = jetstream::Config::default().consumer;
        Self {
            max_deliver: consumer.max_deliver,
            ack_wait: Span(consumer.ack_wait),
            max_ack_pending: consumer.max_ack_pending,
            replay_policy: if consumer.replay_original { ReplayPolicy::Original } else { ReplayPolicy::Instant },
            back_off: standard_backoff().into_iter().map(Span).collect(),
        }
    }
}
