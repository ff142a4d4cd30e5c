//! What a job is, and every form it takes on a wire or in a bucket.
//!
//! Pure: no runtime, no clock, no files, no sockets, no randomness. Whoever needs the time or an identifier is handed one.
//! The lifecycle is a fold over recorded facts ([`job`]), requests are parsed once into types that cannot be wrong ([`wire`] to
//! [`job`]), and what somebody may do is decided in [`access`].

pub mod access;
pub mod chain;
pub mod directory;
pub mod fact;
pub mod id;
pub mod job;
pub mod label;
pub mod limits;
pub mod operation;
pub mod package;
pub mod retry;
pub mod stand_alone;
pub mod target;
pub mod unit;
pub mod wire;

pub use directory::DirectoryName;
pub use id::{AgentId, ExecutionId, ID_TEXT_LEN, JobId};
pub use job::{ExecutionState, JobStatus};
pub use label::Label;
pub use target::{HostName, Target};
