//! One run: a fleet, people, and misfortune for a while; then nothing goes wrong any more, and everything has to come to its end.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use longshore_model::JobId;
use longshore_model::wire::record::{Event, EventKind, SCHEMA};
use longshore_model::wire::rest::DeadLetterCondition;
use longshore_store::Appended;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::agents::{CLOCK_IS_WRONG, Seat, hostname};
use crate::check::{self, Violation};
use crate::clients::Client;
use crate::controllers::{Controllers, Reply};
use crate::history::{Drain, Record, Repeat};
use crate::plant::Bug;
use crate::readers::Reader;
use crate::rng::Rng;
use crate::world::{Actor, Clocks, Weather, World, agent_id};

/// How long everything may take to come to its end once nothing goes wrong any more. Each job has a bound of its own below that.
const ENDS_WITHIN: Duration = Duration::from_secs(30 * 60);
/// How long nothing happens before the last look.
const QUIET: Duration = Duration::from_secs(45);

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// A bug to plant.
    pub bug: Option<Bug>,
    /// Whether to keep a trace.
    pub is_traced: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// Promises that were broken; empty is good.
    pub violations: Vec<Violation>,
    /// Every operation with its time, if it was asked for.
    pub trace: String,
    /// What was done.
    pub counts: Counts,
}

/// What was done in a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Jobs that were accepted.
    pub jobs: usize,
    /// Attempts that began on a host.
    pub runs: usize,
    /// Those that ended with their agent.
    pub killed_runs: usize,
    /// Executions that were recorded as lost.
    pub lost: usize,
    /// Dead letters at the end.
    pub dead_letters: usize,
    /// The longest that a job took to its end after the healing.
    pub slowest: Duration,
    /// Attempts that ran in their turn under a concurrency key.
    pub turns: usize,
    /// Agents' parts of jobs that were stored later than their job.
    pub late_shares: usize,
    /// What readers of streams were told.
    pub told: usize,
    /// Time that passed in the run.
    pub simulated: Duration,
}

/// Runs one seed, in this thread.
#[must_use]
pub fn run(options: Options) -> Report {
    play(options, Clocks::BySeed)
}

/// Runs one seed twice, with jobs that ask for no time: once with right clocks everywhere and once with wrong ones on some hosts. Gives what
/// differs, which nothing should: then some host's clock decided something.
#[must_use]
pub fn compare_clocks(options: Options) -> Option<Violation> {
    let traces = [Clocks::Right, Clocks::Wrong].map(|clocks| play(Options { is_traced: true, ..options }, clocks).trace);
    let [right, wrong] = traces.each_ref().map(|trace| trace.lines().filter(|line| !line.contains(CLOCK_IS_WRONG)).collect::<Vec<_>>());
    let differing = (0..right.len().max(wrong.len())).find(|idx| right.get(*idx) != wrong.get(*idx))?;
    let found = format!("seed {}, {:?} became {:?}", options.seed, right.get(differing), wrong.get(differing));
    Some(Violation::new("INV-57 wrong clocks of hosts change nothing", found))
}

fn play(options: Options, clocks: Clocks) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime needs nothing");
    runtime.block_on(async {
        let mut rng = Rng::new(options.seed);
        let world = World::new(rng.next(), options.bug, options.is_traced, clocks);
        let director = Director::new(&world, rng);
        let (violations, counts) = director.run().await;
        Report { violations, trace: world.take_trace(), counts }
    })
}

struct Director {
    world: Arc<World>,
    rng: Rng,
    seats: Vec<Seat>,
    controllers: Controllers,
    people: JoinSet<()>,
    /// Those who read all that happens, as long as anything does.
    readers: JoinSet<()>,
    heals_at: Instant,
    /// What happens of itself.
    due: Vec<(Instant, Due)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    StartAgent(usize),
    StartController(usize),
    Undrain(usize),
    /// An agent goes for good.
    Go(usize),
}

impl Director {
    fn new(world: &Arc<World>, mut rng: Rng) -> Self {
        let n_agents = usize::try_from(rng.between(2, 4)).unwrap_or(2);
        let seats = (0..n_agents).map(|n| Seat::new(world, n, &mut rng)).collect();
        let n_controllers = usize::try_from(rng.between(1, 2)).unwrap_or(1);
        let heals_at = Instant::now() + Duration::from_secs(rng.between(30, 90));
        let mut due = Vec::new();
        if world.loses_agent && n_agents > 2 {
            let at = Instant::now() + Duration::from_secs(rng.between(5, 28));
            due.push((at, Due::Go(usize::try_from(rng.below(n_agents as u64)).unwrap_or(0))));
        }
        Self {
            world: world.clone(),
            seats,
            controllers: Controllers::new(world, n_controllers),
            people: JoinSet::new(),
            readers: JoinSet::new(),
            heals_at,
            due,
            rng,
        }
    }

    async fn run(mut self) -> (Vec<Violation>, Counts) {
        self.begin().await;
        self.storm().await;
        self.heal().await;
        let healed = self.world.now();
        self.world.history().calm_since.get_or_insert(healed);
        let mut late = self.settle().await;
        self.redrive().await;
        late.extend(self.settle().await);
        sleep(QUIET).await;
        let mut violations = check::all(&self.world, &self.controllers, self.seats.len(), healed).await;
        violations.extend(late);
        violations.extend(self.look_anew().await);
        violations.extend(
            self.seats.iter_mut().filter_map(|seat| seat.has_died().then(|| Violation::new("an agent ended by itself", hostname(seat.n)))),
        );
        let counts = self.counts(healed);
        (violations, counts)
    }

    async fn begin(&mut self) {
        for n in 0..self.controllers.n() {
            self.controllers.start(n);
        }
        for seat in &mut self.seats {
            seat.start();
        }
        sleep(Duration::from_secs(2)).await;
        let is_calm = self.rng.chance(100);
        let level = if is_calm { 0 } else { self.rng.between(1, 10) };
        self.world.change_weather(Weather { unknown: level * 4, slow: level * 8, astray: level * 6, lost: level * 12, broken: level * 3 });
        let reader = Reader {
            world: self.world.clone(),
            controllers: self.controllers.clone(),
            rng: self.rng.fork(),
            of: None,
            until: Instant::now() + 10 * ENDS_WITHIN,
        };
        self.readers.spawn(reader.read());
        // In half of all runs nobody has a key.
        let keyed = *self.rng.pick(&[0, 0, 250, 600]);
        let n_clients = self.rng.between(2, 4);
        for n in 0..n_clients {
            let client = Client {
                id: n,
                world: self.world.clone(),
                controllers: self.controllers.clone(),
                rng: self.rng.fork(),
                heals_at: self.heals_at,
                n_agents: self.seats.len(),
                keyed,
            };
            let n_jobs = self.rng.between(2, 7);
            self.people.spawn(client.work(n * 100..n * 100 + n_jobs));
        }
        if self.world.is(Bug::LostTooEarly) {
            self.people.spawn(declare_lost(self.world.clone(), self.heals_at));
        }
        if is_calm {
            self.due.clear();
            let now = self.world.now();
            self.world.history().calm_since = Some(now);
            sleep_until(self.heals_at).await;
        }
    }

    /// One misfortune after the other.
    async fn storm(&mut self) {
        loop {
            let pause = Duration::from_millis(self.rng.between(200, 7000));
            let next = (Instant::now() + pause).min(self.heals_at);
            while let Some(idx) = (0..self.due.len()).filter(|idx| self.due[*idx].0 <= next).min_by_key(|idx| self.due[*idx].0) {
                let (at, due) = self.due.remove(idx);
                sleep_until(at).await;
                self.happen(due).await;
            }
            sleep_until(next).await;
            if Instant::now() >= self.heals_at {
                return;
            }
            self.strike().await;
        }
    }

    async fn happen(&mut self, due: Due) {
        match due {
            Due::StartAgent(n) if self.seats[n].is_forgotten() && self.rng.chance(300) => {
                self.seats[n].meet_copy(false).await;
                self.due.push((Instant::now(), Due::StartAgent(n)));
            }
            Due::StartAgent(n) => self.seats[n].start(),
            Due::Go(n) => self.seats[n].go(),
            Due::StartController(n) => self.controllers.start(n),
            Due::Undrain(n) => self.wish(n, false).await,
        }
    }

    async fn strike(&mut self) {
        let agent = usize::try_from(self.rng.below(self.seats.len() as u64)).unwrap_or(0);
        let controller = usize::try_from(self.rng.below(self.controllers.n() as u64)).unwrap_or(0);
        let later = |rng: &mut Rng, most: u64| Instant::now() + Duration::from_millis(rng.between(50, most));
        match self.rng.below(100) {
            0..=24 => {
                self.seats[agent].kill();
                let most = if self.rng.chance(500) { 3_000 } else { 50_000 };
                self.due.push((later(&mut self.rng, most), Due::StartAgent(agent)));
            }
            25..=34 => {
                let at_once = self.rng.chance(500);
                self.seats[agent].stop(at_once).await;
                self.due.push((later(&mut self.rng, 10_000), Due::StartAgent(agent)));
            }
            35..=46 => {
                self.controllers.kill(controller);
                self.due.push((later(&mut self.rng, 15_000), Due::StartController(controller)));
            }
            47..=64 => {
                let until = later(&mut self.rng, 45_000).min(self.heals_at);
                self.world.cut(Actor::Agent(agent), until);
            }
            65..=72 => {
                let until = later(&mut self.rng, 20_000).min(self.heals_at);
                self.world.cut(Actor::Controller(controller), until);
            }
            73..=77 => {
                let until = later(&mut self.rng, 8_000).min(self.heals_at);
                (0..self.seats.len()).for_each(|n| self.world.cut(Actor::Agent(n), until));
                (0..self.controllers.n()).for_each(|n| self.world.cut(Actor::Controller(n), until));
            }
            78..=84 => self.lose_announcements().await,
            85..=94 => {
                self.wish(agent, true).await;
                self.due.push((later(&mut self.rng, 40_000), Due::Undrain(agent)));
            }
            95..=96 if self.seats[agent].is_up() && self.world.cut_until(Actor::Agent(agent)).is_none() => {
                self.seats[agent].meet_copy(false).await;
                self.due.push((later(&mut self.rng, 3_000), Due::StartAgent(agent)));
            }
            _ if self.seats.len() < 6 => {
                let n = self.seats.len();
                let mut seat = Seat::new(&self.world, n, &mut self.rng);
                seat.start();
                self.seats.push(seat);
            }
            _ => {}
        }
    }

    /// Behind everybody's back.
    async fn lose_announcements(&mut self) {
        let jobs: Vec<JobId> = self.world.history().defined.keys().copied().collect();
        if jobs.is_empty() {
            return;
        }
        let job = *self.rng.pick(&jobs);
        let definition = self.world.history().defined.get(&job).map(|defined| defined.definition.clone());
        if let Some(definition) = definition {
            self.world.note(Actor::Client, || format!("the announcements of {} vanish", job.short()));
            // The twin does not fail.
            let _ = self.world.raw.work.withdraw(&definition).await;
        }
    }

    /// Tells an agent to take no work, or to take it again. One that is not answered is not repeated while things go wrong.
    async fn wish(&mut self, n: usize, drained: bool) {
        if !drained {
            self.world.history().drain(agent_id(n), Drain::Lifted);
        }
        let name = hostname(n).parse().expect("it is a host's name");
        let reply = self.controllers.ask(move |controller, caller| async move { controller.drain(&caller, &name, drained).await }).await;
        self.world.note(Actor::Client, || format!("wish for {}: {drained} {}", hostname(n), matches!(reply, Reply::Done(_))));
    }

    async fn heal(&mut self) {
        sleep_until(self.heals_at).await;
        self.world.note(Actor::Client, || "EVERYTHING HEALS".to_owned());
        self.world.change_weather(Weather::default());
        for n in 0..self.controllers.n() {
            self.controllers.start(n);
        }
        for seat in &mut self.seats {
            seat.start();
        }
        sleep(Duration::from_secs(5)).await;
        for n in 0..self.seats.len() {
            self.seats[n].start();
            self.wish(n, false).await;
        }
        if self.rng.chance(250) {
            let seat = self.rng.pick(&(0..self.seats.len()).collect::<Vec<_>>()).to_owned();
            self.seats[seat].meet_copy(true).await;
            self.seats[seat].start();
        }
    }

    /// Waits until everybody has done and everything has ended; gives what has not in its time.
    async fn settle(&mut self) -> Vec<Violation> {
        // A retry is due by the clock of whoever failed.
        let by_clocks = Duration::try_from(self.world.history().spread()).unwrap_or_default();
        // What is not recorded never ends; there is no need to wait for it.
        let ends_within = if self.world.is(Bug::LossUnrecorded) { ENDS_WITHIN / 5 } else { ENDS_WITHIN };
        // A repeat of what only somebody could do who is gone expires after as long as a job has that says nothing of it.
        let of_gone = if self.world.history().gone.is_empty() { Duration::ZERO } else { 4 * ENDS_WITHIN };
        let gives_up = Instant::now() + ends_within + of_gone + 4 * by_clocks;
        while Instant::now() < gives_up {
            while self.people.try_join_next().is_some() {}
            if self.people.is_empty() && check::unfinished(&self.world).is_empty() {
                break;
            }
            sleep(Duration::from_secs(1)).await;
        }
        let mut late = check::unfinished(&self.world);
        if !self.people.is_empty() {
            late.push(Violation::new("somebody still waits", format!("{} people", self.people.len())));
        }
        late
    }

    /// Controllers that begin with nothing come to know the same.
    async fn look_anew(&mut self) -> Vec<Violation> {
        for n in 0..self.controllers.n() {
            self.controllers.kill(n);
            self.controllers.start(n);
        }
        sleep(Duration::from_secs(5)).await;
        check::views(&self.world, &self.controllers, self.seats.len()).await
    }

    /// People look after what died.
    async fn redrive(&mut self) {
        // A letter is there within half a minute.
        sleep(Duration::from_secs(30)).await;
        let Some(controller) = self.controllers.ready(0) else { return };
        let letters = controller.dead_letters(&self.controllers.caller, 1000).map(|list| list.items).unwrap_or_default();
        let open = letters.iter().filter(|letter| letter.state == DeadLetterCondition::Open);
        for job in open.map(|letter| letter.id).collect::<Vec<_>>() {
            if self.rng.chance(300) {
                let _ = self.controllers.ask(move |controller, caller| async move { controller.discard(&caller, job).await }).await;
                continue;
            }
            for _ in 0..self.rng.between(1, 3) {
                let reply = self.controllers.ask(move |controller, caller| async move { controller.redrive(&caller, job).await }).await;
                let made = if let Reply::Done(view) = reply { Some(view.id) } else { None };
                self.world.note(Actor::Client, || format!("redrive of {}: {:?}", job.short(), made.map(JobId::short)));
                self.world.history().repeats.push((job, Repeat::Redrive, made));
            }
        }
    }

    fn counts(&self, healed: Timestamp) -> Counts {
        let history = self.world.history();
        let is_lost = |record: &Record| matches!(record, Record::Event(_, Event { kind: EventKind::Lost { .. }, .. }));
        Counts {
            jobs: history.defined.len(),
            runs: history.runs.len(),
            killed_runs: history.runs.iter().filter(|run| run.ended.is_some_and(|(_, end)| end == crate::history::End::Killed)).count(),
            lost: history.written.values().flatten().filter(|written| is_lost(&written.record)).count(),
            dead_letters: check::n_dead(&history),
            slowest: check::slowest(&history, healed),
            turns: history.runs.iter().filter(|run| run.fence.is_some()).count(),
            late_shares: history
                .shared
                .iter()
                .filter(|((job, _), at)| history.defined.get(job).is_some_and(|defined| defined.at < **at))
                .count(),
            told: history.readings.iter().map(|reading| reading.told.len()).sum(),
            simulated: self.heals_at.elapsed(),
        }
    }
}

/// A reconciler that cannot wait.
async fn declare_lost(world: Arc<World>, until: Instant) {
    while Instant::now() < until {
        sleep(Duration::from_secs(2)).await;
        let running = check::running(&world.history(), world.now());
        for ((job, execution), attempt) in running {
            let Ok(Some(record)) = world.raw.ledger.load_execution(job, execution).await else { continue };
            let event = Event { schema: SCHEMA, at: world.now(), kind: EventKind::Lost { attempt } };
            if let Ok(Appended::Stored(revision)) = world.raw.ledger.append(job, execution, record.revision, &event).await {
                let now = world.now();
                world.history().write((job, execution), Actor::Controller(0), now, Record::Event(revision, event));
            }
        }
    }
}
