//! Controllers that end, connections that are cut, and two controllers side by side: what was claimed, what runs, and what was answered.

use std::time::Duration;

use serde_json::{Value, json};

use super::raw::RawWorker;
use super::work::memory;
use crate::support::House;

#[tokio::test]
async fn a_result_that_is_said_to_the_next_controller_finds_its_execution() {
    let house = House::start().await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let id = house.run_package("edge-01", json!({})).await;
    let dispatch = worker.dispatched().await;
    let house = House::on(house.kill(), |_| {}).await;
    let mut worker = house.worker("w-1", "edge-01").await;
    worker.finish(&dispatch, "SUCCEEDED", json!({"n": 1})).await;
    let job = house.ends_as(id, "completed").await;
    assert_eq!((&job["executions"][0]["attempts"], &job["executions"][0]["result"]["output"]), (&json!(1), &json!({"n": 1})));
}

#[tokio::test]
async fn what_ran_when_its_controller_ended_is_not_handed_to_a_worker_that_would_run_it_twice() {
    let house = House::start().await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let id = house.run_package("edge-01", json!({})).await;
    let first = worker.dispatched().await;
    let house = House::on(house.kill(), |_| {}).await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let other = house.run_package("edge-01", json!({})).await;
    // The only dispatch is that of the other job.
    let second = worker.dispatched().await;
    assert_eq!(second["payload"]["run_id"], other.to_string());
    worker.finish(&second, "SUCCEEDED", json!({})).await;
    house.ends_as(other, "completed").await;
    worker.finish(&first, "SUCCEEDED", json!({})).await;
    house.ends_as(id, "completed").await;
}

#[tokio::test]
async fn an_answer_that_was_stored_before_its_controller_could_acknowledge_it_is_final() {
    let house = House::start().await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let id = house.run_package("edge-01", json!({})).await;
    let dispatch = worker.dispatched().await;
    worker.finish(&dispatch, "SUCCEEDED", json!({"n": 1})).await;
    house.ends_as(id, "completed").await;
    let house = House::on(house.kill(), |_| {}).await;
    let mut worker = house.worker("w-1", "edge-01").await;
    // Said again, in other words: it is acknowledged, and changes nothing.
    worker.finish(&dispatch, "FAILED", json!({"n": 2})).await;
    assert_eq!(house.ends_as(id, "completed").await["executions"][0]["result"]["output"], json!({"n": 1}));
}

#[tokio::test]
async fn a_worker_that_moves_to_another_controller_is_served_by_that_one_alone() {
    let store = memory();
    let quick = |config: &mut longshore_controller::Config| config.gateway.beat_every = Duration::from_millis(50);
    let (one, two) = (House::on(store.clone(), quick).await, House::on(store, quick).await);
    let mut first = one.worker("w-1", "edge-01").await;
    let id = one.run_package("edge-01", json!({})).await;
    let dispatch = first.dispatched().await;
    let mut second = RawWorker::dial(&two, "w-1").await;
    second.attach(&two.attach_token(), "edge-01").await;
    // The registry says so, and the first controller lets go of it.
    let reset = first.until("control.reset").await;
    assert_eq!(reset["payload"], json!({"code": "E.SESSION.STALE_BINDING", "reason": "superseded session"}));
    second.finish(&dispatch, "SUCCEEDED", json!({})).await;
    one.ends_as(id, "completed").await;
    for _ in 0..5 {
        let id = one.run_package("edge-01", json!({})).await;
        let dispatch = second.dispatched().await;
        second.finish(&dispatch, "SUCCEEDED", json!({})).await;
        let job = two.ends_as(id, "completed").await;
        assert_eq!(job["executions"][0]["attempts"], 1);
    }
    let agents = one.get("/api/v1/agents").await;
    assert_eq!(agents["items"].as_array().unwrap().len(), 1, "it is one agent, wherever it is attached");
}

#[tokio::test]
async fn a_task_that_its_worker_does_not_have_after_it_began_anew_is_given_up_by_the_jobs_policy() {
    let house = House::on(memory(), |config| config.gateway.doubt_within = Duration::from_millis(100)).await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let once = house.run_package("edge-01", json!({})).await;
    worker.dispatched().await;
    let twice = house.run_package("edge-01", json!({"retry": {"max_attempts": 2, "backoff": ["1ms"]}})).await;
    worker.dispatched().await;
    // Its process was killed, and the next one knows nothing.
    worker.cut();
    let mut worker = house.worker("w-1", "edge-01").await;
    // It says so for as long as it is doubted.
    let mut job = Value::Null;
    while job["status"] != "failed" {
        worker.heartbeat(0).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        job = house.get(&format!("/api/v1/jobs/{once}")).await;
    }
    assert_eq!(job["executions"][0]["error"]["code"], "interrupted");
    let again = worker.dispatched().await;
    assert_eq!((again["payload"]["run_id"].as_str(), again["seq"].as_u64()), (Some(twice.to_string().as_str()), Some(2)));
    worker.finish(&again, "SUCCEEDED", json!({})).await;
    house.ends_as(twice, "completed").await;
}

#[tokio::test]
async fn a_result_is_acknowledged_when_its_answer_is_stored_and_not_before() {
    let store = memory();
    let house = House::on(store.clone(), |_| {}).await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let id = house.run_package("edge-01", json!({})).await;
    let dispatch = worker.dispatched().await;
    let frame = worker.result(&dispatch, "SUCCEEDED", json!({"n": 1}));
    // Said five times before any of them is answered: one answer, and each is acknowledged in the end.
    for _ in 0..5 {
        worker.send(&frame).await;
    }
    let ack = worker.until("control.ack").await;
    assert_eq!(ack["ack"]["for"], frame["id"]);
    let stored: Value = house.get(&format!("/api/v1/jobs/{id}")).await;
    assert_eq!(stored["status"], "completed", "acknowledged is stored");
}
