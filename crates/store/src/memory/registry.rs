//! Which agents live. Like a bucket with a history of one: a watcher that is behind is told the newest of each agent, never a backlog.
//!
//! Nobody runs in the background: whoever watches or beats next finds what has expired, and a watcher sleeps until something may.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream;
use longshore_model::AgentId;
use longshore_model::limits::DRAINS_KEPT;
use longshore_model::wire::agent::{AgentState, FleetRevision, Heartbeat};
use tokio::time::{Instant, sleep_until};

use super::{Memory, Shared};
use crate::{Error, Newest, Registry, RegistryEvent, RegistryItem, RegistryStream, Revision, Wake};

/// Invariant: every agent in `agents` has its newest event in `events`, as has every state in `states`, and those that live are in `expiries`.
#[derive(Default)]
pub(super) struct Fleet {
    newest: Revision,
    agents: BTreeMap<AgentId, Standing>,
    events: BTreeMap<Revision, RegistryEvent>,
    expiries: BTreeSet<(Instant, AgentId)>,
    states: BTreeMap<AgentId, (Revision, AgentState)>,
    /// The newest last.
    histories: BTreeMap<AgentId, Vec<AgentState>>,
}

struct Standing {
    revision: Revision,
    /// While it lives.
    expires: Option<Instant>,
}

struct Watcher {
    shared: Arc<Shared>,
    after: Revision,
    phase: Phase,
}

#[derive(Clone, Copy)]
enum Phase {
    CatchingUp { until: Revision },
    Live,
}

#[async_trait]
impl Registry for Memory {
    async fn beat(&self, heartbeat: &Heartbeat) -> Result<(), Error> {
        self.0.state().fleet.beat(heartbeat, Instant::now(), self.0.options.registry_ttl);
        self.0.signals.fleet.notify_waiters();
        Ok(())
    }

    async fn beat_after(&self, heartbeat: &Heartbeat, after: Revision) -> Result<Option<Revision>, Error> {
        let revision = {
            let fleet = &mut self.0.state().fleet;
            fleet.expire(Instant::now());
            if fleet.newest_of(heartbeat.agent).revision != after {
                return Ok(None);
            }
            fleet.beat(heartbeat, Instant::now(), self.0.options.registry_ttl);
            fleet.newest
        };
        self.0.signals.fleet.notify_waiters();
        Ok(Some(revision))
    }

    async fn newest(&self, agent: AgentId) -> Result<Newest, Error> {
        let fleet = &mut self.0.state().fleet;
        fleet.expire(Instant::now());
        Ok(fleet.newest_of(agent))
    }

    async fn states_of(&self, agent: AgentId) -> Result<Vec<AgentState>, Error> {
        Ok(self.0.state().fleet.histories.get(&agent).into_iter().flatten().rev().cloned().collect())
    }

    async fn forget(&self, agent: AgentId) -> Result<(), Error> {
        let shared = &mut *self.0.state();
        shared.facts.forget(agent);
        shared.work.clear_inbox(agent);
        shared.fleet.forget(agent);
        self.0.signals.fleet.notify_waiters();
        Ok(())
    }

    async fn leave(&self, agent: AgentId) -> Result<(), Error> {
        self.0.state().fleet.leave(agent, Instant::now());
        self.0.signals.fleet.notify_waiters();
        Ok(())
    }

    async fn set_state(&self, state: &AgentState) -> Result<(), Error> {
        let shared = &mut *self.0.state();
        shared.fleet.set_state(state);
        shared.work.wake(state.agent, Wake::State);
        self.0.signals.fleet.notify_waiters();
        Ok(())
    }

    async fn state_of(&self, agent: AgentId) -> Result<Option<AgentState>, Error> {
        Ok(self.0.state().fleet.states.get(&agent).map(|(_, state)| state.clone()))
    }

    async fn watch(&self) -> Result<RegistryStream, Error> {
        let until = {
            let fleet = &mut self.0.state().fleet;
            fleet.expire(Instant::now());
            fleet.newest
        };
        let watcher = Watcher { shared: Arc::clone(&self.0), after: 0, phase: Phase::CatchingUp { until } };
        Ok(stream::unfold(watcher, |mut watcher| async move {
            watcher.next().await.map(|event| (Ok(RegistryItem { event, seen: watcher.seen() }), watcher))
        })
        .boxed())
    }
}

impl Fleet {
    fn beat(&mut self, heartbeat: &Heartbeat, now: Instant, ttl: Duration) {
        self.expire(now);
        self.record(heartbeat.agent, RegistryEvent::Beat(heartbeat.clone()), Some(now + ttl));
    }

    fn leave(&mut self, agent: AgentId, now: Instant) {
        self.expire(now);
        if self.agents.get(&agent).is_some_and(|standing| standing.expires.is_some()) {
            self.record(agent, RegistryEvent::Left(agent), None);
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((_, agent)) = self.expiries.first().copied().filter(|(at, _)| *at <= now) {
            self.record(agent, RegistryEvent::Silent(agent), None);
        }
    }

    fn record(&mut self, agent: AgentId, event: RegistryEvent, expires: Option<Instant>) {
        self.newest += 1;
        let standing = Standing { revision: self.newest, expires };
        if let Some(previous) = self.agents.insert(agent, standing) {
            self.events.remove(&previous.revision);
            if let Some(at) = previous.expires {
                self.expiries.remove(&(at, agent));
            }
        }
        self.events.insert(self.newest, event);
        self.expiries.extend(expires.map(|at| (at, agent)));
    }

    fn newest_of(&self, agent: AgentId) -> Newest {
        let Some(standing) = self.agents.get(&agent) else { return Newest { revision: 0, heartbeat: None } };
        let heartbeat = match self.events.get(&standing.revision) {
            Some(RegistryEvent::Beat(heartbeat)) => Some(heartbeat.clone()),
            Some(
                RegistryEvent::Left(_)
                | RegistryEvent::Silent(_)
                | RegistryEvent::Removed(_)
                | RegistryEvent::State(_)
                | RegistryEvent::Current,
            )
            | None => None,
        };
        Newest { revision: standing.revision, heartbeat }
    }

    fn forget(&mut self, agent: AgentId) {
        self.histories.remove(&agent);
        if let Some((revision, _)) = self.states.remove(&agent) {
            self.events.remove(&revision);
        }
        self.record(agent, RegistryEvent::Removed(agent), None);
    }

    fn set_state(&mut self, state: &AgentState) {
        let history = self.histories.entry(state.agent).or_default();
        history.push(state.clone());
        if history.len() > usize::from(DRAINS_KEPT) {
            history.remove(0);
        }
        self.newest += 1;
        if let Some((before, _)) = self.states.insert(state.agent, (self.newest, state.clone())) {
            self.events.remove(&before);
        }
        self.events.insert(self.newest, RegistryEvent::State(state.clone()));
    }

    fn next(&self, after: Revision) -> Option<(Revision, RegistryEvent)> {
        self.events.range(after.saturating_add(1)..).next().map(|(revision, event)| (*revision, event.clone()))
    }
}

impl Watcher {
    /// Heartbeats and states have one count here.
    fn seen(&self) -> FleetRevision {
        FleetRevision { heartbeats: self.after, states: self.after }
    }

    async fn next(&mut self) -> Option<RegistryEvent> {
        loop {
            let shared = Arc::clone(&self.shared);
            let changed = shared.signals.fleet.notified();
            let (event, next_expiry) = self.advance();
            if event.is_some() {
                return event;
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep_until_some(next_expiry) => {}
            }
        }
    }

    fn advance(&mut self) -> (Option<RegistryEvent>, Option<Instant>) {
        let shared = Arc::clone(&self.shared);
        let fleet = &mut shared.state().fleet;
        fleet.expire(Instant::now());
        let next_expiry = fleet.expiries.first().map(|(at, _)| *at);
        loop {
            let next = fleet.next(self.after);
            match (self.phase, next) {
                (Phase::CatchingUp { until }, Some((revision, event))) if revision <= until => {
                    self.after = revision;
                    match event {
                        RegistryEvent::Beat(_) | RegistryEvent::State(_) => return (Some(event), next_expiry),
                        // Who is gone is no part of the fleet as it is.
                        RegistryEvent::Left(_) | RegistryEvent::Silent(_) | RegistryEvent::Removed(_) | RegistryEvent::Current => {}
                    }
                }
                (Phase::CatchingUp { .. }, Some(_) | None) => {
                    self.phase = Phase::Live;
                    return (Some(RegistryEvent::Current), next_expiry);
                }
                (Phase::Live, Some((revision, event))) => {
                    self.after = revision;
                    return (Some(event), next_expiry);
                }
                (Phase::Live, None) => return (None, next_expiry),
            }
        }
    }
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
