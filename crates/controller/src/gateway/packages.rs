//! What an operator asks of a worker's packages, in the words that workers of every kind understand: `biz.pkg.install` and `biz.pkg.uninstall`, and
//! `biz.pkg.event` for an answer. An event names no command: it is that of the one command for its package that is under way.

use longshore_model::operation::{Call, Operation, PackageInstall, PackageUninstall};
use longshore_model::wire::agent::WorkerPackage;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Failure, Outcome};
use longshore_model::wire::result::{KeptPackage, PackageEntry, PackageInstallResult, PackageUninstallResult, PackagesResult};
use longshore_session::control::{Package, PackageStatus, Register};
use longshore_session::{Envelope, Message, Payload};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::frames::{MESSAGE_BYTES_MAX, Task, message};
use super::work::End;

/// Kinds of frames.
const INSTALL: &str = "biz.pkg.install";
const UNINSTALL: &str = "biz.pkg.uninstall";
pub(super) const EVENT: &str = "biz.pkg.event";

/// What a worker that registered so can be asked of its packages.
pub(super) fn asked_of(register: &Register) -> Vec<Operation> {
    let types = register.payload_types.as_deref().unwrap_or_default();
    let takes = |kind: &str| types.iter().any(|own| own == kind);
    // What it has is known without asking.
    let known =
        [(Operation::PackageInstall, takes(INSTALL)), (Operation::PackageList, true), (Operation::PackageUninstall, takes(UNINSTALL))];
    known.into_iter().filter(|(_, is_possible)| *is_possible).map(|(operation, _)| operation).collect()
}

/// A command for the packages of a worker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Command<'a> {
    Install(&'a PackageInstall),
    Uninstall(&'a PackageUninstall),
}

impl<'a> Command<'a> {
    /// What a call asks for; `None` if it is none of these.
    pub(super) fn of(call: &'a Call) -> Option<Self> {
        match call {
            Call::PackageInstall(install) => Some(Self::Install(install)),
            Call::PackageUninstall(uninstall) => Some(Self::Uninstall(uninstall)),
            Call::PackageList
            | Call::PackageRun(_)
            | Call::NetworkDnsGet { .. }
            | Call::NetworkDnsSet(_)
            | Call::NetworkPingRun(_)
            | Call::NodeDiskGet
            | Call::NodeHostnameGet
            | Call::NodeHostnameSet { .. }
            | Call::NodeLoadGet
            | Call::NodeMemoryGet
            | Call::NodeOsGet
            | Call::NodeStatusGet
            | Call::NodeUptimeGet
            | Call::CommandExec(_)
            | Call::CommandShell { .. }
            | Call::WorkspaceRun { .. }
            | Call::WithFacts(_) => None,
        }
    }

    pub(super) fn package(self) -> &'a str {
        match self {
            Self::Install(install) => &install.package,
            Self::Uninstall(uninstall) => &uninstall.package,
        }
    }

    /// The frame that asks a worker for it.
    pub(super) fn message(self, task: Task) -> Message {
        let (kind, payload) = match self {
            Self::Install(PackageInstall { package, version, url, sha256 }) => {
                let mut payload = json!({"name": package, "version": version, "url": url});
                if let Some(sha256) = sha256 {
                    payload["sha256"] = sha256.as_str().into();
                }
                (INSTALL, payload)
            }
            Self::Uninstall(PackageUninstall { package, version }) => {
                let mut payload = json!({"name": package});
                if let Some(version) = version {
                    payload["version"] = version.as_str().into();
                }
                (UNINSTALL, payload)
            }
        };
        message(kind, payload, Some(task.id()), None, false)
    }

    /// How it ended, by what a worker registers that says nothing of its commands: what was to be there is there, or is not any more.
    pub(super) fn seen_in(self, register: &Register) -> Option<End> {
        let has = |name: &str, version: Option<&str>| {
            let is_it = |one: &Package| one.name == name && version.is_none_or(|version| one.version == version);
            register.packages.iter().flatten().any(|one| one.status == PackageStatus::Installed && is_it(one))
        };
        match self {
            Self::Install(PackageInstall { package, version, .. }) => has(package, Some(version)).then(|| {
                let (package, version) = (package.clone(), version.clone());
                done(None, &PackageInstallResult { package, version, ..PackageInstallResult::default() })
            }),
            Self::Uninstall(PackageUninstall { package, version }) => (!has(package, version.as_deref())).then(|| {
                let removed = version.clone().into_iter().collect();
                done(None, &PackageUninstallResult { package: package.clone(), removed, kept: Vec::new() })
            }),
        }
    }
}

/// Whether a call is about packages and may be asked for any number of times: it is about what is there in the end.
pub(super) fn is_managing(call: &Call) -> bool {
    call.operation().manages_packages()
}

/// `biz.pkg.event`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Event {
    pub(super) name: String,
    version: String,
    status: Status,
    #[serde(default)]
    details: Option<Payload>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Installed,
    Failed,
}

/// What a Longshore says of an end.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Details {
    action: Option<String>,
    error: Option<String>,
    change: Option<String>,
    sha256: Option<String>,
    signed_by: Option<String>,
    remarks: Vec<String>,
    removed: Vec<Gone>,
    kept: Vec<KeptPackage>,
}

#[derive(Debug, Deserialize)]
struct Gone {
    version: String,
}

impl Event {
    pub(super) fn read(envelope: &Envelope) -> Option<Self> {
        Self::deserialize(Value::Object(envelope.payload.clone())).ok()
    }

    /// How the command ended that this may be the answer to; `None` if it is not.
    pub(super) fn ends(&self, command: Command<'_>) -> Option<End> {
        let details = self.details.clone().and_then(|details| Details::deserialize(Value::Object(details)).ok()).unwrap_or_default();
        let did = |action: &str| details.action.as_deref().is_none_or(|own| own == action);
        let is_it = match command {
            // Another digest is that of a command before.
            Command::Install(wanted) => {
                let is_other = wanted.sha256.is_some() && details.sha256.is_some() && wanted.sha256 != details.sha256;
                did("install") && wanted.version == self.version && !is_other
            }
            Command::Uninstall(wanted) => did("uninstall") && wanted.version.as_ref().is_none_or(|version| *version == self.version),
        };
        if !is_it || command.package() != self.name {
            return None;
        }
        if self.status == Status::Failed {
            let mut message = details.error.unwrap_or_else(|| "the worker says that it failed, and not why".to_owned());
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
            return Some(End::of(Outcome::Failed, Failure { code: ErrorCode::PackageFailed, message }));
        }
        let Details { change, sha256, signed_by, remarks, removed, kept, .. } = details;
        let package = self.name.clone();
        Some(match command {
            Command::Install(_) => {
                let (changed, version) = (change.as_ref().map(|change| change != "unchanged"), self.version.clone());
                done(changed, &PackageInstallResult { package, version, change, sha256, signed_by, remarks })
            }
            Command::Uninstall(_) => {
                let why = kept.iter().map(|kept| format!("{} stays: {}", kept.version, kept.why)).collect::<Vec<_>>().join("; ");
                let is_whole = kept.is_empty();
                let removed = removed.into_iter().map(|gone| gone.version).collect();
                let end = done(Some(true), &PackageUninstallResult { package, removed, kept });
                let failure = Failure { code: ErrorCode::PackageFailed, message: why };
                if is_whole { end } else { End { outcome: Outcome::Failed, failure: Some(failure), ..end } }
            }
        })
    }
}

/// The answer to `package.list`: what the worker has registered.
pub(super) fn list(packages: &[WorkerPackage], broken: &[(String, String)]) -> End {
    let whole = packages.iter().map(|package| PackageEntry {
        name: package.name.clone(),
        version: package.version.clone(),
        nodes: package.nodes.clone(),
        problem: None,
    });
    let broken = broken.iter().map(|(name, version)| PackageEntry {
        name: name.clone(),
        version: version.clone(),
        nodes: Vec::new(),
        problem: Some("the worker says that it cannot be used; its log says why".to_owned()),
    });
    let mut packages: Vec<PackageEntry> = whole.chain(broken).collect();
    packages.sort_by(|one, other| (&one.name, &one.version).cmp(&(&other.name, &other.version)));
    done(None, &PackagesResult { packages })
}

fn done(changed: Option<bool>, result: &impl Serialize) -> End {
    let result = serde_json::to_value(result).expect("names are text");
    End { outcome: Outcome::Completed, changed, result: Some(result), failure: None, duration_ms: None }
}
