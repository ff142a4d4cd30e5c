//! Who is there, by what the registry tells; and agents in a few words for other tests.

use super::*;

pub(crate) fn heartbeat(agent: u128, hostname: &str) -> Heartbeat {
    Heartbeat {
        refused_writes: 0,
        schema: 1,
        agent: AgentId::from_bits(agent),
        hostname: hostname.to_owned(),
        version: "0".to_owned(),
        max_jobs: 1,
        running: 0,
        drained: false,
        labels: Vec::new(),
        conditions: Vec::new(),
        process: None,
        worker: None,
        packages: Vec::new(),
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
    let found = fleet
        .resolve(&target.parse().unwrap(), super::ANYTHING, Waits::No)
        .map(|executions| executions[0])
        .map_err(|error| error.to_string());
    match expected {
        Ok(execution) => assert_eq!(found, Ok(execution)),
        Err(text) => assert!(found.as_ref().is_err_and(|error| error.contains(text)), "{found:?}"),
    }
}

#[test]
fn targets_find_their_agents() {
    let one = AgentId::from_bits(1);
    let twins =
        fleet([beat(1, "Web-01.example"), beat(2, "twin"), beat(3, "twin"), beat(4, "gone"), RegistryEvent::Silent(AgentId::from_bits(4))]);
    check(&twins, "_any", Ok(ExecutionId::Any));
    check(&twins, "web-01.example", Ok(ExecutionId::Agent(one)));
    check(&twins, &one.to_string(), Ok(ExecutionId::Agent(one)));
    check(&twins, "twin", Err(&AgentId::from_bits(3).to_string()));
    check(&twins, "gone", Err("has not been heard"));
    check(&twins, &AgentId::from_bits(4).to_string(), Err("has not been heard"));
    check(&twins, "nowhere", Err("no agent is known"));
    assert_eq!(
        twins.resolve(&"web-02.example".parse().unwrap(), super::ANYTHING, Waits::No),
        Err(NoTarget::Unknown { name: "web-02.example".to_owned(), nearest: vec!["Web-01.example".to_owned()] })
    );
    assert_eq!(twins.resolve(&"gone".parse().unwrap(), super::ANYTHING, Waits::ForAgents), Ok(vec![AgentId::from_bits(4).into()]));
    assert!(twins.resolve(&"nowhere".parse().unwrap(), super::ANYTHING, Waits::ForAgents).is_err());
    assert_eq!(fleet([]).resolve(&"_any".parse().unwrap(), super::ANYTHING, Waits::ForAgents), Ok(vec![ExecutionId::Any]));
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
    let of = |target: &str| fleet.resolve(&target.parse().unwrap(), super::ANYTHING, Waits::No);
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

fn lost() -> Presence {
    Presence::Away { heard: None, since: Instant::now(), how: Away::Lost }
}

#[test]
fn of_too_many_that_are_offline_the_one_for_longest_is_forgotten() {
    let silent = |agent| RegistryEvent::Silent(AgentId::from_bits(agent));
    // The last to fall silent is the one whose process is the oldest.
    let newest = OFFLINE_KEPT as u128 + 1;
    let later = Heartbeat { started_at: jiff::Timestamp::from_second(1).unwrap(), ..heartbeat(2, "web") };
    let mut fleet = fleet([beat(newest, "web"), RegistryEvent::Beat(later), silent(2)]);
    fleet.agents.extend((3..newest).map(|agent| (AgentId::from_bits(agent), (heartbeat(agent, "web"), lost()))));
    fleet.agents.insert(AgentId::from_bits(1), (heartbeat(1, "web"), lost()));
    fleet.take(silent(newest));
    assert!(fleet.agents.contains_key(&AgentId::from_bits(newest)));
    assert!(!fleet.agents.contains_key(&AgentId::from_bits(2)));
}

#[test]
fn a_crash_is_an_alarm_until_the_agent_is_back_and_a_clean_stop_is_none() {
    let (one, two) = (AgentId::from_bits(1), AgentId::from_bits(2));
    let mut fleet = fleet([beat(1, "crashed"), beat(2, "stopped"), RegistryEvent::Silent(one), RegistryEvent::Left(two)]);
    let now = Timestamp::from_second(1_000_000).unwrap();
    let states = |fleet: &Fleet| fleet.views(now).iter().map(|view| view.state).collect::<Vec<_>>();
    let alarms = |fleet: &Fleet| fleet.alarms(now).iter().map(|alarm| alarm.agent).collect::<Vec<_>>();
    assert_eq!((states(&fleet), alarms(&fleet)), (vec![AgentCondition::Offline, AgentCondition::Stopped], vec![one]));
    fleet.take(RegistryEvent::Left(one));
    assert_eq!(alarms(&fleet), [one], "what was lost did not say goodbye");
    fleet.take(beat(1, "crashed"));
    assert_eq!((states(&fleet)[0], alarms(&fleet)), (AgentCondition::Ready, vec![]));
    fleet.take(RegistryEvent::Silent(one));
    fleet.take(RegistryEvent::Removed(one));
    assert_eq!((states(&fleet), alarms(&fleet)), (vec![AgentCondition::Stopped], vec![]));
}

#[test]
fn whoever_is_not_told_of_when_the_registry_is_watched_anew_is_lost() {
    let mut fleet = fleet([beat(1, "a"), beat(2, "b"), beat(3, "c"), RegistryEvent::Left(AgentId::from_bits(3))]);
    fleet.doubt();
    assert!(fleet.alarms(Timestamp::UNIX_EPOCH).is_empty(), "nothing is known yet");
    fleet.take(beat(2, "b"));
    fleet.take(RegistryEvent::Current);
    let alarms = fleet.alarms(Timestamp::UNIX_EPOCH);
    assert_eq!(alarms.iter().map(|alarm| alarm.agent).collect::<Vec<_>>(), [AgentId::from_bits(1)]);
}

#[test]
fn an_agent_whose_clock_is_an_hour_wrong_is_not_lost() {
    let now = Timestamp::now();
    for hour in [-1, 1] {
        let started_at = now.checked_add(SignedDuration::from_hours(hour)).unwrap();
        let fleet = fleet([RegistryEvent::Beat(Heartbeat { started_at, ..heartbeat(1, "web") })]);
        let view = &fleet.views(now)[0];
        assert_eq!((view.state, view.started_at), (AgentCondition::Ready, started_at));
        assert!(view.last_seen.unwrap() <= now && view.last_seen.unwrap() > now.checked_sub(SignedDuration::from_mins(1)).unwrap());
        // Whether its process is a later one is a matter of its own clock alone.
        let began = started_at.checked_add(SignedDuration::from_secs(5)).unwrap();
        assert!(!fleet.is_gone(AgentId::from_bits(1), began, Duration::ZERO));
    }
}

#[test]
fn two_agents_with_one_host_name_are_never_chosen_between() {
    let (two, three) = (AgentId::from_bits(2), AgentId::from_bits(3));
    let mut fleet = fleet([beat(2, "twin"), beat(3, "Twin")]);
    let both = NoTarget::Ambiguous { hostname: "twin".to_owned(), ids: vec![two, three] };
    let name: HostName = "twin".parse().unwrap();
    assert!(both.to_string().contains(&two.to_string()) && both.to_string().contains(&three.to_string()));
    for end in [None, Some(RegistryEvent::Silent(two)), Some(RegistryEvent::Left(three))] {
        let is_one_left = matches!(end, Some(RegistryEvent::Silent(_)));
        end.into_iter().for_each(|event| fleet.take(event));
        let expected = if is_one_left { Ok(three) } else { Err(both.clone()) };
        assert_eq!((fleet.find(&name), fleet.host(&name, super::ANYTHING, Waits::ForAgents)), (expected.clone(), expected));
    }
}

#[test]
fn a_host_that_came_back_under_a_new_id_is_found() {
    let fleet = fleet([beat(1, "web"), RegistryEvent::Left(AgentId::from_bits(1)), beat(2, "web")]);
    check(&fleet, "web", Ok(ExecutionId::Agent(AgentId::from_bits(2))));
    assert_eq!(fleet.views(Timestamp::UNIX_EPOCH).len(), 2);
}
