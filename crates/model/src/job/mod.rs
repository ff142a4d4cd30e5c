//! The life of a job: parsed submissions ([`submission`]), the accepted job ([`definition`]), each execution's state as a fold over
//! what was recorded ([`state`]), what an agent may do with a delivery ([`claim`]), and the job's status as a function of its
//! executions ([`aggregate`]).

mod aggregate;
mod claim;
mod definition;
mod state;
mod submission;

pub use aggregate::{JobStatus, status};
pub use claim::{Claim, Claimant, DropReason, claim};
pub use definition::{InvalidDefinition, Job};
pub use state::{Applied, Execution, ExecutionState, Refused};
pub use submission::{InvalidSubmission, Submission};
