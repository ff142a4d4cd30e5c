//! What the agent knows of its host: gathered at start and now and then, kept here for arguments that name it, and in the store for people.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use longshore_model::fact::FactValues;
use longshore_model::job::Job;
use longshore_model::operation::Call;
use longshore_model::wire::facts::{AgentFacts, Facts, FactsRecord};
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Failure, SCHEMA};
use longshore_store::Store;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::host::Host;

/// How often facts are gathered, and how long the store keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FactsPolicy {
    /// Between looks at the host; 60 s unless said otherwise.
    pub every: Duration,
    /// What the store drops them after; 24 h unless said otherwise. They are written again in a third of it, changed or not.
    pub kept: Duration,
}

impl Default for FactsPolicy {
    fn default() -> Self {
        Self { every: Duration::from_secs(60), kept: Duration::from_secs(24 * 3600) }
    }
}

/// Before facts that the broker did not take are sent again.
const AGAIN: Duration = Duration::from_secs(2);

/// The facts as they were gathered last. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known(Arc<RwLock<Facts>>);

impl Known {
    /// Gathers them.
    pub(crate) async fn gather(&self, config: &Config, host: &dyn Host) {
        let label = |label: &longshore_model::Label| (label.key().to_owned(), label.segments().collect::<Vec<_>>().join("."));
        let facts = Facts {
            agent: AgentFacts { id: config.id.to_string(), version: env!("CARGO_PKG_VERSION").to_owned() },
            label: config.labels.iter().map(label).collect(),
            ..host.facts(&config.hostname()).await
        };
        *self.0.write().expect("no holder of this lock panics") = facts;
    }

    fn now(&self) -> Facts {
        self.0.read().expect("no holder of this lock panics").clone()
    }

    /// As they are stored; `left` by an agent that says goodbye.
    pub(crate) fn record(&self, config: &Config, now: Timestamp, left: bool) -> FactsRecord {
        FactsRecord { schema: SCHEMA, agent: config.id, gathered_at: now, left, facts: self.now() }
    }

    /// The job with the host's facts in its arguments.
    pub(crate) fn fill(&self, job: Job) -> Result<Job, Failure> {
        let Call::WithFacts(template) = &job.call else { return Ok(job) };
        let call = template.fill(&FactValues::of(&self.now()));
        let call = call.map_err(|error| Failure { code: ErrorCode::Validation, message: error.to_string() })?;
        Ok(Job { call, ..job })
    }
}

/// Keeps the facts fresh until `stop`, and stores them when they have changed or would soon be dropped for their age.
pub(crate) async fn run(config: Arc<Config>, store: Store, known: Known, host: Arc<dyn Host>, stop: CancellationToken) {
    let mut stored: Option<(Instant, Facts)> = None;
    loop {
        let facts = known.now();
        let is_fresh = stored.as_ref().is_some_and(|(at, before)| *before == facts && at.elapsed() < config.facts.kept / 3);
        let mut pause = config.facts.every;
        if !is_fresh {
            match store.facts.put(&known.record(&config, store.clock.now(), false)).await {
                Ok(()) => stored = Some((Instant::now(), facts)),
                Err(error) => {
                    tracing::debug!(%error, "facts not stored");
                    pause = pause.min(AGAIN);
                }
            }
        }
        if stop.run_until_cancelled(tokio::time::sleep(pause.min(config.facts.kept / 3))).await.is_none() {
            return;
        }
        known.gather(&config, &*host).await;
    }
}
