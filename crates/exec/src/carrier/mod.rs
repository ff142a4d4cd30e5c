//! A process of its own for each workspace job, which outlives the agent that started it.
//!
//! ```text
//!   agent ──orders, signs of life──► carrier ──► supervisor ──► step ──► whatever it starts
//!     ▲                                 │
//!     └──── output, how it ended ───────┘  files in the job's own directory, `workspaces/JOB.EXECUTION.ATTEMPT.RANDOM`
//! ```
//!
//! The carrier does what the agent would do otherwise: stages, runs the steps, collects. Whatever it has to say is in files before the
//! agent is nudged to read it, so that an agent that is killed misses nothing: the next one connects to the carrier's socket, reads the
//! files from their beginning, and goes on. A carrier that nobody connects to within its patience ends the job and removes what is its own.
//!
//! What dies with whom: a carrier that is killed takes its supervisors' sockets with it, upon which they kill their trees; the agent, or the
//! next one, clears away the rest. Nothing of this concerns other operations: a command's supervisor is the agent's own, and ends with it.

mod carry;
mod directory;
mod errand;
mod follow;
mod record;

pub(crate) use carry::carry;
pub(crate) use directory::{Directory, sweep};
pub(crate) use follow::{Left, adopt, discard, run};

/// The version of everything in a job's directory. A directory of another version is cleared away instead of being gone on with.
const SCHEMA: u32 = 1;
