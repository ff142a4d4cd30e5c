//! How long to wait before dialling again, and when not to.

use std::time::Duration;

use crate::code::Failure;
use crate::dice::YEARS;

/// No wait is shorter.
const WAIT_MIN: Duration = Duration::from_millis(100);

/// A longer wait than this is not taken from the other end.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// When to dial again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reconnect {
    /// The first wait; doubled with each failure.
    pub base: Duration,
    /// The longest wait.
    pub max: Duration,
    /// Each wait is multiplied by something between 1 less and 1 more this. Taken as 0 to 1.
    pub jitter: f64,
    /// Whether a refusal of the credentials ends the worker.
    pub abort_on_auth_error: bool,
    /// Whether a peer that does not speak the protocol ends the worker.
    pub abort_on_protocol_error: bool,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(1),
            max: Duration::from_secs(30),
            jitter: 0.2,
            abort_on_auth_error: false,
            abort_on_protocol_error: false,
        }
    }
}

impl Reconnect {
    /// Whether a failure of that kind ends the worker.
    pub(crate) fn ends_at(&self, failure: Failure) -> bool {
        match failure {
            Failure::Auth => self.abort_on_auth_error,
            Failure::Protocol => self.abort_on_protocol_error,
            Failure::Network | Failure::Unknown => false,
        }
    }

    /// The wait after `n_failures` dials in a row that led to no session. `fraction` is at least 0 and less than 1; what the other end asks for is waited at least.
    pub(crate) fn wait(&self, n_failures: u32, fraction: f64, retry_after: Option<Duration>) -> Duration {
        let doubled = self.base.saturating_mul(1_u32.checked_shl(n_failures).unwrap_or(u32::MAX)).min(self.max).min(YEARS);
        let jitter = if self.jitter.is_finite() { self.jitter.clamp(0.0, 1.0) } else { 0.0 };
        let usual = doubled.mul_f64(1.0 - jitter + 2.0 * jitter * fraction);
        usual.max(WAIT_MIN).max(retry_after.unwrap_or_default().min(RETRY_AFTER_MAX))
    }
}
