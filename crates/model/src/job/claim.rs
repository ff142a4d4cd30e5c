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
    /// Its holder is gone and nobody may try again: record it as lost, which a late answer replaces.
    Lose {
        /// The attempt that went silent.
        attempt: u32,
    },
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
    /// It is recorded as lost, and only its holder can still answer.
    Lost,
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
    let hostname = execution.holder().map_or("an agent's host", |(_, hostname)| hostname);
    if job.retry.max_attempts() > 1 {
        let message = format!("all {attempts} attempts are used up; in the last one the agent on {hostname} went away");
        return finish(Outcome::Failed, ErrorCode::DeadLetter, message);
    }
    match execution.holder() {
        // The claimant's own earlier process: it is certain that the work died with it.
        Some((agent, _)) if agent == claimant.agent => {
            finish(Outcome::Failed, ErrorCode::Interrupted, format!("the agent on {hostname} was restarted while it ran"))
        }
        // Another agent may only be cut off, and answer yet.
        Some(_) | None if execution.state() == ExecutionState::Lost => Claim::Drop(DropReason::Lost),
        Some(_) | None => Claim::Lose { attempt: attempts },
    }
}

fn expired(job: &Job) -> Claim {
    finish(Outcome::Expired, ErrorCode::Expired, format!("not started by {}", job.expires_at))
}

fn finish(outcome: Outcome, code: ErrorCode, message: String) -> Claim {
    Claim::Finish { outcome, failure: Failure { code, message } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::tests::{agent, at, cancel_requested, job, retrying, started};
    use crate::retry::RetryPolicy;

    fn decide(job: &Job, execution: &Execution, who: u128) -> Claim {
        claim(job, execution, Claimant { agent: agent(who), is_running_it: false }, at(100))
    }

    #[test]
    fn fresh_work_starts_unless_it_is_too_early_or_too_late() {
        let mut job = job();
        let fresh = Execution::default();
        assert_eq!(decide(&job, &fresh, 1), Claim::Start { attempt: 1 });
        job.not_before = Some(at(200));
        assert_eq!(decide(&job, &fresh, 1), Claim::Wait { until: at(200) });
        job.expires_at = at(98);
        assert!(matches!(decide(&job, &fresh, 1), Claim::Finish { outcome: Outcome::Expired, .. }));
    }

    #[test]
    fn work_that_runs_here_is_not_run_twice() {
        let execution = Execution::fold(&[started(1, 1)], None).unwrap();
        let claimant = Claimant { agent: agent(1), is_running_it: true };
        assert_eq!(claim(&job(), &execution, claimant, at(100)), Claim::Drop(DropReason::RunningHere));
    }

    #[test]
    fn after_a_vanished_holder_the_policy_decides() {
        let mut job = job();
        let execution = Execution::fold(&[started(1, 1)], None).unwrap();
        job.retry = RetryPolicy::standard();
        assert_eq!(decide(&job, &execution, 2), Claim::Start { attempt: 2 });
        job.retry = RetryPolicy::once();
        assert_eq!(decide(&job, &execution, 2), Claim::Lose { attempt: 1 });
        let Claim::Finish { outcome: Outcome::Failed, failure } = decide(&job, &execution, 1) else {
            panic!("its own earlier process is gone for certain")
        };
        assert_eq!(failure.code, ErrorCode::Interrupted);
        job.retry = RetryPolicy::new(2, vec![]).unwrap();
        let used_up = Execution::fold(&[started(1, 1), started(2, 1)], None).unwrap();
        let Claim::Finish { outcome: Outcome::Failed, failure } = decide(&job, &used_up, 2) else { panic!("no attempt is left") };
        assert_eq!(failure.code, ErrorCode::DeadLetter);
    }

    #[test]
    fn a_retry_waits_for_its_time_and_ignores_the_expiry_of_the_first_start() {
        let mut job = job();
        job.retry = RetryPolicy::standard();
        job.expires_at = at(50);
        let early = Execution::fold(&[started(1, 1), retrying(1, 150)], None).unwrap();
        assert_eq!(decide(&job, &early, 1), Claim::Wait { until: at(150) });
        let due = Execution::fold(&[started(1, 1), retrying(1, 90)], None).unwrap();
        assert_eq!(decide(&job, &due, 1), Claim::Start { attempt: 2 });
    }

    #[test]
    fn a_requested_cancel_never_leads_to_a_start() {
        let mut job = job();
        job.retry = RetryPolicy::standard();
        for events in
            [vec![cancel_requested()], vec![started(1, 1), cancel_requested()], vec![started(1, 1), retrying(1, 90), cancel_requested()]]
        {
            let execution = Execution::fold(&events, None).unwrap();
            assert!(matches!(decide(&job, &execution, 2), Claim::Finish { outcome: Outcome::Cancelled, .. }), "{events:?}");
        }
    }
}
