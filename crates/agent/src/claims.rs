//! A claim on work and how long it can still be trusted.

use std::time::Duration;

use longshore_store::{Error, Lease};
use tokio::time::Instant;

/// A claim, and when it was last known to hold.
///
/// Once it may have lapsed, another agent may have been offered the work, so nothing new may be started under it. The clock is this
/// host's monotonic one.
pub(crate) struct Claim {
    lease: Box<dyn Lease>,
    lasts: Duration,
    held_since: Instant,
}

impl Claim {
    /// A claim that was received at `held_since`.
    pub(crate) fn new(lease: Box<dyn Lease>, lasts: Duration, held_since: Instant) -> Self {
        Self { lease, lasts, held_since }
    }

    /// Whether it certainly still holds, with a tenth of its length as a margin.
    pub(crate) fn is_valid(&self) -> bool {
        self.held_since.elapsed() < self.lasts.mul_f64(0.9)
    }

    /// How often to extend it.
    pub(crate) fn extend_every(&self) -> Duration {
        (self.lasts / 4).clamp(Duration::from_millis(100), Duration::from_secs(30))
    }

    /// Extends it. A lapsed claim stays lapsed: the broker would confirm the extension of somebody else's.
    pub(crate) async fn extend(&mut self) {
        let asked = Instant::now();
        match self.lease.extend().await {
            Ok(()) if self.is_valid() => self.held_since = asked,
            Ok(()) => {}
            Err(error) => tracing::debug!(%error, "claim not extended"),
        }
    }

    /// What a later process of this agent gives the work back by.
    pub(crate) fn token(&self) -> Option<String> {
        self.lease.token()
    }

    /// What a start that rests on it is recorded with.
    pub(crate) fn delivery(&self) -> Option<String> {
        self.lease.delivery()
    }

    /// Whether it was given because the claim of an earlier delivery was over.
    pub(crate) async fn follows(&self, earlier: &str) -> Result<bool, Error> {
        self.lease.follows(earlier).await
    }

    /// Ends it: the work needs no agent any more. A fault is harmless: the work is offered again and found finished.
    pub(crate) async fn done(&self) {
        if let Err(error) = self.lease.done().await {
            tracing::debug!(%error, "the end of a claim was not confirmed");
        }
    }

    /// Gives the work back. A fault is harmless: the claim lapses by itself. A claim that may have lapsed is left alone: the broker
    /// would take the work from whoever has it now.
    pub(crate) async fn give_back(&self, delay: Duration) {
        if !self.is_valid() {
            return;
        }
        if let Err(error) = self.lease.give_back(delay).await {
            tracing::debug!(%error, "work was not given back; its claim will lapse");
        }
    }
}
