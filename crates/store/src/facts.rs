//! What agents know of their hosts.

use async_trait::async_trait;
use longshore_model::AgentId;
use longshore_model::wire::facts::FactsRecord;

use crate::Error;

/// What agents know of their hosts: one record an agent, which goes when it was not written again for the configured time, and
/// with the agent ([`Registry::forget`](crate::Registry::forget)).
#[async_trait]
pub trait Facts: Send + Sync {
    /// Keeps an agent's facts in the place of those before. Safe to repeat.
    async fn put(&self, record: &FactsRecord) -> Result<(), Error>;

    /// An agent's facts, if it has told any lately. Reads what the leader has.
    async fn of(&self, agent: AgentId) -> Result<Option<FactsRecord>, Error>;

    /// Every agent's facts. One that cannot be read is passed over.
    async fn all(&self) -> Result<Vec<FactsRecord>, Error>;
}
