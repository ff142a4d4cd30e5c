//! What can end work before its time.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// What can end a program before its time.
#[derive(Debug, Clone)]
pub(crate) struct Stops {
    /// Somebody asked for it.
    pub(crate) cancel: CancellationToken,
    /// Nobody waits for the outcome any more.
    pub(crate) abandon: CancellationToken,
    pub(crate) deadline: Instant,
}

/// What did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Cancelled,
    Abandoned,
    TimedOut,
}

impl Stops {
    /// The same with an earlier deadline.
    pub(crate) fn within(&self, limit: Option<Duration>) -> Self {
        let deadline = limit.map_or(self.deadline, |limit| self.deadline.min(Instant::now() + limit));
        Self { deadline, ..self.clone() }
    }

    /// What has stopped the work by now. Cheap enough to ask for every file.
    pub(crate) fn now(&self) -> Option<Stop> {
        if self.abandon.is_cancelled() {
            Some(Stop::Abandoned)
        } else if self.cancel.is_cancelled() {
            Some(Stop::Cancelled)
        } else {
            (Instant::now() >= self.deadline).then_some(Stop::TimedOut)
        }
    }

    pub(crate) async fn first(&self) -> Stop {
        tokio::select! {
            biased;
            () = self.abandon.cancelled() => Stop::Abandoned,
            () = self.cancel.cancelled() => Stop::Cancelled,
            () = sleep_until(self.deadline) => Stop::TimedOut,
        }
    }
}
