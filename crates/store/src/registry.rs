//! Which agents live: heartbeats that expire.

use async_trait::async_trait;
use futures::stream::BoxStream;
use longshore_model::AgentId;
use longshore_model::wire::agent::{AgentState, FleetRevision, Heartbeat};

use crate::{Error, Revision};

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
    /// An agent was removed with everything that was kept for it.
    Removed(AgentId),
    /// Every agent that was there when the watcher came has been told. Said once.
    Current,
}

/// What a watcher is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryItem {
    /// What happened.
    pub event: RegistryEvent,
    /// How far the watcher has come with it: everything up to there has been told, or was replaced by what was told.
    pub seen: FleetRevision,
}

/// Changes in the fleet without an end.
pub type RegistryStream = BoxStream<'static, Result<RegistryItem, Error>>;

/// The newest that there is of an agent's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newest {
    /// Of the heartbeat, or of what says that it is gone; 0 if there is nothing.
    pub revision: Revision,
    /// Of an agent that lives.
    pub heartbeat: Option<Heartbeat>,
}

/// Which agents live.
#[async_trait]
pub trait Registry: Send + Sync {
    /// Says that an agent lives. Expires after the configured time unless said again.
    async fn beat(&self, heartbeat: &Heartbeat) -> Result<(), Error>;

    /// Says that an agent lives, if nothing newer than `after` was said of it. Gives the heartbeat's revision, or nothing if there was: then
    /// another process may claim to be the same agent, or this one's word was lost on its way ([`Registry::newest`] tells). Safe to repeat.
    async fn beat_after(&self, heartbeat: &Heartbeat, after: Revision) -> Result<Option<Revision>, Error>;

    /// The newest that there is of an agent's life. Reads what the leader has.
    async fn newest(&self, agent: AgentId) -> Result<Newest, Error>;

    /// Says goodbye. Safe to repeat.
    async fn leave(&self, agent: AgentId) -> Result<(), Error>;

    /// Says what people want of an agent.
    async fn set_state(&self, state: &AgentState) -> Result<(), Error>;

    /// What people want of an agent, if anybody ever said so. Reads what the leader has.
    async fn state_of(&self, agent: AgentId) -> Result<Option<AgentState>, Error>;

    /// What people wanted of an agent, the newest first; the last [`DRAINS_KEPT`](longshore_model::limits::DRAINS_KEPT) are kept.
    async fn states_of(&self, agent: AgentId) -> Result<Vec<AgentState>, Error>;

    /// Removes everything that is kept for an agent: what people wanted of it, its facts, its inbox, its heartbeat. Work that is not finished
    /// stays in the ledger, and is announced to its inbox again until it ends. Safe to repeat, also where it broke off.
    async fn forget(&self, agent: AgentId) -> Result<(), Error>;

    /// The fleet as it is, then as it changes.
    async fn watch(&self) -> Result<RegistryStream, Error>;
}
