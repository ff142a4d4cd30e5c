//! Packages of handlers: what their manifests say, how they are installed, and which of them are in the packages directory.
//!
//! Archives come from strangers and are code: see [`Installer`] for the way from an address to a package that is found.
//!
//! A package is a directory with a `manifest.json`. It is identified by the name and version in there, never by where it lies.

mod archive;
mod build;
mod examine;
mod fetch;
pub mod host;
mod identity;
mod install;
pub(crate) mod job;
pub(crate) mod management;
mod manifest;
mod program;
mod python;
mod registry;
mod runner;
mod trust;

pub use archive::{ArchiveError, ArchiveLimits, Format};
pub use build::{BuildError, Built, build, verify};
pub use examine::{ExamineError, Examined, Expected};
pub use fetch::{FetchConfig, FetchError, Reach};
pub use identity::{IdentityError, PackageName, PackageVersion};
pub use install::{
    Change, HOOK_LIMIT, HookRule, HooksDone, InstallConfig, InstallError, InstallReport, InstallRequest, Installer, Kept, Removed,
    UninstallError, UninstallReport,
};
pub use manifest::{
    Adapter, Binding, BindingMode, BindingScope, Entrypoint, Free, Hooks, Identifier, Manifest, ManifestError, Node, NodeRole, NodeStatus,
    NodeType, NodeUi, PermissionRequirement, Port, Python, Requirements, Resource, ResourceRequirement, SchemaVersion, ScopeKind,
    Sha256Hex, Signature, VaultRequirement, Widget,
};
pub use program::ProgramError;
pub use python::{PythonConfig, PythonError};
pub use registry::{Broken, HoldError, Installed, Inventory, Lease, OpenError, Packages, Receipt};
pub use runner::{Runner, words_of};
pub use trust::{Trust, TrustError};
