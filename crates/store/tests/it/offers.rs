//! What a real broker's deliveries say of earlier ones when it was restarted, or has forgotten them.

use std::time::Duration;

use longshore_store::jetstream::{Config, connect};
use longshore_store::{Before, Store};
use longshore_testkit::NatsServer;

use crate::harness::{Puller, soon};
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
