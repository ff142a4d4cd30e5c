//! What hosts answered, as a table.

use std::time::Duration;

use indicatif::HumanBytes;
use longshore_client::{ExecutionView, JobView};
use longshore_model::ExecutionState;
use longshore_model::wire::result::{
    CommandResult, DiskResult, DisksResult, DnsResult, DnsSetResult, DnsSource, HostnameResult, HostnameSetResult, LoadResult,
    MemoryResult, OsResult, PackageEntry, PackageInstallResult, PackageUninstallResult, PackagesResult, PingResult, StatusResult,
    UptimeResult,
};
use serde::de::DeserializeOwned;

use super::job::{by_host, host};
use super::table::Table;
use super::time::duration;
use crate::output::Output;

/// The result of an operation, as rows of a table.
pub(crate) trait Rows: DeserializeOwned {
    /// Over the columns.
    const HEADINGS: &'static [&'static str];
    /// A cell for each heading.
    fn rows(&self) -> Vec<Vec<String>>;
}

/// The answers of a job's hosts, sorted by host; what went wrong in a last column if anything did.
pub(crate) fn answers<R: Rows>(out: &Output, job: &JobView) -> String {
    let is_well = |execution: &ExecutionView| {
        execution.state == ExecutionState::Completed && execution.error.is_none() && execution.large_result.is_none()
    };
    let all_well = job.executions.iter().all(is_well);
    let last: &[&str] = if all_well { &[] } else { &["ERROR"] };
    let headings = [&["HOST"], R::HEADINGS, last].concat();
    let mut table = Table::new(out, &headings);
    for execution in by_host(job) {
        let result = execution.result.clone().and_then(|result| serde_json::from_value::<R>(result).ok());
        let nothing = || vec![vec!["-".to_owned(); R::HEADINGS.len()]];
        for row in result.map_or_else(nothing, |result| result.rows()) {
            let wrong = (!all_well).then(|| if is_well(execution) { String::new() } else { wrong(execution) });
            table.row([host(execution)].into_iter().chain(row).chain(wrong));
        }
    }
    table.text()
}

fn wrong(execution: &ExecutionView) -> String {
    let large = |execution: &ExecutionView| {
        let large = execution.large_result.as_ref()?;
        let problem = large.problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
        Some(format!("a result of {}, see `longshore job result`{problem}", bytes(large.bytes)))
    };
    let error = execution.error.as_ref().map(|error| error.message.clone());
    error.or_else(|| large(execution)).unwrap_or_else(|| execution.state.as_str().to_owned())
}

fn bytes(n: u64) -> String {
    HumanBytes(n).to_string()
}

fn used(total: u64, available: u64) -> String {
    let share = total.saturating_sub(available).saturating_mul(100).checked_div(total);
    share.map_or_else(|| "-".to_owned(), |percent| format!("{percent}%"))
}

fn load(load: [f64; 3]) -> Vec<String> {
    load.iter().map(|load| format!("{load:.2}")).collect()
}

fn or_dash(words: &[String]) -> String {
    if words.is_empty() { "-".to_owned() } else { words.join(" ") }
}

fn dns_source(source: DnsSource) -> String {
    match source {
        DnsSource::Netplan => "netplan",
        DnsSource::SystemdResolved => "systemd-resolved",
        DnsSource::ResolvConf => "resolv.conf",
    }
    .to_owned()
}

impl Rows for HostnameResult {
    const HEADINGS: &'static [&'static str] = &["HOSTNAME"];
    fn rows(&self) -> Vec<Vec<String>> {
        vec![vec![self.hostname.clone()]]
    }
}

impl Rows for HostnameSetResult {
    const HEADINGS: &'static [&'static str] = &["HOSTNAME", "BEFORE"];
    fn rows(&self) -> Vec<Vec<String>> {
        vec![vec![self.hostname.clone(), self.previous.clone()]]
    }
}

impl Rows for StatusResult {
    const HEADINGS: &'static [&'static str] = &["OS", "UP", "CPUS", "LOAD", "MEMORY USED", "FULLEST DISK"];
    fn rows(&self) -> Vec<Vec<String>> {
        let share =
            |disk: &&DiskResult| disk.total_bytes.saturating_sub(disk.available_bytes).saturating_mul(1000) / disk.total_bytes.max(1);
        let fullest = self.disks.iter().max_by_key(share);
        vec![vec![
            self.os.clone(),
            duration(Duration::from_secs(self.uptime_seconds)),
            self.cpus.to_string(),
            load(self.load).join(" "),
            format!("{} of {}", used(self.memory.total_bytes, self.memory.available_bytes), bytes(self.memory.total_bytes)),
            fullest.map_or_else(|| "-".to_owned(), |disk| format!("{} {}", used(disk.total_bytes, disk.available_bytes), disk.mount)),
        ]]
    }
}

impl Rows for DisksResult {
    const HEADINGS: &'static [&'static str] = &["MOUNT", "SIZE", "FREE", "USED", "DEVICE"];
    fn rows(&self) -> Vec<Vec<String>> {
        let row = |disk: &DiskResult| {
            let (total, free) = (disk.total_bytes, disk.available_bytes);
            vec![disk.mount.clone(), bytes(total), bytes(free), used(total, free), disk.device.clone()]
        };
        self.disks.iter().map(row).collect()
    }
}

impl Rows for MemoryResult {
    const HEADINGS: &'static [&'static str] = &["SIZE", "AVAILABLE", "USED"];
    fn rows(&self) -> Vec<Vec<String>> {
        vec![vec![bytes(self.total_bytes), bytes(self.available_bytes), used(self.total_bytes, self.available_bytes)]]
    }
}

impl Rows for LoadResult {
    const HEADINGS: &'static [&'static str] = &["1 MIN", "5 MIN", "15 MIN", "CPUS"];
    fn rows(&self) -> Vec<Vec<String>> {
        vec![load(self.load).into_iter().chain([self.cpus.to_string()]).collect()]
    }
}

impl Rows for UptimeResult {
    const HEADINGS: &'static [&'static str] = &["UP"];
    fn rows(&self) -> Vec<Vec<String>> {
        vec![vec![duration(Duration::from_secs(self.uptime_seconds))]]
    }
}

impl Rows for OsResult {
    const HEADINGS: &'static [&'static str] = &["OS", "KERNEL", "ARCH"];
    fn rows(&self) -> Vec<Vec<String>> {
        vec![vec![self.os.clone(), self.kernel.clone(), self.arch.clone()]]
    }
}

impl Rows for PackagesResult {
    const HEADINGS: &'static [&'static str] = &["PACKAGE", "VERSION", "NODES", "PROBLEM"];
    fn rows(&self) -> Vec<Vec<String>> {
        let row = |package: &PackageEntry| {
            let problem = package.problem.clone().unwrap_or_else(|| "-".to_owned());
            vec![package.name.clone(), package.version.clone(), or_dash(&package.nodes), problem]
        };
        let none = || vec!["-".to_owned(); Self::HEADINGS.len()];
        if self.packages.is_empty() { vec![none()] } else { self.packages.iter().map(row).collect() }
    }
}

impl Rows for PackageInstallResult {
    const HEADINGS: &'static [&'static str] = &["PACKAGE", "VERSION", "CHANGE", "REMARKS"];
    fn rows(&self) -> Vec<Vec<String>> {
        let remarks = if self.remarks.is_empty() { "-".to_owned() } else { self.remarks.join("; ") };
        let change = self.change.clone().unwrap_or_else(|| "-".to_owned());
        vec![vec![self.package.clone(), self.version.clone(), change, remarks]]
    }
}

impl Rows for PackageUninstallResult {
    const HEADINGS: &'static [&'static str] = &["PACKAGE", "REMOVED"];
    fn rows(&self) -> Vec<Vec<String>> {
        vec![vec![self.package.clone(), or_dash(&self.removed)]]
    }
}

impl Rows for DnsResult {
    const HEADINGS: &'static [&'static str] = &["SERVERS", "SEARCH", "INTERFACE", "SOURCE"];
    fn rows(&self) -> Vec<Vec<String>> {
        let interface = self.interface.clone().unwrap_or_else(|| "-".to_owned());
        vec![vec![or_dash(&self.servers), or_dash(&self.search), interface, dns_source(self.source)]]
    }
}

impl Rows for DnsSetResult {
    const HEADINGS: &'static [&'static str] = &["SERVERS", "SEARCH", "INTERFACE", "SOURCE"];
    fn rows(&self) -> Vec<Vec<String>> {
        let search = self.search.as_ref().map_or_else(|| "as it was".to_owned(), |search| or_dash(search));
        let interface = self.interface.clone().unwrap_or_else(|| "-".to_owned());
        vec![vec![or_dash(&self.servers), search, interface, dns_source(self.source)]]
    }
}

impl Rows for PingResult {
    const HEADINGS: &'static [&'static str] = &["ADDRESS", "SENT", "RECEIVED", "LOSS", "MIN", "AVG", "MAX", "LAST ERROR"];
    fn rows(&self) -> Vec<Vec<String>> {
        let ms = |pick: fn(&longshore_model::wire::result::RoundTrip) -> f64| {
            self.round_trip.as_ref().map_or_else(|| "-".to_owned(), |trip| format!("{:.1}ms", pick(trip)))
        };
        vec![vec![
            self.address.clone(),
            self.sent.to_string(),
            self.received.to_string(),
            format!("{:.0}%", self.loss_percent),
            ms(|trip| trip.min_ms),
            ms(|trip| trip.avg_ms),
            ms(|trip| trip.max_ms),
            self.last_error.clone().unwrap_or_default(),
        ]]
    }
}

/// The first line of what a command wrote, and how many follow; `job logs` has all of it.
impl Rows for CommandResult {
    const HEADINGS: &'static [&'static str] = &["EXIT", "TOOK", "OUTPUT"];
    fn rows(&self) -> Vec<Vec<String>> {
        let exit = match (self.exit_code, self.signal) {
            (Some(code), _) => code.to_string(),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "-".to_owned(),
        };
        let text = if self.stdout.trim().is_empty() { &self.stderr } else { &self.stdout };
        let mut lines = text.trim().lines();
        let first = lines.next().unwrap_or_default();
        let more = match lines.count() {
            0 => String::new(),
            n => format!(" (and {n} more)"),
        };
        let cut = if self.truncated { " [cut]" } else { "" };
        vec![vec![exit, duration(Duration::from_millis(self.duration_ms)), format!("{first}{more}{cut}")]]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::output::{Color, Format};

    fn job(executions: &Value) -> JobView {
        serde_json::from_value(json!({
            "id": longshore_client::JobId::from_bits(7), "status": "partial_failure", "operation": "x", "args": {}, "target": "_all",
            "submitted_by": "x", "submitted_at": "2026-07-27T10:00:00Z", "expires_at": "2026-07-27T11:00:00Z", "timeout": "5m",
            "max_attempts": 1, "annotations": {}, "timeline": [], "executions": executions,
        }))
        .unwrap()
    }

    #[track_caller]
    fn check<R: Rows>(executions: &Value, expected: &str) {
        let mut out = Output::new(Format::Table, Color::Never, false);
        out.stdout_is_terminal = false;
        assert_eq!(answers::<R>(&out, &job(executions)), expected);
    }

    fn answer(host: &str, result: &Value) -> Value {
        json!({"id": longshore_client::AgentId::from_bits(1), "state": "completed", "hostname": host, "attempts": 1, "result": result})
    }

    #[test]
    fn hosts_have_rows_sorted_by_name_and_errors_a_column_if_there_are_any() {
        let disk = |mount: &str| json!({"mount": mount, "device": "sda", "total_bytes": 4096, "available_bytes": 1024});
        let two = json!([answer("b", &json!({"disks": [disk("/"), disk("/srv")]})), answer("a", &json!({"disks": [disk("/")]}))]);
        let rows = "HOST  MOUNT  SIZE      FREE      USED  DEVICE
a     /      4.00 KiB  1.00 KiB  75%   sda
b     /      4.00 KiB  1.00 KiB  75%   sda
b     /srv   4.00 KiB  1.00 KiB  75%   sda";
        check::<DisksResult>(&two, rows);
        let failed =
            json!({"id": "any", "state": "failed", "hostname": "c", "attempts": 1, "error": {"code": "host_fault", "message": "no"}});
        let lost = json!({"id": "any", "state": "lost", "hostname": "d", "attempts": 1});
        let mixed = json!([answer("a", &json!({"uptime_seconds": 273_600})), failed, lost]);
        check::<UptimeResult>(&mixed, "HOST  UP    ERROR\na     3d4h\nc     -     no\nd     -     lost");
    }

    #[test]
    fn output_is_told_by_its_first_line() {
        let result = |stdout: &str, stderr: &str| json!({"exit_code": 0, "stdout": stdout, "stderr": stderr, "stdout_bytes": 0, "stderr_bytes": 0, "truncated": false, "duration_ms": 5});
        check::<CommandResult>(
            &json!([answer("a", &result("one\ntwo\n", ""))]),
            "HOST  EXIT  TOOK  OUTPUT\na     0     5ms   one (and 1 more)",
        );
        check::<CommandResult>(
            &json!([answer("a", &result("", "e\u{1b}[2J\n"))]),
            "HOST  EXIT  TOOK  OUTPUT\na     0     5ms   e\u{fffd}[2J",
        );
    }
}
