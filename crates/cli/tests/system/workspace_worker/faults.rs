//! A broker that goes away, a disk that is full, a drive that is not there.

use std::fs;

use longshore_testkit::{Disk, eventually};
use serde_json::{Value, json};

use super::{PATIENCE, Place, lines, pid_in};

#[tokio::test]
async fn an_outage_at_the_end_of_a_job_never_costs_the_response() {
    let mut place = Place::new().await;
    let (pid, ran) = (place.file("pid"), place.file("ran"));
    place.job(
        "x",
        &[&format!(
            "echo run >> {}; echo $$ > {}; while ! test -e {}; do sleep 0.05; done",
            ran.display(),
            pid.display(),
            place.file("go").display()
        )],
    );
    place.prepare("").await;
    let mut worker = place.worker("");
    place.send(&json!({ "id": "x" })).await;
    pid_in(&pid).await;
    place.nats.kill();
    fs::write(place.file("go"), "").unwrap();
    let results = place.jobs().join("x/results/result.json");
    eventually("the job has ended", PATIENCE, async || results.exists().then_some(())).await;
    assert!(worker.is_running(), "it waits for its broker");
    place.nats.restart().await;
    assert_eq!(worker.wait(PATIENCE).await.code(), Some(0), "{}", worker.output());
    assert_eq!(place.response("x", 1).await["status"], "success");
    place.settled().await;
    assert_eq!(lines(&ran).len(), 1);
    place.assert_nothing_left();
}

#[tokio::test]
async fn a_worker_that_waits_outlives_its_broker_and_one_that_loses_it_for_good_ends_with_1() {
    let mut place = Place::new().await;
    place.job("x", &["true"]);
    place.prepare("").await;
    let staying = place.worker("--stay");
    let mut waiting = place.worker("--idle 3s -i other");
    let info = "$JS.API.CONSUMER.INFO.JOBS.other";
    eventually("both wait", PATIENCE, async || {
        let other = place.nats.ask(info, &Value::Null).await;
        (place.consumer().await["num_waiting"] == 1 && other["num_waiting"] == 1).then_some(())
    })
    .await;
    place.nats.kill();
    assert_eq!(waiting.wait(PATIENCE).await.code(), Some(1), "{}", waiting.output());
    place.nats.restart().await;
    place.send(&json!({ "id": "x" })).await;
    assert_eq!(place.response("x", 1).await["status"], "success", "{}", staying.output());
}

#[tokio::test]
async fn a_stream_that_somebody_removes_is_made_again_by_a_worker_that_stays() {
    let place = Place::new().await;
    place.job("x", &["true"]);
    place.prepare("").await;
    let worker = place.worker("--stay");
    eventually("it waits", PATIENCE, async || (place.consumer().await["num_waiting"] == 1).then_some(())).await;
    place.nats.ask("$JS.API.STREAM.DELETE.JOBS", &Value::Null).await;
    eventually("it is there again", PATIENCE, async || place.consumer().await.get("config").map(drop)).await;
    place.send(&json!({ "id": "x" })).await;
    assert_eq!(place.response("x", 1).await["status"], "success", "{}", worker.output());
}

#[tokio::test]
async fn a_full_disk_gives_the_job_back_with_a_delay() {
    let place = Place::new().await;
    let disk = match Disk::mount("8m") {
        Ok(disk) => disk,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let dir = place.job("x", &["true"]);
    fs::write(dir.join("large"), vec![1; 4 << 20]).unwrap();
    place.prepare("").await;
    disk.fill();
    place.send(&json!({ "id": "x" })).await;
    let on_disk = format!("-w {}/workspaces", disk.path().display());
    let (code, said) = place.run(&on_disk).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("No space left"), "{said}");
    assert!(place.responses("jobs.results").await.is_empty(), "it is not the job's fault");
    assert_eq!(place.consumer().await["num_ack_pending"], 1, "it is offered again later");
    let began = std::time::Instant::now();
    let (code, said) = place.run("").await;
    assert_eq!((code, place.response("x", 1).await["status"].as_str()), (Some(0), Some("success")), "{said}");
    assert!(began.elapsed() > std::time::Duration::from_secs(2), "after a delay");

    disk.make_room();
    place.send(&json!({ "id": "x" })).await;
    let (code, said) = place.run(&on_disk).await;
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test]
async fn a_drive_that_is_not_there_is_this_hosts_fault() {
    let place = Place::new().await;
    place.job("x", &["true"]);
    place.prepare("").await;
    place.send(&json!({ "id": "x" })).await;
    let (code, said) = place.run("-j /no/such/drive").await;
    assert_eq!(code, Some(1), "{said}");
    assert!(place.responses("jobs.results").await.is_empty());
    assert_eq!(place.run("").await.0, Some(0));
    assert_eq!(place.response("x", 1).await["status"], "success");
}

#[tokio::test]
async fn a_consumer_that_exists_is_used_as_it_is_and_its_last_offer_is_answered() {
    let place = Place::new().await;
    place.job("x", &["true"]);
    place.prepare("-i other").await;
    let config = json!({ "durable_name": "worker-01", "ack_policy": "explicit", "ack_wait": 7_000_000_000_u64, "max_deliver": 2 });
    let made = place.nats.ask("$JS.API.CONSUMER.DURABLE.CREATE.JOBS.worker-01", &json!({ "stream_name": "JOBS", "config": config })).await;
    assert!(made.get("error").is_none(), "{made}");
    place.send(&json!({ "id": "x" })).await;
    assert_eq!(place.run("-j /no/such/drive").await.0, Some(1));
    assert!(place.responses("jobs.results").await.is_empty(), "there is another offer");
    let (code, said) = place.run("-j /no/such/drive").await;
    assert_eq!(code, Some(1), "{said}");
    let response = place.response("x", 1).await;
    assert!(response["status"] == "failed" && response["error"].as_str().unwrap().contains("offers it no more"), "{response}");
    let info = place.consumer().await;
    assert_eq!((&info["config"]["ack_wait"], &info["config"]["max_deliver"]), (&json!(7_000_000_000_u64), &json!(2)));
}
