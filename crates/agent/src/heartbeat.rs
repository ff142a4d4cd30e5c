//! Saying that this agent lives, until it does not.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use longshore_model::wire::agent::{Condition, Heartbeat, Process, WorkerPackage};
use longshore_store::Store;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::facts::Known;
use crate::identity::{self, Beat, Binding};
use crate::{Config, Error};

/// What an agent is busy with.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) running: AtomicUsize,
    /// It takes no new work.
    pub(crate) drained: AtomicBool,
    /// What its host is short of.
    pub(crate) conditions: Mutex<Vec<Condition>>,
    /// The packages whose nodes it runs.
    pub(crate) packages: Mutex<Vec<WorkerPackage>>,
    /// Writes that rested on a history which had moved on, and were refused.
    pub(crate) refused_writes: AtomicU64,
    /// Something that people wait for.
    pub(crate) changed: Notify,
}

/// Beats until `silence`, then says goodbye. A beat that fails is not repeated: the next one follows soon. Ends at once, without a goodbye,
/// when another agent has the identity: then it says `stop` to this one.
pub(crate) async fn run(
    config: Arc<Config>,
    store: Store,
    (binding, started_at, facts): (Arc<Binding>, Timestamp, Known),
    load: Arc<Load>,
    silence: CancellationToken,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut ticks = tokio::time::interval(config.heartbeat_every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = silence.cancelled() => break,
            _ = ticks.tick() => {}
            // Whoever drained this agent waits for its word.
            () = load.changed.notified() => {}
        }
        let heartbeat = heartbeat(&config, &binding.process, started_at, &load);
        match binding.beat(&*store.registry, &heartbeat).await {
            Ok(Beat::Told) => {}
            Ok(Beat::Refused { hostname }) => {
                stop.cancel();
                return Err(identity::refused(&store, &heartbeat, &binding.process, hostname).await);
            }
            Err(error) => tracing::debug!(%error, "heartbeat not sent"),
        }
    }
    // Controllers that do not run now tell by this that it was stopped.
    if let Err(error) = store.facts.put(&facts.record(&config, store.clock.now(), true)).await {
        tracing::debug!(%error, "could not note the goodbye");
    }
    if let Err(error) = store.registry.leave(config.id).await {
        tracing::debug!(%error, "could not say goodbye; the heartbeat will expire");
    }
    Ok(())
}

/// What this agent says of itself.
pub(crate) fn heartbeat(config: &Config, process: &Process, started_at: Timestamp, load: &Load) -> Heartbeat {
    Heartbeat {
        schema: 1,
        agent: config.id,
        hostname: config.hostname(),
        labels: config.labels.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        max_jobs: config.max_jobs,
        running: load.running.load(Ordering::Relaxed),
        drained: load.drained.load(Ordering::Relaxed),
        conditions: load.conditions.lock().expect("no holder of this lock panics").clone(),
        refused_writes: load.refused_writes.load(Ordering::Relaxed),
        process: Some(process.clone()),
        worker: None,
        packages: load.packages.lock().expect("no holder of this lock panics").clone(),
        started_at,
    }
}
