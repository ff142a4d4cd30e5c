//! What a real broker's deliveries say of earlier ones when it was restarted, or has forgotten them.

use std::time::Duration;

use longshore_store::jetstream::{Config, connect};
use longshore_store::{Absence, Announcement, Before, Store};
use longshore_testkit::{NatsServer, eventually};

use crate::harness::{A_WHILE, Puller, soon};
use crate::sample::*;

async fn open(server: &NatsServer, ack_wait: Duration) -> Store {
    let mut config = Config { url: server.url(), ..Config::default() };
    config.consumer.ack_wait = ack_wait;
    soon(connect(&config)).await.unwrap()
}

#[tokio::test]
async fn a_consumer_that_was_made_again_says_nothing_of_what_its_predecessor_delivered() {
    let server = NatsServer::start().await;
    let store = open(&server, Duration::from_secs(60)).await;
    create(&store, &any_job(1)).await;
    let mut puller = Puller::new(&store).await;
    let first = puller.next().await;
    first.lease.give_back(Duration::ZERO).await.unwrap();
    let second = puller.next().await;
    let (first, second_said) = (first.lease.delivery().unwrap(), second.lease.delivery().unwrap());
    assert!(second.lease.follows(&first).await.unwrap());

    let client = async_nats::connect(server.url()).await.unwrap();
    let work = async_nats::jetstream::new(client).get_stream("JOBS").await.unwrap();
    work.delete_consumer("job-agents").await.unwrap();
    assert!(!second.lease.follows(&first).await.unwrap(), "there is nobody who could say so");

    // Whoever has it from the predecessor may still be at work, and is not gone because a third one gives it back.
    let third = puller.next().await;
    assert_eq!(third.before, Before::Nothing);
    third.lease.give_back(Duration::ZERO).await.unwrap();
    let fourth = puller.next().await;
    assert_eq!(fourth.before, Before::Offers);
    assert!(fourth.lease.follows(&third.lease.delivery().unwrap()).await.unwrap());
    for earlier in [first, second_said] {
        assert!(!fourth.lease.follows(&earlier).await.unwrap(), "{earlier}");
    }
    assert!(!second.lease.follows(&third.lease.delivery().unwrap()).await.unwrap());
}

#[tokio::test]
async fn a_claim_that_lapsed_over_a_kill_of_the_broker_is_known_to_be_over() {
    let mut server = NatsServer::start().await;
    let store = open(&server, Duration::from_secs(2)).await;
    create(&store, &any_job(1)).await;
    let mut puller = Puller::new(&store).await;
    let first = puller.next().await.lease.delivery().unwrap();
    // On disk by then.
    assert!(puller.finds(Duration::from_secs(1)).await.is_none());
    server.kill();
    server.restart().await;
    let second = soon(puller.next()).await;
    assert!(second.lease.follows(&first).await.unwrap(), "{first}, then {:?}", second.lease.delivery());
}

/// INV-07: what an agent runs is what was accepted, byte for byte, also where nobody signs.
#[tokio::test]
async fn work_that_was_changed_on_its_way_is_not_taken_and_can_be_announced_again() {
    let server = NatsServer::start().await;
    let store = open(&server, Duration::from_secs(60)).await;
    let streams = async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let me = agent_id(1);
    let (any, host) = (any_job(1), host_job(2, me));
    let mut revisions = Vec::new();
    for definition in [&any, &host] {
        revisions.push(create(&store, definition).await);
    }
    for (stream, id) in [("JOBS", any.id), ("KV_agent-inbox", host.id)] {
        let stream = streams.get_stream(stream).await.unwrap();
        let copied = async || {
            let subjects = server.stored_subjects().await.into_iter();
            let subject = subjects.filter(|(name, _)| *name == stream.cached_info().config.name).map(|(_, subject)| subject);
            subject.into_iter().find(|subject| subject.contains(&id.to_string()))
        };
        let subject = eventually("the broker's copy", Duration::from_secs(15), copied).await;
        let copy = stream.get_last_raw_message_by_subject(&subject).await.unwrap();
        let text = String::from_utf8(copy.payload.to_vec()).unwrap();
        let changed = text.replace("echo hello", "echo other").replace(r#"["true"]"#, r#"["false"]"#);
        assert_ne!(changed, text);
        stream.purge().filter(&subject).await.unwrap();
        // A source's own header is the broker's alone.
        let mut headers = own(&copy.headers);
        headers.insert("Longshore-Revision", "1");
        streams.publish_with_headers(subject, headers, changed.into()).await.unwrap().await.unwrap();
    }
    let mut puller = Puller::new(&store).await;
    assert!(puller.finds(A_WHILE).await.is_none(), "the changed one is nobody's");
    assert!(store.work.inbox(me, 0).await.unwrap().deliveries.is_empty());
    for (definition, revision) in [&any, &host].into_iter().zip(revisions) {
        let announcement = Announcement { execution: definition.executions[0], revision, seen: revision, absence: Absence::Gone };
        assert!(store.work.announce(definition, announcement).await.unwrap(), "it is missing, and is announced again");
    }
    assert_eq!(puller.next().await.definition, any);
    assert_eq!(store.work.inbox(me, 0).await.unwrap().deliveries[0].definition, host);
}

#[tokio::test]
async fn a_definition_that_was_changed_in_the_ledger_is_not_read() {
    let server = NatsServer::start().await;
    let store = open(&server, Duration::from_secs(60)).await;
    create(&store, &any_job(1)).await;
    let streams = async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let ledger = streams.get_stream("KV_job-queue").await.unwrap();
    let subject = server.stored_subjects().await.into_iter().find(|(name, _)| name == "KV_job-queue").unwrap().1;
    let stored = ledger.get_last_raw_message_by_subject(&subject).await.unwrap();
    assert!(store.ledger.load(job_id(1)).await.unwrap().is_some());
    let changed = String::from_utf8(stored.payload.to_vec()).unwrap().replace("echo hello", "echo other");
    streams.publish_with_headers(subject, own(&stored.headers), changed.into()).await.unwrap().await.unwrap();
    let error = store.ledger.load(job_id(1)).await.unwrap_err();
    assert!(matches!(error, longshore_store::Error::Corrupt { .. }), "{error:?}");
}

/// What we said of a message, without the broker's words.
fn own(headers: &async_nats::HeaderMap) -> async_nats::HeaderMap {
    let mut own = async_nats::HeaderMap::new();
    for (name, values) in headers.iter().filter(|(name, _)| !name.to_string().starts_with("Nats-")) {
        values.iter().for_each(|value| own.append(name.clone(), value.clone()));
    }
    own
}
