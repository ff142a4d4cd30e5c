//! After an outage a fleet comes back, but not in one instant.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use longshore_model::AgentId;
use longshore_store::jetstream::{Config, connect};
use longshore_store::{Store, Wake, WakeStream};
use longshore_testkit::{NatsOptions, NatsServer, eventually};

use crate::harness::soon;

const AGENTS: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(30);
/// Long enough that waits have grown.
const OUTAGE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_hundred_agents_come_back_after_an_outage_one_after_the_other() {
    let mut server = NatsServer::start_with(NatsOptions { is_monitored: true, ..NatsOptions::default() }).await;
    let config = Config { url: server.url(), ..Config::default() };
    connect(&config).await.unwrap();
    let mut stores = Vec::new();
    let mut wakes = Vec::new();
    for n in 0..AGENTS {
        let store = soon(connect(&config)).await.unwrap();
        wakes.push(store.work.wakes(AgentId::from_bits(u128::from(n)), &[]).await.unwrap());
        stores.push(store);
    }

    // A machine that stood still brings many at one instant, and not every time.
    let mut told = Vec::new();
    for _ in 0..3 {
        let back_in = outage(&mut server, &stores, &mut wakes).await;
        println!("back, a tenth of a second each: {back_in:?}");
        let busiest = back_in.values().copied().max().unwrap_or_default();
        // Were they spread evenly over the second and more that a wait then varies by, it would be ten at most.
        if busiest <= 40 && back_in.len() >= 5 {
            return;
        }
        told.push(back_in);
    }
    panic!("too many of {AGENTS} in a tenth of a second, each time: {told:?}");
}

/// How many come back in each tenth of a second after the first, by the broker's own word.
async fn outage(server: &mut NatsServer, stores: &[Store], wakes: &mut [WakeStream]) -> BTreeMap<i128, u32> {
    server.kill();
    tokio::time::sleep(OUTAGE).await;
    server.restart().await;
    let connections = eventually("everybody to be back", PATIENCE, async || {
        stores.iter().all(|store| store.broker.is_connected()).then_some(())?;
        let list = server.monitor("/connz?limit=1000").await;
        let connections = list["connections"].as_array()?.clone();
        (connections.len() >= stores.len()).then_some(connections)
    })
    .await;
    // Each is told to look for what it missed.
    for wake in wakes {
        assert_eq!(soon(wake.next()).await, Some(Wake::Reconnected));
    }
    let starts: Vec<Timestamp> = connections.iter().map(|one| one["start"].as_str().unwrap().parse().unwrap()).collect();
    let first = starts.iter().min().unwrap();
    let mut back_in = BTreeMap::<i128, u32>::new();
    for start in &starts {
        *back_in.entry(start.duration_since(*first).as_millis() / 100).or_default() += 1;
    }
    back_in
}
