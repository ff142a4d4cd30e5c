//! The loop: everything that can happen to an agent becomes one input, the dispatcher decides, and this performs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt, stream};
use longshore_model::{ExecutionId, Label};
use longshore_store::{Delivery, Error, InboxPage, Wake, WakeStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::dispatcher::{Dispatcher, Effect, Input, Key};
use crate::execution::{Context, Settled, Signals, carry, from};
use crate::heartbeat::{self, Load};
use crate::news::{News, PULL_PAUSE, is_drained, pull, visit};
use crate::outbox::Outbox;
use crate::output::{Source, Spools};
use crate::recovery::{deliver_owed, recover};
use crate::resumption::{self, Kept};
use crate::{Agent, Error as AgentError};
use crate::{conditions, facts, packages};

/// The inbox is read at least this often: a hint may be lost.
const INBOX_EVERY: Duration = Duration::from_secs(30);
/// What pulls and looks tell, on its way to the loop; they wait when it is full.
const NEWS_WAITING_MAX: usize = 64;
/// How long stopped work may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// What happened.
enum Event {
    Told(News),
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
    offered: BTreeMap<Key, Delivery>,
    workers: JoinSet<(Key, Settled)>,
    signals: BTreeMap<Key, Signals>,
    /// Work in the inbox that is not to be started before this.
    waiting: BTreeMap<Key, Instant>,
    pulls: JoinSet<()>,
    /// Short questions to the broker.
    looks: JoinSet<()>,
    is_reading: bool,
    /// One look at a time at what people want, so that an answer never overtakes a newer one; and whether another is due.
    is_looking: bool,
    is_look_due: bool,
    pulls_end: CancellationToken,
    /// What pulls and looks tell. None of them is waited for here: a broker that is slow must not keep a cancel from its work.
    news: (mpsc::Sender<News>, mpsc::Receiver<News>),
    inbox_due: Instant,
    /// Those that this agent belongs to.
    groups: Vec<Label>,
    /// Those that may have work for it.
    to_visit: BTreeSet<Label>,
    is_visiting: bool,
    is_draining: bool,
    /// Nobody could say yet whether it is drained.
    is_in_doubt: bool,
    stop: CancellationToken,
    load: Arc<Load>,
}

pub(crate) async fn run(agent: Agent, drain: CancellationToken, stop: CancellationToken) -> Result<(), AgentError> {
    if !agent.binding.is_bound() {
        agent.join().await?;
    }
    let Agent { config, store, executor, journal, facts, binding, started_at } = agent;
    let outbox = Outbox::new(store.clone(), config.state_dir.join("answers"));
    let spools = Spools::new(config.state_dir.join("output"), store.clone());
    let left = executor.resumable();
    let goes_on = |source: Source| left.iter().any(|left| source.is_of((left.job, left.execution), left.attempt));
    // Before the work is given back: another attempt may begin then.
    spools.send_left_behind(config.id, goes_on).await;
    let (owed, kept) = recover(&config, &store, (&*executor, &*journal), &outbox).await;
    let goes_on = |source: Source| kept.iter().any(|kept| source.is_of(kept.key, kept.attempt.number));
    spools.send_left_behind(config.id, goes_on).await;
    let groups: BTreeSet<Label> = config.labels.iter().flat_map(Label::groups).collect();
    let groups: Vec<Label> = groups.into_iter().collect();
    let mut wakes = match store.work.wakes(config.id, &groups).await {
        // Hints only: it works without them, and asks again.
        Err(error) if error.is_retryable() => stream::empty().boxed(),
        wakes => wakes?,
    };
    let load = Arc::new(Load { packages: executor.packages().await.into(), ..Load::default() });
    let silence = CancellationToken::new();
    let mut background = JoinSet::new();
    facts.gather(&config, &*executor).await;
    background.spawn(facts::run(config.clone(), store.clone(), facts.clone(), executor.clone(), silence.clone()));
    background.spawn(conditions::run(config.clone(), executor.clone(), store.clock.clone(), load.clone(), silence.clone()));
    if config.packages.is_some() {
        background.spawn(packages::run(executor.clone(), load.clone(), silence.clone()));
    }
    // An agent that may no longer be this one ends as if it were told to.
    let stop = stop.child_token();
    let (mut beating, farewell) = (JoinSet::new(), CancellationToken::new());
    let identity = (binding, started_at, facts.clone());
    beating.spawn(heartbeat::run(config.clone(), store.clone(), identity, load.clone(), farewell.clone(), stop.clone()));

    let bundles = config.state_dir.join("bundles");
    // Bundles of an earlier process are of no use to anybody.
    let _ = std::fs::remove_dir_all(&bundles);
    let ctx = Arc::new(Context {
        config,
        store,
        executor: executor.clone(),
        journal,
        outbox,
        spools,
        bundles,
        facts,
        owed: Mutex::new(owed),
        turns: longshore_store::Turnstile::default(),
        load: load.clone(),
    });
    background.spawn(deliver_owed(ctx.clone(), silence.clone()));
    let mut runtime = Runtime {
        dispatcher: Dispatcher::new(ctx.config.max_jobs),
        ctx: ctx.clone(),
        offered: BTreeMap::new(),
        workers: JoinSet::new(),
        signals: BTreeMap::new(),
        waiting: BTreeMap::new(),
        pulls: JoinSet::new(),
        looks: JoinSet::new(),
        is_reading: false,
        is_looking: false,
        is_look_due: false,
        pulls_end: CancellationToken::new(),
        news: mpsc::channel(NEWS_WAITING_MAX),
        inbox_due: Instant::now(),
        groups,
        to_visit: BTreeSet::new(),
        is_visiting: false,
        is_draining: false,
        is_in_doubt: false,
        stop: stop.clone(),
        load,
    };
    kept.into_iter().for_each(|kept| runtime.resume(kept));
    // Before anything is asked for: one that was drained starts nothing, nor does one that cannot know it.
    match is_drained(&*runtime.ctx.store.registry, runtime.ctx.config.id).await {
        Some(drained) => runtime.pause_or_resume(drained),
        None => {
            tracing::warn!("could not read whether this agent is drained; it takes no work until it can");
            runtime.is_in_doubt = true;
            runtime.dispatcher.handle(Input::Pause);
            runtime.look_at_state_after(PULL_PAUSE);
        }
    }
    runtime.serve(&mut wakes, &drain, &stop).await;
    silence.cancel();
    while background.join_next().await.is_some() {}
    farewell.cancel();
    let bound = beating.join_next().await;
    executor.close().await;
    ctx.spools.close().await;
    if let Err(error) = ctx.store.work.flush().await {
        tracing::debug!(%error, "some claims may only end by themselves");
    }
    match bound {
        Some(Ok(Err(evicted))) => Err(evicted),
        Some(Ok(Ok(())) | Err(_)) | None => Ok(()),
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
                Some(news) = self.news.1.recv() => Event::Told(news),
                _ = extend.tick() => Event::ExtendHeld,
                () = tokio::time::sleep_until(self.inbox_due), if self.dispatcher.wants_more() => Event::ReadInbox,
                () = tokio::time::sleep_until(stopped_at.unwrap_or_else(Instant::now) + STOP_PATIENCE), if stopped_at.is_some() => break,
            };
            match event {
                Event::Told(news) => self.told(news),
                Event::WorkerEnded(key, settled) => self.ended(key, settled),
                Event::WorkerFailed => self.reap_failed(),
                Event::Wake(wake) => {
                    if let Some(again) = self.woken(wake).await {
                        *wakes = again;
                    }
                }
                Event::ReadInbox => self.look_into_inbox(),
                Event::ExtendHeld => {
                    self.extend_held().await;
                    // A hint may be lost.
                    self.look_at_state();
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
        while let Ok(news) = self.news.1.try_recv() {
            self.told(news);
        }
    }

    fn told(&mut self, news: News) {
        match news {
            News::Pulled(delivery) => self.offer(*delivery, Input::Pulled),
            News::PullEnded { unused } => self.dispatcher.handle(Input::PullEnded { unused }),
            News::Found(delivery) => self.offer(*delivery, Input::Found),
            News::Visited { unfinished } => {
                self.is_visiting = false;
                self.to_visit.extend(unfinished);
            }
            News::Inbox(page) => self.take_page(page),
            News::Drained(drained) => {
                self.is_looking = false;
                match drained {
                    Some(drained) => self.pause_or_resume(drained),
                    None if self.is_in_doubt => self.look_at_state_after(PULL_PAUSE),
                    // It goes on as before, and looks again at the next chance.
                    None => {}
                }
                if std::mem::take(&mut self.is_look_due) {
                    self.look_at_state();
                }
            }
        }
    }

    /// Takes what groups have, one visit at a time and no more than there are free slots.
    fn visit(&mut self) {
        let n_free = self.dispatcher.n_free();
        if self.is_visiting || n_free == 0 || self.to_visit.is_empty() {
            return;
        }
        self.is_visiting = true;
        let groups = std::mem::take(&mut self.to_visit);
        self.pulls.spawn(visit(self.ctx.store.clone(), groups, n_free, self.news.0.clone(), self.pulls_end.clone()));
    }

    async fn give_back_unseen(&mut self) {
        while let Ok(news) = self.news.1.try_recv() {
            if let News::Pulled(delivery) | News::Found(delivery) = news {
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
                    let (store, events) = (self.ctx.store.clone(), self.news.0.clone());
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
        while self.pulls.try_join_next().is_some() || self.looks.try_join_next().is_some() {}
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
        // In a place of its own: a task moves what it holds several times, and this holds all that a job has.
        let carried = Box::pin(carry(ctx, key, delivery, signals));
        self.workers.spawn(async move { (key, carried.await) });
    }

    /// Goes on with what an earlier process began.
    fn resume(&mut self, kept: Kept) {
        let key = kept.key;
        let signals = Signals { recheck: Arc::new(Notify::new()), stop: self.stop.clone() };
        // A cancel may have come meanwhile.
        signals.recheck.notify_one();
        self.signals.insert(key, signals.clone());
        self.dispatcher.handle(Input::Resumed(key));
        let ctx = self.ctx.clone();
        self.workers.spawn(async move { (key, resumption::carry_on(ctx, kept, signals).await) });
    }

    fn ended(&mut self, key: Key, settled: Settled) {
        self.signals.remove(&key);
        self.dispatcher.handle(Input::Finished(key));
        let Settled::Waiting(until) = settled else { return };
        let due = Instant::now() + from(self.ctx.now(), until);
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
            Some(Wake::State) => self.look_at_state(),
            Some(Wake::Reconnected) => {
                self.inbox_due = Instant::now();
                self.recheck(|_| true);
                self.look_at_state();
            }
            None => {
                tokio::time::sleep(PULL_PAUSE).await;
                let again = self.ctx.store.work.wakes(self.ctx.config.id, &self.groups).await;
                // The old one has ended, and must not be asked again.
                return Some(again.unwrap_or_else(|_| stream::empty().boxed()));
            }
        }
        None
    }

    /// Asks whether people want it to take work.
    fn look_at_state(&mut self) {
        self.look_at_state_after(Duration::ZERO);
    }

    fn look_at_state_after(&mut self, pause: Duration) {
        if std::mem::replace(&mut self.is_looking, true) {
            self.is_look_due = true;
            return;
        }
        let (registry, me, news) = (self.ctx.store.registry.clone(), self.ctx.config.id, self.news.0.clone());
        self.looks.spawn(async move {
            tokio::time::sleep(pause).await;
            let _ = news.send(News::Drained(is_drained(&*registry, me).await)).await;
        });
    }

    fn pause_or_resume(&mut self, drained: bool) {
        if std::mem::take(&mut self.is_in_doubt) && !drained {
            tracing::info!("this agent is not drained");
            self.dispatcher.handle(Input::Resume);
            self.inbox_due = Instant::now();
        }
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

    /// Begins to read the inbox, and looks for groups' work.
    fn look_into_inbox(&mut self) {
        let now = Instant::now();
        self.waiting.retain(|_, due| *due > now);
        // Jitter, so that a fleet does not read in one instant.
        let jitter = Duration::from_millis(u64::from(self.ctx.now().subsec_nanosecond().unsigned_abs()) % 5000);
        self.inbox_due = self.waiting.values().min().copied().unwrap_or(now + INBOX_EVERY).min(now + INBOX_EVERY + jitter);
        self.to_visit.extend(self.groups.iter().cloned());
        if std::mem::replace(&mut self.is_reading, true) {
            // What came after the page that is on its way is seen by another reading.
            self.inbox_due = self.inbox_due.min(now + PULL_PAUSE);
        } else {
            self.read_page(0);
        }
    }

    fn read_page(&mut self, after: u64) {
        let (work, me, news) = (self.ctx.store.work.clone(), self.ctx.config.id, self.news.0.clone());
        self.looks.spawn(async move {
            let _ = news.send(News::Inbox(work.inbox(me, after).await)).await;
        });
    }

    fn take_page(&mut self, page: Result<InboxPage, Error>) {
        self.is_reading = false;
        let InboxPage { deliveries, next } = match page {
            Ok(page) => page,
            Err(error) => {
                tracing::debug!(%error, "inbox not read");
                self.inbox_due = Instant::now() + PULL_PAUSE * 4;
                return;
            }
        };
        for delivery in deliveries {
            let key = (delivery.definition.id, ExecutionId::Agent(self.ctx.config.id));
            if !self.waiting.contains_key(&key) {
                self.offer(delivery, Input::Found);
            }
        }
        match next {
            None => {}
            Some(next) if self.dispatcher.wants_more() => {
                self.is_reading = true;
                self.read_page(next);
            }
            // The rest as soon as there is room for it.
            Some(_) => self.inbox_due = Instant::now(),
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
