//! Agents: the real runtime, on a simulated host, killed and started again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use longshore_agent::{Agent, Config, FactsPolicy, Thresholds};
use longshore_exec::{Machine, SupervisorCommand};
use longshore_model::Label;
use longshore_model::retry::standard_backoff;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::broker;
use crate::history::Drain;
use crate::host::{SimHost, SimNotes};
use crate::rng::Rng;
use crate::world::{Actor, HEARTBEAT_LASTS, World, agent_id};

/// The label that every second agent has.
pub(crate) const LABEL: &str = "group:web.dev";
/// A group that it belongs to.
pub(crate) const GROUP: &str = "group:web";

/// The most by which a host's clock is wrong, in seconds: longer than any claim, heartbeat or grace lasts.
const CLOCK_ERROR_MAX: u64 = 300;

/// A host and the agent's process on it, if there is one.
pub(crate) struct Seat {
    world: Arc<World>,
    pub(crate) n: usize,
    config: Config,
    notes: SimNotes,
    process: Option<Process>,
}

struct Process {
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
            world.note(Actor::Agent(n), || format!("has a clock that is wrong by {error:?}"));
            world.history().errors.insert(Actor::Agent(n), error);
        }
        Self { world: world.clone(), n, config, notes: SimNotes::new(world), process: None }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Starts a process, if there is none.
    pub(crate) fn start(&mut self) {
        if self.is_up() {
            return;
        }
        let me = Actor::Agent(self.n);
        self.world.note(me, || "starts".to_owned());
        self.world.history().drain(agent_id(self.n), Drain::ProcessBegan);
        let store = broker::store(&self.world, me, self.world.clock_of(me));
        let host = Arc::new(SimHost { world: self.world.clone(), n: self.n });
        let agent = Agent::on(self.config.clone(), store, host, Arc::new(self.notes.clone()));
        let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
        let (world, to_drain, to_stop) = (self.world.clone(), drain.clone(), stop.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while agent.join().await.is_err() {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            let ended = agent.run(to_drain, to_stop).await;
            world.note(me, || format!("has ended: {ended:?}"));
        });
        self.process = Some(Process { tasks, drain, stop });
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

    fn has_ended(&self) {
        let now = self.world.now();
        self.world.history().process_ends.push((agent_id(self.n), now));
    }

    /// Whether the process has ended by itself, which it should not.
    pub(crate) fn has_died(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.tasks.try_join_next().is_some())
    }
}
