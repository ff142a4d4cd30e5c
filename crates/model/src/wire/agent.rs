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
    /// The groups it belongs to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<Label>,
    /// When this process started, by the agent's clock.
    pub started_at: jiff::Timestamp,
}
