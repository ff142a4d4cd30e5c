//! Several fleets on one broker: each has its own names, and sees nothing of the others.

use longshore_store::jetstream::{Config, connect};
use longshore_store::{FeedItem, LetterEvent, Position, RegistryEvent, RegistryItem, Store};
use longshore_testkit::{NatsOptions, NatsServer};

use crate::harness::{A_WHILE, Puller, next, nothing_comes, soon};
use crate::sample::*;
use crate::{audit, dead_letters, registry};

#[tokio::test]
async fn two_namespaces_on_one_broker_do_not_see_each_other() {
    let server = NatsServer::start_with(NatsOptions { max_file_store: Some(1 << 40), ..NatsOptions::default() }).await;
    let open = async |namespace: &str| {
        let config = Config { url: server.url(), namespace: namespace.to_owned(), ..Config::default() };
        soon(connect(&config)).await.unwrap()
    };
    // A fleet without a namespace is one of them, and names that begin alike are different names.
    let (blue, others) = (open("blue").await, [open("green").await, open("").await, open("blue-2").await]);
    let (agent, group) = (agent_id(1), "group:web".parse().unwrap());
    let mut hints = Vec::new();
    for other in &others {
        hints.push(other.work.wakes(agent, std::slice::from_ref(&group)).await.unwrap());
    }

    fill(&blue).await;

    for (n, other) in others.iter().enumerate() {
        assert!(nothing_comes(&mut hints[n], A_WHILE).await, "a hint");
        assert!(Puller::new(other).await.finds(A_WHILE).await.is_none(), "work for anybody");
        assert!(!other.work.has_work(&group).await.unwrap() && other.work.take(&group, 1).await.unwrap().is_empty(), "a group's work");
        assert!(other.work.inbox(agent, 0).await.unwrap().deliveries.is_empty(), "addressed work");
        for job in 1..=4 {
            assert!(other.ledger.load(job_id(job)).await.unwrap().is_none(), "a job");
        }
        assert!(other.ledger.load_answer(job_id(1), any_job(1).executions[0]).await.unwrap().is_none(), "an answer");
        assert!(
            matches!(next(&mut other.registry.watch().await.unwrap()).await, Ok(RegistryItem { event: RegistryEvent::Current, .. })),
            "an agent"
        );
        assert!(other.registry.state_of(agent).await.unwrap().is_none(), "what people want");
        assert!(matches!(next(&mut other.dead_letters.follow().await.unwrap()).await, Ok(LetterEvent::Current)), "a dead letter");
        assert!(other.audit.after(0, 10).await.unwrap().items.is_empty(), "the audit trail");
        assert_eq!(other.logs.last(job_id(1)).await.unwrap(), 0, "output");
        assert!(other.objects.info("bundle").await.unwrap().is_none(), "an object");
        let mut feed = other.feed.follow(Position::default()).await.unwrap();
        assert_eq!(next(&mut feed).await.unwrap(), FeedItem::CaughtUp, "a change");
        // Nor does what they remove reach it.
        other.ledger.delete(job_id(1)).await.unwrap();
        other.objects.delete("bundle").await.unwrap();
    }
    assert!(blue.ledger.load(job_id(1)).await.unwrap().is_some() && blue.objects.info("bundle").await.unwrap().is_some());
    assert!(Puller::new(&blue).await.finds(A_WHILE).await.is_some());
}

/// One of everything.
async fn fill(store: &Store) {
    let any = any_job(1);
    let created = create(store, &any).await;
    append(store, &any, created, &started(1, agent_id(1))).await;
    store.ledger.answer(&answer(any.id, any.executions[0], "done")).await.unwrap();
    create(store, &group_work(2, "group:web")).await;
    create(store, &host_job(3, agent_id(1))).await;
    create(store, &shared_job(4, &[agent_id(1), agent_id(2)])).await;
    store.registry.beat(&registry::heartbeat(1, 0)).await.unwrap();
    store.dead_letters.put(&dead_letters::letter(1), 0).await.unwrap();
    store.audit.append(&[audit::record(1)]).await.unwrap();
    store.objects.put("bundle", Box::pin(&b"content"[..])).await.unwrap();
    store.work.signal_cancel(agent_id(1), job_id(1)).await.unwrap();
}
