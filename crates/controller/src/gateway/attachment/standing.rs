//! What the fleet knows of a worker: its heartbeats, whether people want work done by it, which controller speaks for it.

use longshore_session::control::{Drain, Heartbeat};
use longshore_session::{Refusal, code};
use longshore_store::Wake;
use tokio::time::Instant;

use super::running::Running;
use super::words::interrupted;
use super::{Attachment, Beat, Done, OURS, PAUSE};
use crate::gateway::frames::Task;
use crate::gateway::packages;
use crate::gateway::presence::{self, Load};
use crate::gateway::work::{Ending, Key};

impl Attachment {
    pub(super) fn opened(&mut self, resumed: bool) {
        tracing::info!(agent.id = %self.agent(), hostname = %self.identity.hostname, by = %self.identity.subject, resumed, "a worker is attached");
        if resumed {
            self.is_registered = true;
        }
        (self.has_opened, self.is_leaving, self.is_longshore) = (true, false, self.session.is_longshore());
        // The worker is here now, whoever spoke for it before.
        self.presence.last = None;
        (self.beat_due, self.inbox_due, self.looks_due) = (Instant::now(), Instant::now(), Instant::now());
        self.is_state_known = false;
        self.ask_for_state();
        if self.wakes.is_none() {
            let (work, agent, groups) = (self.app.store.work.clone(), self.agent(), Vec::new());
            self.tasks.spawn(async move { Done::Wakes(work.wakes(agent, &groups).await) });
        }
        if !resumed {
            // A Longshore does nothing twice: whatever it was handed and has not answered is handed to it once more.
            let is_longshore = self.is_longshore;
            let is_there = |running: &&mut Running| running.is_delivered && !running.is_ending && running.cancelled_by.is_none();
            for running in self.running.values_mut().filter(is_there) {
                if is_longshore || packages::is_managing(&running.job.call) {
                    running.say_again_at(Instant::now());
                } else {
                    running.doubt();
                }
            }
        }
    }

    /// A heartbeat. A worker that has nothing under way does not have what may never have reached it.
    pub(super) fn heard_of(&mut self, heartbeat: &Heartbeat) {
        let is_idle = heartbeat.metrics.get("inflight").and_then(serde_json::Value::as_u64) == Some(0);
        if self.is_well != heartbeat.healthy {
            tracing::info!(agent.id = %self.agent(), is_well = heartbeat.healthy, "a worker is handed nothing while it is not well");
            (self.is_well, self.inbox_due) = (heartbeat.healthy, Instant::now());
        }
        if !is_idle || self.is_longshore {
            return;
        }
        let hostname = self.identity.hostname.clone();
        let patience = self.app.config.gateway.doubt_within;
        let gone: Vec<Key> = self.running.iter().filter(|(_, running)| running.is_doubted_for(patience)).map(|(key, _)| *key).collect();
        for key in gone {
            let failure = interrupted(&hostname, "it began anew, and does not have the task");
            self.conclude(key, Ending::given_up(failure, true), None);
        }
    }

    pub(super) fn woken(&mut self, wake: Option<Wake>) {
        match wake {
            Some(Wake::Inbox | Wake::Group(_)) => self.inbox_due = Instant::now(),
            // What was told meanwhile is not known.
            Some(Wake::Reconnected) => (self.inbox_due, self.looks_due) = (Instant::now(), Instant::now()),
            Some(Wake::Cancel(job)) => {
                let tasks: Vec<Task> = self.running.values().map(|running| running.attempt.task).filter(|task| task.job == job).collect();
                tasks.into_iter().for_each(|task| self.look_at(task));
                self.inbox_due = Instant::now();
            }
            Some(Wake::State) => self.ask_for_state(),
            None => {
                self.wakes = None;
                let (work, agent) = (self.app.store.work.clone(), self.agent());
                self.tasks.spawn(async move {
                    tokio::time::sleep(PAUSE).await;
                    Done::Wakes(work.wakes(agent, &[]).await)
                });
            }
        }
    }

    pub(super) fn ask_for_state(&mut self) {
        let (registry, agent) = (self.app.store.registry.clone(), self.agent());
        self.tasks.spawn(async move { Done::State(registry.state_of(agent).await.map(|state| state.is_some_and(|state| state.drained))) });
    }

    pub(super) fn set_drained(&mut self, is_drained: bool) {
        let was_drained = std::mem::replace(&mut self.is_drained, is_drained);
        let was_known = std::mem::replace(&mut self.is_state_known, true);
        if is_drained && (!was_drained || !was_known) {
            self.session.drain(Drain { reason: Some("drained".to_owned()), deadline_ms: None }, self.now());
        } else if was_drained && !is_drained && self.is_open() {
            // There is no word for the opposite: a new session begins with a worker that takes work.
            self.session.reset(&Refusal::new(code::STALE_BINDING, "undrained: shake hands anew"), self.now());
        }
        (self.beat_due, self.inbox_due) = (Instant::now(), Instant::now());
    }

    /// Its session ends since somebody has come with the same instance.
    pub(super) fn superseded(&mut self) {
        let at = Instant::now();
        if self.app.gateway.contests.note(&self.instance, at, self.app.now()) {
            let (agent, instance, hostname) = (self.agent(), &self.instance, &self.identity.hostname);
            tracing::warn!(agent.id = %agent, instance, hostname, "several workers have one instance id and take it from each other: give each one of its own");
            self.beat_due = at;
        }
    }

    /// Another controller speaks for the worker now.
    pub(super) fn give_way(&mut self) {
        self.superseded();
        tracing::info!(agent.id = %self.agent(), "the worker is attached to another controller");
        self.session.reset(&Refusal::new(code::STALE_BINDING, "superseded session"), self.now());
        self.perform();
        self.is_over = true;
    }

    pub(super) fn beat(&mut self, at: Instant) {
        self.beat_due = at + self.app.config.gateway.beat_every;
        self.is_beating = true;
        let load = Load { running: self.running.len(), is_drained: self.is_drained };
        let controller = self.app.config.gateway.name.clone().unwrap_or_else(|| self.app.config.listen.to_string());
        let tenant = &self.app.config.gateway.tenant;
        let mut heartbeat = self.presence.heartbeat(&self.identity, (tenant, &self.instance), &self.can, load, &controller);
        if let Some(worker) = &mut heartbeat.worker {
            worker.contested_since = self.app.gateway.contests.since(&self.instance, at);
        }
        let (registry, last) = (self.app.store.registry.clone(), self.presence.last);
        self.spawn(Done::Told(Beat::Failed(OURS)), async move { Done::Told(presence::beat(&*registry, heartbeat, last).await) });
    }

    pub(super) fn leave(&mut self) {
        // A heartbeat that is on its way would come after the goodbye.
        self.is_leaving = self.is_beating;
        if self.is_leaving || self.presence.last.take().is_none() {
            return;
        }
        let (registry, agent, process) = (self.app.store.registry.clone(), self.agent(), self.presence.process.id.clone());
        self.tasks.spawn(async move {
            if presence::is_ours(&*registry, agent, &process).await
                && let Err(error) = registry.leave(agent).await
            {
                tracing::debug!(%error, "a worker's goodbye is not noted; its heartbeat will expire");
            }
            Done::Nothing
        });
    }
}
