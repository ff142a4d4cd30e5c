//! Packages of handlers: what their manifests say, and which of them are in the packages directory.
//!
//! A package is a directory with a `manifest.json`. It is identified by the name and version in there, never by where it lies.

mod identity;
mod manifest;
mod registry;

pub use identity::{IdentityError, PackageName, PackageVersion};
pub use manifest::{
    Adapter, Binding, BindingMode, BindingScope, Entrypoint, Free, Hooks, Identifier, Manifest, ManifestError, Node, NodeRole, NodeStatus,
    NodeType, NodeUi, PermissionRequirement, Port, Python, Requirements, Resource, ResourceRequirement, SchemaVersion, ScopeKind,
    Sha256Hex, Signature, VaultRequirement, Widget,
};
pub use registry::{Broken, HoldError, Installed, Inventory, Lease, OpenError, Packages};
