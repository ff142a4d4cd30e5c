//! Agents: the real runtime, on a simulated host, killed and started again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use longshore_agent::{Agent, Config, Error, FactsPolicy, Thresholds};
use longshore_exec::{Machine, SupervisorCommand};
use longshore_model::Label;
use longshore_model::retry::standard_backoff;
use longshore_model::wire::agent;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::broker;
use crate::history::{COPY, Drain};
use crate::host::{SimHost, SimNotes};
use crate::rng::Rng;
use crate::world::{Actor, Clocks, HEARTBEAT_LASTS, World, agent_id};

/// The label that every second agent has.
pub(crate) const LABEL: &str = "group:web.dev";
/// A group that it belongs to.
pub(crate) const GROUP: &str = "group:web";

/// The most by which a host's clock is wrong, in seconds: longer than any claim, heartbeat or grace lasts.
const CLOCK_ERROR_MAX: u64 = 300;
/// What the trace says of a host's clock.
pub(crate) const CLOCK_IS_WRONG: &str = "has a clock that is wrong by";
/// How long two processes of one identity may take until one of them is refused.
const MEETS_FOR: Duration = Duration::from_secs(20);

/// A host and the agent's process on it, if there is one.
pub(crate) struct Seat {
    world: Arc<World>,
    pub(crate) n: usize,
    config: Config,
    notes: SimNotes,
    process: Option<Process>,
    /// It never comes back.
    is_gone: bool,
    down_since: Option<Instant>,
}

struct Process {
    id: String,
    tasks: JoinSet<()>,
    drain: CancellationToken,
    stop: CancellationToken,
}

/// The name of the host with this number.
pub(crate) fn hostname(n: usize) -> String {
    format!("host-{n}")
}

/// Whether the agent with this number has [`LABEL`].
pub(crate) fn is_labelled(n: usize) -> bool {
    n % 2 == 1
}

impl Seat {
    pub(crate) fn new(world: &Arc<World>, n: usize, rng: &mut Rng) -> Self {
        let labels: Vec<Label> = is_labelled(n).then(|| LABEL.parse().expect("it is a label")).into_iter().collect();
        let config = Config {
            id: agent_id(n),
            hostname: Some(hostname(n)),
            labels,
            max_jobs: usize::try_from(rng.between(1, 4)).unwrap_or(1),
            state_dir: PathBuf::from("/nonexistent/longshore-sim"),
            workspaces_dir: None,
            jobs_dir: None,
            supervisor: SupervisorCommand { program: PathBuf::new(), args: Vec::new() },
            heartbeat_every: HEARTBEAT_LASTS / 3,
            backoff: standard_backoff(),
            kill_grace: Duration::from_secs(1),
            opening_keys: None,
            trusted_keys: None,
            machine: Machine::default(),
            facts: FactsPolicy::default(),
            thresholds: Thresholds::default(),
            packages: None,
        };
        if world.is_skewed && rng.chance(600) {
            let seconds = i64::try_from(rng.between(10, CLOCK_ERROR_MAX)).unwrap_or(0);
            let error = SignedDuration::from_secs(if rng.chance(500) { seconds } else { -seconds });
            world.note(Actor::Agent(n), || format!("{CLOCK_IS_WRONG} {error:?}"));
            if world.clocks != Clocks::Right {
                world.history().errors.insert(Actor::Agent(n), error);
            }
        }
        Self { world: world.clone(), n, config, notes: SimNotes::new(world), process: None, is_gone: false, down_since: None }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Starts a process, if there is none and the agent is not gone for good.
    pub(crate) fn start(&mut self) {
        // One that was refused is started again, as by whatever looks after it.
        if self.has_died() && self.was_refused() {
            self.process = None;
            self.has_ended();
        }
        if self.is_up() || self.is_gone {
            return;
        }
        self.world.history().drain(agent_id(self.n), Drain::ProcessBegan);
        self.process = Some(self.begin(false));
    }

    fn begin(&self, is_copy: bool) -> Process {
        let me = Actor::Agent(self.n);
        self.world.note(me, || if is_copy { "starts from a copy of its data" } else { "starts" }.to_owned());
        let store = broker::store(&self.world, me, self.world.clock_of(me));
        let place = if is_copy { format!("{COPY}-of-place-{}", self.n) } else { format!("place-{}", self.n) };
        let process = agent::Process { id: format!("process-{}-{}", self.n, self.world.clock.unique()), place };
        let id = process.id.clone();
        let host = Arc::new(SimHost { world: self.world.clone(), n: self.n, process });
        let notes = if is_copy { SimNotes::new(&self.world) } else { self.notes.clone() };
        let agent = Agent::on(self.config.clone(), store, host, Arc::new(notes));
        let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
        let (world, to_drain, to_stop) = (self.world.clone(), drain.clone(), stop.clone());
        let (n, my_id) = (self.n, id.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let ended = loop {
                match agent.join().await {
                    Ok(()) => break agent.run(to_drain, to_stop).await,
                    Err(refused @ Error::Identity { .. }) => break Err(refused),
                    Err(_) => sleep(Duration::from_millis(500)).await,
                }
            };
            world.note(me, || format!("has ended: {ended:?}"));
            if let Err(Error::Identity { .. }) = ended {
                let mut history = world.history();
                let seq = history.next();
                history.refused.push((agent_id(n), my_id, seq));
            }
        });
        Process { id, tasks, drain, stop }
    }

    fn was_refused(&self) -> bool {
        let own = self.process.as_ref().map(|own| &own.id);
        self.world.history().refused.iter().any(|(_, process, _)| Some(process) == own)
    }

    /// Whether its last heartbeat is over, so that a process from a copy of its data may be bound as well as its own.
    pub(crate) fn is_forgotten(&self) -> bool {
        self.down_since.is_some_and(|since| since.elapsed() > HEARTBEAT_LASTS)
    }

    /// Runs a process from a copy of the data directory beside the agent's own, which is started if it does not run, until one of them is
    /// refused. The copy is gone then; the agent's own process is, if it was the one that was refused.
    pub(crate) async fn meet_copy(&mut self, is_calm: bool) {
        if self.is_gone {
            return;
        }
        self.start();
        let mut copy = self.begin(true);
        let gives_up = Instant::now() + MEETS_FOR;
        let mut is_refused = false;
        while Instant::now() < gives_up && !is_refused && self.is_up() && copy.tasks.try_join_next().is_none() {
            sleep(Duration::from_millis(100)).await;
            is_refused = self.has_died();
        }
        let own = self.process.as_ref().map(|own| own.id.clone()).unwrap_or_default();
        if is_refused {
            self.process = None;
            self.has_ended();
            sleep(Duration::from_secs(3)).await;
        }
        if is_calm {
            self.world.history().meetings.push((agent_id(self.n), own, copy.id.clone()));
        }
        let was_bound = self.world.history().bindings.iter().any(|bound| bound.process == copy.id);
        drop(copy);
        if was_bound {
            self.has_ended();
        }
    }

    /// Ends for good.
    pub(crate) fn go(&mut self) {
        self.kill();
        self.is_gone = true;
        let now = self.world.now();
        self.world.note(Actor::Agent(self.n), || "is gone for good".to_owned());
        self.world.history().gone.insert(agent_id(self.n), now);
    }

    /// Kills the process: whatever it is at is not gone on with.
    pub(crate) fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            self.world.note(Actor::Agent(self.n), || "is killed".to_owned());
            drop(process);
            self.has_ended();
        }
    }

    /// Asks the process to end, and kills it if it takes too long.
    pub(crate) async fn stop(&mut self, at_once: bool) {
        let Some(mut process) = self.process.take() else { return };
        self.world.note(Actor::Agent(self.n), || format!("is to end, at once: {at_once}"));
        if at_once {
            process.stop.cancel()
        } else {
            process.drain.cancel()
        }
        let ended = async { while process.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(20), ended).await.is_err() {
            self.process = Some(process);
            self.kill();
        } else {
            self.has_ended();
        }
    }

    fn has_ended(&mut self) {
        self.down_since = Some(Instant::now());
        let now = self.world.now();
        self.world.history().process_ends.push((agent_id(self.n), now));
    }

    /// Whether the process has ended by itself, which it should not.
    pub(crate) fn has_died(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.tasks.try_join_next().is_some() || process.tasks.is_empty())
    }
}
