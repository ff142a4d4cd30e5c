//! Which agents there are: followed from the registry, asked when a target becomes an agent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use longshore_model::access::Caller;
use longshore_model::limits::EXECUTIONS_MAX;
use longshore_model::operation::{Call, Operation, PackageRun};
use longshore_model::wire::agent::{AgentState, FleetRevision, Heartbeat, WorkerPackage};
use longshore_model::wire::facts::FactsRecord;
use longshore_model::wire::record::SCHEMA;
use longshore_model::wire::rest::{AgentCondition, AgentView, AlarmView, DrainView};
use longshore_model::{AgentId, ExecutionId, HostName, Label, Target};
use longshore_store::{RegistryEvent, RegistryItem};
use tokio::time::Instant;

use crate::app::App;

/// Agents that are remembered after they went silent.
const OFFLINE_KEPT: usize = 10_000;
/// Names offered for one that is not known.
const NEAREST_MAX: usize = 3;

/// Whether an agent lives. Times are this host's, by its monotonic clock: what an agent takes for the time does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Ready {
        heard: Instant,
    },
    Away {
        /// Unless it was before this process began to listen.
        heard: Option<Instant>,
        since: Instant,
        how: Away,
    },
}

/// How an agent went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Away {
    /// It said goodbye.
    Stopped,
    /// Its heartbeat expired.
    Lost,
    /// The registry is watched anew, and has not told of it yet.
    Unheard,
}

impl Presence {
    fn end(&mut self, how: Away) {
        match self {
            Self::Ready { heard } => *self = Self::Away { heard: Some(*heard), since: Instant::now(), how },
            Self::Away { how: before @ Away::Unheard, .. } => *before = how,
            Self::Away { how: Away::Stopped | Away::Lost, .. } => {}
        }
    }

    fn is_ready(self) -> bool {
        matches!(self, Self::Ready { .. })
    }

    fn is_lost(self) -> bool {
        matches!(self, Self::Away { how: Away::Lost, .. })
    }

    fn heard(self) -> Option<Instant> {
        match self {
            Self::Ready { heard } => Some(heard),
            Self::Away { heard, .. } => heard,
        }
    }
}

/// The agents, as the registry tells.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    agents: BTreeMap<AgentId, (Heartbeat, Presence)>,
    /// What people want of agents, also of those that were never heard.
    states: BTreeMap<AgentId, AgentState>,
    is_current: bool,
    current_since: Option<Instant>,
    seen: FleetRevision,
}

/// Whether a submission may wait for agents that are not available.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    No,
    ForAgents,
}

/// What every agent can do: for who wants to know whether there is one.
const ANYTHING: Needs<'static> = Needs::Agent { operation: Operation::NodeStatusGet, dice: 0 };

/// Who can do a job at all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Needs<'a> {
    /// An agent of a host, or a worker that performs the operation; of several workers, if there is no agent, `dice` decides.
    Agent { operation: Operation, dice: u128 },
    /// An agent or a worker behind a gateway, with this node of this package. `dice` decides between several.
    Package { run: &'a PackageRun, dice: u128 },
}

impl<'a> Needs<'a> {
    /// What a call needs.
    pub(crate) fn of(call: &'a Call, dice: u128) -> Self {
        match call {
            Call::PackageRun(run) => Self::Package { run, dice },
            Call::NetworkDnsGet { .. }
            | Call::NetworkDnsSet(_)
            | Call::NetworkPingRun(_)
            | Call::NodeDiskGet
            | Call::NodeHostnameGet
            | Call::NodeHostnameSet { .. }
            | Call::NodeLoadGet
            | Call::NodeMemoryGet
            | Call::NodeOsGet
            | Call::NodeStatusGet
            | Call::NodeUptimeGet
            | Call::CommandExec(_)
            | Call::CommandShell { .. }
            | Call::PackageInstall(_)
            | Call::PackageList
            | Call::PackageUninstall(_)
            | Call::WorkspaceRun { .. }
            | Call::WithFacts(_) => Self::Agent { operation: call.operation(), dice },
        }
    }

    fn are_met_by(self, heartbeat: &Heartbeat) -> bool {
        match self {
            Self::Agent { operation, .. } => heartbeat.worker.as_ref().is_none_or(|worker| worker.performs(operation)),
            Self::Package { run, .. } => WorkerPackage::version_for(heartbeat.packages(), run).is_some(),
        }
    }

    /// Why a host that is known cannot do it.
    fn unmet_by(self, heartbeat: &Heartbeat) -> NoTarget {
        let hostname = heartbeat.hostname.clone();
        match self {
            Self::Agent { .. } => NoTarget::PackagesOnly { hostname },
            Self::Package { run, .. } => NoTarget::LacksPackage { hostname, wanted: wanted(run) },
        }
    }
}

fn wanted(run: &PackageRun) -> String {
    let version = run.version.as_ref().map(|version| format!(" {version}")).unwrap_or_default();
    format!("the node {} of the package {}{version}", run.node, run.package)
}

/// Why a target means nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoTarget {
    #[error("the fleet is not known yet")]
    NotCurrent,
    #[error("no agent is ready")]
    NobodyReady,
    #[error("no agent is known as {name:?}")]
    Unknown { name: String, nearest: Vec<String> },
    #[error("the agent on {hostname} has not been heard for longer than its heartbeat lasts")]
    Offline { agent: AgentId, hostname: String },
    #[error("the agent on {hostname} was drained by {by} and takes no new work")]
    Drained { agent: AgentId, hostname: String, by: String },
    #[error("no agent of the group {group} is ready")]
    NoMember { group: Label, nearest: Vec<String> },
    #[error("the target means {agents} agents, and a job is for at most {EXECUTIONS_MAX}")]
    TooMany { agents: usize },
    #[error("{hostname} does not have {wanted}")]
    LacksPackage { hostname: String, wanted: String },
    #[error("no agent or worker that is ready has {wanted}")]
    NoPackage { wanted: String },
    #[error("the worker on {hostname} runs nodes of packages, and does not do this")]
    PackagesOnly { hostname: String },
    #[error("several agents call themselves {hostname}: name one by its id, {}", .ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "))]
    Ambiguous { hostname: String, ids: Vec<AgentId> },
}

impl NoTarget {
    /// The same, without what only those may know who may look at the fleet: other hosts' names, and who drained one.
    pub(crate) fn told_to(self, caller: &Caller) -> Self {
        if caller.may("agent:read") {
            return self;
        }
        match self {
            Self::Unknown { name, .. } => Self::Unknown { name, nearest: Vec::new() },
            Self::NoMember { group, .. } => Self::NoMember { group, nearest: Vec::new() },
            Self::Drained { agent, hostname, .. } => Self::Drained { agent, hostname, by: "somebody".to_owned() },
            other @ (Self::NotCurrent
            | Self::NobodyReady
            | Self::Offline { .. }
            | Self::TooMany { .. }
            | Self::LacksPackage { .. }
            | Self::NoPackage { .. }
            | Self::PackagesOnly { .. }
            | Self::Ambiguous { .. }) => other,
        }
    }
}

impl Fleet {
    /// Takes what the registry tells.
    pub(crate) fn take(&mut self, event: RegistryEvent) {
        match event {
            RegistryEvent::Beat(heartbeat) => {
                let (agent, hostname) = (heartbeat.agent, heartbeat.hostname.clone());
                let before = self.agents.insert(agent, (heartbeat, Presence::Ready { heard: Instant::now() }));
                if before.is_some_and(|(_, presence)| presence.is_lost()) {
                    tracing::info!(agent.id = %agent, %hostname, "an agent that was lost is back");
                }
            }
            RegistryEvent::State(state) => drop(self.states.insert(state.agent, state)),
            RegistryEvent::Left(agent) => self.end(agent, Away::Stopped),
            RegistryEvent::Silent(agent) => self.end(agent, Away::Lost),
            RegistryEvent::Removed(agent) => {
                self.agents.remove(&agent);
                self.states.remove(&agent);
            }
            RegistryEvent::Current => {
                self.is_current = true;
                self.current_since = Some(Instant::now());
                let is_unheard = |presence: &Presence| matches!(presence, Presence::Away { how: Away::Unheard, .. });
                let unheard: Vec<AgentId> =
                    self.agents.iter().filter(|(_, (_, presence))| is_unheard(presence)).map(|(agent, _)| *agent).collect();
                for agent in unheard {
                    self.end(agent, Away::Lost);
                }
            }
        }
    }

    /// Takes agents that are not heard from what they told of themselves while they lived. The registry has told of those who live.
    pub(crate) fn recall(&mut self, records: Vec<FactsRecord>) {
        for FactsRecord { agent, gathered_at, left, facts, .. } in records.into_iter().take(OFFLINE_KEPT) {
            let how = if left { Away::Stopped } else { Away::Lost };
            let heartbeat = Heartbeat {
                schema: SCHEMA,
                agent,
                hostname: facts.hostname,
                version: facts.agent.version,
                max_jobs: 0,
                running: 0,
                drained: false,
                labels: facts.label.iter().filter_map(|(key, value)| format!("{key}:{value}").parse().ok()).collect(),
                conditions: Vec::new(),
                process: None,
                worker: None,
                packages: Vec::new(),
                refused_writes: 0,
                started_at: gathered_at,
            };
            self.agents.entry(agent).or_insert((heartbeat, Presence::Away { heard: None, since: Instant::now(), how }));
        }
    }

    /// Notes that an agent went. One that went without a goodbye is what somebody should look at.
    fn end(&mut self, agent: AgentId, how: Away) {
        if let Some((heartbeat, presence)) = self.agents.get_mut(&agent) {
            let was_lost = presence.is_lost();
            presence.end(how);
            if presence.is_lost() && !was_lost {
                tracing::warn!(agent.id = %agent, hostname = %heartbeat.hostname, "an agent is lost: its heartbeat expired without a goodbye");
            }
        }
        self.forget_some();
    }

    /// Everybody is offline until heard again: the registry is about to be watched anew.
    pub(crate) fn doubt(&mut self) {
        self.is_current = false;
        for (_, presence) in self.agents.values_mut() {
            if presence.is_ready() {
                presence.end(Away::Unheard);
            }
        }
    }

    /// Whether the registry has told everybody who was there.
    pub(crate) fn is_current(&self) -> bool {
        self.is_current
    }

    /// How far the registry has told.
    pub(crate) fn seen(&self) -> FleetRevision {
        self.seen
    }

    /// Notes how far the registry has told.
    fn come(&mut self, seen: FleetRevision) {
        self.seen = seen;
    }

    /// Who answers a job for this target.
    pub(crate) fn resolve(&self, target: &Target, needs: Needs<'_>, waits: Waits) -> Result<Vec<ExecutionId>, NoTarget> {
        if !self.is_current {
            return Err(NoTarget::NotCurrent);
        }
        let is_able = |heartbeat: &Heartbeat| needs.are_met_by(heartbeat);
        // Agents take what is for any of them from a queue, which workers do not reach.
        let is_agent = |heartbeat: &Heartbeat| heartbeat.worker.is_none();
        let queue = (waits == Waits::ForAgents).then(|| vec![ExecutionId::Any]);
        match (target, needs) {
            (Target::Host(name), _) => self.host(name, needs, waits).map(|agent| vec![ExecutionId::Agent(agent)]),
            // One of those that have it is chosen now: `docs/adr/0019-workers-behind-a-gateway.md`.
            (Target::Any, Needs::Package { run, dice }) => {
                self.one_of(is_able, dice).ok_or_else(|| NoTarget::NoPackage { wanted: wanted(run) })
            }
            (Target::AnyOf(group), Needs::Package { run, dice }) => self
                .one_of(|heartbeat| is_able(heartbeat) && is_member(heartbeat, group), dice)
                .ok_or_else(|| NoTarget::NoPackage { wanted: wanted(run) }),
            (Target::All, Needs::Package { run, .. }) => self.each(is_able, || NoTarget::NoPackage { wanted: wanted(run) }),
            (Target::Any, Needs::Agent { .. }) if self.ready().any(is_agent) => Ok(vec![ExecutionId::Any]),
            (Target::AnyOf(group), Needs::Agent { .. }) if self.ready().any(|one| is_agent(one) && is_member(one, group)) => {
                Ok(vec![ExecutionId::Any])
            }
            (Target::Any, Needs::Agent { dice, .. }) => self.one_of(is_able, dice).or(queue).ok_or(NoTarget::NobodyReady),
            (Target::AnyOf(group), Needs::Agent { dice, .. }) => {
                self.one_of(|one| is_able(one) && is_member(one, group), dice).or(queue).ok_or_else(|| self.no_member(group))
            }
            (Target::All, Needs::Agent { .. }) => self.each(is_able, || NoTarget::NobodyReady),
            (Target::Group(group), _) => self.each(|heartbeat| is_able(heartbeat) && is_member(heartbeat, group), || self.no_member(group)),
        }
    }

    /// One of those that can do it: one with room, if there is one.
    fn one_of(&self, is_wanted: impl Fn(&Heartbeat) -> bool, dice: u128) -> Option<Vec<ExecutionId>> {
        let able: Vec<&Heartbeat> = self.ready().filter(|heartbeat| is_wanted(heartbeat)).collect();
        let free: Vec<&Heartbeat> = able.iter().copied().filter(|heartbeat| heartbeat.running < heartbeat.max_jobs).collect();
        let among = if free.is_empty() { able } else { free };
        let place = dice.checked_rem(among.len() as u128).and_then(|place| usize::try_from(place).ok());
        place.and_then(|place| among.get(place)).map(|heartbeat| vec![heartbeat.agent.into()])
    }

    /// Whether each of these can do work now.
    pub(crate) fn check(&self, executions: &[ExecutionId]) -> Result<(), NoTarget> {
        for execution in executions {
            match execution {
                ExecutionId::Any => drop(self.resolve(&Target::Any, ANYTHING, Waits::No)?),
                ExecutionId::Agent(_) if !self.is_current => return Err(NoTarget::NotCurrent),
                ExecutionId::Agent(agent) => drop(self.available_host(&HostName::from(*agent), ANYTHING)?),
            }
        }
        Ok(())
    }

    /// Whether the process of this agent that did something at `since`, by its own clock, is certainly gone: the agent has not been heard
    /// for `patience`, or its process is a later one. Nobody is gone while the fleet is not known.
    pub(crate) fn is_gone(&self, agent: AgentId, since: Timestamp, patience: Duration) -> bool {
        self.is_current
            && match self.agents.get(&agent) {
                Some((heartbeat, Presence::Ready { .. })) => heartbeat.started_at > since,
                Some((_, Presence::Away { since, .. })) => since.elapsed() > patience,
                // Silent for as long as anybody has listened.
                None => self.current_since.is_some_and(|since| since.elapsed() > patience),
            }
    }

    /// Whether an agent lives, as far as the registry has told.
    pub(crate) fn is_online(&self, agent: AgentId) -> bool {
        self.agents.get(&agent).is_some_and(|(_, presence)| presence.is_ready())
    }

    /// Agents that went without a goodbye, those that did so first first.
    pub(crate) fn alarms(&self, now: Timestamp) -> Vec<AlarmView> {
        let alarm = |(heartbeat, presence): &(Heartbeat, Presence)| match presence {
            Presence::Away { since, how: Away::Lost, .. } => Some(AlarmView {
                agent: heartbeat.agent,
                hostname: heartbeat.hostname.clone(),
                since: ago(now, *since),
                message: format!(
                    "the agent on {0} went without a goodbye: it crashed, or it is cut off. Start it again, or `longshore agent remove {0}`",
                    heartbeat.hostname
                ),
            }),
            Presence::Ready { .. } | Presence::Away { how: Away::Stopped | Away::Unheard, .. } => None,
        };
        let mut alarms: Vec<AlarmView> = self.agents.values().filter_map(alarm).collect();
        alarms.sort_by_key(|alarm| (alarm.since, alarm.agent));
        alarms
    }

    /// Writes of agents that were refused because they rested on a history which had moved on, as far as the agents have told.
    pub(crate) fn n_refused_writes(&self) -> u64 {
        self.agents.values().map(|(heartbeat, _)| heartbeat.refused_writes).sum()
    }

    /// The agents, sorted by host name.
    pub(crate) fn views(&self, now: Timestamp) -> Vec<AgentView> {
        let mut views: Vec<AgentView> = self
            .agents
            .values()
            .map(|(heartbeat, presence)| AgentView {
                id: heartbeat.agent,
                hostname: heartbeat.hostname.clone(),
                state: match (presence, self.drained(heartbeat.agent)) {
                    (Presence::Away { how: Away::Stopped, .. }, _) => AgentCondition::Stopped,
                    (Presence::Away { how: Away::Lost | Away::Unheard, .. }, _) => AgentCondition::Offline,
                    (Presence::Ready { .. }, None) => AgentCondition::Ready,
                    (Presence::Ready { .. }, Some(_)) if heartbeat.drained && heartbeat.running == 0 => AgentCondition::Drained,
                    (Presence::Ready { .. }, Some(_)) => AgentCondition::Draining,
                },
                drained: self.drained(heartbeat.agent).map(|state| DrainView {
                    by: state.by.clone(),
                    at: state.at,
                    reason: state.reason.clone(),
                }),
                labels: heartbeat.labels.iter().map(ToString::to_string).collect(),
                version: heartbeat.version.clone(),
                max_jobs: heartbeat.max_jobs,
                running: heartbeat.running,
                conditions: heartbeat.conditions.clone(),
                worker: heartbeat.worker.as_deref().cloned(),
                packages: heartbeat.packages.clone(),
                last_seen: presence.heard().map(|heard| ago(now, heard)),
                started_at: heartbeat.started_at,
            })
            .collect();
        views.sort_by(|a, b| (&a.hostname, a.id).cmp(&(&b.hostname, b.id)));
        views
    }

    /// What an agent said last, whether or not it lives.
    pub(crate) fn heartbeat(&self, agent: AgentId) -> Option<&Heartbeat> {
        self.agents.get(&agent).map(|(heartbeat, _)| heartbeat)
    }

    /// Who lives and takes work.
    fn ready(&self) -> impl Iterator<Item = &Heartbeat> {
        self.living().filter(|heartbeat| self.drained(heartbeat.agent).is_none())
    }

    fn living(&self) -> impl Iterator<Item = &Heartbeat> {
        self.agents.values().filter(|(_, presence)| presence.is_ready()).map(|(heartbeat, _)| heartbeat)
    }

    fn drained(&self, agent: AgentId) -> Option<&AgentState> {
        self.states.get(&agent).filter(|state| state.drained)
    }

    /// The agent, if it takes work.
    fn takes_work(&self, heartbeat: &Heartbeat) -> Result<AgentId, NoTarget> {
        match self.drained(heartbeat.agent) {
            None => Ok(heartbeat.agent),
            Some(state) => Err(NoTarget::Drained { agent: heartbeat.agent, hostname: heartbeat.hostname.clone(), by: state.by.clone() }),
        }
    }

    /// An agent by its id or its host's name, whether or not it lives.
    pub(crate) fn find(&self, name: &HostName) -> Result<AgentId, NoTarget> {
        match self.available_host(name, ANYTHING) {
            Err(NoTarget::Offline { agent, .. } | NoTarget::Drained { agent, .. }) => Ok(agent),
            found => found,
        }
    }

    /// Everybody who is ready and wanted, in the order of their ids: the set that is frozen.
    fn each(&self, is_wanted: impl Fn(&Heartbeat) -> bool, nobody: impl FnOnce() -> NoTarget) -> Result<Vec<ExecutionId>, NoTarget> {
        let wanted: Vec<ExecutionId> =
            self.ready().filter(|heartbeat| is_wanted(heartbeat)).map(|heartbeat| heartbeat.agent.into()).collect();
        match wanted.len() {
            0 => Err(nobody()),
            1..=EXECUTIONS_MAX => Ok(wanted),
            agents => Err(NoTarget::TooMany { agents }),
        }
    }

    fn no_member(&self, group: &Label) -> NoTarget {
        let known: BTreeSet<String> =
            self.agents.values().flat_map(|(heartbeat, _)| &heartbeat.labels).flat_map(Label::groups).map(String::from).collect();
        NoTarget::NoMember { group: group.clone(), nearest: nearest(&group.to_string(), known.iter().map(String::as_str)) }
    }

    fn host(&self, name: &HostName, needs: Needs<'_>, waits: Waits) -> Result<AgentId, NoTarget> {
        let agent = match self.available_host(name, needs) {
            Err(NoTarget::Offline { agent, .. } | NoTarget::Drained { agent, .. }) if waits == Waits::ForAgents => agent,
            found => found?,
        };
        match self.heartbeat(agent) {
            Some(heartbeat) if !needs.are_met_by(heartbeat) => Err(needs.unmet_by(heartbeat)),
            Some(_) | None => Ok(agent),
        }
    }

    /// Of an agent and a worker with one name, the one that can do it.
    fn available_host(&self, name: &HostName, needs: Needs<'_>) -> Result<AgentId, NoTarget> {
        if let Ok(agent) = name.as_str().parse::<AgentId>()
            && let Some((heartbeat, presence)) = self.agents.get(&agent)
        {
            return match presence {
                Presence::Ready { .. } => self.takes_work(heartbeat),
                Presence::Away { .. } => Err(NoTarget::Offline { agent: heartbeat.agent, hostname: heartbeat.hostname.clone() }),
            };
        }
        // Host names are compared as DNS compares them.
        let has_name = |heartbeat: &&Heartbeat| {
            let worker = heartbeat.worker.as_ref().is_some_and(|worker| worker.name.eq_ignore_ascii_case(name.as_str()));
            worker || heartbeat.hostname.eq_ignore_ascii_case(name.as_str())
        };
        let is_able_there = self.living().any(|heartbeat| has_name(&heartbeat) && needs.are_met_by(heartbeat));
        // Of those who can, an agent comes before workers of its host.
        let is_agent = |heartbeat: &&Heartbeat| heartbeat.worker.is_none();
        let is_agent_there = self.living().any(|heartbeat| has_name(&heartbeat) && needs.are_met_by(heartbeat) && is_agent(&heartbeat));
        let is_named = |heartbeat: &&Heartbeat| {
            has_name(heartbeat) && (!is_able_there || needs.are_met_by(heartbeat)) && (!is_agent_there || is_agent(heartbeat))
        };
        let mut living = self.living().filter(is_named);
        match (living.next(), living.next()) {
            (Some(one), None) => self.takes_work(one),
            (Some(_), Some(_)) => Err(NoTarget::Ambiguous {
                hostname: name.to_string(),
                ids: self.living().filter(is_named).map(|heartbeat| heartbeat.agent).collect(),
            }),
            (None, _) => match self.agents.values().map(|(heartbeat, _)| heartbeat).filter(is_named).collect::<Vec<_>>().as_slice() {
                [one] => Err(NoTarget::Offline { agent: one.agent, hostname: one.hostname.clone() }),
                [_, _, ..] => Err(NoTarget::Ambiguous {
                    hostname: name.to_string(),
                    ids: self.agents.values().map(|(heartbeat, _)| heartbeat).filter(is_named).map(|heartbeat| heartbeat.agent).collect(),
                }),
                [] => {
                    let known = self.agents.values().map(|(heartbeat, _)| heartbeat.hostname.as_str());
                    Err(NoTarget::Unknown { name: name.to_string(), nearest: nearest(name.as_str(), known) })
                }
            },
        }
    }

    fn forget_some(&mut self) {
        let offline = || {
            self.agents.iter().filter_map(|(agent, (_, presence))| match presence {
                Presence::Ready { .. } => None,
                Presence::Away { since, .. } => Some((*since, *agent)),
            })
        };
        if offline().count() > OFFLINE_KEPT
            && let Some((_, longest)) = offline().min()
        {
            self.agents.remove(&longest);
        }
    }
}

/// A moment of the monotonic clock by the clock that says `now`.
fn ago(now: Timestamp, at: Instant) -> Timestamp {
    SignedDuration::try_from(at.elapsed()).ok().and_then(|elapsed| now.checked_sub(elapsed).ok()).unwrap_or(now)
}

fn is_member(heartbeat: &Heartbeat, group: &Label) -> bool {
    heartbeat.labels.iter().any(|label| group.covers(label))
}

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    let name = name.to_lowercase();
    let mut near: Vec<(f64, &str)> =
        known.map(|known| (strsim::jaro_winkler(&name, &known.to_lowercase()), known)).filter(|(likeness, _)| *likeness > 0.7).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    near.dedup_by(|a, b| a.1 == b.1);
    near.into_iter().take(NEAREST_MAX).map(|(_, known)| known.to_owned()).collect()
}

/// Follows the registry until the controller drains.
pub(crate) async fn follow(app: App) {
    crate::watch::for_ever(&app, "registry", || read(&app)).await;
}

async fn read(app: &App) -> Result<(), longshore_store::Error> {
    let mut watch = app.store.registry.watch().await?;
    app.fleet_mut().doubt();
    while let Some(item) = watch.next().await {
        let RegistryItem { event, seen } = item?;
        let recalled = if event == RegistryEvent::Current { app.store.facts.all().await? } else { Vec::new() };
        let mut fleet = app.fleet_mut();
        fleet.recall(recalled);
        fleet.take(event);
        fleet.come(seen);
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
