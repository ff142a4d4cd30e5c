//! What an agent says of itself.

use serde::{Deserialize, Serialize};

use crate::id::AgentId;

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
    /// When this process started, by the agent's clock.
    pub started_at: jiff::Timestamp,
}
