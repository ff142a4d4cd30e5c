//! What an agent says of itself.

use serde::{Deserialize, Serialize};

use crate::id::AgentId;
use crate::label::Label;

/// Kept while the agent lives: it expires unless renewed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Version of this form.
    pub schema: u32,
    /// The agent's lasting identity.
    pub agent: AgentId,
    /// Its host's name.
    pub hostname: String,
    /// Its program's version.
    pub version: String,
    /// Executions it may run at once.
    pub max_jobs: usize,
    /// Executions it runs now.
    pub running: usize,
    /// Whether it takes no new work, as it was told.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drained: bool,
    /// The groups it belongs to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<Label>,
    /// When this process started, by the agent's clock.
    pub started_at: jiff::Timestamp,
}

/// What people want of an agent. Stays until it is changed, also while the agent is away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentState {
    /// Version of this form.
    pub schema: u32,
    /// The agent.
    pub agent: AgentId,
    /// Whether it is to take no new work.
    pub drained: bool,
    /// Since when, by the controller's clock.
    pub at: jiff::Timestamp,
    /// Who said so.
    pub by: String,
    /// Why, in their words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
