//! What a package says of itself: `manifest.json`, typed. What it takes is in [`read`]; what is loose is in [`Manifest::remarks`].
//!
//! Unknown fields are refused at every level but the objects that are free by design.

mod read;
mod words;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::read::ManifestError;
pub use self::words::{Entrypoint, Identifier, NodeType, SchemaVersion, Sha256Hex};
use super::{PackageName, PackageVersion};

/// An object that a package may fill as it likes.
pub type Free = Map<String, Value>;

/// All of a package's manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// The version of the schema it follows.
    pub schema_version: SchemaVersion,
    /// The package's name; its directory may be called otherwise.
    pub name: PackageName,
    /// The package's version.
    pub version: PackageVersion,
    /// A sentence for people.
    pub description: String,
    /// Modules with handlers; at least one.
    pub adapters: Vec<Adapter>,
    /// What the handlers need of Python.
    pub python: Python,
    /// What can be dispatched to it; at least one.
    pub nodes: Vec<Node>,
    /// What whoever dispatches has to provide.
    #[serde(default)]
    pub requirements: Requirements,
    /// Files of the package, with their digests.
    #[serde(default)]
    pub resources: Vec<Resource>,
    /// Programs to run after an install and before an uninstall.
    #[serde(default)]
    pub hooks: Hooks,
    /// Who says to have signed it. Nothing rests on that: see `package::Trust`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
}

/// A module with handlers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Adapter {
    /// By what nodes name it.
    pub name: String,
    /// Where the handlers are.
    pub entrypoint: Entrypoint,
    /// At least one.
    pub capabilities: Vec<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Whether its handlers may be repeated, in the package's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<Value>,
    /// Free; `exec_mode` and `runtime` in it are read by the handler host.
    #[serde(default)]
    pub metadata: Free,
}

/// What the handlers need of Python.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Python {
    /// Which versions of Python, such as `>=3.11`.
    pub requires: String,
    /// What is installed into the package's environment, a requirement each. None: no environment is made.
    #[serde(default)]
    pub dependencies: Vec<String>,
}

/// Something that can be dispatched to the package.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Node {
    /// By what it is dispatched.
    #[serde(rename = "type")]
    pub node_type: NodeType,
    /// How far along it is.
    pub status: NodeStatus,
    /// Where a dashboard lists it.
    pub category: String,
    /// What a dashboard calls it.
    pub label: String,
    /// The name of one of the adapters.
    pub adapter: String,
    /// What of the adapter is called.
    pub handler: Identifier,
    /// JSON schema of its parameters: an object or a boolean.
    pub schema: Value,
    /// Its part in a flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<NodeRole>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// For people.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Free; `exec_mode` in it is read by the handler host.
    #[serde(default)]
    pub config: Free,
    /// How a dashboard shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ui: Option<NodeUi>,
}

/// How far along a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeStatus {
    /// Not for everybody yet.
    Draft,
    /// For everybody.
    Published,
    /// Still there.
    Deprecated,
}

/// A node's part in a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// A step.
    Node,
    /// Holds other nodes.
    Container,
    /// Goes around other nodes.
    Middleware,
}

/// How a dashboard shows a node. Nothing on a worker reads it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodeUi {
    /// What comes in.
    pub input_ports: Vec<Port>,
    /// What goes out.
    pub output_ports: Vec<Port>,
    /// What can be set.
    pub widgets: Vec<Widget>,
}

/// A port of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    /// Its key.
    pub key: String,
    /// Its words.
    pub label: String,
    /// What it is bound to.
    pub binding: Binding,
}

/// A widget of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Widget {
    /// Its key.
    pub key: String,
    /// Its words.
    pub label: String,
    /// What draws it.
    pub component: String,
    /// What it is bound to.
    pub binding: Binding,
    /// Free.
    #[serde(default)]
    pub options: Free,
}

/// What a port or a widget is bound to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Binding {
    /// Where.
    pub path: String,
    /// In which direction.
    #[serde(default)]
    pub mode: BindingMode,
    /// Before the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Of which node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<BindingScope>,
}

/// The direction of a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BindingMode {
    /// From there.
    Read,
    /// To there.
    #[default]
    Write,
    /// Both.
    TwoWay,
}

/// Of which node a binding is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BindingScope {
    /// Which kind.
    pub kind: ScopeKind,
    /// The way through graphs.
    #[serde(default)]
    pub subgraph_aliases: Vec<String>,
    /// The node there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// Before the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

/// Kinds of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScopeKind {
    /// The node itself.
    Local,
    /// A node of a graph below.
    Subgraph,
}

/// What whoever dispatches has to provide.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Requirements {
    /// Resources.
    pub resources: Vec<ResourceRequirement>,
    /// Permissions, of later manifests.
    pub permissions: Vec<PermissionRequirement>,
    /// Secrets, of later manifests.
    pub vault: Vec<VaultRequirement>,
}

/// A resource that a package needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResourceRequirement {
    /// By what it is bound.
    pub key: String,
    /// What it is.
    #[serde(rename = "type")]
    pub resource_type: String,
    /// What is done with it; `read` unless said.
    #[serde(default = "read_only")]
    pub actions: Vec<String>,
    /// Whether it has to be there; true unless said.
    #[serde(default = "yes")]
    pub required: bool,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Free.
    #[serde(default)]
    pub metadata: Free,
}

/// A permission that a package needs. Later manifests have more fields, which are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PermissionRequirement {
    /// By what it is bound.
    pub key: String,
    /// Of what.
    pub types: Vec<String>,
    /// Whatever else it says.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

/// A secret that a package needs. Later manifests have more fields, which are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VaultRequirement {
    /// By what it is bound.
    pub key: String,
    /// What it is.
    #[serde(rename = "type")]
    pub secret_type: String,
    /// Whatever else it says.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

/// A file of the package.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resource {
    /// Where, below the package's directory.
    pub path: String,
    /// What it is.
    #[serde(rename = "type")]
    pub resource_type: String,
    /// SHA-256 of its content, checked at install.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256Hex>,
}

/// Programs to run around an install: words separated by blanks each, without any quoting. Run only where the settings allow it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Hooks {
    /// After it was unpacked, before it can be found.
    pub install: Vec<String>,
    /// After nobody can find it any more, before it is removed.
    pub uninstall: Vec<String>,
}

/// Who says to have signed a package.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Signature {
    /// Of what.
    pub sha256: Option<String>,
    /// When.
    pub signed_at: Option<String>,
    /// By whom.
    pub signed_by: Option<String>,
}

fn read_only() -> Vec<String> {
    vec!["read".to_owned()]
}

fn yes() -> bool {
    true
}
