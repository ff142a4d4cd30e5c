//! What everybody in a simulation shares: the stores, the clock, the dice, the weather, the trace, and the history.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use longshore_model::wire::record::Definition;
use longshore_model::{AgentId, JobId};
use longshore_store::{Clock, JobRecord, Store, memory};
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::broker::Strays;
use crate::history::History;
use crate::plant::Bug;
use crate::rng::Rng;

/// How long an unextended claim lasts.
pub(crate) const LEASE: Duration = Duration::from_secs(20);
/// How long a heartbeat lasts.
pub(crate) const HEARTBEAT_LASTS: Duration = Duration::from_secs(9);
/// When every run begins.
const BEGINS_AT: i64 = 1_800_000_000;

/// What the clocks of hosts are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clocks {
    /// Wrong in some seeds.
    BySeed,
    /// All of them right; and no job asks for a time.
    Right,
    /// The same jobs, and some clocks are wrong.
    Wrong,
}

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Actor {
    Agent(usize),
    Controller(usize),
    Client,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(n) => write!(f, "agent-{n}"),
            Self::Controller(n) => write!(f, "controller-{n}"),
            Self::Client => write!(f, "client"),
        }
    }
}

/// The identity of the agent with this number.
pub(crate) fn agent_id(n: usize) -> AgentId {
    AgentId::from_bits(n as u128 + 1)
}

/// How bad things are. Each is so often in a thousand.
#[derive(Debug, Clone, Default)]
pub(crate) struct Weather {
    /// A call's outcome stays unknown.
    pub(crate) unknown: u64,
    /// A call takes long.
    pub(crate) slow: u64,
    /// A delivery is lost on its way, or told to somebody else as well.
    pub(crate) astray: u64,
    /// A hint is lost, or an end that nobody waits for.
    pub(crate) lost: u64,
    /// A stream breaks off.
    pub(crate) broken: u64,
}

/// The shared part. One lock for each thing, none held over an await.
pub(crate) struct World {
    /// The twin itself, undisturbed.
    pub(crate) raw: Store,
    pub(crate) clock: Clock,
    pub(crate) bug: Option<Bug>,
    pub(crate) clocks: Clocks,
    /// Whether hosts have clocks of their own.
    pub(crate) is_skewed: bool,
    /// Whether an agent goes in the midst of it and never comes back.
    pub(crate) loses_agent: bool,
    pub(crate) strays: Strays,
    rng: Mutex<Rng>,
    weather: Mutex<Weather>,
    /// Who is cut off from the broker, until when.
    cuts: Mutex<BTreeMap<Actor, Instant>>,
    /// Tells who is connected again.
    pub(crate) reconnects: broadcast::Sender<Actor>,
    trace: Mutex<Option<String>>,
    history: Mutex<History>,
    /// What takes effect after whoever asked for it has given up.
    late: Mutex<JoinSet<()>>,
    /// Which shares of the next job for several are left out.
    lost_shares: Arc<AtomicU64>,
    /// The first that was read of each job, where reads go back.
    first_reads: Mutex<BTreeMap<JobId, JobRecord>>,
}

impl World {
    pub(crate) fn new(seed: u64, bug: Option<Bug>, is_traced: bool, clocks: Clocks) -> Arc<Self> {
        let clock = Clock::simulated(Timestamp::from_second(BEGINS_AT).unwrap_or_default());
        let lost_shares = Arc::new(AtomicU64::new(0));
        let options = memory::MemoryOptions {
            lease: LEASE,
            registry_ttl: HEARTBEAT_LASTS,
            clock: clock.clone(),
            lost_shares: lost_shares.clone(),
            ..memory::MemoryOptions::default()
        };
        Arc::new(Self {
            raw: memory::open(options),
            clock,
            bug,
            is_skewed: clocks != Clocks::BySeed || seed.is_multiple_of(4),
            loses_agent: clocks == Clocks::BySeed && seed % 8 == 3,
            clocks,
            strays: Strays::default(),
            rng: Mutex::new(Rng::new(seed)),
            weather: Mutex::default(),
            cuts: Mutex::default(),
            reconnects: broadcast::Sender::new(64),
            trace: Mutex::new(is_traced.then(String::new)),
            history: Mutex::default(),
            late: Mutex::default(),
            lost_shares,
            first_reads: Mutex::default(),
        })
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn rng(&self) -> MutexGuard<'_, Rng> {
        locked(&self.rng)
    }

    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        locked(&self.history)
    }

    pub(crate) fn weather(&self) -> Weather {
        locked(&self.weather).clone()
    }

    pub(crate) fn change_weather(&self, weather: Weather) {
        *locked(&self.weather) = weather;
    }

    /// Cuts a process off from the broker.
    pub(crate) fn cut(&self, who: Actor, until: Instant) {
        self.note(who, || format!("is cut off for {:?}", until.saturating_duration_since(Instant::now())));
        locked(&self.cuts).insert(who, until);
        let reconnects = self.reconnects.clone();
        self.later(async move {
            tokio::time::sleep_until(until).await;
            let _ = reconnects.send(who);
        });
    }

    /// Until when a process is cut off, if it is.
    pub(crate) fn cut_until(&self, who: Actor) -> Option<Instant> {
        locked(&self.cuts).get(&who).copied().filter(|until| *until > Instant::now())
    }

    /// Returns when a process is not cut off.
    pub(crate) async fn connected(&self, who: Actor) {
        while let Some(until) = self.cut_until(who) {
            tokio::time::sleep_until(until).await;
        }
    }

    /// Lets something happen that nobody waits for.
    pub(crate) fn later(&self, what: impl Future<Output = ()> + Send + 'static) {
        let mut late = locked(&self.late);
        while late.try_join_next().is_some() {}
        late.spawn(what);
    }

    /// Writes a line of the trace, if there is one.
    pub(crate) fn note(&self, who: Actor, what: impl FnOnce() -> String) {
        if let Some(trace) = locked(&self.trace).as_mut() {
            let at = self.now().as_millisecond() - BEGINS_AT * 1000;
            // Writing to a string cannot fail.
            let _ = writeln!(trace, "{:>5}.{:03} {who:<13} {}", at / 1000, at % 1000, what());
        }
    }

    pub(crate) fn take_trace(&self) -> String {
        locked(&self.trace).take().unwrap_or_default()
    }

    /// Lets a crash happen in the middle of storing this job, now and then. To be called in the very step that stores it; gives which of
    /// its executions are left out, bit by bit.
    pub(crate) fn lose_shares(&self, of: &Definition) -> u64 {
        if of.executions.len() < 2 || !self.rng().chance(self.weather().astray * 4) {
            return 0;
        }
        let lost = self.rng().next();
        self.lost_shares.store(lost, Ordering::Relaxed);
        lost
    }

    /// A job's record, or the first that was ever read of it.
    pub(crate) fn earlier(&self, record: &JobRecord, is_first: bool) -> JobRecord {
        let mut reads = locked(&self.first_reads);
        let first = reads.entry(record.definition.id).or_insert_with(|| record.clone());
        if is_first { first.clone() } else { record.clone() }
    }

    /// The clock that a process has.
    pub(crate) fn clock_of(&self, who: Actor) -> Clock {
        self.clock.wrong_by(self.history().errors.get(&who).copied().unwrap_or_default())
    }

    pub(crate) fn is(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}
