//! What an agent may do with work that was delivered to it: the one place that says whether an attempt starts.
//!
//! A delivery alone permits nothing. The agent folds the ledger, asks [`claim`], and records `started` with the ledger's guard; only
//! when that write is accepted does work begin. If another writer was first, it folds and asks again.

use jiff::{SignedDuration, Timestamp};

use super::definition::Job;
use super::state::{Execution, ExecutionState};
use crate::id::AgentId;
use crate::limits::CLOCK_SKEW;
use crate::wire::problem::ErrorCode;
use crate::wire::record::{Failure, Outcome};

/// Who asks, and what it knows of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claimant {
    /// The agent.
    pub agent: AgentId,
    /// Whether this very process runs the execution at the moment.
    pub is_running_it: bool,
}

/// What to do with a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Record this attempt as started, then run it.
    Start {
        /// From 1.
        attempt: u32,
    },
    /// Too early: deliver again at this time.
    Wait {
        /// When.
        until: Timestamp,
    },
    /// Nothing to do: acknowledge and forget.
    Drop(DropReason),
    /// It ends here, without running: store this answer.
    Finish {
        /// How it ends.
        outcome: Outcome,
        /// Why.
        failure: Failure,
    },
}

/// Why a delivery needs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// It has ended and its answer is stored.
    Ended,
    /// This process runs it at the moment.
    RunningHere,
    /// The agent is not among those that should answer.
    NotATarget,
}

/// Decides. `execution` is the fold of everything recorded, and the delivery itself is the proof that no other agent holds a live
/// claim: a claim that is extended is not delivered again.
#[must_use]
pub fn claim(job: &Job, execution: &Execution, claimant: Claimant, now: Timestamp) -> Claim {
    if claimant.is_running_it {
        return Claim::Drop(DropReason::RunningHere);
    }
    if execution.is_answered() {
        return Claim::Drop(DropReason::Ended);
    }
    let cancelled = |by: &str| finish(Outcome::Cancelled, ErrorCode::Cancelled, format!("cancelled by {by}"));
    match execution.state() {
        ExecutionState::Completed | ExecutionState::Failed | ExecutionState::Skipped => Claim::Drop(DropReason::Ended),
        // Decided, but whoever decided did not get to write the answer.
        ExecutionState::Cancelled => cancelled(execution.cancel_requested_by().unwrap_or("an unknown caller")),
        ExecutionState::Expired => expired(job),
        ExecutionState::Pending | ExecutionState::Retryable | ExecutionState::Running | ExecutionState::Lost => {
            if let Some(by) = execution.cancel_requested_by() {
                return cancelled(by);
            }
            match execution.state() {
                ExecutionState::Running | ExecutionState::Lost => after_a_vanished_holder(job, execution, claimant),
                ExecutionState::Pending
                | ExecutionState::Retryable
                | ExecutionState::Completed
                | ExecutionState::Failed
                | ExecutionState::Skipped
                | ExecutionState::Cancelled
                | ExecutionState::Expired => unstarted(job, execution, now),
            }
        }
    }
}

fn unstarted(job: &Job, execution: &Execution, now: Timestamp) -> Claim {
    let skew = SignedDuration::try_from(CLOCK_SKEW).unwrap_or(SignedDuration::ZERO);
    // A retry is due when it is due: `expires_in` bounds the first start only.
    if execution.attempts() == 0 && now > job.expires_at.saturating_add(skew).unwrap_or(Timestamp::MAX) {
        return expired(job);
    }
    let earliest = execution.retry_not_before().or(job.not_before);
    match earliest {
        Some(until) if until > now => Claim::Wait { until },
        Some(_) | None => Claim::Start { attempt: execution.attempts() + 1 },
    }
}

fn after_a_vanished_holder(job: &Job, execution: &Execution, claimant: Claimant) -> Claim {
    let attempts = execution.attempts();
    if attempts < job.retry.max_attempts() {
        return Claim::Start { attempt: attempts + 1 };
    }
    let (who, hostname) = execution.holder().map_or((None, "an agent".to_owned()), |(agent, name)| (Some(agent), name.to_owned()));
    let gone = if who == Some(claimant.agent) { "was restarted" } else { "went away" };
    if job.retry.max_attempts() == 1 {
        return finish(Outcome::Failed, ErrorCode::Interrupted, format!("the agent on {hostname} {gone} while it ran"));
    }
    finish(
        Outcome::Failed,
        ErrorCode::DeadLetter,
        format!("all {attempts} attempts are used up; in the last one the agent on {hostname} {gone}"),
    )
}

fn expired(job: &Job) -> Claim {
    finish(Outcome::Expired, ErrorCode::Expired, format!("not started by {}", job.expires_at))
}

fn finish(outcome: Outcome, code: ErrorCode, message: String) -> Claim {
    Claim::Finish { outcome, failure: Failure { code, message } }
}
