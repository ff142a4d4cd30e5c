//! Which agents live: heartbeats that expire.

use async_trait::async_trait;
use futures::stream::BoxStream;
use longshore_model::AgentId;
use longshore_model::wire::agent::{AgentState, Heartbeat};

use crate::Error;

/// A change in the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryEvent {
    /// An agent lives.
    Beat(Heartbeat),
    /// An agent said goodbye.
    Left(AgentId),
    /// What people want of an agent, new or changed.
    State(AgentState),
    /// An agent's heartbeat expired.
    Silent(AgentId),
    /// Every agent that was there when the watcher came has been told. Said once.
    Current,
}

/// Changes in the fleet without an end.
pub type RegistryStream = BoxStream<'static, Result<RegistryEvent, Error>>;

/// Which agents live.
#[async_trait]
pub trait Registry: Send + Sync {
    /// Says that an agent lives. Expires after the configured time unless said again.
    async fn beat(&self, heartbeat: &Heartbeat) -> Result<(), Error>;

    /// Says goodbye. Safe to repeat.
    async fn leave(&self, agent: AgentId) -> Result<(), Error>;

    /// Says what people want of an agent.
    async fn set_state(&self, state: &AgentState) -> Result<(), Error>;

    /// What people want of an agent, if anybody ever said so. Reads what the leader has.
    async fn state_of(&self, agent: AgentId) -> Result<Option<AgentState>, Error>;

    /// The fleet as it is, then as it changes.
    async fn watch(&self) -> Result<RegistryStream, Error>;
}
