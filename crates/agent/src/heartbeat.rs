//! Saying that this agent lives, until it does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use jiff::Timestamp;
use longshore_model::wire::agent::Heartbeat;
use longshore_store::Registry;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::Config;

/// What an agent is busy with.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) running: AtomicUsize,
    /// It takes no new work.
    pub(crate) drained: AtomicBool,
    /// Something that people wait for.
    pub(crate) changed: Notify,
}

/// Beats until `stop`, then says goodbye. A beat that fails is not repeated: the next one follows soon.
pub(crate) async fn run(config: Arc<Config>, registry: Arc<dyn Registry>, started_at: Timestamp, load: Arc<Load>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(config.heartbeat_every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
            // Whoever drained this agent waits for its word.
            () = load.changed.notified() => {}
        }
        let heartbeat = heartbeat(&config, started_at, &load);
        if let Err(error) = registry.beat(&heartbeat).await {
            tracing::debug!(%error, "heartbeat not sent");
        }
    }
    if let Err(error) = registry.leave(config.id).await {
        tracing::debug!(%error, "could not say goodbye; the heartbeat will expire");
    }
}

/// What this agent says of itself.
pub(crate) fn heartbeat(config: &Config, started_at: Timestamp, load: &Load) -> Heartbeat {
    Heartbeat {
        schema: 1,
        agent: config.id,
        hostname: config.hostname(),
        labels: config.labels.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        max_jobs: config.max_jobs,
        running: load.running.load(Ordering::Relaxed),
        drained: load.drained.load(Ordering::Relaxed),
        started_at,
    }
}
