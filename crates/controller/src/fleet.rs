//! Which agents there are: followed from the registry, asked when a target becomes an agent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use longshore_model::limits::EXECUTIONS_MAX;
use longshore_model::wire::agent::{AgentState, Heartbeat};
use longshore_model::wire::rest::{AgentCondition, AgentView, DrainView};
use longshore_model::{AgentId, ExecutionId, HostName, Label, Target};
use longshore_store::RegistryEvent;
use tokio::time::Instant;

use crate::app::App;

/// Agents that are remembered after they went silent.
const OFFLINE_KEPT: usize = 10_000;
/// Names offered for one that is not known.
const NEAREST_MAX: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Ready,
    /// Since then, by this host's monotonic clock.
    Offline {
        since: Instant,
    },
}

impl Presence {
    fn end(&mut self) {
        if *self == Self::Ready {
            *self = Self::Offline { since: Instant::now() };
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
}

/// Whether a submission may wait for agents that are not available.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    No,
    ForAgents,
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
    #[error("several agents call themselves {hostname}: name one by its id, {}", .ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "))]
    Ambiguous { hostname: String, ids: Vec<AgentId> },
}

impl Fleet {
    /// Takes what the registry tells.
    pub(crate) fn take(&mut self, event: RegistryEvent) {
        match event {
            RegistryEvent::Beat(heartbeat) => {
                self.agents.insert(heartbeat.agent, (heartbeat, Presence::Ready));
            }
            RegistryEvent::State(state) => drop(self.states.insert(state.agent, state)),
            RegistryEvent::Left(agent) | RegistryEvent::Silent(agent) => {
                if let Some((_, presence)) = self.agents.get_mut(&agent) {
                    presence.end();
                }
                self.forget_some();
            }
            RegistryEvent::Current => {
                self.is_current = true;
                self.current_since = Some(Instant::now());
            }
        }
    }

    /// Everybody is offline until heard again: the registry is about to be watched anew.
    pub(crate) fn doubt(&mut self) {
        self.is_current = false;
        for (_, presence) in self.agents.values_mut() {
            presence.end();
        }
    }

    /// Whether the registry has told everybody who was there.
    pub(crate) fn is_current(&self) -> bool {
        self.is_current
    }

    /// Who answers a job for this target.
    pub(crate) fn resolve(&self, target: &Target, waits: Waits) -> Result<Vec<ExecutionId>, NoTarget> {
        if !self.is_current {
            return Err(NoTarget::NotCurrent);
        }
        match target {
            Target::Any | Target::AnyOf(_) if waits == Waits::ForAgents => Ok(vec![ExecutionId::Any]),
            Target::Any if self.ready().next().is_none() => Err(NoTarget::NobodyReady),
            Target::Any => Ok(vec![ExecutionId::Any]),
            Target::All => self.each(|_| true, || NoTarget::NobodyReady),
            Target::Group(group) => self.each(|heartbeat| is_member(heartbeat, group), || self.no_member(group)),
            Target::AnyOf(group) if !self.ready().any(|heartbeat| is_member(heartbeat, group)) => Err(self.no_member(group)),
            Target::AnyOf(_) => Ok(vec![ExecutionId::Any]),
            Target::Host(name) => self.host(name, waits).map(|agent| vec![ExecutionId::Agent(agent)]),
        }
    }

    /// Whether each of these can do work now.
    pub(crate) fn check(&self, executions: &[ExecutionId]) -> Result<(), NoTarget> {
        for execution in executions {
            let target = execution.agent().map_or(Target::Any, |agent| Target::Host(agent.into()));
            self.resolve(&target, Waits::No)?;
        }
        Ok(())
    }

    /// Whether the process of this agent that did something at `since`, by its own clock, is certainly gone: the agent has not been heard
    /// for `patience`, or its process is a later one. Nobody is gone while the fleet is not known.
    pub(crate) fn is_gone(&self, agent: AgentId, since: Timestamp, patience: Duration) -> bool {
        self.is_current
            && match self.agents.get(&agent) {
                Some((heartbeat, Presence::Ready)) => heartbeat.started_at > since,
                Some((_, Presence::Offline { since })) => since.elapsed() > patience,
                // Silent for as long as anybody has listened.
                None => self.current_since.is_some_and(|since| since.elapsed() > patience),
            }
    }

    /// The agents, sorted by host name.
    pub(crate) fn views(&self) -> Vec<AgentView> {
        let mut views: Vec<AgentView> = self
            .agents
            .values()
            .map(|(heartbeat, presence)| AgentView {
                id: heartbeat.agent,
                hostname: heartbeat.hostname.clone(),
                state: match (presence, self.drained(heartbeat.agent)) {
                    (Presence::Offline { .. }, _) => AgentCondition::Offline,
                    (Presence::Ready, None) => AgentCondition::Ready,
                    (Presence::Ready, Some(_)) if heartbeat.drained && heartbeat.running == 0 => AgentCondition::Drained,
                    (Presence::Ready, Some(_)) => AgentCondition::Draining,
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
        self.agents.values().filter(|(_, presence)| *presence == Presence::Ready).map(|(heartbeat, _)| heartbeat)
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
        match self.available_host(name) {
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

    fn host(&self, name: &HostName, waits: Waits) -> Result<AgentId, NoTarget> {
        match self.available_host(name) {
            Err(NoTarget::Offline { agent, .. } | NoTarget::Drained { agent, .. }) if waits == Waits::ForAgents => Ok(agent),
            found => found,
        }
    }

    fn available_host(&self, name: &HostName) -> Result<AgentId, NoTarget> {
        if let Ok(agent) = name.as_str().parse::<AgentId>()
            && let Some((heartbeat, presence)) = self.agents.get(&agent)
        {
            return match presence {
                Presence::Ready => self.takes_work(heartbeat),
                Presence::Offline { .. } => Err(NoTarget::Offline { agent: heartbeat.agent, hostname: heartbeat.hostname.clone() }),
            };
        }
        // Host names are compared as DNS compares them.
        let is_named = |heartbeat: &&Heartbeat| heartbeat.hostname.eq_ignore_ascii_case(name.as_str());
        let mut living = self.living().filter(is_named);
        match (living.next(), living.next()) {
            (Some(one), None) => self.takes_work(one),
            (Some(_), Some(_)) => Err(NoTarget::Ambiguous {
                hostname: name.to_string(),
                ids: self.living().filter(is_named).map(|heartbeat| heartbeat.agent).collect(),
            }),
            (None, _) => match self.agents.values().map(|(heartbeat, _)| heartbeat).find(is_named) {
                Some(heartbeat) => Err(NoTarget::Offline { agent: heartbeat.agent, hostname: heartbeat.hostname.clone() }),
                None => {
                    let known = self.agents.values().map(|(heartbeat, _)| heartbeat.hostname.as_str());
                    Err(NoTarget::Unknown { name: name.to_string(), nearest: nearest(name.as_str(), known) })
                }
            },
        }
    }

    fn forget_some(&mut self) {
        let offline = || {
            self.agents.iter().filter_map(|(agent, (_, presence))| match presence {
                Presence::Ready => None,
                Presence::Offline { since } => Some((*since, *agent)),
            })
        };
        if offline().count() > OFFLINE_KEPT
            && let Some((_, longest)) = offline().min()
        {
            self.agents.remove(&longest);
        }
    }
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
    while let Some(event) = watch.next().await {
        app.fleet_mut().take(event?);
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn heartbeat(agent: u128, hostname: &str) -> Heartbeat {
        Heartbeat {
            schema: 1,
            agent: AgentId::from_bits(agent),
            hostname: hostname.to_owned(),
            version: "0".to_owned(),
            max_jobs: 1,
            running: 0,
            drained: false,
            labels: Vec::new(),
            started_at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    fn beat(agent: u128, hostname: &str) -> RegistryEvent {
        RegistryEvent::Beat(heartbeat(agent, hostname))
    }

    fn fleet(events: impl IntoIterator<Item = RegistryEvent>) -> Fleet {
        let mut fleet = Fleet::default();
        events.into_iter().for_each(|event| fleet.take(event));
        fleet.take(RegistryEvent::Current);
        fleet
    }

    #[track_caller]
    fn check(fleet: &Fleet, target: &str, expected: Result<ExecutionId, &str>) {
        let found = fleet.resolve(&target.parse().unwrap(), Waits::No).map(|executions| executions[0]).map_err(|error| error.to_string());
        match expected {
            Ok(execution) => assert_eq!(found, Ok(execution)),
            Err(text) => assert!(found.as_ref().is_err_and(|error| error.contains(text)), "{found:?}"),
        }
    }

    #[test]
    fn targets_find_their_agents() {
        let one = AgentId::from_bits(1);
        let twins = fleet([
            beat(1, "Web-01.example"),
            beat(2, "twin"),
            beat(3, "twin"),
            beat(4, "gone"),
            RegistryEvent::Silent(AgentId::from_bits(4)),
        ]);
        check(&twins, "_any", Ok(ExecutionId::Any));
        check(&twins, "web-01.example", Ok(ExecutionId::Agent(one)));
        check(&twins, &one.to_string(), Ok(ExecutionId::Agent(one)));
        check(&twins, "twin", Err(&AgentId::from_bits(3).to_string()));
        check(&twins, "gone", Err("has not been heard"));
        check(&twins, &AgentId::from_bits(4).to_string(), Err("has not been heard"));
        check(&twins, "nowhere", Err("no agent is known"));
        assert_eq!(
            twins.resolve(&"web-02.example".parse().unwrap(), Waits::No),
            Err(NoTarget::Unknown { name: "web-02.example".to_owned(), nearest: vec!["Web-01.example".to_owned()] })
        );
        assert_eq!(twins.resolve(&"gone".parse().unwrap(), Waits::ForAgents), Ok(vec![AgentId::from_bits(4).into()]));
        assert!(twins.resolve(&"nowhere".parse().unwrap(), Waits::ForAgents).is_err());
        assert_eq!(fleet([]).resolve(&"_any".parse().unwrap(), Waits::ForAgents), Ok(vec![ExecutionId::Any]));
        check(&fleet([]), "_any", Err("no agent is ready"));
        check(&Fleet::default(), "_any", Err("not known yet"));
    }

    fn member(agent: u128, labels: &[&str]) -> RegistryEvent {
        let labels = labels.iter().map(|label| label.parse().unwrap()).collect();
        RegistryEvent::Beat(Heartbeat { labels, ..heartbeat(agent, "web") })
    }

    #[test]
    fn groups_and_all_are_frozen_sets_of_those_who_are_ready() {
        let fleet = fleet([
            member(1, &["group:web.dev.us-east", "tier:web.dev"]),
            member(2, &["group:web.development"]),
            // Two labels of one group count once.
            member(3, &["group:web.dev", "group:web.dev.eu"]),
            member(4, &["group:web.dev"]),
            RegistryEvent::Left(AgentId::from_bits(4)),
        ]);
        let of = |target: &str| fleet.resolve(&target.parse().unwrap(), Waits::No);
        let agents = |ids: &[u128]| Ok(ids.iter().map(|id| ExecutionId::Agent(AgentId::from_bits(*id))).collect());
        assert_eq!(of("_all"), agents(&[1, 2, 3]));
        assert_eq!(of("group:web"), agents(&[1, 2, 3]));
        assert_eq!(of("group:web.dev"), agents(&[1, 3]));
        assert_eq!(of("tier:web"), agents(&[1]));
        assert_eq!(of("_any@group:web.development"), Ok(vec![ExecutionId::Any]));
        for target in ["group:wed", "_any@group:wed"] {
            let Err(NoTarget::NoMember { nearest, .. }) = of(target) else { panic!("{target} means somebody") };
            assert!(nearest.contains(&"group:web".to_owned()), "{nearest:?}");
        }
    }

    #[test]
    fn of_too_many_that_are_offline_the_one_for_longest_is_forgotten() {
        let silent = |agent| RegistryEvent::Silent(AgentId::from_bits(agent));
        // The last to fall silent is the one whose process is the oldest.
        let newest = OFFLINE_KEPT as u128 + 1;
        let later = Heartbeat { started_at: jiff::Timestamp::from_second(1).unwrap(), ..heartbeat(2, "web") };
        let mut fleet = fleet([beat(newest, "web"), RegistryEvent::Beat(later), silent(2)]);
        fleet.agents.extend((3..newest).map(|agent| {
            let since = Instant::now();
            (AgentId::from_bits(agent), (heartbeat(agent, "web"), Presence::Offline { since }))
        }));
        fleet.agents.insert(AgentId::from_bits(1), (heartbeat(1, "web"), Presence::Offline { since: Instant::now() }));
        fleet.take(silent(newest));
        assert!(fleet.agents.contains_key(&AgentId::from_bits(newest)));
        assert!(!fleet.agents.contains_key(&AgentId::from_bits(2)));
    }

    #[test]
    fn a_host_that_came_back_under_a_new_id_is_found() {
        let fleet = fleet([beat(1, "web"), RegistryEvent::Left(AgentId::from_bits(1)), beat(2, "web")]);
        check(&fleet, "web", Ok(ExecutionId::Agent(AgentId::from_bits(2))));
        assert_eq!(fleet.views().len(), 2);
    }
}
