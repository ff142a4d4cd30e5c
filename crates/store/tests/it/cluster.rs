//! Three servers that keep copies of everything.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream;
use futures::TryStreamExt;
use longshore_store::Answered;
use longshore_store::jetstream::{Config, connect};
use longshore_testkit::{NatsOptions, NatsServer, cluster, eventually};
use tokio::io::AsyncReadExt as _;

use crate::harness::Puller;
use crate::sample::*;

/// Leaders are chosen within seconds, on a machine that is busy with other tests in more.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn every_stream_has_as_many_copies_as_configured_and_work_survives_the_loss_of_a_server() {
    let mut servers = cluster(&NatsOptions { sync_always: false, ..NatsOptions::default() }).await;
    let url = servers.each_ref().map(NatsServer::url).join(",");
    let config = Config { url: url.clone(), replicas: 3, ..Config::default() };
    let store = eventually("the cluster to be ready", PATIENCE, async || connect(&config).await.ok()).await;
    let servers_of = url.split(',').map(|url| url.parse::<async_nats::ServerAddr>().unwrap()).collect::<Vec<_>>();
    let broker = jetstream::new(async_nats::connect(&servers_of[..]).await.unwrap());
    let names: Vec<String> = broker.stream_names().try_collect().await.unwrap();
    let mut copies = BTreeMap::new();
    for name in names {
        let stream = broker.get_stream(&name).await.unwrap();
        copies.insert(name, stream.cached_info().config.num_replicas);
    }
    assert!(copies.len() >= 10 && copies.values().all(|n| *n == 3), "{copies:?}");

    // Whichever copy is asked: one that lags would say of what was stored just now that it is not there.
    for n in 0_u8..20 {
        let (name, content) = (format!("object {n}"), vec![n; 300_000]);
        store.objects.put(&name, Box::pin(std::io::Cursor::new(content.clone()))).await.unwrap();
        let mut read = Vec::new();
        store.objects.get(&name).await.unwrap().expect("it is there").read_to_end(&mut read).await.unwrap();
        assert!(read == content, "{name} differs");
    }

    let jobs = [any_job(1), any_job(2)];
    create(&store, &jobs[0]).await;
    servers[0].kill();
    // The others choose who leads; until then the store says that it does not know.
    eventually("another job to be taken", PATIENCE, async || store.ledger.create(&jobs[1]).await.ok()).await;
    eventually("the queue to be served", PATIENCE, async || store.work.join().await.ok()).await;
    let mut puller = Puller::new(&store).await;
    for job in &jobs {
        let delivery = puller.finds(PATIENCE).await.expect("it is offered");
        assert_eq!(delivery.definition, *job);
        let answer = answer(job.id, job.executions[0], "done");
        let answered = eventually("its answer", PATIENCE, async || store.ledger.answer(&answer).await.ok()).await;
        assert_eq!(answered, Answered::Stored);
        delivery.lease.done().await.unwrap();
    }
}
