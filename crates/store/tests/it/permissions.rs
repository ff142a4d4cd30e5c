//! An agent whose user at the broker may do no more than it needs: `docs/broker-users.md` says what that is, and is what runs here.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use longshore_model::wire::log::LogRecord;
use longshore_store::jetstream::{Auth, Config, connect};
use longshore_store::{Answered, Appended, Store};
use longshore_testkit::{NatsOptions, NatsServer, eventually};
use tokio::io::AsyncReadExt as _;

use crate::harness::{next, soon};
use crate::sample::*;

const PATIENCE: Duration = Duration::from_secs(15);

/// The document's user, for this agent.
fn user(agent: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/broker-users.md");
    let document = std::fs::read_to_string(path).unwrap();
    let block = document.split("```text\n").nth(1).unwrap().split("```").next().unwrap();
    block.replace("AGENT", agent).replace("PASSWORD", "s3cret")
}

async fn broker() -> (NatsServer, Config, Config) {
    broker_without("nothing").await
}

/// One that does not allow the agent what has this name.
async fn broker_without(subject: &str) -> (NatsServer, Config, Config) {
    let agent = agent_id(1).to_string();
    let user = user(&agent).replace(&format!("\"{subject}\""), "\"nobody.reads\"");
    let extra_config = format!("authorization {{ users: [{{user: controller, password: s3cret}}, {user}] }}");
    let server = NatsServer::start_with(NatsOptions { is_monitored: true, extra_config, ..NatsOptions::default() }).await;
    let login = |user: &str| Auth::UserPassword { user: user.to_owned(), password: "s3cret".to_owned() };
    let controller = Config { url: server.url(), auth: login("controller"), ..Config::default() };
    let agent = Config { auth: login(&agent), inbox_prefix: format!("_INBOX_{agent}"), ..controller.clone() };
    (server, controller, agent)
}

#[tokio::test]
async fn an_agent_with_no_more_than_it_needs_does_its_work() {
    let (server, controller, config) = broker().await;
    let controller = soon(connect(&controller)).await.unwrap();
    let store = soon(connect(&config)).await.unwrap();
    let (me, group) = (agent_id(1), "group:web".parse().unwrap());
    store.work.join().await.unwrap();
    store.registry.beat(&crate::registry::heartbeat(1, 0)).await.unwrap();
    assert_eq!(store.registry.state_of(me).await.unwrap(), None);
    let mut wakes = store.work.wakes(me, std::slice::from_ref(&group)).await.unwrap();

    for definition in [any_job(1), group_work(2, "group:web"), host_job(3, me), shared_job(4, &[me, agent_id(2)])] {
        create(&controller, &definition).await;
    }
    for _ in 0..3 {
        next(&mut wakes).await;
    }
    let mut deliveries = vec![next(&mut store.work.pull(1).await.unwrap()).await];
    deliveries.extend(
        eventually("the group's work", PATIENCE, async || store.work.take(&group, 1).await.ok().filter(|taken| !taken.is_empty())).await,
    );
    deliveries.extend(
        eventually("the inbox", PATIENCE, async || {
            let page = store.work.inbox(me, 0).await.ok()?;
            (page.deliveries.len() == 2).then_some(page.deliveries)
        })
        .await,
    );
    for delivery in deliveries {
        carry(&store, delivery).await;
    }
    store.objects.put("bundle", Box::pin(&b"content"[..])).await.unwrap();
    store.objects.put("bundle", Box::pin(&b"another"[..])).await.unwrap();
    let mut content = String::new();
    let read = store.objects.get("bundle").await.unwrap().unwrap().read_to_string(&mut content).await;
    assert!(read.is_ok(), "{read:?}: {}", server.log());
    assert_eq!(content, "another");
    store.registry.leave(me).await.unwrap();
    let log = server.log();
    assert!(!log.contains("Violation"), "{log}");
}

async fn carry(store: &Store, delivery: longshore_store::Delivery) {
    let (job, execution) = (delivery.definition.id, delivery.definition.executions[0]);
    assert!(store.ledger.load_execution(job, execution).await.unwrap().is_some());
    let started = started(1, agent_id(1));
    assert!(matches!(store.ledger.append(job, execution, delivery.revision, &started).await.unwrap(), Appended::Stored(_)));
    delivery.lease.extend().await.unwrap();
    let output = |seq| LogRecord { job, execution, ..crate::logs::record(1, seq) };
    store.logs.append(&[output(0), output(1)]).await.unwrap();
    assert_eq!(store.logs.newest(job, execution).await.unwrap(), Some((1, 1)));
    assert_eq!(store.ledger.answer(&answer(job, execution, "done")).await.unwrap(), Answered::Stored);
    delivery.lease.done().await.unwrap();
}

/// As users of brokers were set up before objects were read several pieces at a time.
#[tokio::test]
async fn an_agent_that_may_only_ask_for_single_pieces_reads_objects_all_the_same() {
    let (_server, controller, agent) = broker_without("$JS.API.DIRECT.GET.OBJ_objects").await;
    let (controller, agent) = (soon(connect(&controller)).await.unwrap(), soon(connect(&agent)).await.unwrap());
    let content: Vec<u8> = (0..500_000u32).flat_map(u32::to_le_bytes).collect();
    controller.objects.put("bundle", Box::pin(std::io::Cursor::new(content.clone()))).await.unwrap();
    let mut read = Vec::new();
    soon(agent.objects.get("bundle").await.unwrap().unwrap().read_to_end(&mut read)).await.unwrap();
    assert!(read == content, "it differs");
}

#[tokio::test]
async fn an_agent_may_not_do_what_is_not_its_own() {
    let (_server, controller, config) = broker().await;
    let controller = soon(connect(&controller)).await.unwrap();
    create(&controller, &host_job(1, agent_id(2))).await;
    let Auth::UserPassword { user, password } = config.auth else { panic!("that is how it logs in") };
    let refusals = Arc::new(Mutex::new(Vec::new()));
    let heard = refusals.clone();
    let client = async_nats::ConnectOptions::with_user_and_password(user, password)
        .custom_inbox_prefix(config.inbox_prefix)
        .event_callback(move |event| {
            heard.lock().unwrap().push(event.to_string());
            std::future::ready(())
        })
        .connect(config.url)
        .await
        .unwrap();
    let (job, other) = (job_id(1), agent_id(2));
    let foreign = [
        // Submitting, answering and writing history for others, draining, being somebody else.
        format!("$KV.job-queue.jobs.{job}._any.def.modify"),
        format!("$KV.job-queue.jobs.{job}.host.{other}.share.modify"),
        format!("$KV.job-queue.jobs.{job}.host.{other}.event.1"),
        format!("$KV.job-responses.{job}.{other}"),
        format!("$KV.agent-inbox.{other}.{job}"),
        format!("$KV.agent-state.{}", agent_id(1)),
        format!("$KV.agent-registry.{other}"),
        format!("logs.{job}.{other}"),
        format!("cancel.{other}"),
        "deleted".to_owned(),
        "audit.record".to_owned(),
        format!("dead.{job}"),
        // The streams themselves.
        "$JS.API.STREAM.CREATE.MINE".to_owned(),
        "$JS.API.STREAM.UPDATE.JOBS".to_owned(),
        "$JS.API.STREAM.DELETE.JOBS".to_owned(),
        "$JS.API.STREAM.PURGE.KV_job-queue".to_owned(),
        "$JS.API.STREAM.MSG.DELETE.KV_job-queue".to_owned(),
        "$JS.API.CONSUMER.DELETE.JOBS.job-agents".to_owned(),
        "$JS.API.STREAM.MSG.GET.AUDIT".to_owned(),
        "$JS.API.CONSUMER.CREATE.KV_job-responses.spy".to_owned(),
    ];
    for subject in &foreign {
        client.publish(subject.clone(), "{}".into()).await.unwrap();
    }
    let listening = ["_INBOX.>", "wake.>", "$JS.ACK.>", ">", "$KV.>"];
    for subject in listening {
        // The broker's refusal comes later, as an event.
        let mut refused = client.subscribe(subject).await.unwrap();
        let _ = tokio::time::timeout(Duration::from_millis(20), refused.next()).await;
    }
    client.flush().await.unwrap();
    let expected = foreign.iter().map(String::as_str).chain(listening);
    eventually("a refusal of each", PATIENCE, async || {
        let refusals = refusals.lock().unwrap();
        let is_refused = |subject: &str| refusals.iter().any(|told| told.contains(&format!("\"{subject}\"")));
        expected.clone().all(is_refused).then_some(())
    })
    .await;
    // Nothing of it happened.
    let record = controller.ledger.load(job).await.unwrap().unwrap();
    assert_eq!((record.events.len(), record.answers.len()), (0, 0));
}
