//! Jobs of several executions: one definition, a share for each, and histories that do not meet.

use std::time::Duration;

use longshore_model::AgentId;
use longshore_model::wire::record::Definition;
use longshore_store::{Absence, Announcement, Appended, Created, Store};
use longshore_testkit::eventually;

use crate::sample::*;

conformance!(GENEROUS:
    each_agent_is_offered_its_share_and_nothing_else,
    a_job_whose_shares_are_large_is_read_whole,
    histories_of_shares_do_not_meet,
    what_was_deleted_takes_nothing_more,
    a_share_that_is_there_is_not_made_again,
);

fn agents() -> [AgentId; 3] {
    [agent_id(1), agent_id(2), agent_id(3)]
}

async fn each_agent_is_offered_its_share_and_nothing_else(store: Store) {
    let job = shared_job(1, &agents());
    create(&store, &job).await;
    assert_eq!(store.ledger.create(&job).await.unwrap(), Created::Exists);
    for agent in agents() {
        let delivery =
            eventually("a share", Duration::from_secs(15), async || store.work.inbox(agent, 0).await.unwrap().deliveries.pop()).await;
        assert_eq!(delivery.definition, longshore_model::wire::record::Definition { executions: vec![agent.into()], ..job.clone() });
        let record = store.ledger.load_execution(job.id, agent.into()).await.unwrap().unwrap();
        assert_eq!((record.revision, record.events.len(), record.answer), (delivery.revision, 0, None));
    }
    assert!(store.work.inbox(agent_id(4), 0).await.unwrap().deliveries.is_empty());
    let record = store.ledger.load(job.id).await.unwrap().unwrap();
    assert_eq!((&record.definition, record.shares.len()), (&job, 3));
}

async fn a_job_whose_shares_are_large_is_read_whole(store: Store) {
    let agents: Vec<AgentId> = (1..=6).map(agent_id).collect();
    let job = Definition { args: large_job(1, 900 * 1024).args, ..shared_job(1, &agents) };
    create(&store, &job).await;
    let revision = store.ledger.load_execution(job.id, agents[5].into()).await.unwrap().unwrap().revision;
    store.ledger.append(job.id, agents[5].into(), revision, &started(1, agents[5])).await.unwrap();
    let record = store.ledger.load(job.id).await.unwrap().unwrap();
    assert_eq!((&record.definition, record.shares.len(), record.events.len()), (&job, 6, 1));
    assert_eq!(record.shares.keys().copied().collect::<Vec<_>>(), job.executions);
}

async fn histories_of_shares_do_not_meet(store: Store) {
    let job = shared_job(1, &agents());
    create(&store, &job).await;
    let record = store.ledger.load(job.id).await.unwrap().unwrap();
    for agent in agents() {
        let share = record.revision(agent.into());
        let started = started(1, agent);
        let Appended::Stored(revision) = store.ledger.append(job.id, agent.into(), share, &started).await.unwrap() else {
            panic!("another share's history stands in the way");
        };
        assert_eq!(store.ledger.append(job.id, agent.into(), share, &started).await.unwrap(), Appended::Stored(revision), "a repeat");
        assert_eq!(store.ledger.append(job.id, agent.into(), share, &cancel_requested("ada")).await.unwrap(), Appended::Conflict);
        let one = store.ledger.load_execution(job.id, agent.into()).await.unwrap().unwrap();
        assert_eq!((one.revision, one.events), (revision, vec![started]));
    }
    assert_eq!(store.ledger.load(job.id).await.unwrap().unwrap().events.len(), 3);
}

async fn what_was_deleted_takes_nothing_more(store: Store) {
    let job = shared_job(1, &agents());
    create(&store, &job).await;
    let share = store.ledger.load(job.id).await.unwrap().unwrap().revision(agent_id(1).into());
    store.work.withdraw(&job).await.unwrap();
    store.ledger.delete(job.id).await.unwrap();
    let refused = store.ledger.append(job.id, agent_id(1).into(), share, &started(1, agent_id(1))).await.unwrap();
    assert_eq!(refused, Appended::Conflict);
    assert_eq!(store.ledger.load_execution(job.id, agent_id(1).into()).await.unwrap(), None);
    assert_eq!(store.ledger.load(job.id).await.unwrap(), None);
}

async fn a_share_that_is_there_is_not_made_again(store: Store) {
    let job = shared_job(1, &agents());
    create(&store, &job).await;
    let announcement = Announcement { execution: agent_id(1).into(), revision: 0, seen: 0, absence: Absence::Gone };
    assert!(!store.work.announce(&job, announcement).await.unwrap());
    assert_eq!(store.ledger.load(job.id).await.unwrap().unwrap().shares.len(), 3);
}
