//! `node.*`: what the host is and how it does. Reads only.

use std::collections::BTreeSet;

use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::result::{DiskResult, DisksResult, LoadResult, MemoryResult, OsResult, StatusResult, UptimeResult};
use serde::Serialize;
use sysinfo::{Disks, MemoryRefreshKind, RefreshKind, System};

use super::answer;
use crate::executor::Host;
use crate::finished::Finished;
use crate::process::{Stop, Stops};

const DISKS_MAX: usize = 256;

/// `node.disk.get`.
pub(crate) async fn disk_get(stops: &Stops) -> Finished {
    reading("disks", stops, || Ok(DisksResult { disks: disks()? })).await
}

/// `node.load.get`.
pub(crate) async fn load_get(stops: &Stops) -> Finished {
    reading("load", stops, || Ok(LoadResult { load: load()?, cpus: cpus() })).await
}

/// `node.memory.get`.
pub(crate) async fn memory_get(stops: &Stops) -> Finished {
    reading("memory", stops, memory).await
}

/// `node.os.get`.
pub(crate) async fn os_get(stops: &Stops) -> Finished {
    reading("operating system", stops, || Ok(os())).await
}

/// `node.status.get`.
pub(crate) async fn status_get(host: &Host, stops: &Stops) -> Finished {
    let machine = host.machine.clone();
    let status = move || {
        let OsResult { os, kernel, arch, .. } = os();
        Ok(StatusResult {
            hostname: machine.hostname(),
            os,
            kernel,
            arch,
            cpus: cpus(),
            uptime_seconds: System::uptime()?,
            load: load()?,
            memory: memory()?,
            disks: disks()?,
        })
    };
    reading("status", stops, status).await
}

/// `node.uptime.get`.
pub(crate) async fn uptime_get(stops: &Stops) -> Finished {
    reading("uptime", stops, || Ok(UptimeResult { uptime_seconds: System::uptime()? })).await
}

/// Reads, and ends with the attempt: asking a disk can hang for as long as a network file system does.
async fn reading<T, F>(what: &'static str, stops: &Stops, read: F) -> Finished
where
    T: Serialize + Send + 'static,
    F: FnOnce() -> Result<T, sysinfo::Error> + Send + 'static,
{
    let reading = tokio::task::spawn_blocking(read);
    tokio::select! {
        read = reading => match read {
            Ok(Ok(result)) => answer(false, &result),
            Ok(Err(error)) => Finished::host_fault(format!("could not read the host's {what}: {error}")),
            Err(_) => Finished::failed(ErrorCode::Internal, format!("reading the host's {what} failed; the agent's log has more")),
        },
        stop = stops.first() => match stop {
            Stop::Cancelled | Stop::Abandoned => Finished::cancelled(true),
            Stop::TimedOut => Finished::failed(ErrorCode::TimedOut, format!("the host's {what} could not be read in time")),
        },
    }
}

fn disks() -> Result<Vec<DiskResult>, sysinfo::Error> {
    let disk = |disk: &sysinfo::Disk| DiskResult {
        mount: disk.mount_point().to_string_lossy().into_owned(),
        device: disk.name().to_string_lossy().into_owned(),
        total_bytes: disk.total_space(),
        available_bytes: disk.available_space(),
    };
    Ok(each_once(Disks::new_with_refreshed_list()?.iter().map(disk).collect()))
}

/// One row a file system, where it is mounted first of all: bind mounts repeat it under other names. What is no device has a name for its kind
/// only, and each mount is one of its own.
fn each_once(mut disks: Vec<DiskResult>) -> Vec<DiskResult> {
    disks.sort_by(|a, b| (a.mount.len(), &a.mount).cmp(&(b.mount.len(), &b.mount)));
    let mut seen = BTreeSet::new();
    disks.retain(|disk| seen.insert(if disk.device.starts_with('/') { disk.device.clone() } else { disk.mount.clone() }));
    disks.sort_by(|a, b| a.mount.cmp(&b.mount));
    disks.truncate(DISKS_MAX);
    disks
}

fn load() -> Result<[f64; 3], sysinfo::Error> {
    let load = System::load_average()?;
    Ok([load.one, load.five, load.fifteen])
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn memory() -> Result<MemoryResult, sysinfo::Error> {
    let system = System::new_with_specifics(RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram()))?;
    Ok(MemoryResult { total_bytes: system.total_memory(), available_bytes: system.available_memory(), used_bytes: system.used_memory() })
}

fn os() -> OsResult {
    let unknown = || "unknown".to_owned();
    OsResult {
        os: System::long_os_version().unwrap_or_else(|_| unknown()),
        distribution: System::distribution_id(),
        version: System::os_version().ok(),
        kernel: System::kernel_version().unwrap_or_else(|_| unknown()),
        arch: System::cpu_arch(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_one_row_however_often_it_is_mounted() {
        let disk = |mount: &str, device: &str| DiskResult {
            mount: mount.to_owned(),
            device: device.to_owned(),
            total_bytes: 1,
            available_bytes: 1,
        };
        let found = each_once(vec![
            disk("/etc/hostname", "/dev/vda1"),
            disk("/srv", "/dev/vdb"),
            disk("/", "/dev/vda1"),
            disk("/var/lib/images", "/dev/vda1"),
            disk("/run", "tmpfs"),
            disk("/tmp", "tmpfs"),
            disk("/srv", "/dev/vdb"),
        ]);
        let rows: Vec<_> = found.iter().map(|disk| (disk.mount.as_str(), disk.device.as_str())).collect();
        assert_eq!(rows, [("/", "/dev/vda1"), ("/run", "tmpfs"), ("/srv", "/dev/vdb"), ("/tmp", "tmpfs")]);
    }
}
