//! What the broker itself says of our streams, buckets and consumer: it is what the configuration says, at all times.
//!
//! Read with a client of its own, so that the store does not vouch for itself.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::context::Context;
use async_nats::jetstream::stream::{self, DiscardPolicy, PersistenceMode, RetentionPolicy, StorageType};
use futures::StreamExt as _;
use longshore_model::ExecutionId;
use longshore_model::wire::log::{LogRecord, LogStream};
use longshore_model::wire::record::{Definition, SCHEMA};
use longshore_model::wire::turn::Waiter;
use longshore_store::jetstream::{Config, ConnectError, DeadLetters, Facts, KeyValue, Objects, Registry, Stream, connect};
use longshore_store::{Created, Error, ObjectReader, Store};
use longshore_testkit::{NatsServer, eventually};
use tokio::io::AsyncReadExt as _;

use crate::audit::record;
use crate::harness::Puller;
use crate::ledger::reservation;
use crate::objects::BreaksOff;
use crate::sample::*;

const PATIENCE: Duration = Duration::from_secs(15);
const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn after_a_load_every_stream_has_the_configured_bounds_also_when_they_change() {
    let server = NatsServer::start().await;
    let first = config(&server);
    let store = connect(&first).await.unwrap();
    load(&store, 0..200).await;
    let broker = broker(&server).await;
    holds(&broker, &first).await;

    // The same stores under other bounds: what is there stays, the bounds follow.
    let second = Config {
        stream: Stream { max_age: 5 * HOUR, max_bytes: 15 << 20, ..first.stream.clone() },
        kv: KeyValue { ttl: 6 * HOUR, max_bytes: 20 << 20, ..first.kv.clone() },
        logs: Stream { max_age: 7 * HOUR, max_bytes: 3 << 20, ..first.logs.clone() },
        objects: Objects { max_age: 8 * HOUR, max_bytes: 40 << 20, ..first.objects.clone() },
        audit: Stream { max_age: 10 * HOUR, max_bytes: 6 << 20, ..first.audit.clone() },
        dead_letters: DeadLetters { max_age: Some(11 * HOUR), max_bytes: 7 << 20, ..first.dead_letters.clone() },
        facts: Facts { ttl: 11 * HOUR, max_bytes: 7 << 20, ..first.facts.clone() },
        ..first.clone()
    };
    let again = connect(&second).await.unwrap();
    holds(&broker, &second).await;
    load(&again, 200..220).await;
    holds(&broker, &second).await;
    for n in [0, 199, 219] {
        assert!(again.ledger.load(job_id(n)).await.unwrap().is_some(), "{n}");
    }
}

#[tokio::test]
async fn a_stream_of_somebody_else_under_our_name_is_refused_and_left_alone() {
    let server = NatsServer::start().await;
    let broker = broker(&server).await;
    let config = config(&server);
    // Drops what is unfinished, forgets at a power cut, gives work to everybody, listens elsewhere: none of it may pass for ours.
    let dropping =
        stream::Config { max_messages_per_subject: 1, discard: DiscardPolicy::Old, ..named("KV_x0-job-queue", &["$KV.x0-job-queue.>"]) };
    let forgetful = stream::Config {
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        storage: StorageType::Memory,
        ..named("KV_x1-job-responses", &["$KV.x1-job-responses.>"])
    };
    let for_all = stream::Config { discard: DiscardPolicy::New, ..named("x2-JOBS", &["x2.jobs.query.>", "x2.jobs.modify.>"]) };
    let elsewhere = named("x3-JOB-LOGS", &["theirs.>"]);
    let sourceless = stream::Config {
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        ..named("KV_x4-agent-inbox", &["$KV.x4-agent-inbox.>"])
    };
    let objects = named("OBJ_x5-objects", &["$O.x5-objects.C.>", "$O.x5-objects.M.>"]);
    // Keeps every letter that a job ever had.
    let letters = stream::Config { discard: DiscardPolicy::New, ..named("x6-JOBS-DLQ", &["x6.dead.*"]) };
    // Refuses calls' records once it is full.
    let audit = stream::Config { discard: DiscardPolicy::New, ..named("x7-AUDIT", &["x7.audit.record"]) };
    for (n, theirs) in [dropping, forgetful, for_all, elsewhere, sourceless, objects, letters, audit].into_iter().enumerate() {
        let config = Config { namespace: format!("x{n}"), ..config.clone() };
        let before = broker.create_stream(theirs.clone()).await.unwrap().cached_info().config.clone();
        let refused = connect(&config).await.err().unwrap_or_else(|| panic!("{} was taken over", theirs.name));
        let ConnectError::Setup(Error::Layout { store, problem }) = &refused else { panic!("{}: {refused:?}", theirs.name) };
        assert_eq!(store, &theirs.name);
        assert!(problem.contains("nats.server.namespace"), "it says what to do: {problem}");
        assert_eq!(settings(&broker, &theirs.name).await, before, "{} was changed", theirs.name);
    }
    // Another name is indeed the way out.
    connect(&config).await.unwrap();
}

/// Message by message is for brokers of several servers, and for answers of which something is missing.
#[tokio::test]
async fn a_long_history_is_read_in_few_requests() {
    const WAITERS: u64 = 600;
    let server = NatsServer::start().await;
    let store = connect(&config(&server)).await.unwrap();
    let waiter = |n| Waiter { schema: SCHEMA, key: "k".to_owned(), job: job_id(n), execution: None, not_before: None, since: then() };
    let (turns, waiter) = (&store.turns, &waiter);
    let entering = (0..WAITERS).map(|n| async move { turns.enter(&waiter(n)).await.unwrap() });
    futures::stream::iter(entering).buffer_unordered(64).collect::<()>().await;
    let mut questions = server.tap("$JS.API.>").await;
    assert_eq!(store.turns.page(0).await.unwrap().items.len(), usize::try_from(WAITERS).unwrap());
    assert_eq!(questions.heard().await, ["$JS.API.DIRECT.GET.KV_job-turns"; 3]);
}

/// Settings that somebody may have changed by hand, and without which something of ours fails later, or in silence.
#[tokio::test]
async fn a_stream_of_ours_with_a_setting_that_we_rely_on_changed_is_refused_by_name() {
    type Change = fn(&mut stream::Config);
    let rows: [(&str, &str, Change); 8] = [
        // Nobody would be told of agents that fall silent.
        ("KV_agent-registry", "how long it marks what has expired", |config| config.subject_delete_marker_ttl = None),
        ("KV_agent-registry", "its leave to have messages that expire", |config| {
            (config.allow_message_ttl, config.subject_delete_marker_ttl) = (false, None);
        }),
        ("KV_job-turns", "its leave to replace what is under a subject", |config| config.allow_rollup = false),
        ("JOBS-DLQ", "its refusal to be purged", |config| config.deny_purge = true),
        ("JOB-LOGS", "its bound on messages", |config| config.max_messages = 10),
        ("KV_job-responses", "its bound on a message's bytes", |config| config.max_message_size = 1000),
        ("AUDIT", "its silence on what it has stored", |config| config.no_ack = true),
        ("AUDIT", "how it renames what it takes", |config| {
            let transform = stream::SubjectTransform { source: "audit.record".to_owned(), destination: "audit.kept".to_owned() };
            config.subject_transform = Some(transform);
        }),
    ];
    let server = NatsServer::start().await;
    let config = config(&server);
    connect(&config).await.unwrap();
    let broker = broker(&server).await;
    for (name, part, change) in rows {
        let ours = settings(&broker, name).await;
        let mut theirs = ours.clone();
        change(&mut theirs);
        broker.delete_stream(name).await.unwrap();
        broker.create_stream(theirs).await.unwrap();
        let refused = connect(&config).await.err().unwrap_or_else(|| panic!("{name} was taken as it is: {part}"));
        let ConnectError::Setup(Error::Layout { store, problem }) = &refused else { panic!("{name}: {refused:?}") };
        assert!(store == name && problem.contains(part), "{store}: {problem}");
        broker.delete_stream(name).await.unwrap();
        broker.create_stream(ours).await.unwrap();
    }
    connect(&config).await.unwrap();
}

#[tokio::test]
async fn a_key_that_goes_while_it_is_asked_for_is_stored_for_whoever_gets_it() {
    let server = NatsServer::start().await;
    let store = connect(&config(&server)).await.unwrap();
    let ledger = broker(&server).await.get_stream("KV_job-queue").await.unwrap();
    let mut n_given = 0;
    for n in 0..100 {
        let key = format!("{n:064x}");
        let [first, second, third] = [1, 2, 3].map(|job| reservation(10 * n + job));
        store.ledger.reserve(&key, &first).await.unwrap();
        let subject = format!("$KV.job-queue.keys.{key}");
        // As if it had expired.
        let (given, purged) = tokio::join!(store.ledger.reserve(&key, &second), async { ledger.purge().filter(subject).await });
        purged.unwrap();
        if given.unwrap() == second {
            n_given += 1;
            assert_eq!(store.ledger.reserve(&key, &third).await.unwrap(), second, "of two who come one is first");
        }
    }
    println!("{n_given} of 100 came after the key was gone");
}

fn named(name: &str, subjects: &[&str]) -> stream::Config {
    stream::Config { name: name.to_owned(), subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(), ..Default::default() }
}

#[tokio::test]
async fn what_the_broker_adds_to_announced_work_is_small() {
    let server = NatsServer::start().await;
    let store = connect(&config(&server)).await.unwrap();
    for work in [any_job(1), group_work(2, "rack:a.b.c.d"), host_job(3, agent_id(1)), host_query(4, agent_id(1))] {
        create(&store, &work).await;
    }
    let broker = broker(&server).await;
    for name in ["JOBS", "KV_agent-inbox"] {
        let mut stream = broker.get_stream(name).await.unwrap();
        eventually("all is announced", PATIENCE, async || (stream.info().await.unwrap().state.messages == 2).then_some(())).await;
        for sequence in 1..=2 {
            let headers = stream.get_raw_message(sequence).await.unwrap().headers;
            let bytes: usize = headers.iter().flat_map(|(_, values)| values).map(|value| value.as_str().len()).sum();
            assert!(bytes < 400, "{bytes} bytes beside each message of {name}: {headers:?}");
        }
    }
}

#[tokio::test]
async fn streams_whose_transforms_are_all_of_one_source_are_taken_as_they_are() {
    let server = NatsServer::start().await;
    let config = config(&server);
    drop(connect(&config).await.unwrap());
    let broker = broker(&server).await;
    for name in ["JOBS", "KV_agent-inbox"] {
        let mut earlier = settings(&broker, name).await;
        let sources = earlier.sources.take().unwrap();
        let transforms = sources.iter().flat_map(|source| source.subject_transforms.clone()).collect();
        earlier.sources = Some(vec![stream::Source { subject_transforms: transforms, ..sources[0].clone() }]);
        broker.delete_stream(name).await.unwrap();
        broker.create_stream(earlier).await.unwrap();
    }
    let store = connect(&config).await.unwrap();
    create(&store, &any_job(1)).await;
    assert_eq!(Puller::new(&store).await.next().await.definition, any_job(1));
}

#[tokio::test]
async fn a_full_ledger_refuses_new_work_and_keeps_everything_unfinished() {
    let server = NatsServer::start().await;
    let mut config = config(&server);
    config.kv.max_bytes = 64 << 10;
    let store = connect(&config).await.unwrap();
    let mut stored = 0;
    let refusal = loop {
        match store.ledger.create(&large_job(stored, 4 << 10)).await {
            Ok(created) => assert!(matches!(created, Created::Stored(_))),
            Err(error) => break error,
        }
        stored += 1;
        assert!(stored < 32, "it has no bound");
    };
    assert!(matches!(&refusal, Error::Full { store } if store == "job-queue"), "{refusal:?}");
    assert!(refusal.is_retryable() && refusal.had_no_effect());

    // All that was accepted is offered, and what was refused is not.
    let mut puller = Puller::new(&store).await;
    for n in 0..stored {
        let delivery = puller.next().await;
        assert_eq!(delivery.definition, large_job(n, 4 << 10));
        delivery.lease.done().await.unwrap();
    }
    assert!(store.ledger.load(job_id(stored)).await.unwrap().is_none());
    let state = broker(&server).await.get_stream("KV_job-queue").await.unwrap().cached_info().state.clone();
    assert_eq!((state.first_sequence, state.messages), (1, stored), "nothing made room");
}

#[tokio::test]
async fn announcements_wait_while_their_stream_is_full_and_none_is_lost() {
    let server = NatsServer::start().await;
    let mut config = config(&server);
    // Room for some six jobs; the ledger takes them all.
    config.stream.max_bytes = 16 << 10;
    let store = connect(&config).await.unwrap();
    let n_jobs = 12;
    for n in 0..n_jobs {
        let job = large_job(n, 2 << 10);
        create(&store, &job).await;
        let addressed = host_job(1000 + n, agent_id(1));
        create(&store, &Definition { annotations: [("padding".to_owned(), "x".repeat(2 << 10))].into(), ..addressed }).await;
    }
    let mut puller = Puller::new(&store).await;
    for n in 0..n_jobs {
        // The broker tries again only every few seconds.
        let delivery = puller.finds(2 * PATIENCE).await.expect("it is announced when there is room");
        assert_eq!(delivery.definition.id, job_id(n), "in order");
        delivery.lease.done().await.unwrap();
    }
    let mut addressed = BTreeSet::new();
    eventually("all addressed work to be found", 2 * PATIENCE, async || {
        for delivery in store.work.inbox(agent_id(1), 0).await.ok()?.deliveries {
            addressed.insert(delivery.definition.id);
            delivery.lease.done().await.ok()?;
        }
        (addressed.len() as u64 == n_jobs).then_some(())
    })
    .await;
    assert_eq!(addressed, (1000..1000 + n_jobs).map(job_id).collect());
}

#[tokio::test]
async fn the_broker_offers_work_as_configured_and_by_no_back_off_of_its_own() {
    let server = NatsServer::start().await;
    let mut config = config(&server);
    let broker = broker(&server).await;
    for (ack_wait, max_deliver, max_ack_pending) in [(Duration::from_secs(120), 5, 1000), (Duration::from_secs(7), 3, 77)] {
        config.consumer.ack_wait = ack_wait;
        config.consumer.max_deliver = max_deliver;
        config.consumer.max_ack_pending = max_ack_pending;
        let store = connect(&config).await.unwrap();
        assert_eq!(store.work.lease_duration(), ack_wait);
        // The consumer is made when somebody first asks for work.
        let _pull = store.work.pull(1).await.unwrap();
        let jobs = broker.get_stream("JOBS").await.unwrap();
        let found = jobs.consumer_info("job-agents").await.unwrap().config;
        assert_eq!((found.ack_wait, found.max_deliver, found.max_ack_pending), (ack_wait, max_deliver, max_ack_pending));
        assert!(found.backoff.is_empty(), "its first step would override the ack wait: {:?}", found.backoff);
        assert_eq!(jobs.cached_info().state.consumer_count, 1, "one consumer for all agents");
    }
}

#[tokio::test]
async fn work_goes_to_one_queue_group_and_a_renamed_one_takes_over_what_nobody_uses() {
    let server = NatsServer::start().await;
    let mut config = config(&server);
    let first = connect(&config).await.unwrap();
    let mut puller = Puller::new(&first).await;
    config.consumer.queue_group = "crew".to_owned();
    let other = connect(&config).await.unwrap();
    let refused = other.work.join().await.unwrap_err();
    let Error::Layout { problem, .. } = &refused else { panic!("{refused:?}") };
    assert!(problem.contains("`job-agents`") && problem.contains("agent.queue_group") && !refused.is_retryable(), "{problem}");

    // One piece of work is in the hands of the first group when it goes away, another waits.
    create(&first, &any_job(1)).await;
    create(&first, &any_job(2)).await;
    assert_eq!(puller.next().await.definition, any_job(1));
    drop((puller, first));
    eventually("the first group's requests to be forgotten", PATIENCE, async || other.work.join().await.ok()).await;
    let mut puller = Puller::new(&other).await;
    assert_eq!([puller.next().await.definition, puller.next().await.definition], [any_job(1), any_job(2)], "none is lost");
    drop((puller, other));

    // The pace cannot be changed on a consumer that exists.
    config.consumer.replay_original = true;
    let third = connect(&config).await.unwrap();
    eventually("the earlier requests to be forgotten", PATIENCE, async || third.work.join().await.ok()).await;
    let jobs = broker(&server).await.get_stream("JOBS").await.unwrap();
    let found = jobs.consumer_info("crew").await.unwrap().config;
    assert_eq!(found.replay_policy, async_nats::jetstream::consumer::ReplayPolicy::Original);
    assert_eq!(jobs.cached_info().state.consumer_count, 1);
}

#[tokio::test]
async fn uploads_that_break_off_or_do_not_fit_leave_nothing_and_deleted_ones_no_trace() {
    let server = NatsServer::start().await;
    let mut config = config(&server);
    config.objects.max_bytes = 512 << 10;
    let store = connect(&config).await.unwrap();
    let broker = broker(&server).await;
    let n_kept = async || broker.get_stream("OBJ_objects").await.unwrap().cached_info().state.messages;
    let content = |bytes: usize| -> ObjectReader { Box::pin(std::io::Cursor::new(vec![0; bytes])) };

    let broken: ObjectReader = Box::pin(content(300 << 10).chain(BreaksOff));
    assert!(store.objects.put("broken", broken).await.is_err());
    assert_eq!(n_kept().await, 0, "pieces of an upload that broke off stay");

    let refusal = store.objects.put("large", content(1 << 20)).await.unwrap_err();
    assert!(matches!(&refusal, Error::Full { store } if store == "objects"), "{refusal:?}");
    assert_eq!(n_kept().await, 0, "pieces of an upload that did not fit stay");

    for bytes in [0, 1, 300 << 10, 300 << 10] {
        let info = store.objects.put("fits", content(bytes)).await.unwrap();
        assert_eq!(info.size, bytes as u64);
        let read = store.objects.info("fits").await.unwrap().unwrap();
        assert_eq!((read.size, read.sha256), (info.size, info.sha256));
        assert!(read.stored_at.duration_since(info.stored_at).abs() < jiff::SignedDuration::from_secs(60));
        store.objects.delete("fits").await.unwrap();
        assert_eq!(n_kept().await, 0, "a deleted object leaves a trace");
    }

    let uploads = (0..8u8).map(|n| store.objects.put("wanted", Box::pin(std::io::Cursor::new(vec![n; 1000]))));
    futures::future::try_join_all(uploads).await.unwrap();
    assert_eq!(n_kept().await, 2, "uploads that were replaced at once leave pieces beside the last one's piece and description");
}

/// Bounds that are none of the server's defaults, each different.
fn config(server: &NatsServer) -> Config {
    let default = Config::default();
    Config {
        url: server.url(),
        stream: Stream { max_age: HOUR, max_bytes: 16 << 20, ..default.stream },
        kv: KeyValue { ttl: 2 * HOUR, max_bytes: 24 << 20, ..default.kv },
        logs: Stream { max_age: 3 * HOUR, max_bytes: 2 << 20, ..default.logs },
        registry: Registry { ttl: Duration::from_secs(33), ..default.registry },
        audit: Stream { max_age: 9 * HOUR, max_bytes: 5 << 20, ..default.audit },
        facts: Facts { ttl: 10 * HOUR, max_bytes: 6 << 20, ..default.facts },
        objects: Objects { max_age: 4 * HOUR, max_bytes: 32 << 20, ..default.objects },
        ..default
    }
}

async fn broker(server: &NatsServer) -> Context {
    async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap())
}

async fn settings(broker: &Context, name: &str) -> stream::Config {
    broker.get_stream(name).await.unwrap().cached_info().config.clone()
}

/// One write of every kind for each number.
async fn load(store: &Store, numbers: std::ops::Range<u64>) {
    let mut puller = Puller::new(store).await;
    for n in numbers {
        let definition = if n % 2 == 0 { any_job(n) } else { host_job(n, agent_id(1)) };
        let created = create(store, &definition).await;
        append(store, &definition, created, &started(1, agent_id(1))).await;
        store.logs.append(&[log(n, &definition.executions[0])]).await.unwrap();
        store.audit.append(&[record(n)]).await.unwrap();
        store.facts.put(&crate::facts::record(agent_id(n), "web")).await.unwrap();
        store.ledger.answer(&answer(definition.id, definition.executions[0], "done")).await.unwrap();
        if n % 2 == 0 {
            puller.next().await.lease.done().await.unwrap();
        }
        if n % 50 == 0 {
            store.objects.put(&format!("object-{n}"), Box::pin(&b"content"[..])).await.unwrap();
        }
    }
    eventually("the inbox to be filled", PATIENCE, async || {
        (!store.work.inbox(agent_id(1), 0).await.ok()?.deliveries.is_empty()).then_some(())
    })
    .await;
    for delivery in store.work.inbox(agent_id(1), 0).await.unwrap().deliveries {
        delivery.lease.done().await.unwrap();
    }
}

fn log(n: u64, execution: &ExecutionId) -> LogRecord {
    LogRecord {
        job: job_id(n),
        execution: *execution,
        agent: agent_id(1),
        attempt: 1,
        step: 0,
        seq: 0,
        time: then(),
        stream: LogStream::Stdout,
        gap: None,
        bytes: b"hello\n".to_vec(),
    }
}

/// Every stream the broker has is one of ours, as configured.
async fn holds(broker: &Context, config: &Config) {
    use futures::TryStreamExt as _;
    let (limits, work_queue) = (RetentionPolicy::Limits, RetentionPolicy::WorkQueue);
    let (new, old) = (DiscardPolicy::New, DiscardPolicy::Old);
    let Config { stream, kv, dead_letters, logs, objects, audit, facts, .. } = config;
    let mut expected = vec![
        ("KV_job-queue", limits, new, kv.ttl, Some(kv.max_bytes), 1),
        ("KV_job-responses", limits, new, kv.ttl, Some(kv.max_bytes), 1),
        ("JOBS", work_queue, new, stream.max_age, Some(stream.max_bytes), -1),
        ("KV_agent-inbox", limits, new, stream.max_age, Some(stream.max_bytes), 1),
        // As long as the ledger keeps what they are made from, at least.
        ("JOBS-DLQ", limits, new, dead_letters.max_age.unwrap_or(stream.max_age.max(kv.ttl)), Some(dead_letters.max_bytes), 1),
        ("JOB-LOGS", limits, old, logs.max_age, Some(logs.max_bytes), -1),
        ("KV_agent-facts", limits, new, facts.ttl, Some(facts.max_bytes), 1),
        ("AUDIT", limits, old, audit.max_age, Some(audit.max_bytes), -1),
        // Heartbeats expire one by one.
        ("KV_agent-registry", limits, new, Duration::ZERO, None, 1),
        ("KV_job-turns", limits, new, kv.ttl, None, 1),
        ("KV_agent-state", limits, new, Duration::ZERO, None, 16),
        ("OBJ_objects", limits, new, objects.max_age, Some(objects.max_bytes), -1),
    ];
    for (name, retention, discard, max_age, max_bytes, per_subject) in &expected {
        let found = settings(broker, name).await;
        let bytes = max_bytes.map_or(found.max_bytes, |bytes| i64::try_from(bytes).unwrap());
        assert_eq!(
            (found.retention, found.discard, found.max_age, found.max_bytes, found.max_messages_per_subject),
            (*retention, *discard, *max_age, bytes, *per_subject),
            "{name}"
        );
        assert!(found.max_bytes > 0, "{name} has no bound");
        assert_eq!((found.storage, found.num_replicas, found.max_messages), (StorageType::File, config.replicas, -1), "{name}");
        assert_ne!(found.persist_mode, Some(PersistenceMode::Async), "{name} acknowledges before it has written");
    }
    let mut names: Vec<String> = broker.stream_names().try_collect().await.unwrap();
    names.sort_unstable();
    expected.sort_unstable_by_key(|(name, ..)| *name);
    assert_eq!(names, expected.iter().map(|(name, ..)| *name).collect::<Vec<_>>(), "no stream without a row here");
}
