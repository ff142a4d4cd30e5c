//! Deliveries, claims, inboxes and hints, with everything that can go wrong on the way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use jiff::{SignedDuration, Timestamp};
use longshore_model::wire::record::Definition;
use longshore_model::{AgentId, ExecutionId, JobId, Label};
use longshore_store::{
    Addressed, AddressedPage, Announcement, Before, Delivery, Error, InboxPage, Lease, PullStream, Revision, Wake, WakeStream, Work,
};
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;

use super::Kind::{Read, Write};
use super::{Link, ledger::short, millis, pause};
use crate::history::Offer;
use crate::plant::Bug;
use crate::world::{Actor, LEASE, agent_id};

/// Work that the broker offers although somebody has it: it has forgotten to whom it gave it, as it does when a consumer is made again.
#[derive(Default)]
pub(crate) struct Strays {
    waiting: Mutex<Vec<Stray>>,
    arrived: Notify,
    /// What an offer says of what came before, when the broker has forgotten every delivery; and how often it was given since it was made.
    origins: Mutex<BTreeMap<JobId, (Before, usize)>>,
    /// How often it has forgotten what it gave to whom. Deliveries are compared within one such life only.
    life: AtomicU64,
}

struct Stray {
    /// Who has it already.
    holder: Actor,
    definition: Definition,
    revision: Revision,
    lease: Arc<dyn Lease>,
    /// How often the broker had given it.
    n_given: usize,
}

impl Strays {
    pub(crate) fn began(&self, job: JobId, before: Before) {
        self.origins.lock().expect("no holder of this lock panics").insert(job, (before, 0));
    }

    fn n_given(&self, job: JobId) -> usize {
        self.origins.lock().expect("no holder of this lock panics").get(&job).map_or(0, |(_, n)| *n)
    }

    fn given(&self, job: JobId) {
        if let Some((_, n)) = self.origins.lock().expect("no holder of this lock panics").get_mut(&job) {
            *n += 1;
        }
    }

    fn before(&self, job: JobId) -> Before {
        self.origins.lock().expect("no holder of this lock panics").get(&job).map_or(Before::Nothing, |(before, _)| *before)
    }

    fn life(&self) -> u64 {
        self.life.load(Ordering::Relaxed)
    }

    fn push(&self, stray: Stray) {
        self.life.fetch_add(1, Ordering::Relaxed);
        self.waiting.lock().expect("no holder of this lock panics").push(stray);
        self.arrived.notify_waiters();
    }

    fn is_waiting(&self, job: JobId) -> bool {
        self.waiting.lock().expect("no holder of this lock panics").iter().any(|stray| stray.definition.id == job)
    }

    fn pop(&self, who: Actor) -> Option<Stray> {
        let mut waiting = self.waiting.lock().expect("no holder of this lock panics");
        waiting.retain(|stray| self.n_given(stray.definition.id) == stray.n_given);
        let idx = waiting.iter().position(|stray| stray.holder != who)?;
        Some(waiting.remove(idx))
    }
}

struct Pull {
    link: Link,
    inner: BoxStream<'static, Delivery>,
    left: usize,
    /// The broker's life when it was asked: a process knows of no later one.
    life: u64,
}

/// A claim as the process that has it sees it.
struct Claim {
    link: Link,
    inner: Arc<dyn Lease>,
    job: JobId,
    execution: ExecutionId,
    is_forgotten: bool,
    /// What it is on had been answered when it was made.
    is_finished: bool,
    before: Before,
    life: u64,
}

#[async_trait]
impl Work for Link {
    fn lease_duration(&self) -> Duration {
        self.world.raw.work.lease_duration()
    }

    async fn pull(&self, max: usize) -> Result<PullStream, Error> {
        let (world, me) = (self.world.clone(), self.me);
        let life = world.strays.life();
        let inner = self.ask(Read, "pulling", String::new, async move {
            if world.is(Bug::GroupIgnored) && me == Actor::Agent(0) {
                let group = crate::agents::GROUP.parse().expect("it is a label");
                let foreign = world.raw.work.take(&group, max).await?;
                return Ok(stream::iter(foreign).chain(world.raw.work.pull(max).await?).boxed());
            }
            world.raw.work.pull(max).await
        });
        let pull = Pull { link: self.clone(), inner: inner.await?, left: max, life };
        Ok(stream::unfold(pull, |mut pull| async move { pull.next().await.map(|delivery| (delivery, pull)) }).boxed())
    }

    async fn take(&self, group: &Label, max: usize) -> Result<Vec<Delivery>, Error> {
        let (world, group) = (self.world.clone(), group.clone());
        let life = world.strays.life();
        let taken = self.ask(Write, "taking a group's work", String::new, async move { world.raw.work.take(&group, max).await }).await?;
        Ok(taken.into_iter().filter_map(|delivery| self.arrive(delivery, life, false)).collect())
    }

    async fn has_work(&self, group: &Label) -> Result<bool, Error> {
        let (world, group) = (self.world.clone(), group.clone());
        self.ask(Read, "looking for a group's work", String::new, async move { world.raw.work.has_work(&group).await }).await
    }

    async fn inbox(&self, agent: AgentId, after: u64) -> Result<InboxPage, Error> {
        let world = self.world.clone();
        let page = self.ask(Read, "reading the inbox", String::new, async move { world.raw.work.inbox(agent, after).await }).await?;
        let deliveries = page.deliveries.into_iter().map(|delivery| self.wrapped(delivery, 0, false)).collect();
        Ok(InboxPage { deliveries, next: page.next })
    }

    async fn addressed(&self, after: Revision) -> Result<AddressedPage, Error> {
        let world = self.world.clone();
        self.ask(Read, "reading all inboxes", String::new, async move { world.raw.work.addressed(after).await }).await
    }

    async fn take_out(&self, entry: Addressed) -> Result<(), Error> {
        let (world, me) = (self.world.clone(), self.me);
        self.ask(Write, "clearing an inbox", || entry.job.short(), async move {
            world.note(me, || format!("{} is taken out of an inbox", entry.job.short()));
            world.raw.work.take_out(entry).await
        })
        .await
    }

    async fn wakes(&self, agent: AgentId, groups: &[Label]) -> Result<WakeStream, Error> {
        let (world, groups) = (self.world.clone(), groups.to_vec());
        let inner = self.ask(Read, "listening", String::new, async move { world.raw.work.wakes(agent, &groups).await }).await?;
        let next = |(link, mut inner, mut reconnects): (Self, WakeStream, broadcast::Receiver<Actor>)| async move {
            loop {
                let wake = tokio::select! {
                    biased;
                    wake = inner.next() => wake?,
                    who = reconnects.recv() => match who {
                        Ok(who) if who != link.me => continue,
                        Ok(_) | Err(_) => Wake::Reconnected,
                    },
                };
                let weather = link.world.weather();
                if wake != Wake::Reconnected && (link.world.cut_until(link.me).is_some() || link.strikes(weather.lost)) {
                    continue;
                }
                if link.strikes(weather.broken) {
                    return None;
                }
                link.travel().await;
                return Some((wake, (link, inner, reconnects)));
            }
        };
        Ok(stream::unfold((self.clone(), inner, self.world.reconnects.subscribe()), next).boxed())
    }

    async fn give_back(&self, token: &str) -> Result<(), Error> {
        let (world, token) = (self.world.clone(), token.to_owned());
        self.ask(Write, "giving back", String::new, async move { world.raw.work.give_back(&token).await }).await
    }

    async fn flush(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn join(&self) -> Result<(), Error> {
        let world = self.world.clone();
        self.ask(Read, "joining", String::new, async move { world.raw.work.join().await }).await
    }

    async fn signal_cancel(&self, agent: AgentId, job: JobId) -> Result<(), Error> {
        let world = self.world.clone();
        if self.strikes(self.world.weather().lost) {
            return Ok(());
        }
        self.ask(Write, "signalling", || job.short(), async move { world.raw.work.signal_cancel(agent, job).await }).await
    }

    async fn announce(&self, definition: &Definition, announcement: Announcement) -> Result<bool, Error> {
        if self.world.is(Bug::NeverAnnouncedAgain) {
            return Ok(false);
        }
        if self.world.is(Bug::SharesForgotten) && announcement.revision == 0 {
            return Ok(false);
        }
        let (world, me, definition) = (self.world.clone(), self.me, definition.clone());
        let job = definition.id;
        self.ask(Write, "announcing", || job.short(), async move {
            let was_missing = world.raw.work.announce(&definition, announcement).await?;
            if was_missing {
                world.note(me, || format!("announced {} {} again, seen {}", job.short(), short(announcement.execution), announcement.seen));
                let now = world.now();
                if announcement.revision == 0 {
                    world.history().shared.insert((job, announcement.execution), now);
                }
                if announcement.execution == ExecutionId::Any {
                    world.strays.began(job, Before::Announcement(announcement.seen));
                }
            }
            Ok(was_missing)
        })
        .await
    }

    async fn withdraw(&self, definition: &Definition) -> Result<(), Error> {
        let (world, definition) = (self.world.clone(), definition.clone());
        self.ask(Write, "withdrawing", String::new, async move { world.raw.work.withdraw(&definition).await }).await
    }
}

impl Pull {
    async fn next(&mut self) -> Option<Delivery> {
        while self.left > 0 {
            let world = self.link.world.clone();
            let stray_arrived = world.strays.arrived.notified();
            if let Some(Stray { definition, revision, lease, .. }) = world.strays.pop(self.link.me) {
                // Offered anew: whatever the broker waited for before, it waits for this claim now.
                let _ = lease.extend().await;
                self.left -= 1;
                let (job, before) = (definition.id, self.link.world.strays.before(definition.id));
                self.link.world.note(self.link.me, || format!("was offered {} although somebody has it", job.short()));
                let stray = Delivery { definition, revision, before, received: Instant::now(), lease: Box::new(Shared(lease)) };
                return Some(self.link.wrapped(stray, self.life, false));
            }
            let delivery = tokio::select! {
                biased;
                delivery = self.inner.next() => delivery?,
                () = stray_arrived => continue,
            };
            world.strays.given(delivery.definition.id);
            self.left -= 1;
            // What is sent to nobody is lost, and its claim has to lapse.
            if self.link.world.cut_until(self.link.me).is_some() || self.link.strikes(self.link.world.weather().broken) {
                return None;
            }
            self.link.travel().await;
            if let Some(mut delivery) = self.link.arrive(delivery, self.life, true) {
                // Whoever it is told to as well may be quicker.
                if world.strays.is_waiting(delivery.definition.id) {
                    let late = world.rng().below(1500);
                    pause(millis(late)).await;
                    delivery.received = Instant::now();
                }
                return Some(delivery);
            }
        }
        None
    }
}

impl Link {
    /// A delivery that arrives, or does not; sometimes somebody else is offered the same.
    fn arrive(&self, delivery: Delivery, life: u64, is_for_anybody: bool) -> Option<Delivery> {
        let astray = self.world.weather().astray;
        let job = delivery.definition.id;
        if self.strikes(astray) {
            self.world.note(self.me, || format!("an offer of {} was lost on its way", job.short()));
            return None;
        }
        let Delivery { definition, revision, before, received, lease } = delivery;
        let lease: Arc<dyn Lease> = Arc::from(lease);
        let mut is_forgotten = false;
        // More often where it was offered before: there is more to be taken for proof.
        let often = if before == Before::Nothing { astray } else { astray * 4 };
        if is_for_anybody && self.strikes(often) {
            // From here on the broker knows nothing of this claim: who gives it back gives nothing back.
            is_forgotten = true;
            self.world.strays.push(Stray {
                holder: self.me,
                definition: definition.clone(),
                revision,
                lease: lease.clone(),
                n_given: self.world.strays.n_given(job),
            });
        }
        Some(self.wrapped(Delivery { definition, revision, before, received, lease: Box::new(Shared(lease)) }, life, is_forgotten))
    }

    /// A delivery as this process sees it.
    fn wrapped(&self, delivery: Delivery, life: u64, is_forgotten: bool) -> Delivery {
        let Delivery { mut definition, revision, mut before, received: _, lease } = delivery;
        let (job, execution) = (definition.id, definition.executions.first().copied().unwrap_or(ExecutionId::Any));
        self.world.note(self.me, || format!("received {} {} {before:?}", job.short(), short(execution)));
        self.claimed(job, execution, self.world.now());
        let is_finished = self.offered((job, execution));
        match self.world.bug {
            Some(Bug::DeliveryIsPermission) => before = Before::Offers,
            Some(Bug::TurnIgnored) => definition.concurrency_key = None,
            Some(Bug::ClocksCompared) if definition.submitted_at > self.world.clock_of(self.me).now() => definition.max_attempts = 0,
            Some(Bug::ExpiryIgnored) => definition.expires_at += SignedDuration::from_hours(1000),
            Some(Bug::NotBeforeIgnored) => definition.not_before = None,
            Some(Bug::PolicyIgnored) => definition.max_attempts += 2,
            Some(Bug::BackoffIgnored) => definition.backoff_ms = vec![0],
            _ => {}
        }
        let claim = Claim { link: self.clone(), inner: Arc::from(lease), job, execution, is_forgotten, is_finished, before, life };
        Delivery { definition, revision, before, received: Instant::now(), lease: Box::new(claim) }
    }

    /// Whether this agent's claim certainly holds, with the margin that agents leave.
    fn is_claimed(&self, job: JobId, execution: ExecutionId) -> bool {
        let Actor::Agent(n) = self.me else { return false };
        let history = self.world.history();
        let last = history.claims.get(&((job, execution), agent_id(n))).and_then(|claims| claims.last());
        let lasts = SignedDuration::try_from(LEASE.mul_f64(0.9)).unwrap_or(SignedDuration::MAX);
        last.is_some_and(|last| self.world.now().duration_since(*last) < lasts)
    }

    /// Notes an offer. Gives whether it is of something that has been answered.
    fn offered(&self, key: (JobId, ExecutionId)) -> bool {
        let Actor::Agent(n) = self.me else { return false };
        let at = self.world.now();
        let mut history = self.world.history();
        let seq = history.next();
        history.offers.push(Offer { key, agent: agent_id(n), seq, at });
        history.is_answered(key)
    }

    /// Notes that a claim is ended, whether or not anybody hears of it.
    fn lets_go(&self, key: (JobId, ExecutionId)) {
        let Actor::Agent(n) = self.me else { return };
        let mut history = self.world.history();
        let seq = history.next();
        history.let_go.push((key, agent_id(n), seq));
    }

    fn claimed(&self, job: JobId, execution: ExecutionId, at: Timestamp) {
        if let Actor::Agent(n) = self.me {
            self.world.history().claim((job, execution), agent_id(n), at);
        }
    }
}

#[async_trait]
impl Lease for Claim {
    async fn extend(&self) -> Result<(), Error> {
        if self.link.world.is(Bug::NeverExtended) {
            return Ok(());
        }
        let (inner, job, asked) = (self.inner.clone(), self.job, self.link.world.now());
        self.link.ask(Write, "extending", || job.short(), async move { inner.extend().await }).await?;
        // Only what was confirmed counts, from when it was asked for; and not once the claim may have lapsed.
        if self.link.is_claimed(job, self.execution) {
            self.link.claimed(job, self.execution, asked);
        }
        Ok(())
    }

    async fn done(&self) -> Result<(), Error> {
        let job = self.job;
        if self.is_finished && self.link.world.is(Bug::FinishedNotConfirmed) {
            return Ok(());
        }
        self.link.lets_go((job, self.execution));
        if self.link.world.cut_until(self.link.me).is_some() || self.link.strikes(self.link.world.weather().lost) {
            self.link.world.note(self.link.me, || format!("the end of its claim on {} was lost", job.short()));
            return Ok(());
        }
        let (link, inner, execution) = (self.link.clone(), self.inner.clone(), self.execution);
        // Nobody waits for it.
        self.link.world.later(async move {
            link.travel().await;
            link.world.note(link.me, || format!("ended its claim on {} {}", job.short(), short(execution)));
            drop(inner.done().await);
        });
        Ok(())
    }

    async fn give_back(&self, delay: Duration) -> Result<(), Error> {
        let (world, me, inner, job) = (self.link.world.clone(), self.link.me, self.inner.clone(), self.job);
        let is_forgotten = self.is_forgotten;
        self.link.lets_go((job, self.execution));
        self.link
            .ask(Write, "giving back", || job.short(), async move {
                world.note(me, || format!("gave {} back for {delay:?}", job.short()));
                if is_forgotten {
                    return Ok(());
                }
                inner.give_back(delay).await
            })
            .await
    }

    fn token(&self) -> Option<String> {
        self.inner.token()
    }

    fn delivery(&self) -> Option<String> {
        self.inner.delivery().map(|delivery| format!("{}/{delivery}", self.life))
    }

    async fn follows(&self, earlier: &str) -> Result<bool, Error> {
        match self.link.world.bug {
            Some(Bug::DeliveryIsPermission) => return Ok(true),
            Some(Bug::LapseProvesAll) if self.before == Before::Offers => return Ok(true),
            _ => {}
        }
        let (world, inner, life, earlier) = (self.link.world.clone(), self.inner.clone(), self.life, earlier.to_owned());
        self.link
            .ask(Read, "looking at an earlier claim", || self.job.short(), async move {
                match earlier.split_once('/') {
                    Some((of, earlier)) if of.parse() == Ok(life) && world.strays.life() == life => inner.follows(earlier).await,
                    Some(_) | None => Ok(false),
                }
            })
            .await
    }
}

/// One claim of the broker's in several hands.
struct Shared(Arc<dyn Lease>);

#[async_trait]
impl Lease for Shared {
    async fn extend(&self) -> Result<(), Error> {
        self.0.extend().await
    }

    async fn done(&self) -> Result<(), Error> {
        self.0.done().await
    }

    async fn give_back(&self, delay: Duration) -> Result<(), Error> {
        self.0.give_back(delay).await
    }

    fn token(&self) -> Option<String> {
        self.0.token()
    }

    fn delivery(&self) -> Option<String> {
        self.0.delivery()
    }

    async fn follows(&self, earlier: &str) -> Result<bool, Error> {
        self.0.follows(earlier).await
    }
}
