//! Programs and the trees they grow into.
//!
//! Every program is started through a supervisor, a re-execution of our own binary that is a subreaper:
//!
//! ```text
//!   agent ──socket (its stdin)──► supervisor ──► program ──► whatever it starts, however it hides
//!     ▲                             │
//!     └── stdout, stderr pipes ─────┴──────────────┘
//! ```
//!
//! Whoever needs many of them keeps one process that is loaded once and forks supervisors ([`supervisor`], `nursery`).
//!
//! Whoever loses its parent below the supervisor becomes the supervisor's child, so `setsid`, double forks and ignored signals do
//! not escape it: it kills until the kernel says that no child is left. The steps of a workspace are in namespaces and, with limits, in
//! control groups as well, where the host allows ([`inside`], [`groups`]), so that they end with a supervisor that is killed, too. It does so when the program ends, when it is told to, and
//! when the agent's end of the socket closes, which is what the agent's death and a dropped future look like.

mod capture;
mod groups;
mod inside;
mod launch;
mod log_file;
mod protocol;
mod redact;
mod stops;
pub mod supervisor;
mod tree;

pub(crate) use capture::{Captured, Sink};
pub(crate) use groups::{Bound, Groups, boundable, killable};
pub(crate) use launch::{Exit, Fault, Launcher, NotStarted, Nursery, Program, Ran, Wiring, hand_over, random_text};
pub(crate) use log_file::LogFile;
pub(crate) use protocol::{Contain, Limits, StartFault};
pub use redact::Redactor;
pub(crate) use stops::{Stop, Stops};
pub(crate) use tree::{CARRIER_VARIABLE, Marked, end_marked, pause};
