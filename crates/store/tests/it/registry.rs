//! Which agents live: heartbeats, goodbyes and silences, and where a watcher begins.

use std::time::Duration;

use longshore_model::wire::agent::{AgentState, Heartbeat};
use longshore_store::{RegistryEvent, RegistryStream, Store, Wake};

use crate::harness::{A_WHILE, next, nothing_comes, soon};
use crate::sample::{agent_id, create, host_job, then};

conformance!(GENEROUS:
    an_empty_fleet_is_current_at_once,
    a_watcher_is_told_the_fleet_as_it_is,
    a_watcher_is_told_of_changes,
    who_left_may_return,
    goodbyes_are_safe_to_repeat,
    what_people_want_of_an_agent_is_kept_and_told,
    of_two_that_beat_after_the_same_one_is_bound,
    what_was_wanted_of_an_agent_is_kept_in_order,
    an_agent_that_is_forgotten_leaves_nothing_and_may_return,
);
conformance!(SHORT:
    an_agent_without_heartbeat_falls_silent,
    an_agent_that_beats_on_is_not_silent,
    who_fell_silent_may_return,
    who_fell_silent_is_bound_anew,
    those_who_are_gone_are_no_part_of_the_fleet,
);

const TTL: Duration = Duration::from_secs(2);

async fn an_empty_fleet_is_current_at_once(store: Store) {
    let mut watcher = store.registry.watch().await.unwrap();
    assert_eq!(next(&mut watcher).await.unwrap().event, RegistryEvent::Current);
    assert!(nothing_comes(&mut watcher, A_WHILE).await);
}

async fn a_watcher_is_told_the_fleet_as_it_is(store: Store) {
    for heartbeat in [heartbeat(1, 0), heartbeat(2, 0), heartbeat(3, 0), heartbeat(1, 1)] {
        store.registry.beat(&heartbeat).await.unwrap();
    }
    store.registry.leave(agent_id(2)).await.unwrap();
    assert_eq!(fleet(&store).await.1, [heartbeat(3, 0), heartbeat(1, 1)]);
}

async fn those_who_are_gone_are_no_part_of_the_fleet(store: Store) {
    let (mut earlier, _) = fleet(&store).await;
    for n in [1, 2] {
        store.registry.beat(&heartbeat(n, 0)).await.unwrap();
        next(&mut earlier).await.unwrap();
    }
    store.registry.leave(agent_id(1)).await.unwrap();
    assert_eq!(next(&mut earlier).await.unwrap().event, RegistryEvent::Left(agent_id(1)));
    assert_eq!(next(&mut earlier).await.unwrap().event, RegistryEvent::Silent(agent_id(2)));
    let mut newcomer = store.registry.watch().await.unwrap();
    assert_eq!(next(&mut newcomer).await.unwrap().event, RegistryEvent::Current);
}

async fn a_watcher_is_told_of_changes(store: Store) {
    let (mut watcher, _) = fleet(&store).await;
    for event in [RegistryEvent::Beat(heartbeat(1, 0)), RegistryEvent::Beat(heartbeat(2, 5)), RegistryEvent::Beat(heartbeat(1, 3))] {
        let RegistryEvent::Beat(heartbeat) = &event else { unreachable!() };
        store.registry.beat(heartbeat).await.unwrap();
        assert_eq!(next(&mut watcher).await.unwrap().event, event);
    }
    store.registry.leave(agent_id(1)).await.unwrap();
    assert_eq!(next(&mut watcher).await.unwrap().event, RegistryEvent::Left(agent_id(1)));
    assert!(nothing_comes(&mut watcher, A_WHILE).await);
}

async fn who_left_may_return(store: Store) {
    let (mut watcher, _) = fleet(&store).await;
    for running in 0..3 {
        store.registry.beat(&heartbeat(1, running)).await.unwrap();
        assert_eq!(next(&mut watcher).await.unwrap().event, RegistryEvent::Beat(heartbeat(1, running)));
        store.registry.leave(agent_id(1)).await.unwrap();
        assert_eq!(next(&mut watcher).await.unwrap().event, RegistryEvent::Left(agent_id(1)));
    }
    assert_eq!(fleet(&store).await.1, []);
}

async fn goodbyes_are_safe_to_repeat(store: Store) {
    store.registry.beat(&heartbeat(1, 0)).await.unwrap();
    store.registry.beat(&heartbeat(2, 0)).await.unwrap();
    for agent in [agent_id(1), agent_id(1), agent_id(7)] {
        store.registry.leave(agent).await.unwrap();
    }
    assert_eq!(fleet(&store).await.1, [heartbeat(2, 0)]);
}

async fn an_agent_without_heartbeat_falls_silent(store: Store) {
    let (mut watcher, _) = fleet(&store).await;
    store.registry.beat(&heartbeat(1, 0)).await.unwrap();
    assert_eq!(next(&mut watcher).await.unwrap().event, RegistryEvent::Beat(heartbeat(1, 0)));
    assert_eq!(next(&mut watcher).await.unwrap().event, RegistryEvent::Silent(agent_id(1)));
    assert_eq!(fleet(&store).await.1, []);
    assert!(nothing_comes(&mut watcher, A_WHILE).await);
}

async fn an_agent_that_beats_on_is_not_silent(store: Store) {
    let (mut watcher, _) = fleet(&store).await;
    for running in 0..8 {
        store.registry.beat(&heartbeat(1, running)).await.unwrap();
        assert_eq!(next(&mut watcher).await.unwrap().event, RegistryEvent::Beat(heartbeat(1, running)));
        assert!(nothing_comes(&mut watcher, TTL / 4).await, "silent after heartbeat {running}");
    }
}

async fn who_fell_silent_may_return(store: Store) {
    let (mut watcher, _) = fleet(&store).await;
    for running in 0..2 {
        store.registry.beat(&heartbeat(1, running)).await.unwrap();
        assert_eq!(next(&mut watcher).await.unwrap().event, RegistryEvent::Beat(heartbeat(1, running)));
        assert_eq!(next(&mut watcher).await.unwrap().event, RegistryEvent::Silent(agent_id(1)));
    }
}

async fn what_people_want_of_an_agent_is_kept_and_told(store: Store) {
    let state = |drained| AgentState { schema: 1, agent: agent_id(1), drained, at: then(), by: "ada".to_owned(), reason: None };
    assert_eq!(store.registry.state_of(agent_id(1)).await.unwrap(), None);
    let (mut early, _) = fleet(&store).await;
    let mut wakes = store.work.wakes(agent_id(1), &[]).await.unwrap();
    let mut others = store.work.wakes(agent_id(2), &[]).await.unwrap();
    for drained in [true, false, true] {
        store.registry.set_state(&state(drained)).await.unwrap();
        assert_eq!(store.registry.state_of(agent_id(1)).await.unwrap(), Some(state(drained)));
        assert_eq!(next(&mut early).await.unwrap().event, RegistryEvent::State(state(drained)));
        while next(&mut wakes).await != Wake::State {}
    }
    let mut late = store.registry.watch().await.unwrap();
    assert_eq!(next(&mut late).await.unwrap().event, RegistryEvent::State(state(true)), "only what is wanted now, though nobody lives");
    assert_eq!(next(&mut late).await.unwrap().event, RegistryEvent::Current);
    assert!(nothing_comes(&mut others, A_WHILE).await);
}

async fn of_two_that_beat_after_the_same_one_is_bound(store: Store) {
    let registry = &store.registry;
    let none = registry.newest(agent_id(1)).await.unwrap();
    assert_eq!((none.revision, none.heartbeat), (0, None));
    let first = registry.beat_after(&heartbeat(1, 1), 0).await.unwrap().unwrap();
    assert_eq!(registry.beat_after(&heartbeat(1, 2), 0).await.unwrap(), None, "somebody is bound already");
    let newest = registry.newest(agent_id(1)).await.unwrap();
    assert_eq!((newest.revision, newest.heartbeat), (first, Some(heartbeat(1, 1))));
    let second = registry.beat_after(&heartbeat(1, 3), first).await.unwrap().unwrap();
    assert!(second > first);
    assert_eq!(registry.beat_after(&heartbeat(1, 4), first).await.unwrap(), None);
    registry.leave(agent_id(1)).await.unwrap();
    let gone = registry.newest(agent_id(1)).await.unwrap();
    assert_eq!((gone.revision > second, gone.heartbeat), (true, None));
    assert!(registry.beat_after(&heartbeat(1, 5), gone.revision).await.unwrap().is_some());
    assert_eq!(fleet(&store).await.1, [heartbeat(1, 5)]);
}

async fn who_fell_silent_is_bound_anew(store: Store) {
    let (mut watcher, _) = fleet(&store).await;
    let first = store.registry.beat_after(&heartbeat(1, 0), 0).await.unwrap().unwrap();
    next(&mut watcher).await.unwrap();
    assert_eq!(next(&mut watcher).await.unwrap().event, RegistryEvent::Silent(agent_id(1)));
    assert_eq!(store.registry.beat_after(&heartbeat(1, 1), first).await.unwrap(), None);
    let gone = store.registry.newest(agent_id(1)).await.unwrap();
    assert_eq!(gone.heartbeat, None);
    assert!(store.registry.beat_after(&heartbeat(1, 1), gone.revision).await.unwrap().is_some());
}

async fn what_was_wanted_of_an_agent_is_kept_in_order(store: Store) {
    let state =
        |n: u64| AgentState { schema: 1, agent: agent_id(1), drained: n.is_multiple_of(2), at: then(), by: format!("p{n}"), reason: None };
    assert_eq!(store.registry.states_of(agent_id(1)).await.unwrap(), []);
    for n in 0..20 {
        store.registry.set_state(&state(n)).await.unwrap();
    }
    let expected: Vec<_> = (4..20).rev().map(state).collect();
    assert_eq!(store.registry.states_of(agent_id(1)).await.unwrap(), expected);
    assert_eq!(store.registry.states_of(agent_id(2)).await.unwrap(), []);
}

async fn an_agent_that_is_forgotten_leaves_nothing_and_may_return(store: Store) {
    let (gone, stays) = (agent_id(1), agent_id(2));
    for (n, agent) in [(1, gone), (2, stays)] {
        let state = AgentState { schema: 1, agent, drained: true, at: then(), by: "ada".to_owned(), reason: None };
        store.registry.set_state(&state).await.unwrap();
        store.registry.beat(&heartbeat(n, 0)).await.unwrap();
        store.facts.put(&crate::facts::record(agent, "web")).await.unwrap();
        create(&store, &host_job(n, agent)).await;
        soon(async { while store.work.inbox(agent, 0).await.unwrap().deliveries.is_empty() {} }).await;
    }
    let (mut watcher, _) = fleet(&store).await;
    for _ in 0..2 {
        store.registry.forget(gone).await.unwrap();
        assert_eq!(next(&mut watcher).await.unwrap().event, RegistryEvent::Removed(gone));
    }
    let left = async |agent| {
        let state = store.registry.state_of(agent).await.unwrap().is_some();
        let heartbeat = store.registry.newest(agent).await.unwrap().heartbeat.is_some();
        let facts = store.facts.of(agent).await.unwrap().is_some();
        let states = store.registry.states_of(agent).await.unwrap().len();
        (state, heartbeat, facts, states, store.work.inbox(agent, 0).await.unwrap().deliveries.len())
    };
    assert_eq!(left(gone).await, (false, false, false, 0, 0));
    assert_eq!(left(stays).await, (true, true, true, 1, 1));
    store.registry.beat(&heartbeat(1, 0)).await.unwrap();
    assert_eq!(next(&mut watcher).await.unwrap().event, RegistryEvent::Beat(heartbeat(1, 0)));
    assert_eq!(fleet(&store).await.1.len(), 2);
}

pub(crate) fn heartbeat(agent: u64, running: usize) -> Heartbeat {
    Heartbeat {
        refused_writes: 0,
        schema: 1,
        agent: agent_id(agent),
        hostname: format!("web-{agent:02}"),
        version: "0.1.0".to_owned(),
        max_jobs: 10,
        running,
        drained: false,
        labels: Vec::new(),
        conditions: Vec::new(),
        process: None,
        worker: None,
        packages: Vec::new(),
        started_at: then(),
    }
}

/// The fleet as a newcomer is told of it, and the newcomer.
async fn fleet(store: &Store) -> (RegistryStream, Vec<Heartbeat>) {
    let mut watcher = store.registry.watch().await.unwrap();
    let mut living = Vec::new();
    loop {
        match next(&mut watcher).await.unwrap().event {
            RegistryEvent::Beat(heartbeat) => living.push(heartbeat),
            RegistryEvent::Current => return (watcher, living),
            // See `those_who_are_gone_are_no_part_of_the_fleet`.
            RegistryEvent::State(_) | RegistryEvent::Left(_) | RegistryEvent::Silent(_) | RegistryEvent::Removed(_) => {}
        }
    }
}
