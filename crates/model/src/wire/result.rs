//! Results of the operations, one struct each. Their JSON Schemas are the catalogue's.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `node.hostname.get`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostnameResult {
    /// The host's name as the kernel has it.
    pub hostname: String,
}

/// `node.hostname.set`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostnameSetResult {
    /// The host's name from now on.
    pub hostname: String,
    /// The name it had.
    pub previous: String,
}

/// `package.run`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PackageResult {
    /// What the handler gave.
    pub output: serde_json::Map<String, serde_json::Value>,
    /// The version that ran.
    pub version: String,
    /// What the worker says of how it ran.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// What the handler left behind on the worker, as the worker describes it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<serde_json::Value>,
}

/// `package.install`. What the host does not say is absent: a worker of the existing kind says little.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PackageInstallResult {
    /// The package.
    pub package: String,
    /// The version that is there now.
    pub version: String,
    /// `new`, `replaced` in place of another archive of that version, or `unchanged`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
    /// SHA-256 of its archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The key that vouched for it, where one is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<String>,
    /// What of it will not work.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

/// `package.uninstall`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PackageUninstallResult {
    /// The package.
    pub package: String,
    /// Versions that are gone, as far as the host says which; what runs from one goes on.
    pub removed: Vec<String>,
    /// Versions that stay, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptPackage>,
}

/// A version of a package that could not be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeptPackage {
    /// Which.
    pub version: String,
    /// Why.
    pub why: String,
}

/// `package.list`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PackagesResult {
    /// What is there, by name and version.
    pub packages: Vec<PackageEntry>,
}

/// A package of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PackageEntry {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The types of its nodes, where its manifest is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// Why it cannot be used, if it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// `node.disk.get`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DisksResult {
    /// Mounted disks, sorted by where they are mounted.
    pub disks: Vec<DiskResult>,
}

/// `node.load.get`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LoadResult {
    /// Load averages over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Logical processors, which the averages are judged by.
    pub cpus: usize,
}

/// `node.uptime.get`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UptimeResult {
    /// Seconds since boot.
    pub uptime_seconds: u64,
}

/// `node.os.get`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OsResult {
    /// Operating system, such as `Debian GNU/Linux 12`.
    pub os: String,
    /// The distribution's short name, such as `debian`.
    pub distribution: String,
    /// Its version, such as `12`, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Kernel release.
    pub kernel: String,
    /// Processor architecture.
    pub arch: String,
}

/// `network.dns.get`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DnsResult {
    /// Name servers, the first one first, as the source writes them (`192.0.2.1`, `fe80::1%eth0`, `192.0.2.1#dns.example`).
    pub servers: Vec<String>,
    /// Domains in which short names are looked up.
    pub search: Vec<String>,
    /// Who says so.
    pub source: DnsSource,
    /// The file or program it was read from.
    pub read_from: String,
    /// The interface it holds for; absent where it holds for the whole host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

/// `network.dns.set`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DnsSetResult {
    /// Name servers from now on. Servers that a host gets by DHCP may be asked beside them.
    pub servers: Vec<String>,
    /// Search domains from now on; absent where the submission left them as they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<Vec<String>>,
    /// What manages name servers on the host.
    pub source: DnsSource,
    /// The interface they are set for; absent where they hold for the whole host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The file they are in; absent where they are not in a file of ours, and last until the interface goes down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// What manages name servers on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DnsSource {
    /// Netplan's files.
    Netplan,
    /// The systemd-resolved service.
    SystemdResolved,
    /// `/etc/resolv.conf` alone.
    ResolvConf,
}

/// `network.ping.run`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PingResult {
    /// The address that was asked, with its zone if it has one.
    pub address: String,
    /// Packets sent.
    pub sent: u32,
    /// Answers that came in time.
    pub received: u32,
    /// Packets without an answer, in percent of those sent.
    pub loss_percent: f64,
    /// Round trips, where there was an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip: Option<RoundTrip>,
    /// The last thing that kept a packet from arriving, such as `Network is unreachable`, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Round-trip times of a ping, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RoundTrip {
    /// The shortest.
    pub min_ms: f64,
    /// The mean.
    pub avg_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// The standard deviation.
    pub mdev_ms: f64,
}

/// `node.status.get`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StatusResult {
    /// The host's name.
    pub hostname: String,
    /// Operating system, such as `Debian GNU/Linux 12`.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
    /// Processor architecture.
    pub arch: String,
    /// Logical processors.
    pub cpus: usize,
    /// Seconds since boot.
    pub uptime_seconds: u64,
    /// Load averages over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Memory.
    pub memory: MemoryResult,
    /// Mounted disks.
    pub disks: Vec<DiskResult>,
}

/// Memory of a host, in bytes; also `node.memory.get`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemoryResult {
    /// Installed.
    pub total_bytes: u64,
    /// Available to new programs without swapping.
    pub available_bytes: u64,
    /// Used.
    pub used_bytes: u64,
}

/// One mounted disk, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskResult {
    /// Where it is mounted.
    pub mount: String,
    /// Device.
    pub device: String,
    /// Size.
    pub total_bytes: u64,
    /// Free for ordinary users.
    pub available_bytes: u64,
}

/// `command.exec` and `command.shell`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommandResult {
    /// Exit status; absent when a signal ended it or it never started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The beginning of standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// The beginning of standard error; bytes that are not UTF-8 are replaced.
    pub stderr: String,
    /// Bytes written to standard output in all.
    pub stdout_bytes: u64,
    /// Bytes written to standard error in all.
    pub stderr_bytes: u64,
    /// Whether `stdout` or `stderr` above is only a part.
    pub truncated: bool,
    /// How long it ran.
    pub duration_ms: u64,
}

/// `workspace.run`, and the content of `results/result.json`: the original worker's field names first, additions after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceResult {
    /// The job.
    pub job_id: String,
    /// How it ended.
    pub status: WorkspaceStatus,
    /// When.
    pub timing: Timing,
    /// Each step that started.
    pub steps: Vec<StepResult>,
    /// What went wrong, when something did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why it failed, where that is not a step's exit status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<WorkspaceReason>,
    /// Whether a process of the job may still run: nobody could make sure that all had ended. Left out if not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub left_running: bool,
    /// What the steps did to the tree.
    pub files: FileChanges,
    /// The archive of what came back, in the object store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveInfo>,
    /// The agent that ran it.
    pub worker: String,
    /// Which attempt.
    pub attempt: u32,
    /// Version of this form.
    pub schema: u32,
}

/// How a workspace job or a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkspaceStatus {
    /// Every step exited 0.
    Success,
    /// It did not.
    Failed,
}

/// Why a workspace job failed, where that is not a step's exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkspaceReason {
    /// Somebody cancelled it.
    Cancelled,
    /// Its time was up.
    TimedOut,
}

/// When a workspace job ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timing {
    /// RFC 3339.
    #[schemars(with = "String")]
    pub start: jiff::Timestamp,
    /// RFC 3339.
    #[schemars(with = "String")]
    pub end: jiff::Timestamp,
    /// By a clock that never goes back.
    pub duration_ms: u64,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepResult {
    /// From 0.
    pub index: usize,
    /// Its script.
    pub command: String,
    /// How it ended.
    pub status: WorkspaceStatus,
    /// Exit status; absent when a signal ended it.
    pub exit_code: Option<i32>,
    /// By a clock that never goes back.
    pub duration_ms: u64,
    /// File name of its log in `results/`.
    pub log: String,
    /// The name it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether output was cut.
    #[serde(default)]
    pub truncated: bool,
}

/// What the steps did to the tree. Names that are not UTF-8 are shown with replacement characters; the archive has them byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct FileChanges {
    /// New files, sorted.
    pub created: Vec<FileInfo>,
    /// Files whose content or mode changed, sorted.
    pub modified: Vec<FileInfo>,
    /// Files that are gone, sorted.
    pub deleted: Vec<String>,
    /// What was not brought back, and why, sorted.
    pub skipped: Vec<SkippedFile>,
    /// How many entries the lists above leave out, to bound their size.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unlisted: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// One file that came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
pub struct FileInfo {
    /// Path below the workspace.
    pub path: String,
    /// Size.
    pub size: u64,
    /// SHA-256 of the content (for a symbolic link: of its target's text), lower-case hex.
    pub sha256: String,
}

/// One entry that did not come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SkippedFile {
    /// Path below the workspace.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// The archive of a workspace job's artifacts: tar, packed with zstd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ArchiveInfo {
    /// Packed size.
    pub size: u64,
    /// SHA-256 of the archive, lower-case hex.
    pub sha256: String,
    /// Entries in it.
    pub entries: usize,
}
