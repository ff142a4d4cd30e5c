//! What agent and supervisor say to each other: JSON, one message a line, over a socket that is the supervisor's stdin.
//!
//! Before all of it comes one blank, and with it the descriptor that is to be the program's stdin, if there is one.
//!
//! The program and its environment travel here and never in the supervisor's own arguments or environment, which others can read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The first line to the supervisor: what to start.
#[derive(Serialize, Deserialize)]
pub(crate) struct Spec {
    /// The program, then its arguments; never empty.
    pub(crate) words: Vec<String>,
    /// Where it runs.
    pub(crate) cwd: String,
    /// All of its environment.
    pub(crate) env: BTreeMap<String, String>,
    /// How it is contained; not at all beyond its session unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) contain: Option<Contain>,
    /// What it may use at most.
    #[serde(default)]
    pub(crate) limits: Limits,
}

/// The first line to a supervisor that others are to be forked from: a nursery. What it is asked then are messages of a socket that keeps them
/// apart: a mark, and with it the new supervisor's socket and what its program writes to.
pub(crate) const NURSERY: &[u8] = b"\"nursery\"";
/// Bytes of a mark that a nursery has room for: a path's, and some.
pub(crate) const MARK_BYTES_MAX: usize = 4096 + 64;

/// What keeps a program and everything below it together. It gains no rights by starting programs that have more.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Contain {
    /// In PID, mount and IPC namespaces of its own, where the host allows.
    pub(crate) namespaces: bool,
    /// Where it writes itself into control groups, and whether it may not be started otherwise.
    pub(crate) doors: Vec<(String, bool)>,
}

/// What a program and each one that it starts may use at most, by the kernel's own limits; none where nothing is said.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// Bytes of address space.
    pub(crate) memory_bytes: Option<u64>,
    /// Open descriptors.
    pub(crate) open_files: Option<u64>,
    /// Processes and threads of the user; the kernel does not hold root to it.
    pub(crate) processes: Option<u64>,
    /// Bytes of each file that it writes.
    pub(crate) file_bytes: Option<u64>,
    /// Whether it leaves no core file when it crashes.
    pub(crate) no_core: bool,
}

/// Any later line to the supervisor.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// End the tree: SIGTERM, and SIGKILL to what is left after the grace.
    Kill {
        /// How long SIGTERM may take.
        grace_ms: u64,
    },
}

/// A line from the supervisor. `Started` and `Exited`, or `NotStarted`; then `Done`, the last.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// It is not in namespaces of its own, since the host does not allow that. Comes before all others.
    Uncontained {
        /// The system's error number.
        errno: i32,
    },
    /// The program runs.
    Started {
        /// Its process.
        pid: i32,
    },
    /// It could not be started.
    NotStarted {
        /// What was at fault.
        at: StartFault,
        /// The system's error number.
        errno: i32,
    },
    /// The program itself ended.
    Exited {
        /// Exit status.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
    },
    /// The supervisor has no more to do.
    Done {
        /// Whether every process is known to be gone.
        verified: bool,
    },
}

/// What kept a program from starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StartFault {
    /// The working directory.
    Directory,
    /// The program.
    Program,
    /// A control group that bounds it.
    Limits,
}
