//! The floor: publish, consume, publish, with as many durable writes as a job has.
//!
//! A job is three: its definition (which the broker sources into the work queue), the record that it has started, its answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::{Config, RetentionPolicy, Source, StorageType, SubjectTransform};
use async_nats::jetstream::{self, consumer::DeliverPolicy};
use futures::StreamExt;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// Bytes of each message: about what a small definition has.
const PAYLOAD: &[u8] = &[b'x'; 400];

type Waiters = Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>;

/// Workers and a submitter on one broker; ends when dropped.
pub(crate) struct Floor {
    context: jetstream::Context,
    waiters: Waiters,
    next: std::sync::atomic::AtomicU64,
    _tasks: JoinSet<()>,
}

impl Floor {
    pub(crate) async fn start(url: &str, n_workers: usize) -> anyhow::Result<Self> {
        let context = jetstream::new(async_nats::connect(url).await?);
        let file = Config { storage: StorageType::File, ..Config::default() };
        context.create_stream(Config { name: "FLOOR-LEDGER".into(), subjects: vec!["floor.ledger.>".into()], ..file.clone() }).await?;
        let transform = SubjectTransform { source: "floor.ledger.def.*".into(), destination: "floor.work.{{wildcard(1)}}".into() };
        let source = Source { name: "FLOOR-LEDGER".into(), subject_transforms: vec![transform], ..Source::default() };
        let work = Config { name: "FLOOR-WORK".into(), retention: RetentionPolicy::WorkQueue, sources: Some(vec![source]), ..file.clone() };
        let work = context.create_stream(work).await?;
        let answers =
            context.create_stream(Config { name: "FLOOR-ANSWERS".into(), subjects: vec!["floor.answers.>".into()], ..file }).await?;
        let waiters = Waiters::default();
        let mut tasks = JoinSet::new();
        let durable = pull::Config { durable_name: Some("workers".into()), ..pull::Config::default() };
        let consumer = work.create_consumer(durable).await?;
        // Workers have a connection of their own, as agents do.
        let worker_context = jetstream::new(async_nats::connect(url).await?);
        for _ in 0..n_workers {
            tasks.spawn(worker(consumer.clone(), worker_context.clone()));
        }
        let tail =
            answers.create_consumer(pull::OrderedConfig { deliver_policy: DeliverPolicy::New, ..pull::OrderedConfig::default() }).await?;
        tasks.spawn(listen(tail.messages().await?, waiters.clone()));
        Ok(Self { context, waiters, next: 0.into(), _tasks: tasks })
    }

    /// One job: in, done, answered, seen.
    pub(crate) async fn job(&self) -> anyhow::Result<()> {
        let id = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string();
        let (tx, rx) = oneshot::channel();
        self.waiters.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.insert(id.clone(), tx);
        self.context.publish(format!("floor.ledger.def.{id}"), PAYLOAD.into()).await?.await?;
        tokio::time::timeout(Duration::from_secs(60), rx).await.context("the floor lost a message")?.context("the listener ended")
    }
}

async fn worker(consumer: jetstream::consumer::Consumer<pull::Config>, context: jetstream::Context) {
    loop {
        let Ok(mut messages) = consumer.batch().max_messages(1).expires(Duration::from_secs(30)).messages().await else { continue };
        while let Some(Ok(message)) = messages.next().await {
            let Some(id) = message.subject.rsplit('.').next() else { continue };
            for subject in [format!("floor.ledger.start.{id}"), format!("floor.answers.{id}")] {
                if let Ok(ack) = context.publish(subject, PAYLOAD.into()).await {
                    let _ = ack.await;
                }
            }
            let _ = message.double_ack().await;
        }
    }
}

async fn listen(mut answers: pull::Ordered, waiters: Waiters) {
    while let Some(Ok(message)) = answers.next().await {
        let Some(id) = message.subject.rsplit('.').next() else { continue };
        if let Ok(mut waiters) = waiters.lock()
            && let Some(waiter) = waiters.remove(id)
        {
            let _ = waiter.send(());
        }
    }
}
