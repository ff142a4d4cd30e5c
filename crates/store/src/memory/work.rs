//! What agents take: the shared queue, the inboxes and the wake-ups.
//!
//! An offer in the queue is `ready`, or `waiting` until a lease or a delay runs out. Time passes when somebody pulls.
//!
//! ```text
//!            take (puller)
//!   ready ─────────────────► waiting: leased ── done (holder), withdrawn ──► gone
//!     ▲                        │        ▲ │ extend (holder)
//!     │ its time is over       │        └─┘
//!     └────────────────────────┤
//!                              ├── give back (holder): waiting until the delay is over
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream;
use longshore_model::job::Shares;
use longshore_model::wire::record::Definition;
use longshore_model::{AgentId, ExecutionId, JobId, Label};
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep_until};

use super::{Memory, Shared};
use crate::layout::group_of;
use crate::work::PAGE;
use crate::{
    Absence, Addressed, AddressedPage, Announcement, Before, Delivery, Error, InboxPage, Lease, PullStream, Revision, Wake, WakeStream,
    Work,
};

/// How long a pull waits for work.
const PULL_LASTS: Duration = Duration::from_secs(30);
/// Hints one agent may be behind; beyond that it is told that it may have missed something.
const WAKES_WAITING_MAX: usize = 64;

/// A place in the shared queue; what claims are known by.
type Place = u64;

/// Invariant: every offer is either in `ready` or, with its `until`, in `waiting`, and is the one of its job in `place_of`.
#[derive(Default)]
pub(super) struct Offers {
    newest: Place,
    offers: BTreeMap<Place, Offer>,
    place_of: BTreeMap<JobId, Place>,
    ready: BTreeMap<Option<Label>, BTreeSet<Place>>,
    waiting: BTreeSet<(Instant, Place)>,
    inboxes: BTreeMap<AgentId, BTreeMap<Revision, Definition>>,
    wakes: BTreeMap<AgentId, broadcast::Sender<Wake>>,
    /// The groups of those who listen.
    groups: BTreeMap<AgentId, Vec<Label>>,
}

struct Offer {
    definition: Definition,
    group: Option<Label>,
    revision: Revision,
    before: Before,
    n_taken: u64,
    until: Option<Instant>,
}

struct Taken {
    place: Place,
    /// Counts from one.
    number: u64,
    definition: Definition,
    revision: Revision,
    before: Before,
}

struct Puller {
    shared: Arc<Shared>,
    left: usize,
    until: Instant,
}

struct QueueLease {
    shared: Arc<Shared>,
    place: Place,
    number: u64,
}

/// The key in the inbox is the claim, and nobody else reads it.
struct InboxLease {
    shared: Arc<Shared>,
    agent: AgentId,
    revision: Revision,
}

#[async_trait]
impl Work for Memory {
    fn lease_duration(&self) -> Duration {
        self.0.options.lease
    }

    async fn join(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn pull(&self, max: usize) -> Result<PullStream, Error> {
        let puller = Puller { shared: Arc::clone(&self.0), left: max, until: Instant::now() + PULL_LASTS };
        Ok(stream::unfold(puller, |mut puller| async move { puller.next().await.map(|delivery| (delivery, puller)) }).boxed())
    }

    async fn inbox(&self, agent: AgentId, after: u64) -> Result<InboxPage, Error> {
        let state = self.0.state();
        let deliver = |(revision, definition): (&Revision, &Definition)| Delivery {
            definition: definition.clone(),
            revision: *revision,
            // An inbox does not know who has looked into it.
            before: Before::Offers,
            received: Instant::now(),
            lease: Box::new(InboxLease { shared: Arc::clone(&self.0), agent, revision: *revision }),
        };
        let Some(inbox) = state.work.inboxes.get(&agent) else { return Ok(InboxPage { deliveries: Vec::new(), next: None }) };
        let deliveries: Vec<_> = inbox.range(after + 1..).take(PAGE).map(deliver).collect();
        let next = deliveries.last().map(|delivery| delivery.revision).filter(|_| deliveries.len() == PAGE);
        Ok(InboxPage { deliveries, next })
    }

    async fn addressed(&self, after: Revision) -> Result<AddressedPage, Error> {
        let state = self.0.state();
        let all = state.work.inboxes.iter().flat_map(|(agent, inbox)| {
            inbox.range(after + 1..).map(|(place, definition)| Addressed { agent: *agent, job: definition.id, place: *place })
        });
        let mut items: Vec<Addressed> = all.collect();
        items.sort_unstable_by_key(|entry| entry.place);
        items.truncate(PAGE);
        let next = items.last().map(|entry| entry.place).filter(|_| items.len() == PAGE);
        Ok(AddressedPage { items, next })
    }

    async fn take_out(&self, Addressed { agent, job: _, place }: Addressed) -> Result<(), Error> {
        if let Some(inbox) = self.0.state().work.inboxes.get_mut(&agent) {
            inbox.remove(&place);
        }
        Ok(())
    }

    async fn take(&self, group: &Label, max: usize) -> Result<Vec<Delivery>, Error> {
        let work = &mut self.0.state().work;
        let now = Instant::now();
        let taken = std::iter::from_fn(|| work.take(Some(group), now, self.0.options.lease));
        Ok(taken.take(max).map(|taken| taken.delivery(&self.0)).collect())
    }

    async fn has_work(&self, group: &Label) -> Result<bool, Error> {
        Ok(self.0.state().work.offers.values().any(|offer| offer.group.as_ref() == Some(group)))
    }

    async fn wakes(&self, agent: AgentId, groups: &[Label]) -> Result<WakeStream, Error> {
        self.0.state().work.groups.insert(agent, groups.to_vec());
        let receiver = self.0.state().work.wakes.entry(agent).or_insert_with(|| broadcast::Sender::new(WAKES_WAITING_MAX)).subscribe();
        let next = async |mut receiver: broadcast::Receiver<Wake>| match receiver.recv().await {
            Ok(wake) => Some((wake, receiver)),
            Err(broadcast::error::RecvError::Lagged(_)) => Some((Wake::Reconnected, receiver)),
            Err(broadcast::error::RecvError::Closed) => None,
        };
        Ok(stream::unfold(receiver, next).boxed())
    }

    async fn give_back(&self, token: &str) -> Result<(), Error> {
        if let Ok(place) = token.parse() {
            self.0.give_back(place, Duration::ZERO);
        }
        Ok(())
    }

    async fn resume(&self, agent: AgentId, definition: &Definition, token: Option<&str>) -> Result<Option<Box<dyn Lease>>, Error> {
        let state = self.0.state();
        let (work, shared) = (&state.work, Arc::clone(&self.0));
        Ok(match (definition.executions.as_slice(), token) {
            ([ExecutionId::Any], token) => {
                let offer = token.and_then(|token| Some((token.parse().ok()?, work.offers.get(&token.parse().ok()?)?)));
                let ours = offer.filter(|(_, offer): &(Place, &Offer)| offer.definition.id == definition.id);
                ours.map(|(place, offer)| Box::new(QueueLease { shared, place, number: offer.n_taken }) as Box<dyn Lease>)
            }
            (_, _) => {
                let entry = work.inboxes.get(&agent).and_then(|inbox| inbox.iter().find(|(_, entry)| entry.id == definition.id));
                entry.map(|(revision, _)| Box::new(InboxLease { shared, agent, revision: *revision }) as Box<dyn Lease>)
            }
        })
    }

    async fn flush(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn signal_cancel(&self, agent: AgentId, job: JobId) -> Result<(), Error> {
        self.0.state().work.wake(agent, Wake::Cancel(job));
        Ok(())
    }

    async fn announce(&self, definition: &Definition, announcement: Announcement) -> Result<bool, Error> {
        let Announcement { execution, revision, seen, absence } = announcement;
        let mut state = self.0.state();
        if absence == Absence::GoneOrSpent {
            state.work.clear_spent(definition.id);
        }
        let was_missing = if revision == 0 {
            let shared = state.records.share(definition.id, execution, self.0.options.max_records_bytes)?;
            shared.is_some_and(|revision| state.work.announce(definition, execution, revision, Before::Nothing))
        } else {
            state.work.announce(definition, execution, revision, Before::Announcement(seen))
        };
        drop(state);
        self.0.signals.records.notify_waiters();
        self.0.signals.work.notify_waiters();
        Ok(was_missing)
    }

    async fn withdraw(&self, definition: &Definition) -> Result<(), Error> {
        self.0.state().work.withdraw(definition.id);
        Ok(())
    }
}

impl Offers {
    /// Puts an execution before everybody whom it concerns and who has it not yet. Gives whether there was anybody.
    pub(super) fn announce(&mut self, definition: &Definition, execution: ExecutionId, revision: Revision, before: Before) -> bool {
        if revision == 0 {
            return false;
        }
        let definition = Shares::of(definition).share(execution);
        match execution {
            ExecutionId::Any => self.offer(definition, revision, before),
            ExecutionId::Agent(agent) => self.address(agent, definition, revision),
        }
    }

    fn offer(&mut self, definition: Definition, revision: Revision, before: Before) -> bool {
        if self.place_of.contains_key(&definition.id) {
            return false;
        }
        self.newest += 1;
        self.place_of.insert(definition.id, self.newest);
        let group = group_of(&definition);
        self.ready.entry(group.clone()).or_default().insert(self.newest);
        if let Some(group) = &group {
            let members: Vec<_> = self.groups.iter().filter(|(_, groups)| groups.contains(group)).map(|(agent, _)| *agent).collect();
            for agent in members {
                self.wake(agent, Wake::Group(group.clone()));
            }
        }
        self.offers.insert(self.newest, Offer { definition, group, revision, before, n_taken: 0, until: None });
        true
    }

    /// Takes back an offer that somebody has taken before.
    fn clear_spent(&mut self, job: JobId) {
        if let Some(place) = self.place_of.get(&job).copied()
            && self.offers.get(&place).is_some_and(|offer| offer.n_taken > 0)
        {
            self.remove(place);
        }
    }

    fn address(&mut self, agent: AgentId, definition: Definition, revision: Revision) -> bool {
        let was_missing = self.inboxes.entry(agent).or_default().insert(revision, definition).is_none();
        if was_missing {
            self.wake(agent, Wake::Inbox);
        }
        was_missing
    }

    pub(super) fn clear_inbox(&mut self, agent: AgentId) {
        self.inboxes.remove(&agent);
    }

    fn withdraw(&mut self, job: JobId) {
        if let Some(place) = self.place_of.get(&job) {
            self.remove(*place);
        }
        self.inboxes.retain(|_, inbox| {
            inbox.retain(|_, definition| definition.id != job);
            !inbox.is_empty()
        });
    }

    fn take(&mut self, group: Option<&Label>, now: Instant, lease: Duration) -> Option<Taken> {
        while let Some((at, place)) = self.waiting.first().copied().filter(|(at, _)| *at <= now) {
            self.waiting.remove(&(at, place));
            if let Some(offer) = self.offers.get_mut(&place) {
                offer.until = None;
                self.ready.entry(offer.group.clone()).or_default().insert(place);
            }
        }
        let place = self.ready.get_mut(&group.cloned())?.pop_first()?;
        let offer = self.offers.get_mut(&place)?;
        let before = match offer.before {
            Before::Nothing if offer.n_taken > 0 => Before::Offers,
            before @ (Before::Nothing | Before::Offers | Before::Announcement(_)) => before,
        };
        offer.n_taken += 1;
        offer.until = Some(now + lease);
        self.waiting.insert((now + lease, place));
        Some(Taken { place, number: offer.n_taken, definition: offer.definition.clone(), revision: offer.revision, before })
    }

    /// When an offer that waits is ready again.
    fn next_ready(&self) -> Option<Instant> {
        self.waiting.first().map(|(at, _)| *at)
    }

    /// Lets an offer that is not over wait until `until`. One whose time was over stays over: somebody may be on the way to it.
    fn wait(&mut self, place: Place, now: Instant, until: Instant) {
        let Some(offer) = self.offers.get_mut(&place) else {
            return;
        };
        if let Some(at) = offer.until.filter(|at| *at > now) {
            offer.until = Some(until);
            self.waiting.remove(&(at, place));
            self.waiting.insert((until, place));
        }
    }

    fn remove(&mut self, place: Place) {
        if let Some(offer) = self.offers.remove(&place) {
            if let Some(ready) = self.ready.get_mut(&offer.group) {
                ready.remove(&place);
            }
            self.place_of.remove(&offer.definition.id);
            if let Some(at) = offer.until {
                self.waiting.remove(&(at, place));
            }
        }
    }

    pub(super) fn wake(&mut self, agent: AgentId, wake: Wake) {
        let is_unheard = self.wakes.get(&agent).is_some_and(|wakes| wakes.send(wake).is_err());
        if is_unheard {
            self.wakes.remove(&agent);
        }
    }
}

impl Taken {
    fn delivery(self, shared: &Arc<Shared>) -> Delivery {
        let Self { place, number, definition, revision, before } = self;
        let lease = Box::new(QueueLease { shared: Arc::clone(shared), place, number });
        Delivery { definition, revision, before, received: Instant::now(), lease }
    }
}

impl Shared {
    fn give_back(&self, place: Place, delay: Duration) {
        let now = Instant::now();
        self.state().work.wait(place, now, now + delay);
        self.signals.work.notify_waiters();
    }
}

impl Puller {
    async fn next(&mut self) -> Option<Delivery> {
        while self.left > 0 {
            let changed = self.shared.signals.work.notified();
            let now = Instant::now();
            let (taken, next_ready) = {
                let work = &mut self.shared.state().work;
                (work.take(None, now, self.shared.options.lease), work.next_ready())
            };
            if let Some(taken) = taken {
                self.left -= 1;
                return Some(taken.delivery(&self.shared));
            }
            if now >= self.until {
                return None;
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep_until(next_ready.map_or(self.until, |at| at.min(self.until))) => {}
            }
        }
        None
    }
}

#[async_trait]
impl Lease for QueueLease {
    async fn extend(&self) -> Result<(), Error> {
        let now = Instant::now();
        self.shared.state().work.wait(self.place, now, now + self.shared.options.lease);
        // Pullers sleep until the old end; they look again then, and find that it has moved.
        Ok(())
    }

    async fn done(&self) -> Result<(), Error> {
        self.shared.state().work.remove(self.place);
        Ok(())
    }

    async fn give_back(&self, delay: Duration) -> Result<(), Error> {
        self.shared.give_back(self.place, delay);
        Ok(())
    }

    fn token(&self) -> Option<String> {
        Some(self.place.to_string())
    }

    fn delivery(&self) -> Option<String> {
        Some(format!("{}.{}", self.place, self.number))
    }

    async fn follows(&self, earlier: &str) -> Result<bool, Error> {
        let Some((place, number)) = earlier.split_once('.') else { return Ok(false) };
        Ok(place.parse() == Ok(self.place) && number.parse().is_ok_and(|number: u64| number < self.number))
    }
}

#[async_trait]
impl Lease for InboxLease {
    async fn extend(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn done(&self) -> Result<(), Error> {
        let inboxes = &mut self.shared.state().work.inboxes;
        if let Some(inbox) = inboxes.get_mut(&self.agent) {
            inbox.remove(&self.revision);
            if inbox.is_empty() {
                inboxes.remove(&self.agent);
            }
        }
        Ok(())
    }

    async fn give_back(&self, _delay: Duration) -> Result<(), Error> {
        Ok(())
    }

    fn token(&self) -> Option<String> {
        None
    }

    fn delivery(&self) -> Option<String> {
        None
    }

    async fn follows(&self, _earlier: &str) -> Result<bool, Error> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{MemoryOptions, open};

    #[tokio::test(start_paused = true)]
    async fn a_pull_without_work_ends() {
        let store = open(MemoryOptions::default());
        let before = Instant::now();
        assert!(store.work.pull(1).await.unwrap().next().await.is_none());
        assert_eq!(before.elapsed(), PULL_LASTS);
        assert!(store.work.pull(0).await.unwrap().next().await.is_none());
        assert_eq!(before.elapsed(), PULL_LASTS);
    }
}
