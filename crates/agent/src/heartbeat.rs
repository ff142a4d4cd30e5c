//! Saying that this agent lives, until it does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;
use longshore_model::wire::agent::Heartbeat;
use longshore_store::Registry;
use tokio_util::sync::CancellationToken;

use crate::Config;

/// Beats until `stop`, then says goodbye. A beat that fails is not repeated: the next one follows soon.
pub(crate) async fn run(
    config: Arc<Config>,
    registry: Arc<dyn Registry>,
    started_at: Timestamp,
    running: Arc<AtomicUsize>,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(config.heartbeat_every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let heartbeat = heartbeat(&config, started_at, running.load(Ordering::Relaxed));
        if let Err(error) = registry.beat(&heartbeat).await {
            tracing::debug!(%error, "heartbeat not sent");
        }
    }
    if let Err(error) = registry.leave(config.id).await {
        tracing::debug!(%error, "could not say goodbye; the heartbeat will expire");
    }
}

/// What this agent says of itself.
pub(crate) fn heartbeat(config: &Config, started_at: Timestamp, running: usize) -> Heartbeat {
    Heartbeat {
        schema: 1,
        agent: config.id,
        hostname: config.hostname.clone(),
        labels: config.labels.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        max_jobs: config.max_jobs,
        running,
        started_at,
    }
}
