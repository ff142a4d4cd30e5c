//! Arguments of the operations, one struct each. Their JSON Schemas are the catalogue's; those that are a body of their own are in the API's description too.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::secret::Secrets;

/// An operation that takes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoArgs {}

/// `command.exec`: a program and its arguments, without a shell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecArgs {
    /// The program, then its arguments. Found on `PATH` unless it has a slash.
    pub command: Vec<String>,
    /// Working directory; the agent's state directory unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Variables added to the environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Output kept in the answer, of stdout and stderr together, such as `16MiB`; at most `64MiB`. The first `128KiB` of each unless given. The
    /// rest is cut, `truncated` says so, and the program goes on; the log has its own bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output: Option<String>,
    /// Variables whose values are secret: sealed before they are stored, shown as `***`, and given to the program in its environment only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "super::secret::deserialize")]
    #[schema(schema_with = super::secret::described)]
    pub secrets: Secrets,
}

/// `package.install`: a version of a package, from an address that the host itself can reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PackageInstallArgs {
    /// The package's name: an archive of another one is refused.
    pub package: String,
    /// Its version: an archive of another one is refused.
    pub version: String,
    /// Where its archive is, such as `https://packages.example/p-1.0.0.zip`; `http`, `https` and `file`. Where the host wants a signature, it is fetched from
    /// the same address with `.minisig` after its path.
    pub url: String,
    /// SHA-256 that the archive must have, 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// `package.uninstall`: a package that is not to be there any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PackageUninstallArgs {
    /// The package's name.
    pub package: String,
    /// Its version; every version unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// `package.run`: a node of a package that an agent or a worker has installed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PackageArgs {
    /// The package's name.
    pub package: String,
    /// Its version; the highest that the worker has unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Which of its nodes: the `type` in its manifest.
    pub node: String,
    /// What the node's handler gets.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub parameters: serde_json::Map<String, serde_json::Value>,
    /// Values that nobody but the handler may see: sealed before they are stored, shown as `***`, and given to it as `value` of the entries of
    /// `__resourceBindings` among its parameters that have these names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "super::secret::deserialize")]
    pub secrets: Secrets,
}

/// `command.shell`: a script for `/bin/sh -c`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShellArgs {
    /// The script.
    pub command: String,
    /// Working directory; the agent's state directory unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Variables added to the environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Output kept in the answer, of stdout and stderr together, such as `16MiB`; at most `64MiB`. The first `128KiB` of each unless given. The
    /// rest is cut, `truncated` says so, and the program goes on; the log has its own bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output: Option<String>,
    /// Variables whose values are secret: sealed before they are stored, shown as `***`, and given to the program in its environment only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "super::secret::deserialize")]
    #[schema(schema_with = super::secret::described)]
    pub secrets: Secrets,
}

/// `node.hostname.set`: a new name for the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostnameSetArgs {
    /// The name (RFC 1123): labels of letters, digits and `-`, with dots between them, at most 64 bytes.
    pub hostname: String,
}

/// `network.dns.get`: where names are looked up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsGetArgs {
    /// What one interface is set to; the whole host unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

/// `network.dns.set`: where names shall be looked up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsSetArgs {
    /// The interface whose names they serve; the whole host unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// IP addresses of 1 to 8 name servers, the first one first.
    pub servers: Vec<String>,
    /// Domains in which short names are looked up, at most 32; an empty list removes them, and they stay as they are unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<Vec<String>>,
}

/// `network.ping.run`: ICMP echo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PingArgs {
    /// An IPv4 or IPv6 address (a link-local one with its zone, such as `fe80::1%eth0`), or a name, which the agent looks up.
    pub address: String,
    /// Packets to send, 1 to 100; 4 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// From one packet to the next, `200ms` to `1m`; `200ms` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// How long to wait for each answer, at most `1m`; `2s` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

/// `workspace.run`: steps in a fresh copy of an uploaded directory, or of one on a drive that the agent's host has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkspaceArgs {
    /// SHA-256 (64 lower-case hex digits) of an uploaded bundle; an empty directory unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<String>,
    /// One plain name of a directory in the agent's `agent.workspace.jobs_dir`, instead of a bundle: a copy of it is run in, and what changed
    /// is brought to its `results`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What to run, in order; the first failing step ends the job.
    pub steps: Vec<StepArgs>,
    /// Variables for all steps.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Variables whose values are secret: sealed before they are stored, shown as `***`, and given to the steps in their environment only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "super::secret::deserialize")]
    pub secrets: Secrets,
    /// What runs the steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<ShellChoice>,
    /// Globs of what to bring back; everything created or changed unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<Vec<String>>,
    /// Bounds on the steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Box<LimitArgs>>,
}

/// A step: its script, or an object with more to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum StepArgs {
    /// The script alone.
    Script(String),
    /// The script and its settings.
    Full(StepDetail),
}

// By hand: what serde buffers for an `untagged` choice would be read as a list, too, and its refusals do not name the place.
impl<'de> Deserialize<'de> for StepArgs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Step;

        impl<'de> Visitor<'de> for Step {
            type Value = StepArgs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a script, or an object with `run`")
            }

            fn visit_str<E: de::Error>(self, script: &str) -> Result<StepArgs, E> {
                Ok(StepArgs::Script(script.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<StepArgs, A::Error> {
                StepDetail::deserialize(MapAccessDeserializer::new(fields)).map(StepArgs::Full)
            }
        }

        deserializer.deserialize_any(Step)
    }
}

/// A step with its settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StepDetail {
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The script.
    pub run: String,
    /// Variables for this step, over the job's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The step's own time-out, such as `30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Go on when this step fails.
    #[serde(default)]
    pub continue_on_error: bool,
    /// What runs this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<ShellChoice>,
}

/// `sh`, `bash`, or the words before the script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ShellChoice {
    /// `sh` or `bash`.
    Named(String),
    /// An argument list; the script is its last word.
    Words(Vec<String>),
}

/// Bounds on the steps of a workspace job.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitArgs {
    /// Output kept of each step, such as `64MiB`; the rest is cut with a marker and the step goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Memory of all processes of the job together, such as `512MiB`; what needs more is ended. No bound unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Processors that all processes of the job together may keep busy, such as `1.5`, 0.01 to 1024. No bound unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Processes, and threads of theirs, that the job may have at once; starting one more fails. No bound unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// Size of a file that a step may write, such as `1GiB`; writing more fails. No bound unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_size: Option<String>,
}
