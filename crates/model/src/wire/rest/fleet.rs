//! The agents, and how the system is.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::wire::agent::Condition;
use crate::wire::facts::Facts;

/// One agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentView {
    /// Its lasting identity.
    #[schema(value_type = String)]
    pub id: crate::AgentId,
    /// Its host's name.
    pub hostname: String,
    /// Whether it takes work.
    pub state: AgentCondition,
    /// Who drained it, if somebody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained: Option<DrainView>,
    /// The groups it belongs to, `KEY:VALUE`.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Its program's version.
    pub version: String,
    /// Executions it may run at once.
    pub max_jobs: usize,
    /// Executions it ran at its last heartbeat.
    pub running: usize,
    /// What its host was short of at its last heartbeat.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// What it can do, if it is a worker that is attached to a controller's gateway: the nodes of its packages, and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<crate::wire::agent::AttachedWorker>,
    /// The packages of its host, whose nodes it runs; a worker's are in `worker`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<crate::wire::agent::WorkerPackage>,
    /// When its last heartbeat arrived, by the controller's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen: Option<Timestamp>,
    /// When its process started.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
}

/// Whether an agent takes work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgentCondition {
    /// It lives and takes work.
    Ready,
    /// It was told to take no new work, and has some left or has not heard of it yet.
    Draining,
    /// It takes no new work, and none runs on it.
    Drained,
    /// It said goodbye: somebody stopped it.
    Stopped,
    /// Its heartbeat has expired without a goodbye: it crashed, or it is cut off.
    Offline,
}

impl AgentCondition {
    /// Every one of them.
    pub const ALL: [Self; 5] = [Self::Ready, Self::Draining, Self::Drained, Self::Stopped, Self::Offline];

    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Stopped => "stopped",
            Self::Offline => "offline",
        }
    }
}

/// One agent, with what people wanted of it: `GET /api/v1/agents/{agent}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentDetail {
    /// The agent.
    #[serde(flatten)]
    pub agent: AgentView,
    /// Drains and their ends, the newest first; at most 16 are kept.
    #[serde(default)]
    pub drains: Vec<DrainChange>,
}

/// Somebody drained an agent, or ended that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainChange {
    /// Whether it was to take no new work from then on.
    pub drained: bool,
    /// Who.
    pub by: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Why, in their words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What an agent knows of its host: `GET /api/v1/agents/{agent}/facts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FactsView {
    /// Whose they are.
    #[schema(value_type = String)]
    pub agent: crate::AgentId,
    /// When they were gathered, by the agent's clock.
    #[schema(value_type = String, format = DateTime)]
    pub gathered_at: Timestamp,
    /// What it knows.
    pub facts: Facts,
}

/// An agent that went without a goodbye and has not come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlarmView {
    /// The agent.
    #[schema(value_type = String)]
    pub agent: crate::AgentId,
    /// Its host's name.
    pub hostname: String,
    /// Since when it is away, by the controller's clock.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// What happened, and what to do.
    pub message: String,
}

/// A drain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainView {
    /// Who.
    pub by: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Why, in their words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a drain may say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// Why; up to 256 bytes, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The agents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentList {
    /// Sorted by host name.
    pub items: Vec<AgentView>,
}

/// Whether the system is healthy: `GET /api/v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatusView {
    /// The controller's version.
    pub version: String,
    /// Whether all is well.
    pub healthy: bool,
    /// The broker.
    pub broker: BrokerView,
    /// The agents; none for a token without `agent:read`.
    pub agents: Vec<AgentView>,
    /// Agents that went without a goodbye, until they are back or removed; none for a token without `agent:read`.
    #[serde(default)]
    pub alarms: Vec<AlarmView>,
    /// Jobs by status; empty while the controller is still counting.
    pub jobs: BTreeMap<String, u64>,
}

/// The broker as the controller sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BrokerView {
    /// Whether it answers.
    pub connected: bool,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `always` (every write is on disk before it is acknowledged), `relaxed`, or `unknown` where the server does not tell.
    pub durability: String,
}

/// Health: `GET /livez`, `GET /readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthView {
    /// `ok`, or what is missing.
    pub status: String,
}
