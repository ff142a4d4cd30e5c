//! What an agent knows of its host, as it is kept and shown: `@fact.PATH` in arguments means one of these.
//!
//! A path is the names on the way to a value with dots between: `interface.primary`, `label.group`. Lists have no path: a fact in an argument
//! is one value. Whatever a host cannot tell is left out.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::AgentId;

/// An agent's facts, as they are kept while it lives and for a while after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactsRecord {
    /// Version of this form.
    pub schema: u32,
    /// Whose they are.
    pub agent: AgentId,
    /// When they were gathered, by the agent's clock.
    pub gathered_at: Timestamp,
    /// Whether it said goodbye: whoever did not hear that knows an agent that was stopped from one that is lost.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub left: bool,
    /// What it knows.
    pub facts: Facts,
}

/// What an agent knows of its host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Facts {
    /// The agent itself.
    #[serde(default)]
    pub agent: AgentFacts,
    /// The processor's architecture, such as `x86_64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// Processors.
    #[serde(default)]
    pub cpu: CpuFacts,
    /// The host's full name, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fqdn: Option<String>,
    /// The name that the agent goes by.
    #[serde(default)]
    pub hostname: String,
    /// The network interface that leads out.
    #[serde(default)]
    pub interface: InterfaceFacts,
    /// Every network interface by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub interfaces: BTreeMap<String, InterfaceFact>,
    /// The kernel's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// The agent's labels: values by keys.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub label: BTreeMap<String, String>,
    /// Memory.
    #[serde(default)]
    pub memory: MemoryFacts,
    /// The operating system.
    #[serde(default)]
    pub os: OsFacts,
    /// What installs packages: `apt`, `dnf`, `yum`, `zypper`, `pacman` or `apk`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package_manager: Option<String>,
    /// What runs services: `systemd`, `openrc` or `runit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_manager: Option<String>,
    /// The time zone, such as `Europe/Berlin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// What the host runs in: `none`, the name of a container's or a virtual machine's kind, or `vm` for one that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtualization: Option<String>,
}

/// An agent itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentFacts {
    /// Its lasting identity.
    #[serde(default)]
    pub id: String,
    /// Its program's version.
    #[serde(default)]
    pub version: String,
}

/// Processors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CpuFacts {
    /// How many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
}

/// Memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemoryFacts {
    /// Bytes there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
}

/// An operating system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OsFacts {
    /// Its name for people, such as `Debian GNU/Linux 13 (trixie)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its name for programs, such as `debian`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distribution: Option<String>,
    /// Its version, such as `13`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// The network interface that leads out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InterfaceFacts {
    /// Its name: that of the default route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// Its first address, IPv4 before IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// One network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InterfaceFact {
    /// Its first address, IPv4 before IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// All of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Its hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}
