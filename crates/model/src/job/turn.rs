//! Whose turn it is under a concurrency key: the order, and who still has it.
//!
//! ```text
//!            take (guarded)            started, and looked again
//!   free ────────────────────► taken ────────────────────────────► runs
//!    ▲                          │  │                                 │
//!    │   release, or its start  │  └─ nothing for a lease: the next  │
//!    └── was refused ───────────┘     may take it over               │
//!    └────────────────────── release, or the ledger says that it is over ──┘
//! ```
//!
//! Two safeguards make a turn that was taken over harmless. Who takes over looks at the former holder again afterwards, and gives the turn
//! back if it runs after all. Who has recorded its start looks at the turn again, and does not run if it was taken. One of the two sees
//! the other's write, whatever the order.

use jiff::Timestamp;

use super::definition::Job;
use super::state::{Execution, ExecutionState};
use crate::id::JobId;
use crate::wire::record::SCHEMA;
use crate::wire::turn::Waiter;

/// The record of a job that waits, if it has a key.
#[must_use]
pub fn waiter(job: &Job, since: Timestamp) -> Option<Waiter> {
    let execution = match job.executions[..] {
        [execution] => Some(execution),
        _ => None,
    };
    let key = job.concurrency_key.clone()?;
    Some(Waiter { schema: SCHEMA, key, job: job.id, execution, not_before: job.not_before, since })
}

/// How many jobs are before `job`, given who waits in the order of submission; `None` if it is not among them. A job whose time has not
/// come is passed over: it would keep the others waiting for nothing.
#[must_use]
pub fn ahead(waiting: &[Waiter], job: JobId, now: Timestamp) -> Option<usize> {
    let place = waiting.iter().position(|waiter| waiter.job == job)?;
    Some(waiting[..place].iter().filter(|waiter| is_due(waiter, now)).count())
}

/// Who is first.
#[must_use]
pub fn first(waiting: &[Waiter], now: Timestamp) -> Option<&Waiter> {
    waiting.iter().find(|waiter| is_due(waiter, now))
}

fn is_due(waiter: &Waiter, now: Timestamp) -> bool {
    waiter.not_before.is_none_or(|at| at <= now)
}

/// What the ledger says of an attempt that took a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Its start is not recorded.
    NotStarted,
    /// It, or a later attempt of its execution, runs.
    Runs,
    /// It has ended, waits for another attempt, or was given up.
    Over,
}

/// Where `attempt` of an execution stands; `None` stands for one that was deleted.
#[must_use]
pub fn progress(execution: Option<&Execution>, attempt: u32) -> Progress {
    let Some(execution) = execution else { return Progress::Over };
    if execution.is_answered() {
        return Progress::Over;
    }
    match execution.state() {
        ExecutionState::Running if execution.attempts() >= attempt => Progress::Runs,
        ExecutionState::Running | ExecutionState::Pending | ExecutionState::Retryable if execution.attempts() < attempt => {
            Progress::NotStarted
        }
        ExecutionState::Running
        | ExecutionState::Pending
        | ExecutionState::Retryable
        | ExecutionState::Completed
        | ExecutionState::Failed
        | ExecutionState::Skipped
        | ExecutionState::Cancelled
        | ExecutionState::Expired
        | ExecutionState::Lost => Progress::Over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::tests::{at, lost, retrying, started};

    fn waiter(job: u128, not_before: Option<i64>) -> Waiter {
        let job = JobId::from_bits(job);
        Waiter { schema: SCHEMA, key: "k".to_owned(), job, execution: None, not_before: not_before.map(at), since: at(0) }
    }

    #[test]
    fn jobs_come_in_the_order_of_submission_and_those_that_are_not_due_keep_nobody_waiting() {
        let waiting = [waiter(5, Some(200)), waiter(3, None), waiter(9, Some(50)), waiter(1, None)];
        let ahead = |job: u128, now: i64| ahead(&waiting, JobId::from_bits(job), at(now));
        assert_eq!([ahead(5, 100), ahead(3, 100), ahead(9, 100), ahead(1, 100)], [Some(0), Some(0), Some(1), Some(2)]);
        assert_eq!([ahead(5, 300), ahead(3, 300), ahead(9, 300), ahead(1, 300)], [Some(0), Some(1), Some(2), Some(3)]);
        assert_eq!(ahead(7, 100), None);
        assert_eq!(first(&waiting, at(100)).map(|waiter| waiter.job), Some(JobId::from_bits(3)));
    }

    #[test]
    fn a_turn_lasts_as_long_as_its_attempt_runs_by_the_ledgers_word() {
        let folded = |events: &[_]| Execution::fold(events, None).unwrap();
        for (execution, attempt, expected) in [
            (folded(&[]), 1, Progress::NotStarted),
            (folded(&[started(1, 1)]), 1, Progress::Runs),
            (folded(&[started(1, 1)]), 2, Progress::NotStarted),
            (folded(&[started(1, 1), retrying(1, 90)]), 1, Progress::Over),
            (folded(&[started(1, 1), retrying(1, 90)]), 2, Progress::NotStarted),
            (folded(&[started(1, 1), started(2, 2)]), 1, Progress::Runs),
            (folded(&[started(1, 1), lost(1)]), 1, Progress::Over),
        ] {
            assert_eq!(progress(Some(&execution), attempt), expected, "{execution:?} {attempt}");
        }
        assert_eq!(progress(None, 1), Progress::Over);
    }
}
