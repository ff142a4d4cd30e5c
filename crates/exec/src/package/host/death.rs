//! The end of a host, in facts: for its tasks, and for whoever starts the next one.

use super::call::{ErrorKind, HandlerError};

/// How the host itself ended.
#[derive(Debug, Clone)]
pub(crate) struct Death {
    /// In words: `exited with status 3`.
    pub(crate) how: String,
    /// The end of what it wrote to stderr.
    pub(crate) last_words: String,
    /// Whether every process of it is known to be gone.
    pub(crate) verified: bool,
    /// Whether its program was there to be started at all.
    pub(crate) started: bool,
}

/// How a host ended, for whoever starts the next one.
#[derive(Debug)]
pub(crate) struct Ending {
    /// It was asked to, or there was nothing to start.
    pub(crate) wanted: bool,
    /// It has answered a call.
    pub(crate) served: bool,
    pub(crate) error: HandlerError,
}

impl Death {
    /// What the host's tasks are told. `verdict` is why it had to be ended, if it had to.
    pub(super) fn told(&self, label: &str, verdict: Option<&str>, tasks: usize) -> HandlerError {
        let mut message = format!("the handler host of {label} {}", verdict.unwrap_or(&self.how));
        if tasks > 0 && self.started {
            message += &format!(" while {tasks} of its tasks ran");
        }
        if !self.last_words.is_empty() {
            message += &format!("; its last words: {}", self.last_words);
        }
        if !self.verified {
            message += "; not every process of it is known to be gone";
        }
        let kind = if self.started { ErrorKind::HostDied } else { ErrorKind::HostUnavailable };
        HandlerError { verified: self.verified, ..HandlerError::new(kind, message) }
    }
}
