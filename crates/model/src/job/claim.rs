//! What an agent may do with work that was delivered to it: the one place that says whether an attempt starts.
//!
//! A delivery alone permits nothing, and alone proves nothing about an earlier holder. The agent folds the ledger, asks [`claim`], and records `started` with the ledger's guard; only
//! when that write is accepted does work begin. If another writer was first, it folds and asks again.

use jiff::{SignedDuration, Timestamp};

use std::time::Duration;

use super::definition::Job;
use super::state::{Execution, ExecutionState};
use crate::id::AgentId;
use crate::wire::problem::ErrorCode;
use crate::wire::record::{Failure, Outcome};

/// Who asks, and what its delivery says of whoever held the work before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claimant {
    /// The agent. It has looked: none of its own workers runs the execution.
    pub agent: AgentId,
    /// Whether an earlier holder, if it is another agent, is known to be gone: its claim lapsed or was given back, or the one who
    /// announced the work again vouches for the very history that was read.
    pub is_holder_gone: bool,
}

/// When an agent looks again at work that it believes to be late.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

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
    /// Another agent has it, as far as anybody knows.
    HeldElsewhere,
    /// It is recorded as lost, and only its holder can still answer.
    Lost,
}

/// Decides. `execution` is the fold of everything recorded.
///
/// An agent never ends what it believes to be late: clocks differ, and the controller's decides. It only refuses to start it.
#[must_use]
pub fn claim(job: &Job, execution: &Execution, claimant: Claimant, now: Timestamp) -> Claim {
    if execution.is_answered() {
        return Claim::Drop(DropReason::Ended);
    }
    let is_own = execution.holder().is_some_and(|(agent, _)| agent == claimant.agent);
    let cancelled = |by: &str| Claim::Finish { outcome: Outcome::Cancelled, failure: Failure::cancelled(by) };
    match execution.state() {
        ExecutionState::Completed | ExecutionState::Failed | ExecutionState::Skipped => Claim::Drop(DropReason::Ended),
        // Decided, but whoever decided did not get to write the answer.
        ExecutionState::Cancelled => cancelled(execution.cancel_requested_by().unwrap_or("an unknown caller")),
        ExecutionState::Expired => finish(Outcome::Expired, ErrorCode::Expired, format!("not started by {}", job.expires_at)),
        ExecutionState::Pending | ExecutionState::Retryable => match execution.cancel_requested_by() {
            Some(by) => cancelled(by),
            None => unstarted(job, execution, now),
        },
        ExecutionState::Lost if is_own => interrupted(execution),
        ExecutionState::Lost => Claim::Drop(DropReason::Lost),
        ExecutionState::Running if !is_own && !claimant.is_holder_gone => Claim::Drop(DropReason::HeldElsewhere),
        ExecutionState::Running => match execution.cancel_requested_by() {
            Some(by) => cancelled(by),
            None => after_a_vanished_holder(job, execution, is_own),
        },
    }
}

fn unstarted(job: &Job, execution: &Execution, now: Timestamp) -> Claim {
    // A retry is due when it is due: `expires_in` bounds the first start only.
    if execution.attempts() == 0 && now > job.expires_at {
        let later = SignedDuration::try_from(LOOK_AGAIN).ok().and_then(|wait| now.checked_add(wait).ok());
        return Claim::Wait { until: later.unwrap_or(now) };
    }
    let earliest = execution.retry_not_before().or(job.not_before);
    match earliest {
        Some(until) if until > now => Claim::Wait { until },
        Some(_) | None => Claim::Start { attempt: execution.attempts() + 1 },
    }
}

fn after_a_vanished_holder(job: &Job, execution: &Execution, is_own: bool) -> Claim {
    let attempts = execution.attempts();
    if attempts < job.retry.max_attempts() {
        return Claim::Start { attempt: attempts + 1 };
    }
    if job.retry.max_attempts() > 1 {
        let hostname = execution.holder().map_or("an agent's host", |(_, hostname)| hostname);
        let message = format!("all {attempts} attempts are used up; in the last one the agent on {hostname} went away");
        return finish(Outcome::Failed, ErrorCode::DeadLetter, message);
    }
    // Another agent may only be cut off, and answer yet; of its own earlier process an agent knows for certain.
    if is_own { interrupted(execution) } else { Claim::Lose { attempt: attempts } }
}

fn interrupted(execution: &Execution) -> Claim {
    let hostname = execution.holder().map_or("its host", |(_, hostname)| hostname);
    finish(Outcome::Failed, ErrorCode::Interrupted, format!("the agent on {hostname} was restarted while it ran"))
}

fn finish(outcome: Outcome, code: ErrorCode, message: String) -> Claim {
    Claim::Finish { outcome, failure: Failure { code, message } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::tests::{agent, at, cancel_requested, job, lost, retrying, started};
    use crate::retry::RetryPolicy;

    fn decide(job: &Job, execution: &Execution, who: u128) -> Claim {
        claim(job, execution, Claimant { agent: agent(who), is_holder_gone: true }, at(100))
    }

    #[test]
    fn fresh_work_starts_unless_it_is_too_early_or_too_late() {
        let mut job = job();
        let fresh = Execution::default();
        assert_eq!(decide(&job, &fresh, 1), Claim::Start { attempt: 1 });
        job.not_before = Some(at(200));
        assert_eq!(decide(&job, &fresh, 1), Claim::Wait { until: at(200) });
        job.not_before = None;
        job.expires_at = at(99);
        assert_eq!(decide(&job, &fresh, 1), Claim::Wait { until: at(105) }, "the controller's clock decides that it is late");
    }

    #[test]
    fn work_that_another_agent_holds_is_left_to_it() {
        let mut job = job();
        job.retry = RetryPolicy::standard();
        let execution = Execution::fold(&[started(1, 1)], None).unwrap();
        let claimant = Claimant { agent: agent(2), is_holder_gone: false };
        assert_eq!(claim(&job, &execution, claimant, at(100)), Claim::Drop(DropReason::HeldElsewhere));
        let its_own = Claimant { agent: agent(1), is_holder_gone: false };
        assert_eq!(claim(&job, &execution, its_own, at(100)), Claim::Start { attempt: 2 }, "its earlier process is gone for certain");
    }

    #[test]
    fn what_is_lost_never_starts_again() {
        let mut job = job();
        job.retry = RetryPolicy::standard();
        let execution = Execution::fold(&[started(1, 1), lost(1)], None).unwrap();
        assert_eq!(decide(&job, &execution, 2), Claim::Drop(DropReason::Lost));
        assert!(matches!(decide(&job, &execution, 1), Claim::Finish { outcome: Outcome::Failed, .. }), "its own agent can answer for it");
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
