//! The catalogue: what can be asked of a host, what it takes and gives, and what it needs.
//!
//! Whether an operation reads or changes state is said here and never guessed from its name. Each operation's row is in [`Operation::spec`],
//! its arguments in [`crate::wire::args`], its result in [`crate::wire::result`].

mod call;
mod names;
mod network;
mod package;
mod secret;
mod template;

use std::time::Duration;

use schemars::schema_for;

pub use call::{Call, CallError, Command, Shell, Step, StepLimits, WorkspaceRun, is_sha256};
pub use names::{DomainName, InterfaceName, NodeName, ParseNameError, Peer, one_host};
pub use network::{DnsChange, Ping};
pub use package::{PackageInstall, PackageRun, PackageUninstall, RESOURCE_BINDINGS};
pub use secret::{has_secrets, sealing_context, shown_args};
pub use template::{FillError, Template};

use crate::wire::{args, result};

/// Whether an operation reads or changes state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Reads.
    Query,
    /// Changes.
    Modify,
}

impl Kind {
    /// The word in subjects and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Modify => "modify",
        }
    }
}

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// `command.exec`
    CommandExec,
    /// `command.shell`
    CommandShell,
    /// `network.dns.get`
    NetworkDnsGet,
    /// `network.dns.set`
    NetworkDnsSet,
    /// `network.ping.run`
    NetworkPingRun,
    /// `node.disk.get`
    NodeDiskGet,
    /// `node.hostname.get`
    NodeHostnameGet,
    /// `node.hostname.set`
    NodeHostnameSet,
    /// `node.load.get`
    NodeLoadGet,
    /// `node.memory.get`
    NodeMemoryGet,
    /// `node.os.get`
    NodeOsGet,
    /// `node.status.get`
    NodeStatusGet,
    /// `node.uptime.get`
    NodeUptimeGet,
    /// `package.install`
    PackageInstall,
    /// `package.list`
    PackageList,
    /// `package.run`
    PackageRun,
    /// `package.uninstall`
    PackageUninstall,
    /// `workspace.run`
    WorkspaceRun,
}

/// A row of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// `category.noun.verb`.
    pub name: &'static str,
    /// Reads or changes.
    pub kind: Kind,
    /// What it does.
    pub summary: &'static str,
    /// What a token needs to submit it.
    pub permission: &'static str,
    /// Of one attempt unless the submission says otherwise.
    pub timeout: Duration,
    /// Whether it may be run again blindly.
    pub retry_safe: bool,
}

impl Operation {
    /// Every operation, sorted by name.
    pub const ALL: [Self; 18] = [
        Self::CommandExec,
        Self::CommandShell,
        Self::NetworkDnsGet,
        Self::NetworkDnsSet,
        Self::NetworkPingRun,
        Self::NodeDiskGet,
        Self::NodeHostnameGet,
        Self::NodeHostnameSet,
        Self::NodeLoadGet,
        Self::NodeMemoryGet,
        Self::NodeOsGet,
        Self::NodeStatusGet,
        Self::NodeUptimeGet,
        Self::PackageInstall,
        Self::PackageList,
        Self::PackageRun,
        Self::PackageUninstall,
        Self::WorkspaceRun,
    ];

    /// Its row.
    #[must_use]
    pub const fn spec(self) -> Spec {
        match self {
            Self::CommandExec => Spec {
                name: "command.exec",
                kind: Kind::Modify,
                summary: "Run a program with its arguments, without a shell.",
                permission: "command:execute",
                timeout: Duration::from_secs(5 * 60),
                retry_safe: false,
            },
            Self::CommandShell => Spec {
                name: "command.shell",
                kind: Kind::Modify,
                summary: "Run a script with /bin/sh.",
                permission: "command:execute",
                timeout: Duration::from_secs(5 * 60),
                retry_safe: false,
            },
            Self::NetworkDnsGet => Spec {
                name: "network.dns.get",
                kind: Kind::Query,
                summary: "Read the name servers and search domains of the host or of an interface.",
                permission: "network:read",
                timeout: Duration::from_secs(30),
                retry_safe: true,
            },
            Self::NetworkDnsSet => Spec {
                name: "network.dns.set",
                kind: Kind::Modify,
                summary: "Set the name servers and search domains of the host or of an interface.",
                permission: "network:write",
                timeout: Duration::from_secs(2 * 60),
                retry_safe: true,
            },
            Self::NetworkPingRun => Spec {
                name: "network.ping.run",
                kind: Kind::Query,
                summary: "Send ICMP echo packets to an address and time the answers.",
                permission: "network:read",
                timeout: Duration::from_secs(2 * 60),
                retry_safe: true,
            },
            Self::NodeDiskGet => Spec {
                name: "node.disk.get",
                kind: Kind::Query,
                summary: "Read the size and the free space of the host's disks.",
                permission: "node:read",
                timeout: Duration::from_secs(30),
                retry_safe: true,
            },
            Self::NodeHostnameGet => Spec {
                name: "node.hostname.get",
                kind: Kind::Query,
                summary: "Read the host's name.",
                permission: "node:read",
                timeout: Duration::from_secs(30),
                retry_safe: true,
            },
            Self::NodeHostnameSet => Spec {
                name: "node.hostname.set",
                kind: Kind::Modify,
                summary: "Set the host's name, for now and after a reboot.",
                permission: "node:write",
                timeout: Duration::from_secs(60),
                retry_safe: true,
            },
            Self::NodeLoadGet => Spec {
                name: "node.load.get",
                kind: Kind::Query,
                summary: "Read the host's load averages.",
                permission: "node:read",
                timeout: Duration::from_secs(30),
                retry_safe: true,
            },
            Self::NodeMemoryGet => Spec {
                name: "node.memory.get",
                kind: Kind::Query,
                summary: "Read the host's memory.",
                permission: "node:read",
                timeout: Duration::from_secs(30),
                retry_safe: true,
            },
            Self::NodeOsGet => Spec {
                name: "node.os.get",
                kind: Kind::Query,
                summary: "Read the host's operating system, kernel and architecture.",
                permission: "node:read",
                timeout: Duration::from_secs(30),
                retry_safe: true,
            },
            Self::NodeStatusGet => Spec {
                name: "node.status.get",
                kind: Kind::Query,
                summary: "Read the host's system, uptime, load, memory and disks.",
                permission: "node:read",
                timeout: Duration::from_secs(30),
                retry_safe: true,
            },
            Self::NodeUptimeGet => Spec {
                name: "node.uptime.get",
                kind: Kind::Query,
                summary: "Read how long ago the host was started.",
                permission: "node:read",
                timeout: Duration::from_secs(30),
                retry_safe: true,
            },
            Self::PackageInstall => Spec {
                name: "package.install",
                kind: Kind::Modify,
                summary: "Install a version of a package on an agent or a worker, from an address that it can reach.",
                permission: "package:install",
                timeout: Duration::from_secs(15 * 60),
                retry_safe: true,
            },
            Self::PackageList => Spec {
                name: "package.list",
                kind: Kind::Query,
                summary: "Read which packages an agent or a worker has installed.",
                permission: "node:read",
                timeout: Duration::from_secs(30),
                retry_safe: true,
            },
            Self::PackageRun => Spec {
                name: "package.run",
                kind: Kind::Modify,
                summary: "Run a node of a package that an agent or a worker has installed.",
                permission: "package:execute",
                timeout: Duration::from_secs(5 * 60),
                retry_safe: false,
            },
            Self::PackageUninstall => Spec {
                name: "package.uninstall",
                kind: Kind::Modify,
                summary: "Remove a version of a package, or every version, from an agent or a worker.",
                permission: "package:install",
                timeout: Duration::from_secs(5 * 60),
                retry_safe: true,
            },
            Self::WorkspaceRun => Spec {
                name: "workspace.run",
                kind: Kind::Modify,
                summary: "Run steps in a fresh copy of a directory and bring back what changed.",
                permission: "workspace:execute",
                timeout: Duration::from_secs(30 * 60),
                retry_safe: false,
            },
        }
    }

    /// Whether it is about what packages there are, and not about running their nodes.
    #[must_use]
    pub fn manages_packages(self) -> bool {
        self.is_of_packages() && self != Self::PackageRun
    }

    /// Whether it is about packages: a worker of any kind is asked for it in the words of the session, and no fact of a host is put into its arguments.
    #[must_use]
    pub const fn is_of_packages(self) -> bool {
        match self {
            Self::PackageInstall | Self::PackageList | Self::PackageRun | Self::PackageUninstall => true,
            Self::CommandExec
            | Self::CommandShell
            | Self::NetworkDnsGet
            | Self::NetworkDnsSet
            | Self::NetworkPingRun
            | Self::NodeDiskGet
            | Self::NodeHostnameGet
            | Self::NodeHostnameSet
            | Self::NodeLoadGet
            | Self::NodeMemoryGet
            | Self::NodeOsGet
            | Self::NodeStatusGet
            | Self::NodeUptimeGet
            | Self::WorkspaceRun => false,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.spec().name
    }

    /// The operation of this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.name() == name)
    }

    /// Up to three names that look like `name`, best first.
    #[must_use]
    pub fn nearest(name: &str) -> Vec<&'static str> {
        nearest(name, Self::ALL.iter().map(|operation| operation.name()))
    }

    /// JSON Schema of the arguments.
    #[must_use]
    pub fn args_schema(self) -> serde_json::Value {
        match self {
            Self::CommandExec => schema_for!(args::ExecArgs),
            Self::CommandShell => schema_for!(args::ShellArgs),
            Self::NetworkDnsGet => schema_for!(args::DnsGetArgs),
            Self::NetworkDnsSet => schema_for!(args::DnsSetArgs),
            Self::NetworkPingRun => schema_for!(args::PingArgs),
            Self::NodeHostnameSet => schema_for!(args::HostnameSetArgs),
            Self::NodeDiskGet
            | Self::NodeHostnameGet
            | Self::NodeLoadGet
            | Self::NodeMemoryGet
            | Self::NodeOsGet
            | Self::NodeStatusGet
            | Self::NodeUptimeGet
            | Self::PackageList => schema_for!(args::NoArgs),
            Self::PackageInstall => schema_for!(args::PackageInstallArgs),
            Self::PackageRun => schema_for!(args::PackageArgs),
            Self::PackageUninstall => schema_for!(args::PackageUninstallArgs),
            Self::WorkspaceRun => schema_for!(args::WorkspaceArgs),
        }
        .to_value()
    }

    /// JSON Schema of the result.
    #[must_use]
    pub fn result_schema(self) -> serde_json::Value {
        match self {
            Self::CommandExec | Self::CommandShell => schema_for!(result::CommandResult),
            Self::NetworkDnsGet => schema_for!(result::DnsResult),
            Self::NetworkDnsSet => schema_for!(result::DnsSetResult),
            Self::NetworkPingRun => schema_for!(result::PingResult),
            Self::NodeDiskGet => schema_for!(result::DisksResult),
            Self::NodeHostnameGet => schema_for!(result::HostnameResult),
            Self::NodeHostnameSet => schema_for!(result::HostnameSetResult),
            Self::NodeLoadGet => schema_for!(result::LoadResult),
            Self::NodeMemoryGet => schema_for!(result::MemoryResult),
            Self::NodeOsGet => schema_for!(result::OsResult),
            Self::NodeStatusGet => schema_for!(result::StatusResult),
            Self::NodeUptimeGet => schema_for!(result::UptimeResult),
            Self::PackageInstall => schema_for!(result::PackageInstallResult),
            Self::PackageList => schema_for!(result::PackagesResult),
            Self::PackageRun => schema_for!(result::PackageResult),
            Self::PackageUninstall => schema_for!(result::PackageUninstallResult),
            Self::WorkspaceRun => schema_for!(result::WorkspaceResult),
        }
        .to_value()
    }
}

/// Up to three of `names` that look like `name`, best first.
#[must_use]
pub fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut near: Vec<_> = names.into_iter().map(|candidate| (strsim::jaro_winkler(name, candidate), candidate)).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    near.into_iter().filter(|(likeness, _)| *likeness > 0.7).take(3).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_is_sorted_and_finds_its_own_names() {
        let names: Vec<_> = Operation::ALL.iter().map(|operation| operation.name()).collect();
        assert!(names.is_sorted());
        for operation in Operation::ALL {
            assert_eq!(Operation::by_name(operation.name()), Some(operation));
            assert!(operation.args_schema().is_object() && operation.result_schema().is_object());
        }
        assert_eq!(Operation::by_name("node.hostname"), None);
        assert_eq!(Operation::nearest("node.hostnam.get").first(), Some(&"node.hostname.get"));
        assert!(Operation::nearest("zzz").is_empty());
    }
}
