use longshore_model::wire::record::{Answer, EventKind, ResultObject};
use longshore_model::{AgentId, ExecutionId, ExecutionState, JobId};
use longshore_store::{Store, archive_name, bundle_name, jetstream, result_name};
use longshore_testkit::NatsServer;

use super::super::tests::{Bench, answer, append, at, create, started, store};
use super::*;

/// More than [`SETTLED_AFTER`] from now.
const LATER: i64 = 15 * 60;

#[tokio::test]
async fn in_memory_objects_that_nothing_leads_to_are_removed_and_no_others() {
    only_what_nothing_leads_to_is_removed(store()).await;
}

#[tokio::test]
async fn on_a_broker_objects_that_nothing_leads_to_are_removed_and_no_others() {
    let server = NatsServer::start().await;
    let config = jetstream::Config { url: server.url(), ..jetstream::Config::default() };
    only_what_nothing_leads_to_is_removed(jetstream::connect(&config).await.unwrap()).await;
}

fn result(job: JobId, attempt: u32) -> String {
    result_name(job, ExecutionId::Any, attempt)
}

fn archive(job: JobId) -> String {
    archive_name(job, ExecutionId::Any)
}

async fn names(store: &Store) -> Vec<String> {
    let page = store.objects.page(0).await.unwrap();
    let mut names: Vec<String> = page.items.into_iter().map(|(name, _)| name).collect();
    names.sort();
    names
}

async fn only_what_nothing_leads_to_is_removed(store: Store) {
    // Two controllers.
    let (one, other) = (Bench::on(&store), Bench::on(&store));
    let object = || Some(ResultObject { bytes: 5, sha256: "0".repeat(64) });
    let run = async |id: u128| {
        let (job, created) = create(&store, id).await;
        (job, append(&store, job, created, started()).await)
    };
    let (running, _) = run(1).await;
    let (lost, began) = run(2).await;
    append(&store, lost, began, EventKind::Lost { attempt: 1 }).await;
    let (tried_twice, began) = run(3).await;
    let again = EventKind::Started { attempt: 2, agent: AgentId::from_bits(2), hostname: "web-02".to_owned(), delivery: None };
    append(&store, tried_twice, began, again).await;
    store.ledger.answer(&Answer { attempts: 2, result: None, result_object: object(), ..answer(tried_twice) }).await.unwrap();
    let (given_up, _) = run(4).await;
    store.ledger.answer(&answer(given_up)).await.unwrap();
    let (late, began) = run(5).await;
    let again = EventKind::Started { attempt: 2, agent: AgentId::from_bits(2), hostname: "web-02".to_owned(), delivery: None };
    append(&store, late, began, again).await;
    store.ledger.answer(&Answer { result: None, result_object: object(), ..answer(late) }).await.unwrap();
    let (deleted, _) = run(6).await;
    let never = JobId::from_bits(7);

    let mut needed = vec![
        bundle_name(&"0a".repeat(32)),
        "plain".to_owned(),
        result(running, 1),
        result(lost, 1),
        result(tried_twice, 2),
        archive(tried_twice),
        archive(given_up),
        result(late, 1),
    ];
    let unneeded = [
        result(tried_twice, 1),
        result(given_up, 1),
        result(late, 2),
        result(deleted, 1),
        archive(deleted),
        archive(never),
        result(never, 3),
    ];
    for name in needed.iter().chain(&unneeded) {
        store.objects.put(name, Box::pin(&b"hello"[..])).await.unwrap();
    }
    store.ledger.delete(deleted).await.unwrap();
    for bench in [&one, &other] {
        bench.index_has(lost, ExecutionState::Lost).await;
        for job in [tried_twice, given_up, late] {
            bench.index_has(job, ExecutionState::Completed).await;
        }
        bench.index(|index| index.get(deleted).is_none()).await;
    }
    let all = names(&store).await;
    assert_eq!(all.len(), needed.len() + unneeded.len());
    assert_eq!(pass(one.app.clone(), None, at(0)).await.unwrap(), None);
    assert_eq!(names(&store).await, all, "who stored it may be about to say where it is");

    let (first, second) = tokio::join!(pass(one.app.clone(), None, at(LATER)), pass(other.app.clone(), None, at(LATER)));
    assert_eq!((first.unwrap(), second.unwrap()), (None, None));
    needed.sort();
    assert_eq!(names(&store).await, needed);
    pass(one.app.clone(), None, at(LATER)).await.unwrap();
    assert_eq!(names(&store).await, needed, "a second pass finds nothing");

    // The late answer of the lost one leads to its result, which was kept for that.
    store.ledger.answer(&Answer { result: None, result_object: object(), ..answer(lost) }).await.unwrap();
    one.index_has(lost, ExecutionState::Completed).await;
    pass(one.app.clone(), None, at(LATER)).await.unwrap();
    assert_eq!(names(&store).await, needed);
}
