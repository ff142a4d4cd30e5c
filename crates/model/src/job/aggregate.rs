//! A job's status as a function of its executions, and of nothing else.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::state::ExecutionState;

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// Its time has not come.
    Scheduled,
    /// None started.
    Pending,
    /// Some not final.
    Running,
    /// All unfinished ones wait for a retry.
    Retryable,
    /// All completed, or completed and skipped.
    Completed,
    /// All skipped.
    Skipped,
    /// Some completed, some did not.
    PartialFailure,
    /// None completed, some failed or lost.
    Failed,
    /// Cancelled by request, none completed.
    Cancelled,
    /// All expired.
    Expired,
}

impl JobStatus {
    /// Every status, in the order of a job's life.
    pub const ALL: [Self; 10] = [
        Self::Scheduled,
        Self::Pending,
        Self::Running,
        Self::Retryable,
        Self::Completed,
        Self::Skipped,
        Self::PartialFailure,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
    ];

    /// Whether the job has ended.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Self::Scheduled | Self::Pending | Self::Running | Self::Retryable => false,
            Self::Completed | Self::Skipped | Self::PartialFailure | Self::Failed | Self::Cancelled | Self::Expired => true,
        }
    }

    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Retryable => "retryable",
            Self::Completed => "completed",
            Self::Skipped => "skipped",
            Self::PartialFailure => "partial_failure",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// The status of this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }
}

/// How many executions of a job are in which state: what its status is read off, without looking at each of thousands again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    count: [u32; 9],
    total: u32,
}

impl Tally {
    /// Counts an execution.
    pub fn add(&mut self, state: ExecutionState) {
        self.count[state as usize] += 1;
        self.total += 1;
    }

    /// Counts one in another state than before.
    pub fn change(&mut self, before: ExecutionState, after: ExecutionState) {
        self.count[before as usize] -= 1;
        self.count[after as usize] += 1;
    }

    /// The job's status. No execution at all counts as pending.
    #[must_use]
    pub fn status(&self, not_before: Option<Timestamp>, now: Timestamp) -> JobStatus {
        let n = |state: ExecutionState| self.count[state as usize];
        let unfinished = n(ExecutionState::Pending) + n(ExecutionState::Running) + n(ExecutionState::Retryable);
        if n(ExecutionState::Pending) == self.total {
            return if not_before.is_some_and(|earliest| earliest > now) { JobStatus::Scheduled } else { JobStatus::Pending };
        }
        if unfinished > 0 {
            return if n(ExecutionState::Retryable) == unfinished { JobStatus::Retryable } else { JobStatus::Running };
        }
        let done = n(ExecutionState::Completed) + n(ExecutionState::Skipped);
        if n(ExecutionState::Skipped) == self.total {
            JobStatus::Skipped
        } else if done == self.total {
            JobStatus::Completed
        } else if done > 0 {
            JobStatus::PartialFailure
        } else if n(ExecutionState::Failed) + n(ExecutionState::Lost) > 0 {
            JobStatus::Failed
        } else if n(ExecutionState::Cancelled) > 0 {
            JobStatus::Cancelled
        } else {
            JobStatus::Expired
        }
    }
}

impl FromIterator<ExecutionState> for Tally {
    fn from_iter<T: IntoIterator<Item = ExecutionState>>(states: T) -> Self {
        states.into_iter().fold(Self::default(), |mut tally, state| {
            tally.add(state);
            tally
        })
    }
}

/// The job's status. An empty set of executions counts as pending.
#[must_use]
pub fn status(states: impl IntoIterator<Item = ExecutionState>, not_before: Option<Timestamp>, now: Timestamp) -> JobStatus {
    states.into_iter().collect::<Tally>().status(not_before, now)
}

#[cfg(test)]
mod tests {
    use ExecutionState::*;

    use super::*;

    #[test]
    fn the_table_of_the_specification_holds() {
        let rows: &[(&[ExecutionState], JobStatus)] = &[
            (&[Pending, Pending], JobStatus::Pending),
            (&[Pending, Running], JobStatus::Running),
            (&[Pending, Completed], JobStatus::Running),
            (&[Retryable, Completed], JobStatus::Retryable),
            (&[Retryable, Pending], JobStatus::Running),
            (&[Completed, Completed], JobStatus::Completed),
            (&[Completed, Skipped], JobStatus::Completed),
            (&[Skipped, Skipped], JobStatus::Skipped),
            (&[Completed, Failed], JobStatus::PartialFailure),
            (&[Completed, Lost], JobStatus::PartialFailure),
            (&[Completed, Expired], JobStatus::PartialFailure),
            (&[Completed, Cancelled], JobStatus::PartialFailure),
            (&[Failed, Cancelled], JobStatus::Failed),
            (&[Lost], JobStatus::Failed),
            (&[Cancelled, Cancelled], JobStatus::Cancelled),
            (&[Cancelled, Expired], JobStatus::Cancelled),
            (&[Expired, Expired], JobStatus::Expired),
        ];
        for (states, expected) in rows {
            assert_eq!(status(states.iter().copied(), None, Timestamp::UNIX_EPOCH), *expected, "{states:?}");
        }
        let later = Timestamp::from_second(10).unwrap();
        assert_eq!(status([Pending], Some(later), Timestamp::UNIX_EPOCH), JobStatus::Scheduled);
        assert_eq!(status([Pending], Some(later), later), JobStatus::Pending);
    }

    #[test]
    fn a_job_is_final_exactly_when_all_its_executions_are() {
        let all = [Pending, Running, Retryable, Completed, Failed, Skipped, Cancelled, Expired, Lost];
        for a in all {
            for b in all {
                for c in all {
                    let states = [a, b, c];
                    let job = status(states, None, Timestamp::UNIX_EPOCH);
                    assert_eq!(job.is_final(), states.iter().all(|state| state.is_final()), "{states:?}");
                    assert_eq!(JobStatus::from_word(job.as_str()), Some(job));
                }
            }
        }
    }
}
