//! Attached workers over a real broker, which is killed as well.

use std::time::Duration;

use longshore_store::{Store, jetstream};
use longshore_testkit::NatsServer;
use serde_json::json;

use super::live::{each_once, spawn};
use crate::support::House;

async fn store(server: &NatsServer) -> Store {
    jetstream::connect(&jetstream::Config { url: server.url(), ..jetstream::Config::default() }).await.unwrap()
}

#[tokio::test]
async fn a_result_waits_for_the_broker_and_is_acknowledged_when_that_has_it() {
    let mut server = NatsServer::start().await;
    let house = House::on(store(&server).await, |_| {}).await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let id = house.run_package("edge-01", json!({})).await;
    let dispatch = worker.dispatched().await;
    server.kill();
    let frame = worker.result(&dispatch, "SUCCEEDED", json!({"n": 1}));
    worker.send(&frame).await;
    // The dispatch may be said again, if its acknowledgement was slow.
    let acknowledged = async { while worker.until("control.ack").await["ack"]["for"] != frame["id"] {} };
    assert!(tokio::time::timeout(Duration::from_millis(500), acknowledged).await.is_err(), "nothing is acknowledged that nobody has");
    server.restart().await;
    while worker.until("control.ack").await["ack"]["for"] != frame["id"] {}
    let job = house.ends_as(id, "completed").await;
    assert_eq!(job["executions"][0]["result"]["output"], json!({"n": 1}));
}

#[tokio::test]
async fn under_kills_of_controller_and_broker_and_cuts_each_job_runs_once() {
    let mut server = NatsServer::start().await;
    let mut house = House::on(store(&server).await, |_| {}).await;
    let (seen, _live) = spawn(&house, Duration::from_millis(30), Some(Duration::from_millis(400)));
    house.knows("edge-live", "ready").await;
    let mut jobs = Vec::new();
    for round in 0..4 {
        for _ in 0..8 {
            jobs.push(house.run_package("edge-live", json!({"wait_for_agents": "5m"})).await);
        }
        tokio::time::sleep(Duration::from_millis(60)).await;
        if round == 2 {
            server.kill();
            tokio::time::sleep(Duration::from_millis(300)).await;
            server.restart().await;
        }
        drop(house.kill());
        // As another process would: with a connection of its own.
        house = House::on(store(&server).await, |_| {}).await;
        *seen.address.lock().unwrap() = house.address().to_owned();
        house.until("it is known", async || !house.get("/api/v1/agents").await["items"].as_array().unwrap().is_empty()).await;
    }
    for id in &jobs {
        let job = house.ends_as(*id, "completed").await;
        assert_eq!(job["executions"][0]["attempts"], 1);
    }
    each_once(&seen, jobs.len());
}
