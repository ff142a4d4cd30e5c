//! `node.*`: what the host is and how it does. Reads only.

use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::result::{DiskResult, HostnameResult, MemoryResult, StatusResult};
use serde::Serialize;
use sysinfo::{Disks, MemoryRefreshKind, RefreshKind, System};

use crate::finished::Finished;
use crate::process::{Stop, Stops};

/// `node.hostname.get`.
pub(crate) fn hostname_get() -> Finished {
    answer(&HostnameResult { hostname: hostname() })
}

/// `node.status.get`. Asking a disk can hang for as long as a network file system does, so it ends with the attempt.
pub(crate) async fn status_get(stops: &Stops) -> Finished {
    let reading = tokio::task::spawn_blocking(status);
    tokio::select! {
        status = reading => match status {
            Ok(Ok(status)) => answer(&status),
            Ok(Err(error)) => Finished::host_fault(format!("could not read the host's status: {error}")),
            Err(_) => Finished::failed(ErrorCode::Internal, "reading the host's status failed; the agent's log has more"),
        },
        stop = stops.first() => match stop {
            Stop::Cancelled | Stop::Abandoned => Finished::cancelled(true),
            Stop::TimedOut => Finished::failed(ErrorCode::TimedOut, "the host's status could not be read in time"),
        },
    }
}

fn answer<T: Serialize>(result: &T) -> Finished {
    match serde_json::to_value(result) {
        Ok(json) => Finished::completed(Some(false), json),
        Err(error) => Finished::failed(ErrorCode::Internal, format!("the result is not JSON: {error}")),
    }
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn status() -> Result<StatusResult, sysinfo::Error> {
    let system = System::new_with_specifics(RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram()))?;
    let load = System::load_average()?;
    let disk = |disk: &sysinfo::Disk| DiskResult {
        mount: disk.mount_point().to_string_lossy().into_owned(),
        device: disk.name().to_string_lossy().into_owned(),
        total_bytes: disk.total_space(),
        available_bytes: disk.available_space(),
    };
    let mut disks: Vec<_> = Disks::new_with_refreshed_list()?.iter().map(disk).collect();
    disks.sort_by(|a, b| a.mount.cmp(&b.mount));
    // One row a file system: bind mounts repeat it under other names.
    disks.dedup_by(|a, b| a.mount == b.mount);
    disks.truncate(256);
    Ok(StatusResult {
        hostname: hostname(),
        os: System::long_os_version().unwrap_or_else(|_| "unknown".to_owned()),
        kernel: System::kernel_version().unwrap_or_else(|_| "unknown".to_owned()),
        arch: System::cpu_arch(),
        cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        uptime_seconds: System::uptime()?,
        load: [load.one, load.five, load.fifteen],
        memory: MemoryResult {
            total_bytes: system.total_memory(),
            available_bytes: system.available_memory(),
            used_bytes: system.used_memory(),
        },
        disks,
    })
}
