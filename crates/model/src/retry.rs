//! How often, and how far apart, an execution is tried.

use std::time::Duration;

use crate::limits::{ATTEMPTS_MAX, BACKOFF_STEPS_MAX, TIMEOUT_MAX};

/// A job's own retry policy. Only transient failures, and the loss of the agent that held the work, lead to another attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    max_attempts: u32,
    backoff: Vec<Duration>,
    is_backoff_usual: bool,
}

/// A policy that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RetryPolicyError {
    /// Zero, or more than [`ATTEMPTS_MAX`].
    #[error("max_attempts must be between 1 and {ATTEMPTS_MAX}")]
    Attempts,
    /// Too many steps, or one longer than a week.
    #[error("backoff takes at most {BACKOFF_STEPS_MAX} steps of at most 7 days")]
    Backoff,
}

impl RetryPolicy {
    /// A policy of at most `max_attempts` attempts; the wait before attempt `n + 1` is `backoff[n - 1]`, or the last step.
    ///
    /// # Errors
    /// A policy out of bounds.
    pub fn new(max_attempts: u32, backoff: Vec<Duration>) -> Result<Self, RetryPolicyError> {
        if !(1..=ATTEMPTS_MAX).contains(&max_attempts) {
            return Err(RetryPolicyError::Attempts);
        }
        if backoff.len() > BACKOFF_STEPS_MAX || backoff.iter().any(|step| *step > TIMEOUT_MAX) {
            return Err(RetryPolicyError::Backoff);
        }
        Ok(Self { max_attempts, backoff, is_backoff_usual: false })
    }

    /// The same policy, of a submission that said nothing of the waits: an agent may have other usual ones.
    #[must_use]
    pub fn with_usual_backoff(self) -> Self {
        Self { is_backoff_usual: true, ..self }
    }

    /// One attempt and no other: what an operation that changes state gets unless somebody says it is safe.
    #[must_use]
    pub fn once() -> Self {
        Self { max_attempts: 1, backoff: Vec::new(), is_backoff_usual: true }
    }

    /// Five attempts with the usual distances.
    #[must_use]
    pub fn standard() -> Self {
        Self { max_attempts: 5, backoff: standard_backoff(), is_backoff_usual: true }
    }

    /// The most attempts.
    #[must_use]
    pub fn max_attempts(&self) -> u32 {
        self.max_attempts
    }

    /// The waits between attempts.
    #[must_use]
    pub fn backoff(&self) -> &[Duration] {
        &self.backoff
    }

    /// Whether nobody said what the waits are, so that they are the usual ones.
    #[must_use]
    pub fn is_backoff_usual(&self) -> bool {
        self.is_backoff_usual
    }

    /// The wait after `attempt` (the first is 1) failed on an agent whose usual waits are these, or `None` if that was the last.
    #[must_use]
    pub fn wait_after_with(&self, attempt: u32, usual: &[Duration]) -> Option<Duration> {
        let backoff = if self.is_backoff_usual { usual } else { &self.backoff };
        (attempt < self.max_attempts).then(|| step(backoff, attempt))
    }

    /// The wait after `attempt` (the first is 1) failed, or `None` if that was the last.
    #[must_use]
    pub fn wait_after(&self, attempt: u32) -> Option<Duration> {
        (attempt < self.max_attempts).then(|| step(&self.backoff, attempt))
    }
}

fn step(backoff: &[Duration], attempt: u32) -> Duration {
    let idx = (attempt.max(1) - 1) as usize;
    backoff.get(idx).or(backoff.last()).copied().unwrap_or_default()
}

/// `30s, 2m, 5m, 15m, 30m`.
#[must_use]
pub fn standard_backoff() -> Vec<Duration> {
    [30, 120, 300, 900, 1800].map(Duration::from_secs).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_follow_the_list_and_end_with_the_attempts() {
        let policy = RetryPolicy::new(4, vec![Duration::from_secs(1), Duration::from_secs(5)]).unwrap();
        let waits: Vec<_> = (1..=5).map(|attempt| policy.wait_after(attempt).map(|wait| wait.as_secs())).collect();
        assert_eq!(waits, [Some(1), Some(5), Some(5), None, None]);
        assert_eq!(RetryPolicy::once().wait_after(1), None);
    }

    #[test]
    fn waits_that_nobody_chose_are_the_agents_and_chosen_ones_are_the_jobs() {
        let seconds = |wait: Option<Duration>| wait.map(|wait| wait.as_secs());
        let usual = [Duration::from_secs(7), Duration::from_secs(9)];
        let waits = |policy: &RetryPolicy| -> Vec<_> { (1..=5).map(|n| seconds(policy.wait_after_with(n, &usual))).collect() };
        assert_eq!(waits(&RetryPolicy::standard()), [Some(7), Some(9), Some(9), Some(9), None]);
        let chosen = RetryPolicy::new(3, vec![Duration::from_secs(1)]).unwrap();
        assert_eq!(waits(&chosen), [Some(1), Some(1), None, None, None]);
        assert_eq!(waits(&chosen.with_usual_backoff()), [Some(7), Some(9), None, None, None]);
        assert_eq!(waits(&RetryPolicy::once()), [None; 5]);
    }

    #[test]
    fn policies_out_of_bounds_are_refused() {
        assert_eq!(RetryPolicy::new(0, vec![]), Err(RetryPolicyError::Attempts));
        assert_eq!(RetryPolicy::new(101, vec![]), Err(RetryPolicyError::Attempts));
        assert_eq!(RetryPolicy::new(5, vec![Duration::ZERO; 33]), Err(RetryPolicyError::Backoff));
    }
}
