//! What is counted while the controller runs, in the text form of OpenMetrics. Gauges are read from the index and the fleet when somebody
//! asks; counters begin at zero with the process.

use std::collections::BTreeMap;
use std::fmt;

use longshore_model::wire::rest::AgentCondition;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::app::App;

/// A label's name and value.
type Labels = [(&'static str, String); 1];

/// The counters, and a place for each gauge.
pub(crate) struct Metrics {
    registry: Registry,
    /// By the first digit of the answer's status, from 1 on.
    requests: [Counter; 5],
    repairs: Family<Labels, Counter>,
    failed_passes: Family<Labels, Counter>,
    refused_writes: Counter,
    handed_out: Counter,
    attached_workers: Gauge,
    ready: Gauge,
    jobs: Family<Labels, Gauge>,
    agents: Family<Labels, Gauge>,
    agents_refused_writes: Gauge,
    dead_letters: Gauge,
    contradictions: Gauge,
    audit_given_up: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("longshore");
        let requests = Family::<Labels, Counter>::default();
        registry.register("requests", "Requests that were answered, by the class of their status", requests.clone());
        let (repairs, failed_passes) = (Family::<Labels, Counter>::default(), Family::<Labels, Counter>::default());
        registry.register("repairs", "Things that reconcilers put right", repairs.clone());
        registry.register("failed_passes", "Passes of reconcilers that failed and were tried again", failed_passes.clone());
        let refused_writes = Counter::default();
        registry.register("refused_writes", "Writes that rested on a history which had moved on, and were refused", refused_writes.clone());
        let handed_out = Counter::default();
        registry.register("handed_out", "Tasks that were handed to workers of the gateway, each time counted", handed_out.clone());
        let (jobs, agents) = (Family::<Labels, Gauge>::default(), Family::<Labels, Gauge>::default());
        registry.register("jobs", "Jobs that are kept, by status", jobs.clone());
        registry.register("agents", "Agents that are known, by state", agents.clone());
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let attached_workers = gauge("attached_workers", "Workers of the gateway that are attached, or expected back");
        let ready = gauge("ready", "Whether requests can be served");
        let agents_refused_writes = gauge("agents_refused_writes", "The same of the agents that are known, as far as they have told");
        let contradictions = gauge("contradictory_jobs", "Jobs with a record that contradicts their history: a promise is broken");
        let dead_letters = gauge("dead_letters", "Dead letters that are open");
        let audit_given_up =
            gauge("audit_records_given_up", "Audit records that could not be kept since the controller runs; the next one tells how many");
        let requests = ["1xx", "2xx", "3xx", "4xx", "5xx"].map(|class| requests.get_or_create_owned(&labels("status", class)));
        Self {
            registry,
            requests,
            repairs,
            failed_passes,
            refused_writes,
            handed_out,
            attached_workers,
            ready,
            jobs,
            agents,
            agents_refused_writes,
            dead_letters,
            contradictions,
            audit_given_up,
        }
    }
}

impl Metrics {
    pub(crate) fn answered(&self, status: u16) {
        if let Some(counter) = usize::from(status / 100).checked_sub(1).and_then(|class| self.requests.get(class)) {
            counter.inc();
        }
    }

    /// A reconciler put something right.
    pub(crate) fn repaired(&self, duty: &'static str) {
        self.repairs.get_or_create(&labels("duty", duty)).inc();
    }

    pub(crate) fn pass_failed(&self, duty: &'static str) {
        self.failed_passes.get_or_create(&labels("duty", duty)).inc();
    }

    /// A task was handed to a worker.
    pub(crate) fn handed_out(&self) {
        self.handed_out.inc();
    }

    pub(crate) fn write_refused(&self) {
        self.refused_writes.inc();
    }
}

/// Everything, as it is now.
///
/// # Errors
/// Never in practice: it is written to memory.
pub(crate) fn text(app: &App) -> Result<String, fmt::Error> {
    let metrics = &app.metrics;
    metrics.ready.set(i64::from(crate::app::status::missing(app).is_none()));
    let (jobs, n_contradictory) = {
        let index = app.index();
        // Half an index would look like the whole.
        (if index.is_caught_up() { index.counts() } else { BTreeMap::new() }, index.n_contradictory())
    };
    metrics.contradictions.set(whole(n_contradictory));
    for (status, count) in jobs {
        metrics.jobs.get_or_create(&labels("status", &status)).set(whole(count));
    }
    let (agents, n_refused_writes) = {
        let fleet = app.fleet();
        (fleet.views(app.now()), fleet.n_refused_writes())
    };
    metrics.agents_refused_writes.set(whole(n_refused_writes));
    for state in AgentCondition::ALL {
        let count = agents.iter().filter(|agent| agent.state == state).count();
        metrics.agents.get_or_create(&labels("state", state.as_str())).set(whole(count as u64));
    }
    metrics.dead_letters.set(whole(app.letters().n_open() as u64));
    metrics.audit_given_up.set(whole(app.audit.n_given_up()));
    metrics.attached_workers.set(whole(app.gateway.n_workers() as u64));
    let mut text = String::new();
    encode(&mut text, &metrics.registry)?;
    Ok(text)
}

fn labels(name: &'static str, value: &str) -> Labels {
    [(name, value.to_owned())]
}

fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
