//! Heartbeats and wishes.

use async_trait::async_trait;
use futures::StreamExt as _;
use longshore_model::AgentId;
use longshore_model::wire::agent::{AgentState, Heartbeat};
use longshore_store::{Error, Newest, Registry, RegistryEvent, RegistryItem, RegistryStream, Revision};

use super::Kind::{Read, Write};
use super::Link;
use crate::history::{Binding, Drain};
use crate::plant::Bug;
use crate::world::World;

#[async_trait]
impl Registry for Link {
    async fn beat(&self, heartbeat: &Heartbeat) -> Result<(), Error> {
        let (world, heartbeat) = (self.world.clone(), heartbeat.clone());
        self.ask(Write, "beating", String::new, async move {
            world.raw.registry.beat(&heartbeat).await?;
            beaten(&world, &heartbeat);
            Ok(())
        })
        .await
    }

    async fn beat_after(&self, heartbeat: &Heartbeat, after: Revision) -> Result<Option<Revision>, Error> {
        let (world, heartbeat) = (self.world.clone(), heartbeat.clone());
        self.ask(Write, "beating", String::new, async move {
            let after = if world.is(Bug::BindingForced) { world.raw.registry.newest(heartbeat.agent).await?.revision } else { after };
            let told = world.raw.registry.beat_after(&heartbeat, after).await?;
            if let Some(revision) = told {
                beaten(&world, &heartbeat);
                bound(&world, &heartbeat, revision);
            }
            Ok(told)
        })
        .await
    }

    async fn newest(&self, agent: AgentId) -> Result<Newest, Error> {
        let world = self.world.clone();
        let newest = self.ask(Read, "reading a heartbeat", String::new, async move { world.raw.registry.newest(agent).await }).await?;
        let heartbeat = newest.heartbeat.filter(|_| !self.world.is(Bug::BindingForced));
        Ok(Newest { heartbeat, ..newest })
    }

    async fn states_of(&self, agent: AgentId) -> Result<Vec<AgentState>, Error> {
        let world = self.world.clone();
        self.ask(Read, "reading wishes", String::new, async move { world.raw.registry.states_of(agent).await }).await
    }

    async fn forget(&self, agent: AgentId) -> Result<(), Error> {
        let world = self.world.clone();
        self.ask(Write, "forgetting", String::new, async move { world.raw.registry.forget(agent).await }).await
    }

    async fn leave(&self, agent: AgentId) -> Result<(), Error> {
        let world = self.world.clone();
        self.ask(Write, "leaving", String::new, async move {
            world.raw.registry.leave(agent).await?;
            let mut history = world.history();
            let seq = history.next();
            history.leaves.push((agent, seq));
            Ok(())
        })
        .await
    }

    async fn set_state(&self, state: &AgentState) -> Result<(), Error> {
        let (world, me, state) = (self.world.clone(), self.me, state.clone());
        // One controller's wishes arrive in the order in which it has them: the operator waits for each.
        self.ask(Read, "wishing", String::new, async move {
            world.raw.registry.set_state(&state).await?;
            world.note(me, || format!("agent {} is to be drained: {}", state.agent.bits() - 1, state.drained));
            if state.drained {
                world.history().drain(state.agent, Drain::Wanted);
            }
            Ok(())
        })
        .await
    }

    async fn state_of(&self, agent: AgentId) -> Result<Option<AgentState>, Error> {
        let world = self.world.clone();
        let state = self.ask(Read, "reading a wish", String::new, async move { world.raw.registry.state_of(agent).await }).await?;
        Ok(state.filter(|_| !(self.is_agent() && self.world.is(Bug::DrainIgnored))))
    }

    async fn watch(&self) -> Result<RegistryStream, Error> {
        let world = self.world.clone();
        let inner = self.ask(Read, "watching", String::new, async move { world.raw.registry.watch().await }).await?;
        let world = self.world.clone();
        let is_told = move |item: &Result<RegistryItem, Error>| {
            let is_of_the_future =
                matches!(item, Ok(RegistryItem { event: RegistryEvent::Beat(heartbeat), .. }) if heartbeat.started_at > world.now());
            std::future::ready(!(is_of_the_future && world.is(Bug::FutureNotBelieved)))
        };
        Ok(self.told(inner.filter(is_told).boxed()))
    }
}

/// What takes effect with a heartbeat.
fn beaten(world: &World, heartbeat: &Heartbeat) {
    let now = world.now();
    let mut history = world.history();
    history.beats.entry(heartbeat.agent).or_default().push(now);
    if heartbeat.drained && heartbeat.running == 0 {
        history.drain(heartbeat.agent, Drain::Confirmed);
    }
}

/// What such a heartbeat binds.
fn bound(world: &World, heartbeat: &Heartbeat, revision: Revision) {
    let Some(process) = &heartbeat.process else { return };
    let (agent, at) = (heartbeat.agent, world.now());
    let mut history = world.history();
    let seq = history.next();
    history.bindings.push(Binding { agent, process: process.id.clone(), place: process.place.clone(), revision, seq, at });
}
