//! The loop: everything that can happen to an agent becomes one input, the dispatcher decides, and this performs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use longshore_model::job::Execution;
use longshore_model::wire::record::Answer;
use longshore_model::{ExecutionId, Label};
use longshore_store::{Delivery, Store, Wake, WakeStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::dispatcher::{Dispatcher, Effect, Input, Key};
use crate::execution::{Context, Settled, Signals, carry, from_now};
use crate::heartbeat::{self, Load};
use crate::journal::{Entry, Journal};
use crate::{Agent, Config, Error};

/// The inbox is read at least this often: a hint may be lost.
const INBOX_EVERY: Duration = Duration::from_secs(30);
/// Deliveries of pulls on their way to the loop; pulls wait when it is full.
const DELIVERIES_WAITING_MAX: usize = 64;
/// Before a pull is tried again after a fault.
const PULL_PAUSE: Duration = Duration::from_millis(250);
/// Between tries to store an earlier process's answer.
const OWED_PAUSE: Duration = Duration::from_secs(2);
/// How long stopped work may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// What happened.
enum Event {
    Pulled(Box<Delivery>),
    PullEnded { unused: usize },
    Found(Box<Delivery>),
    Visited { unfinished: BTreeSet<Label> },
    WorkerEnded(Key, Settled),
    WorkerFailed,
    Wake(Option<Wake>),
    ReadInbox,
    ExtendHeld,
    Drain,
    Stop,
}

struct Runtime {
    ctx: Arc<Context>,
    dispatcher: Dispatcher,
    /// Offered, not yet started: what the dispatcher has not decided on, and what it holds.
    offered: HashMap<Key, Delivery>,
    workers: JoinSet<(Key, Settled)>,
    signals: BTreeMap<Key, Signals>,
    /// Work in the inbox that is not to be started before this.
    waiting: BTreeMap<Key, Instant>,
    pulls: JoinSet<()>,
    pulls_end: CancellationToken,
    deliveries: (mpsc::Sender<PullEvent>, mpsc::Receiver<PullEvent>),
    inbox_due: Instant,
    /// Those that this agent belongs to.
    groups: Vec<Label>,
    /// Those that may have work for it.
    to_visit: BTreeSet<Label>,
    is_visiting: bool,
    is_draining: bool,
    stop: CancellationToken,
    load: Arc<Load>,
}

enum PullEvent {
    Delivery(Box<Delivery>),
    Ended { unused: usize },
    Found(Box<Delivery>),
    Visited { unfinished: BTreeSet<Label> },
}

pub(crate) async fn run(agent: Agent, drain: CancellationToken, stop: CancellationToken) -> Result<(), Error> {
    let Agent { config, store, executor, journal, started_at } = agent;
    let owed = recover(&config, &store, &journal).await;
    let groups: BTreeSet<Label> = config.labels.iter().flat_map(Label::groups).collect();
    let groups: Vec<Label> = groups.into_iter().collect();
    let mut wakes = store.work.wakes(config.id, &groups).await?;
    let load = Arc::new(Load::default());
    let silence = CancellationToken::new();
    let mut background = JoinSet::new();
    background.spawn(heartbeat::run(config.clone(), store.registry.clone(), started_at, load.clone(), silence.clone()));

    let bundles = config.state_dir.join("bundles");
    // Bundles of an earlier process are of no use to anybody.
    let _ = std::fs::remove_dir_all(&bundles);
    let ctx = Arc::new(Context { config, store, executor: executor.clone(), journal, bundles, owed: Mutex::new(owed) });
    background.spawn(deliver_owed(ctx.clone(), silence.clone()));
    let mut runtime = Runtime {
        dispatcher: Dispatcher::new(ctx.config.max_jobs),
        ctx: ctx.clone(),
        offered: HashMap::new(),
        workers: JoinSet::new(),
        signals: BTreeMap::new(),
        waiting: BTreeMap::new(),
        pulls: JoinSet::new(),
        pulls_end: CancellationToken::new(),
        deliveries: mpsc::channel(DELIVERIES_WAITING_MAX),
        inbox_due: Instant::now(),
        groups,
        to_visit: BTreeSet::new(),
        is_visiting: false,
        is_draining: false,
        stop: stop.clone(),
        load,
    };
    runtime.look_at_state().await;
    runtime.serve(&mut wakes, &drain, &stop).await;
    silence.cancel();
    while background.join_next().await.is_some() {}
    executor.close().await;
    if let Err(error) = ctx.store.work.flush().await {
        tracing::debug!(%error, "some claims may only end by themselves");
    }
    Ok(())
}

/// Settles what an earlier process had in hand: stores its answers, and gives back what nobody has taken since. Gives the answers that
/// the ledger does not have yet.
async fn recover(config: &Config, store: &Store, journal: &Journal) -> HashMap<Key, Answer> {
    let mut owed = HashMap::new();
    for (key, Entry { token, answer }) in journal.left_behind() {
        tracing::info!(job.id = %key.0, has_answer = answer.is_some(), "found work that an earlier process had in hand");
        if let Some(answer) = answer
            && let Err(error) = store.ledger.answer(&answer).await
        {
            tracing::warn!(%error, job.id = %key.0, "its answer could not be stored yet; keeping it");
            owed.insert(key, answer);
            continue;
        }
        if let Some(token) = token
            && is_ours(config, store, key).await
            && let Err(error) = store.work.give_back(&token).await
        {
            tracing::warn!(%error, job.id = %key.0, "it could not be given back; its claim will lapse");
        }
        journal.forget(key);
    }
    owed
}

/// Whether giving the work back takes it from nobody: another agent may have it by now, under the same message.
async fn is_ours(config: &Config, store: &Store, key: Key) -> bool {
    let Ok(Some(record)) = store.ledger.load_execution(key.0, key.1).await else { return false };
    let Ok(execution) = Execution::fold(&record.events, record.answer.as_ref()) else { return false };
    execution.holder().is_none_or(|(agent, _)| agent == config.id)
}

/// Goes on trying to store the answers of an earlier process, until there are none or `stop`.
async fn deliver_owed(ctx: Arc<Context>, stop: CancellationToken) {
    let owed = || ctx.owed.lock().expect("no holder of this lock panics").iter().next().map(|(key, answer)| (*key, answer.clone()));
    while let Some((key, answer)) = owed() {
        match ctx.store.ledger.answer(&answer).await {
            Ok(_) => {
                ctx.owed.lock().expect("no holder of this lock panics").remove(&key);
                ctx.journal.forget(key);
            }
            Err(error) => {
                tracing::debug!(%error, job.id = %key.0, "an earlier process's answer is still to be stored");
                if stop.run_until_cancelled(tokio::time::sleep(OWED_PAUSE)).await.is_none() {
                    return;
                }
            }
        }
    }
}

impl Runtime {
    async fn serve(&mut self, wakes: &mut WakeStream, drain: &CancellationToken, stop: &CancellationToken) {
        let lease = self.ctx.store.work.lease_duration();
        let mut extend = tokio::time::interval((lease / 4).clamp(Duration::from_millis(100), Duration::from_secs(30)));
        extend.reset();
        let mut stopped_at: Option<Instant> = None;
        self.perform().await;
        loop {
            if self.is_draining && self.workers.is_empty() {
                break;
            }
            let event = tokio::select! {
                biased;
                () = stop.cancelled(), if stopped_at.is_none() => Event::Stop,
                () = drain.cancelled(), if !self.is_draining => Event::Drain,
                Some(ended) = self.workers.join_next() => ended.map_or(Event::WorkerFailed, |(key, settled)| Event::WorkerEnded(key, settled)),
                wake = wakes.next(), if !self.is_draining || !self.workers.is_empty() => Event::Wake(wake),
                Some(pulled) = self.deliveries.1.recv() => match pulled {
                    PullEvent::Delivery(delivery) => Event::Pulled(delivery),
                    PullEvent::Ended { unused } => Event::PullEnded { unused },
                    PullEvent::Found(delivery) => Event::Found(delivery),
                    PullEvent::Visited { unfinished } => Event::Visited { unfinished },
                },
                _ = extend.tick() => Event::ExtendHeld,
                () = tokio::time::sleep_until(self.inbox_due), if self.dispatcher.wants_more() => Event::ReadInbox,
                () = tokio::time::sleep_until(stopped_at.unwrap_or_else(Instant::now) + STOP_PATIENCE), if stopped_at.is_some() => break,
            };
            match event {
                Event::Pulled(delivery) => self.offer(*delivery, Input::Pulled),
                Event::PullEnded { unused } => self.dispatcher.handle(Input::PullEnded { unused }),
                Event::Found(delivery) => self.offer(*delivery, Input::Found),
                Event::Visited { unfinished } => self.visited(unfinished),
                Event::WorkerEnded(key, settled) => self.ended(key, settled),
                Event::WorkerFailed => self.reap_failed(),
                Event::Wake(wake) => {
                    if let Some(again) = self.woken(wake).await {
                        *wakes = again;
                    }
                }
                Event::ReadInbox => self.read_inbox().await,
                Event::ExtendHeld => {
                    self.extend_held().await;
                    // A hint may be lost.
                    self.look_at_state().await;
                }
                Event::Drain => self.drain(),
                Event::Stop => {
                    stopped_at = Some(Instant::now());
                    self.drain();
                }
            }
            self.take_what_is_ready();
            self.perform().await;
        }
        // Whatever a pull had delivered but nobody looked at goes back at once.
        while self.pulls.join_next().await.is_some() {
            self.give_back_unseen().await;
        }
        self.give_back_unseen().await;
    }

    /// Handles everything else that has happened already, so that what follows from it is done, and asked for, together.
    fn take_what_is_ready(&mut self) {
        while let Some(ended) = self.workers.try_join_next() {
            match ended {
                Ok((key, settled)) => self.ended(key, settled),
                Err(_) => self.reap_failed(),
            }
        }
        while let Ok(event) = self.deliveries.1.try_recv() {
            match event {
                PullEvent::Delivery(delivery) => self.offer(*delivery, Input::Pulled),
                PullEvent::Ended { unused } => self.dispatcher.handle(Input::PullEnded { unused }),
                PullEvent::Found(delivery) => self.offer(*delivery, Input::Found),
                PullEvent::Visited { unfinished } => self.visited(unfinished),
            }
        }
    }

    fn visited(&mut self, unfinished: BTreeSet<Label>) {
        self.is_visiting = false;
        self.to_visit.extend(unfinished);
    }

    /// Takes what groups have, one visit at a time and no more than there are free slots.
    fn visit(&mut self) {
        let n_free = self.dispatcher.n_free();
        if self.is_visiting || n_free == 0 || self.to_visit.is_empty() {
            return;
        }
        self.is_visiting = true;
        let groups = std::mem::take(&mut self.to_visit);
        self.pulls.spawn(visit(self.ctx.store.clone(), groups, n_free, self.deliveries.0.clone(), self.pulls_end.clone()));
    }

    async fn give_back_unseen(&mut self) {
        while let Ok(event) = self.deliveries.1.try_recv() {
            if let PullEvent::Delivery(delivery) | PullEvent::Found(delivery) = event {
                let _ = delivery.lease.give_back(Duration::ZERO).await;
            }
        }
    }

    fn drain(&mut self) {
        if !self.is_draining {
            self.is_draining = true;
            self.pulls_end.cancel();
            self.dispatcher.handle(Input::Drain);
        }
    }

    fn offer(&mut self, delivery: Delivery, input: impl FnOnce(Key) -> Input) {
        let execution = match delivery.definition.executions.as_slice() {
            [ExecutionId::Any] => ExecutionId::Any,
            _ => ExecutionId::Agent(self.ctx.config.id),
        };
        let key = (delivery.definition.id, execution);
        let is_known = self.signals.contains_key(&key) || self.offered.contains_key(&key);
        if !is_known {
            self.offered.insert(key, delivery);
        }
        self.dispatcher.handle(input(key));
    }

    /// Performs what the dispatcher decided.
    async fn perform(&mut self) {
        while let Some(effect) = self.dispatcher.next_effect() {
            match effect {
                Effect::Pull(n_slots) => {
                    let (store, events) = (self.ctx.store.clone(), self.deliveries.0.clone());
                    self.pulls.spawn(pull(store, n_slots, events, self.pulls_end.clone()));
                }
                Effect::Start(key) => self.start(key),
                Effect::HandBack(key) => {
                    if let Some(delivery) = self.offered.remove(&key)
                        && delivery.received.elapsed() < self.ctx.store.work.lease_duration()
                        && let Err(error) = delivery.lease.give_back(Duration::ZERO).await
                    {
                        tracing::debug!(%error, "work was not handed back; its claim will lapse");
                    }
                }
                Effect::Hold(_) | Effect::Forget(_) => {}
            }
        }
        self.visit();
        while self.pulls.try_join_next().is_some() {}
        let before = self.load.running.swap(self.dispatcher.n_running(), Ordering::Relaxed);
        if before > 0 && self.dispatcher.n_running() == 0 && self.load.drained.load(Ordering::Relaxed) {
            self.load.changed.notify_one();
        }
    }

    fn start(&mut self, key: Key) {
        let Some(delivery) = self.offered.remove(&key) else {
            self.dispatcher.handle(Input::Finished(key));
            return;
        };
        let signals = Signals { recheck: Arc::new(Notify::new()), stop: self.stop.clone() };
        self.signals.insert(key, signals.clone());
        let ctx = self.ctx.clone();
        self.workers.spawn(async move { (key, carry(ctx, key, delivery, signals).await) });
    }

    fn ended(&mut self, key: Key, settled: Settled) {
        self.signals.remove(&key);
        self.dispatcher.handle(Input::Finished(key));
        let Settled::Waiting(until) = settled else { return };
        let due = Instant::now() + from_now(until);
        match key.1 {
            ExecutionId::Agent(_) => drop(self.waiting.insert(key, due)),
            // Nobody's pull waits for a group's work.
            ExecutionId::Any if !self.groups.is_empty() => {}
            ExecutionId::Any => return,
        }
        self.inbox_due = self.inbox_due.min(due);
    }

    /// A worker panicked: a broken invariant of ours. Its claim lapses by itself; the slot is free again.
    fn reap_failed(&mut self) {
        tracing::error!("a worker panicked; its work will be offered again");
        let alive: Vec<Key> =
            self.signals.iter().filter(|(_, signals)| Arc::strong_count(&signals.recheck) > 1).map(|(key, _)| *key).collect();
        let dead: Vec<Key> = self.signals.keys().filter(|key| !alive.contains(key)).copied().collect();
        for key in dead {
            self.ended(key, Settled::Done);
        }
    }

    /// Acts on a hint; gives a new stream of hints if the old one has ended.
    async fn woken(&mut self, wake: Option<Wake>) -> Option<WakeStream> {
        match wake {
            Some(Wake::Inbox) => self.inbox_due = Instant::now(),
            Some(Wake::Group(group)) => drop(self.to_visit.insert(group)),
            Some(Wake::Cancel(job)) => self.recheck(|key| key.0 == job),
            Some(Wake::State) => self.look_at_state().await,
            Some(Wake::Reconnected) => {
                self.inbox_due = Instant::now();
                self.recheck(|_| true);
                self.look_at_state().await;
            }
            None => {
                tokio::time::sleep(PULL_PAUSE).await;
                return self.ctx.store.work.wakes(self.ctx.config.id, &self.groups).await.ok();
            }
        }
        None
    }

    /// Whether people want it to take work. If that cannot be read it goes on as before, and looks again at the next chance.
    async fn look_at_state(&mut self) {
        let drained = match self.ctx.store.registry.state_of(self.ctx.config.id).await {
            Ok(state) => state.is_some_and(|state| state.drained),
            Err(error) => {
                tracing::debug!(%error, "could not read whether to take work");
                return;
            }
        };
        if self.load.drained.swap(drained, Ordering::Relaxed) == drained {
            return;
        }
        tracing::info!(drained, "told whether to take new work");
        if drained {
            std::mem::take(&mut self.pulls_end).cancel();
            self.dispatcher.handle(Input::Pause);
        } else {
            self.dispatcher.handle(Input::Resume);
            self.inbox_due = Instant::now();
        }
        self.load.changed.notify_one();
    }

    fn recheck(&self, concerns: impl Fn(&Key) -> bool) {
        for (_, signals) in self.signals.iter().filter(|(key, _)| concerns(key)) {
            signals.recheck.notify_one();
        }
    }

    async fn read_inbox(&mut self) {
        let now = Instant::now();
        self.waiting.retain(|_, due| *due > now);
        // Jitter, so that a fleet does not read in one instant.
        let jitter = Duration::from_millis(u64::from(Timestamp::now().subsec_nanosecond().unsigned_abs()) % 5000);
        self.inbox_due = self.waiting.values().min().copied().unwrap_or(now + INBOX_EVERY).min(now + INBOX_EVERY + jitter);
        self.to_visit.extend(self.groups.iter().cloned());
        let mut after = 0;
        loop {
            let page = match self.ctx.store.work.inbox(self.ctx.config.id, after).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::debug!(%error, "inbox not read");
                    self.inbox_due = now + PULL_PAUSE * 4;
                    return;
                }
            };
            for delivery in page.deliveries {
                let key = (delivery.definition.id, ExecutionId::Agent(self.ctx.config.id));
                if !self.waiting.contains_key(&key) {
                    self.offer(delivery, Input::Found);
                }
            }
            match page.next {
                None => return,
                Some(next) if self.dispatcher.wants_more() => after = next,
                // The rest as soon as there is room for it.
                Some(_) => {
                    self.inbox_due = now;
                    return;
                }
            }
        }
    }

    async fn extend_held(&mut self) {
        let lasts = self.ctx.store.work.lease_duration();
        for delivery in self.offered.values_mut() {
            let asked = Instant::now();
            match delivery.lease.extend().await {
                // One that has lapsed stays lapsed, and is dropped when its turn comes: it may be somebody else's by now.
                Ok(()) if delivery.received.elapsed() < lasts => delivery.received = asked,
                Ok(()) => {}
                Err(error) => tracing::debug!(%error, "a held claim was not extended"),
            }
        }
    }
}

/// Takes what these groups have, up to `n_slots` in all. Those that may have more are to be visited again.
async fn visit(store: Store, groups: BTreeSet<Label>, mut n_slots: usize, events: mpsc::Sender<PullEvent>, end: CancellationToken) {
    let mut unfinished = BTreeSet::new();
    for group in groups {
        if n_slots == 0 || end.is_cancelled() {
            unfinished.insert(group);
            continue;
        }
        // Most groups have none, and a consumer is made by asking one for it.
        if !store.work.has_work(&group).await.unwrap_or(false) {
            continue;
        }
        let deliveries = store.work.take(&group, n_slots).await.unwrap_or_else(|error| {
            tracing::debug!(%error, %group, "a group's work was not taken");
            Vec::new()
        });
        n_slots -= deliveries.len();
        if n_slots == 0 {
            unfinished.insert(group);
        }
        for delivery in deliveries {
            if events.send(PullEvent::Found(Box::new(delivery))).await.is_err() {
                return;
            }
        }
    }
    let _ = events.send(PullEvent::Visited { unfinished }).await;
}

/// One pull, to its end or to ours.
async fn pull(store: Store, n_slots: usize, events: mpsc::Sender<PullEvent>, end: CancellationToken) {
    let mut unused = n_slots;
    let asked = Instant::now();
    match store.work.pull(n_slots).await {
        Ok(mut deliveries) => {
            while let Some(Some(delivery)) = end.run_until_cancelled(deliveries.next()).await {
                unused = unused.saturating_sub(1);
                if events.send(PullEvent::Delivery(Box::new(delivery))).await.is_err() {
                    return;
                }
            }
        }
        Err(error) => tracing::debug!(%error, "no work asked for"),
    }
    // Refused at once: asking again at once would only be refused again.
    if unused == n_slots && asked.elapsed() < PULL_PAUSE {
        end.run_until_cancelled(tokio::time::sleep(PULL_PAUSE)).await;
    }
    // The loop is gone if nobody listens: nothing to tell.
    let _ = events.send(PullEvent::Ended { unused }).await;
}
