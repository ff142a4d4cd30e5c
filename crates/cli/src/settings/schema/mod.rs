//! Every setting there is, with its meaning and its default. Reference, JSON Schema and `config explain` are made from these files.

mod agent;
mod controller;
mod nats;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use agent::Agent;
use controller::Controller;

pub(crate) use agent::ReplayPolicy;
pub(crate) use controller::VerifyKeyFile;
pub(crate) use nats::{AuthKind, Nats, Storage};

/// Longshore's configuration.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// The broker and what is kept on it.
    pub(crate) nats: Nats,
    /// The controller, and how clients find it.
    pub(crate) controller: Controller,
    /// The agent on this host.
    pub(crate) agent: Agent,
}
