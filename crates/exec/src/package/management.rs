//! `package.install`, `package.uninstall` and `package.list` as jobs: what an operator asks of the packages of a host.

use longshore_model::operation::{PackageInstall, PackageUninstall};
use longshore_model::wire::problem::{ErrorCode, chain};
use longshore_model::wire::result::{KeptPackage, PackageEntry, PackageInstallResult, PackageUninstallResult, PackagesResult};
use serde::Serialize;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::{
    Change, IdentityError, InstallReport, InstallRequest, Inventory, PackageName, PackageVersion, Sha256Hex, UninstallError,
    UninstallReport,
};
use crate::executor::Host;
use crate::finished::Finished;
use crate::process::Stops;

/// Installs a package. What was there before is there still, unless it is installed.
pub(crate) async fn install(host: &Host, wanted: &PackageInstall, stops: &Stops) -> Finished {
    let Some(installer) = host.installer.get() else { return nobody() };
    let request = match request(wanted) {
        Ok(request) => request,
        Err(why) => return Finished::failed(ErrorCode::PackageFailed, why),
    };
    let (name, version) = (request.name.clone(), request.version.clone());
    match until(stops, async |cancel| installer.install(request, &cancel).await).await {
        Ok(report) => {
            retire(host, name.as_ref(), version.as_ref());
            Finished::completed(Some(report.change != Change::Unchanged), json(&installed(report)))
        }
        Err(error) => why_not(stops, error.is_retryable(), &error),
    }
}

/// Removes a package.
pub(crate) async fn uninstall(host: &Host, wanted: &PackageUninstall, stops: &Stops) -> Finished {
    let Some(installer) = host.installer.get() else { return nobody() };
    let parsed = wanted.package.parse::<PackageName>().and_then(|name| {
        let version = wanted.version.as_deref().map(str::parse::<PackageVersion>).transpose()?;
        Ok::<_, IdentityError>((name, version))
    });
    let (name, version) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return Finished::failed(ErrorCode::PackageFailed, error.to_string()),
    };
    let removed = until(stops, async |cancel| installer.uninstall(&name, version.as_ref(), &cancel).await).await;
    retire(host, Some(&name), version.as_ref());
    match removed {
        Ok(report) if report.kept.is_empty() => Finished::completed(Some(true), json(&gone(report))),
        Ok(report) => {
            let result = gone(report);
            let why = result.kept.iter().map(|kept| format!("{} stays: {}", kept.version, kept.why)).collect::<Vec<_>>().join("; ");
            Finished { changed: Some(true), result: Some(json(&result)), ..Finished::failed(ErrorCode::PackageFailed, why) }
        }
        Err(error @ UninstallError::NotInstalled { .. }) => Finished::skipped(chain(&error)),
        Err(error @ (UninstallError::Kept { .. } | UninstallError::Store(_))) => why_not(stops, true, &error),
    }
}

/// Says what is there.
pub(crate) async fn list(host: &Host) -> Finished {
    let Some(installer) = host.installer.get() else { return nobody() };
    let packages = installer.packages().clone();
    match tokio::task::spawn_blocking(move || packages.inventory()).await {
        Ok(Ok(inventory)) => Finished::completed(None, json(&listed(inventory))),
        Ok(Err(error)) => Finished::system_fault("read the packages directory", &error),
        Err(error) => Finished::host_fault(format!("the packages directory could not be read: {error}")),
    }
}

fn nobody() -> Finished {
    Finished::skipped("the agent on this host runs no packages, so it installs none")
}

fn request(wanted: &PackageInstall) -> Result<InstallRequest, String> {
    let name = wanted.package.parse::<PackageName>().map_err(|error| error.to_string())?;
    let version = wanted.version.parse::<PackageVersion>().map_err(|error| error.to_string())?;
    let sha256 = wanted.sha256.clone().map(Sha256Hex::try_from).transpose()?;
    Ok(InstallRequest { name: Some(name), version: Some(version), url: Some(wanted.url.clone()), sha256, signature_url: None })
}

/// Does it until somebody wants its end, or its time is up; it ends itself, and says what came of it.
async fn until<T>(stops: &Stops, work: impl AsyncFnOnce(CancellationToken) -> T) -> T {
    let cancel = CancellationToken::new();
    let mut work = std::pin::pin!(work(cancel.clone()));
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = stops.cancel.cancelled(), if !cancel.is_cancelled() => cancel.cancel(),
            () = stops.abandon.cancelled(), if !cancel.is_cancelled() => cancel.cancel(),
            () = sleep_until(stops.deadline), if !cancel.is_cancelled() => cancel.cancel(),
        }
    }
}

/// Hosts of handlers of before take no more tasks.
fn retire(host: &Host, name: Option<&PackageName>, version: Option<&PackageVersion>) {
    if let (Some(runner), Some(name)) = (host.packages.get(), name) {
        runner.retire(name, version);
    }
}

fn why_not(stops: &Stops, is_transient: bool, error: &(dyn std::error::Error + 'static)) -> Finished {
    if stops.cancel.is_cancelled() {
        return Finished::cancelled(true);
    }
    if tokio::time::Instant::now() >= stops.deadline {
        return Finished::failed(ErrorCode::TimedOut, format!("it took longer than its time-out: {}", chain(error)));
    }
    Finished { transient: is_transient, ..Finished::failed(ErrorCode::PackageFailed, chain(error)) }
}

fn installed(report: InstallReport) -> PackageInstallResult {
    let change = match report.change {
        Change::New => "new",
        Change::Replaced => "replaced",
        Change::Unchanged => "unchanged",
    };
    PackageInstallResult {
        package: report.installed.name.to_string(),
        version: report.installed.version.to_string(),
        change: Some(change.to_owned()),
        sha256: Some(report.sha256),
        signed_by: report.signed_by,
        remarks: report.remarks,
    }
}

fn gone(report: UninstallReport) -> PackageUninstallResult {
    let kept = report.kept.into_iter().map(|kept| KeptPackage { version: kept.version.to_string(), why: kept.why });
    PackageUninstallResult {
        package: report.name.to_string(),
        removed: report.removed.iter().map(|removed| removed.version.to_string()).collect(),
        kept: kept.collect(),
    }
}

fn listed(inventory: Inventory) -> PackagesResult {
    let mut packages: Vec<PackageEntry> = inventory
        .installed
        .iter()
        .map(|installed| PackageEntry {
            name: installed.name.to_string(),
            version: installed.version.to_string(),
            nodes: installed.manifest.nodes.iter().map(|node| node.node_type.to_string()).collect(),
            problem: None,
        })
        .collect();
    let or_where = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    packages.extend(inventory.broken.into_iter().map(|broken| PackageEntry {
        name: or_where(broken.name),
        version: or_where(broken.version),
        nodes: Vec::new(),
        problem: Some(format!("{}: {}", broken.directory.display(), broken.why)),
    }));
    packages.sort_by(|one, other| (&one.name, &one.version).cmp(&(&other.name, &other.version)));
    PackagesResult { packages }
}

fn json(result: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(result).expect("names are text")
}
