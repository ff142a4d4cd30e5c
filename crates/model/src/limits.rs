//! Every bound in one place. A number an operator may change lives in the owner's configuration instead.

use std::time::Duration;

/// Bytes of a JSON request body.
pub const REQUEST_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a stored definition, event or answer: below the broker's message size of 1 MiB, with room for headers.
pub const RECORD_BYTES_MAX: usize = 960 * 1024;
/// Bytes kept of each of stdout and stderr in an answer; the whole output is in the log.
pub const ANSWER_OUTPUT_BYTES_MAX: usize = 128 * 1024;
/// Bytes of stdout and stderr together that a submission may have kept in an answer.
pub const OUTPUT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bytes of a result as JSON that stay in the answer's record; a larger one goes to the object store. Half of a
/// record where the broker's are smaller.
pub const RESULT_INLINE_BYTES_MAX: usize = RECORD_BYTES_MAX / 2;
/// Bytes of a result as JSON: text of [`OUTPUT_BYTES_MAX`] in which every character needs an escape, and the rest of the result.
pub const RESULT_BYTES_MAX: u64 = 2 * OUTPUT_BYTES_MAX + 1024 * 1024;
/// Bytes of output a process may write to the log before it is truncated, unless the job says otherwise.
pub const LOG_BYTES_PER_STEP_MAX: u64 = 64 * 1024 * 1024;
/// The least memory that a job may be bound to: a shell needs about as much.
pub const LIMIT_MEMORY_MIN: u64 = 1024 * 1024;
/// The most that memory and files may be bound to; more is no bound.
pub const LIMIT_BYTES_MAX: u64 = 1 << 50;
/// The most processes that a job may be bound to: what a kernel can have.
pub const PROCESSES_MAX: u32 = 4_194_304;
/// Bytes in one live log record.
pub const LOG_RECORD_BYTES_MAX: usize = 32 * 1024;
/// Bytes of one attempt's output that wait on the agent's disk for the broker before new ones are dropped and shown as a gap.
pub const SPOOL_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The same of all attempts of an agent together.
pub const SPOOLS_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// Bytes of one attempt's output that wait in memory while the disk does not take them.
pub const SPOOL_MEMORY_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of an uploaded bundle, packed.
pub const BUNDLE_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Bytes a bundle may unpack to.
pub const BUNDLE_UNPACKED_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// Entries in a bundle or among artifacts.
pub const BUNDLE_ENTRIES_MAX: usize = 1_000_000;
/// Artifacts whose names an answer lists; the archive holds them all.
pub const ANSWER_FILES_MAX: usize = 2_000;
/// Artifacts of all executions that one list names.
pub const ARTIFACTS_LISTED_MAX: usize = 20_000;
/// Levels of directories in a bundle.
pub const BUNDLE_DEPTH_MAX: usize = 128;
/// Bytes of the name of a job's directory on a shared drive: what file systems take.
pub const DIRECTORY_NAME_BYTES_MAX: usize = 255;
/// Entries in a job's directory on a shared drive that are copied into its workspace.
pub const STAGED_ENTRIES_MAX: usize = 1_000_000;
/// Bytes of the address of a package's archive.
pub const PACKAGE_URL_BYTES_MAX: usize = 4096;
/// Bytes of a package's name, its version, or the type of one of its nodes.
pub const PACKAGE_NAME_BYTES_MAX: usize = 128;
/// Bytes of the parameters of a package's node, as JSON: half of what the existing worker reads in one frame.
pub const PARAMETERS_BYTES_MAX: usize = 512 * 1024;
/// How deeply those may be nested: below what a session's frames may be.
pub const PARAMETERS_DEPTH_MAX: usize = 64;
/// Packages that the registry keeps of one attached worker.
pub const WORKER_PACKAGES_MAX: usize = 512;
/// Nodes of all packages that the registry keeps of one attached worker.
pub const WORKER_NODES_MAX: usize = 4096;
/// Steps of a workspace job.
pub const STEPS_MAX: usize = 256;
/// Words in a command line.
pub const COMMAND_WORDS_MAX: usize = 4096;
/// Bytes of a command line, a script or a step.
pub const COMMAND_BYTES_MAX: usize = 128 * 1024;
/// Environment variables a job may set.
pub const ENV_VARS_MAX: usize = 256;
/// Secrets a job may have.
pub const SECRETS_MAX: usize = 32;
/// Bytes of a job's secrets in all, with their names.
pub const SECRETS_BYTES_MAX: usize = 64 * 1024;
/// Bytes below which a secret is not looked for in output: what is that short is everywhere.
pub const REDACTED_BYTES_MIN: usize = 6;
/// Annotations on a job.
pub const ANNOTATIONS_MAX: usize = 32;
/// Bytes of an annotation's key or value.
pub const ANNOTATION_BYTES_MAX: usize = 256;
/// Bytes of an idempotency key.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// Bytes of a host name used as a target.
pub const HOST_NAME_BYTES_MAX: usize = 253;
/// Labels of an agent.
pub const LABELS_MAX: usize = 16;
/// Segments of a label's value.
pub const LABEL_SEGMENTS_MAX: usize = 8;
/// Bytes of a label's key, and of each segment of its value.
pub const LABEL_SEGMENT_BYTES_MAX: usize = 63;
/// Agents that one job may address: its definition names them all.
pub const EXECUTIONS_MAX: usize = 10_000;
/// Attempts a job may ask for.
pub const ATTEMPTS_MAX: u32 = 100;
/// Steps in a back-off list.
pub const BACKOFF_STEPS_MAX: usize = 32;
/// The longest time-out of one attempt.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// The shortest time-out of one attempt.
pub const TIMEOUT_MIN: Duration = Duration::from_millis(1);
/// How long a submission stays startable unless it says otherwise.
pub const EXPIRES_IN_DEFAULT: Duration = Duration::from_secs(3600);
/// The longest `expires_in`, and the furthest `not_before`.
pub const EXPIRES_IN_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// The longest a reader may ask to wait for a job to end.
pub const WAIT_MAX: Duration = Duration::from_secs(300);
/// Jobs in a list page: default and most.
pub const PAGE_DEFAULT: usize = 50;
/// See [`PAGE_DEFAULT`].
pub const PAGE_MAX: usize = 1000;
/// Bytes of a concurrency key.
pub const CONCURRENCY_KEY_BYTES_MAX: usize = 256;
/// Jobs of one concurrency key that are offered to agents at a time; the others wait in the ledger.
pub const TURNS_OFFERED_MAX: usize = 8;
/// Executions that a dead letter lists; it counts the others.
pub const DEAD_LETTER_EXECUTIONS_MAX: usize = 64;
/// Bytes of an error's message in a dead letter; the job has all of it.
pub const DEAD_LETTER_ERROR_BYTES_MAX: usize = 512;
/// Bytes of a path, a reason or a caller's name in an audit record.
pub const AUDIT_TEXT_BYTES_MAX: usize = 512;
/// Audit records that wait for the broker before new ones are counted and given up.
pub const AUDIT_RECORDS_WAITING_MAX: usize = 8192;
/// Calls without a valid token that are recorded one by one, of each source in [`AUDIT_STRANGERS_EVERY`]; the others are counted.
pub const AUDIT_STRANGERS_EACH_MAX: usize = 10;
/// How long calls without a valid token are counted before a record tells of them.
pub const AUDIT_STRANGERS_EVERY: Duration = Duration::from_secs(60);
/// Sources of calls without a valid token that are told apart; beyond that they count as one.
pub const AUDIT_SOURCES_MAX: usize = 1024;
/// How long a process may ignore SIGTERM before SIGKILL.
pub const KILL_GRACE: Duration = Duration::from_secs(2);
/// How long a drive may be silent after a workspace job was to end, until it counts as one that hangs.
pub const DRIVE_PATIENCE: Duration = Duration::from_secs(30);
/// Skew allowed between an agent's clock and the controller's when an expiry is judged.
pub const CLOCK_SKEW: Duration = Duration::from_secs(1);
/// Bytes of a name in the domain name system.
pub const DOMAIN_NAME_BYTES_MAX: usize = 253;
/// Bytes of the name a host can be given: what the kernel takes.
pub const NODE_NAME_BYTES_MAX: usize = 64;
/// Bytes of a network interface's name: what the kernel takes.
pub const INTERFACE_NAME_BYTES_MAX: usize = 15;
/// Name servers a host can be given.
pub const NAME_SERVERS_MAX: usize = 8;
/// Search domains a host can be given.
pub const SEARCH_DOMAINS_MAX: usize = 32;
/// Packets of one ping.
pub const PING_COUNT_MAX: u32 = 100;
/// The shortest and the longest wait between the packets of a ping.
pub const PING_INTERVAL_MIN: Duration = Duration::from_millis(200);
/// See [`PING_INTERVAL_MIN`].
pub const PING_INTERVAL_MAX: Duration = Duration::from_secs(60);
/// The longest a ping may wait for one answer.
pub const PING_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Bytes of the value of a fact that an argument may name.
pub const FACT_BYTES_MAX: usize = 1024;
/// Network interfaces among the facts of a host.
pub const FACT_INTERFACES_MAX: usize = 64;
/// Addresses of one of them.
pub const FACT_ADDRESSES_MAX: usize = 32;
/// Conditions in a heartbeat.
pub const CONDITIONS_MAX: usize = 16;
/// What is kept and shown of the history of an agent's drains.
pub const DRAINS_KEPT: u8 = 16;
/// Bytes of a package's archive.
pub const PACKAGE_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Bytes that all files of a package may have.
pub const PACKAGE_UNPACKED_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// Entries of a package.
pub const PACKAGE_ENTRIES_MAX: usize = 50_000;
/// Levels of directories in a package.
pub const PACKAGE_DEPTH_MAX: usize = 32;
/// How many times its packed size a package may unpack to, beyond [`PACKAGE_RATIO_FREE_BYTES`].
pub const PACKAGE_RATIO_MAX: u64 = 200;
/// Bytes that any package may unpack to, however small its archive is.
pub const PACKAGE_RATIO_FREE_BYTES: u64 = 8 * 1024 * 1024;
/// Bytes of a package's manifest.
pub const PACKAGE_MANIFEST_BYTES_MAX: u64 = 1024 * 1024;
/// Packages in one packages directory.
pub const PACKAGES_MAX: usize = 10_000;
/// Bytes of a signature's file.
pub const PACKAGE_SIGNATURE_BYTES_MAX: u64 = 8 * 1024;
/// Redirects that fetching a package follows.
pub const FETCH_REDIRECTS_MAX: usize = 3;
