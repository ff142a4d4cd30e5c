//! The in-memory twin: the same promises without a broker, for tests and simulation. Kept honest by the conformance suite.
//!
//! Everything lives in one [`State`] behind one lock that is never held over an await, so each call is one step for everybody else.
//! Streams hold a cursor and look again when a signal says that something changed; nothing runs in the background. Leases and
//! heartbeats expire by tokio's clock, which a test may pause.
//!
//! Where JetStream is loose, the twin is loose in the same way: a claim is known by its place in the queue, so that an old holder's
//! `done` or `give_back` counts although somebody else has been offered the work since.

mod audit;
mod dead_letters;
mod facts;
mod feed;
mod ledger;
mod logs;
mod objects;
mod records;
mod registry;
mod turns;
mod work;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::{Broker, Clock, Store};

/// The bounds of the twin.
#[derive(Debug, Clone)]
pub struct MemoryOptions {
    /// How long an unextended claim lasts.
    pub lease: Duration,
    /// How long a heartbeat lasts.
    pub registry_ttl: Duration,
    /// How many bytes of definitions and events, and as many again of answers, are kept; beyond that writes are refused.
    pub max_records_bytes: Option<u64>,
    /// How long an agent's facts are kept.
    pub facts_ttl: Duration,
    /// When its records are stored.
    pub clock: Clock,
    /// Which shares of the next job for several are left out, as by a crash in between: bit N for the Nth execution. Taken by that job.
    pub lost_shares: Arc<AtomicU64>,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(120),
            registry_ttl: Duration::from_secs(30),
            max_records_bytes: None,
            facts_ttl: Duration::from_secs(24 * 3600),
            clock: Clock::default(),
            lost_shares: Arc::default(),
        }
    }
}

/// Opens empty stores in this process. They last as long as a [`Store`] or one of its streams does.
#[must_use]
pub fn open(options: MemoryOptions) -> Store {
    let clock = options.clock.clone();
    let state = State { records: records::Records::stamped_by(clock.clone()), ..State::default() };
    let memory = Memory(Arc::new(Shared { options, state: Mutex::new(state), signals: Signals::default() }));
    Store {
        ledger: Arc::new(memory.clone()),
        work: Arc::new(memory.clone()),
        feed: Arc::new(memory.clone()),
        logs: Arc::new(memory.clone()),
        registry: Arc::new(memory.clone()),
        facts: Arc::new(memory.clone()),
        dead_letters: Arc::new(memory.clone()),
        audit: Arc::new(memory.clone()),
        turns: Arc::new(memory.clone()),
        objects: Arc::new(memory.clone()),
        broker: Arc::new(memory),
        clock,
    }
}

/// A handle on the twin; implements every trait, each in its module.
#[derive(Clone)]
struct Memory(Arc<Shared>);

struct Shared {
    options: MemoryOptions,
    state: Mutex<State>,
    signals: Signals,
}

#[derive(Default)]
struct State {
    records: records::Records,
    work: work::Offers,
    logs: logs::Output,
    fleet: registry::Fleet,
    facts: facts::Known,
    letters: dead_letters::Letters,
    audit: audit::Trail,
    queues: turns::Queues,
    objects: objects::Shelf,
}

/// Says that something changed. Sent after the lock is released; a stream asks to be told before it looks, and those who wait are woken in
/// the order in which they came, so that equal runs stay equal.
#[derive(Default)]
struct Signals {
    records: Notify,
    work: Notify,
    logs: Notify,
    fleet: Notify,
    letters: Notify,
}

impl Shared {
    /// A panic under the lock can only come from a broken invariant in one call; what the others stored stays readable.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Broker for Memory {
    fn is_connected(&self) -> bool {
        true
    }

    fn version(&self) -> Option<String> {
        None
    }

    fn record_bytes_max(&self) -> usize {
        longshore_model::limits::RECORD_BYTES_MAX
    }
}
