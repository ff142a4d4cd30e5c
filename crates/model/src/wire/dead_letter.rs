//! What is kept of a job whose attempts are used up, beside the ledger: made from it, and made again if it is lost.
//!
//! The rule of what is dead is here too, so that whoever looks (the index, a reconciler, a person's request) sees the same.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::problem::ErrorCode;
use super::record::Failure;
use crate::id::{AgentId, ExecutionId, JobId};
use crate::job::{Execution, ExecutionState};
use crate::limits::{DEAD_LETTER_ERROR_BYTES_MAX, DEAD_LETTER_EXECUTIONS_MAX};

/// A job with executions that died, and what people did about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Version of this form.
    pub schema: u32,
    /// The job.
    pub job: JobId,
    /// Its operation's name.
    pub operation: String,
    /// Who should have done it, as the submitter said it.
    pub target: String,
    /// Who submitted it.
    pub submitted_by: String,
    /// Executions that died, in the job's own order: the first [`DEAD_LETTER_EXECUTIONS_MAX`] of them.
    pub executions: Vec<DeadExecution>,
    /// How many died beyond those.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unlisted: usize,
    /// When the last of them died.
    pub at: Timestamp,
    /// What was done about it.
    pub state: DeadLetterState,
}

/// What was done about a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum DeadLetterState {
    /// Nothing yet.
    Open,
    /// What died was submitted again.
    Redriven {
        /// As this job.
        as_job: JobId,
        /// Who.
        by: String,
        /// When.
        at: Timestamp,
    },
    /// Somebody said that it needs nothing more.
    Discarded {
        /// Who.
        by: String,
        /// When.
        at: Timestamp,
    },
}

/// An execution that died: it failed for good with its attempts used up, or the agent of its last attempt never answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DeadExecution {
    /// `any`, or the agent's id.
    #[schema(value_type = String)]
    pub id: ExecutionId,
    /// Who had it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub agent: Option<AgentId>,
    /// That agent's host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Attempts that were started.
    pub attempts: u32,
    /// What went wrong the last time; cut at 512 bytes, the job has all of it.
    pub error: Failure,
    /// When it died.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

impl DeadLetter {
    /// The execution that died last.
    #[must_use]
    pub fn last(&self) -> Option<&DeadExecution> {
        self.executions.iter().max_by_key(|execution| execution.at)
    }

    /// How many executions died.
    #[must_use]
    pub fn dead(&self) -> usize {
        self.executions.len() + self.unlisted
    }
}

impl DeadExecution {
    /// Whether an execution of a job that may take this many attempts is dead.
    ///
    /// One attempt and no other is a policy of its own: what fails or is lost then is a failed job, and no letter is written.
    #[must_use]
    pub fn is_dead(execution: &Execution, max_attempts: u32) -> bool {
        match execution.state() {
            ExecutionState::Failed => execution.last_failure().is_some_and(|failure| failure.code == ErrorCode::DeadLetter),
            ExecutionState::Lost => max_attempts > 1 && execution.attempts() >= max_attempts,
            ExecutionState::Pending
            | ExecutionState::Running
            | ExecutionState::Retryable
            | ExecutionState::Completed
            | ExecutionState::Skipped
            | ExecutionState::Cancelled
            | ExecutionState::Expired => false,
        }
    }

    /// The executions that are dead, as a letter lists them, and how many more there are.
    pub fn all<'a>(executions: impl IntoIterator<Item = (ExecutionId, &'a Execution)>, max_attempts: u32) -> (Vec<Self>, usize) {
        let mut dead = executions.into_iter().filter(|(_, execution)| Self::is_dead(execution, max_attempts));
        let listed = dead.by_ref().take(DEAD_LETTER_EXECUTIONS_MAX).map(|(id, execution)| Self::of(id, execution)).collect();
        (listed, dead.count())
    }

    fn of(id: ExecutionId, execution: &Execution) -> Self {
        let (agent, hostname) = execution.holder().unzip();
        let attempts = execution.attempts();
        let error = match execution.last_failure() {
            Some(failure) if failure.code == ErrorCode::DeadLetter => Failure { code: failure.code, message: cut(&failure.message) },
            // What an attempt before the last one failed of is not what this one died of.
            Some(_) | None => {
                let hostname = hostname.unwrap_or("its host");
                let message = format!("the agent on {hostname} did not answer in time, in the last of {attempts} attempts");
                Failure { code: ErrorCode::Lost, message: cut(&message) }
            }
        };
        let at = execution.ended_at().unwrap_or(Timestamp::UNIX_EPOCH);
        Self { id, agent, hostname: hostname.map(str::to_owned), attempts, error, at }
    }
}

fn cut(message: &str) -> String {
    message[..message.floor_char_boundary(DEAD_LETTER_ERROR_BYTES_MAX)].to_owned()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::tests::{answer, lost, retrying, started};
    use crate::wire::record::{Answer, Outcome};

    fn failed(code: ErrorCode, message: &str) -> Answer {
        Answer { error: Some(Failure { code, message: message.to_owned() }), ..answer(Outcome::Failed) }
    }

    #[test]
    fn dead_is_what_used_its_attempts_up_and_nothing_else() {
        let used_up = failed(ErrorCode::DeadLetter, "x");
        let other = failed(ErrorCode::ExitStatus, "x");
        let completed = answer(Outcome::Completed);
        let two = [started(1, 1), retrying(1, 20), started(2, 2)];
        let lost_in_the_last = [started(1, 1), retrying(1, 20), started(2, 2), lost(2)];
        let rows: [(&[_], Option<&Answer>, u32, bool); 9] = [
            (&[], None, 2, false),
            (&two, None, 2, false),
            (&two, Some(&used_up), 2, true),
            (&two, Some(&other), 2, false),
            (&two, Some(&completed), 2, false),
            (&lost_in_the_last, None, 2, true),
            (&lost_in_the_last, None, 3, false),
            (&lost_in_the_last, Some(&completed), 2, false),
            (&[started(1, 1), lost(1)], None, 1, false),
        ];
        for (n, (events, answer, max_attempts, expected)) in rows.into_iter().enumerate() {
            let execution = Execution::fold(events, answer).unwrap();
            assert_eq!(DeadExecution::is_dead(&execution, max_attempts), expected, "row {n}");
        }
    }

    #[test]
    fn a_letter_lists_some_counts_all_and_cuts_what_is_long() {
        let long = failed(ErrorCode::DeadLetter, &"ä".repeat(DEAD_LETTER_ERROR_BYTES_MAX));
        let dead = Execution::fold(&[started(1, 1)], Some(&long)).unwrap();
        let alive = Execution::default();
        let ids = |n: u128| ExecutionId::Agent(AgentId::from_bits(n));
        let many = (0..2 * DEAD_LETTER_EXECUTIONS_MAX as u128 + 6).map(|n| (ids(n), if n % 2 == 0 { &dead } else { &alive }));
        let (listed, unlisted) = DeadExecution::all(many, 2);
        assert_eq!((listed.len(), unlisted), (DEAD_LETTER_EXECUTIONS_MAX, 3));
        assert_eq!((listed[1].id, listed[1].error.message.len()), (ids(2), DEAD_LETTER_ERROR_BYTES_MAX));
    }
}
