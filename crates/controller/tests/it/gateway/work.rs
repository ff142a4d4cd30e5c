//! Jobs on attached workers, from submission to answer.

use std::time::Duration;

use longshore_store::{Store, memory};
use serde_json::{Value, json};

use super::raw::{NODE, PACKAGE};
use crate::support::House;

pub(crate) fn memory() -> Store {
    memory::open(memory::MemoryOptions::default())
}

#[tokio::test]
async fn a_job_for_a_worker_by_its_host_name_is_dispatched_and_its_result_is_the_answer() {
    let house = House::start().await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let id = house.run_package("edge-01", json!({"timeout": "30s"})).await;
    let dispatch = worker.dispatched().await;
    let agent = house.get("/api/v1/agents").await["items"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(
        dispatch["payload"],
        json!({
            "run_id": id.to_string(), "task_id": format!("{agent}/1"), "node_id": agent, "node_type": NODE, "package_name": PACKAGE,
            "package_version": "1.10.0", "parameters": {"text": "hello"}, "constraints": {"timeout_ms": 30_000},
            "concurrency_key": format!("{id}:{agent}"),
        })
    );
    assert_eq!((&dispatch["corr"], &dispatch["seq"], &dispatch["session_seq"]), (&json!(format!("{agent}/1")), &json!(1), &json!(1)));
    assert_eq!(dispatch["ack"], json!({"request": true}));
    worker.finish(&dispatch, "SUCCEEDED", json!({"text": "hello"})).await;
    let job = house.ends_as(id, "completed").await;
    let execution = &job["executions"][0];
    assert_eq!((&execution["hostname"], &execution["attempts"]), (&json!("edge-01"), &json!(1)));
    assert_eq!(execution["result"], json!({"output": {"text": "hello"}, "version": "1.10.0", "metadata": {"host": "x"}}));
}

#[tokio::test]
async fn what_a_worker_says_of_a_failure_is_the_answers_code() {
    let house = House::start().await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let rows = [
        ("E.RUNNER.FAILURE", "failed", "handler_failed"),
        ("E.RUNNER.TIMEOUT", "failed", "timed_out"),
        ("E.RESOURCE.MISSING", "failed", "unsupported"),
        ("E.SOMETHING.NEW", "failed", "handler_failed"),
        // Nobody said that it is safe to run it again.
        ("E.RUNNER.CANCELLED", "failed", "interrupted"),
    ];
    for (code, status, expected) in rows {
        let id = house.run_package("edge-01", json!({})).await;
        let dispatch = worker.dispatched().await;
        let frame = worker.error(&dispatch, code);
        worker.say(&frame).await;
        let job = house.ends_as(id, status).await;
        let error = &job["executions"][0]["error"];
        assert_eq!(error["code"], expected, "{code}");
        assert!(error["message"].as_str().unwrap().contains("in its own words"), "{error}");
    }
    for (status, expected) in [("FAILED", "failed"), ("SKIPPED", "skipped")] {
        let id = house.run_package("edge-01", json!({})).await;
        let dispatch = worker.dispatched().await;
        worker.finish(&dispatch, status, json!({"partly": true})).await;
        let job = house.ends_as(id, expected).await;
        assert_eq!(job["executions"][0]["result"]["output"], json!({"partly": true}));
    }
}

#[tokio::test]
async fn a_result_that_cannot_be_read_fails_its_job_and_no_other() {
    let house = House::start().await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let id = house.run_package("edge-01", json!({})).await;
    let dispatch = worker.dispatched().await;
    let mut frame = worker.result(&dispatch, "NONSENSE", json!({}));
    frame["payload"]["more"] = json!(1);
    worker.say(&frame).await;
    let job = house.ends_as(id, "failed").await;
    assert!(job["executions"][0]["error"]["message"].as_str().unwrap().contains("cannot be read"));
    let stray = worker.numbered("biz.exec.result", json!({"run_id": "r", "task_id": "t", "status": "SUCCEEDED", "result": {}}), &dispatch);
    worker.say(&stray).await;
    let id = house.run_package("edge-01", json!({})).await;
    let dispatch = worker.dispatched().await;
    worker.finish(&dispatch, "SUCCEEDED", json!({})).await;
    house.ends_as(id, "completed").await;
}

#[tokio::test]
async fn what_a_worker_hands_back_is_tried_again_by_the_jobs_own_policy() {
    let house = House::start().await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let id = house.run_package("edge-01", json!({"retry": {"max_attempts": 2, "backoff": ["1ms"]}})).await;
    let first = worker.dispatched().await;
    let frame = worker.error(&first, "E.RUNNER.CANCELLED");
    worker.say(&frame).await;
    let second = worker.dispatched().await;
    assert_ne!(first["payload"]["task_id"], second["payload"]["task_id"]);
    assert_eq!(second["seq"], 2);
    // The first attempt's late word means nothing.
    worker.finish(&first, "SUCCEEDED", json!({"late": true})).await;
    worker.finish(&second, "SUCCEEDED", json!({"late": false})).await;
    let job = house.ends_as(id, "completed").await;
    assert_eq!((&job["executions"][0]["attempts"], &job["executions"][0]["result"]["output"]), (&json!(2), &json!({"late": false})));
}

#[tokio::test]
async fn a_task_that_was_not_taken_is_handed_out_again_in_the_same_attempt() {
    let house = House::start().await;
    let mut worker = house.worker("w-1", "edge-01").await;
    for code in ["E.CMD.OVERLOADED", "E.RUNNER.COOLDOWN", "E.CMD.CONCURRENCY_VIOLATION"] {
        let id = house.run_package("edge-01", json!({})).await;
        let first = worker.dispatched().await;
        let frame = worker.error(&first, code);
        worker.say(&frame).await;
        let second = worker.dispatched().await;
        assert_eq!((&first["payload"], &first["seq"]), (&second["payload"], &second["seq"]), "{code}");
        worker.finish(&second, "SUCCEEDED", json!({})).await;
        assert_eq!(house.ends_as(id, "completed").await["executions"][0]["attempts"], 1, "{code}");
    }
}

#[tokio::test]
async fn feedback_is_in_the_log_before_the_job_has_ended() {
    let house = House::start().await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let id = house.run_package("edge-01", json!({})).await;
    let dispatch = worker.dispatched().await;
    let (run, task) = (&dispatch["payload"]["run_id"], &dispatch["payload"]["task_id"]);
    for n in 0..3 {
        let chunks = json!([
            {"channel": "stdout", "index": n, "text": format!("out {n}\n")},
            {"channel": "stderr", "index": n, "data_base64": "ZXJyCg=="},
        ]);
        let payload = json!({"run_id": run, "task_id": task, "stage": "load", "progress": 0.5, "message": "half", "chunks": chunks});
        let mut frame = worker.numbered("biz.exec.feedback", payload, &dispatch);
        frame.as_object_mut().unwrap().remove("ack");
        worker.send(&frame).await;
    }
    worker.finish(&dispatch, "SUCCEEDED", json!({})).await;
    house.ends_as(id, "completed").await;
    let text = house.request(reqwest::Method::GET, &format!("/api/v1/jobs/{id}/logs")).send().await.unwrap().text().await.unwrap();
    for expected in ["out 0", "out 1", "out 2", "err", "load 50% half"] {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
}

#[tokio::test]
async fn a_cancel_of_a_job_on_a_worker_that_cannot_be_told_is_unverified() {
    let house = House::start().await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let id = house.run_package("edge-01", json!({})).await;
    let dispatch = worker.dispatched().await;
    house.post(&format!("/api/v1/jobs/{id}/cancel"), &json!({})).await;
    let job = house.ends_as(id, "cancelled").await;
    assert_eq!(job["executions"][0]["cancel_verified"], false);
    // Its late result is acknowledged and changes nothing.
    worker.finish(&dispatch, "SUCCEEDED", json!({})).await;
    house.ends_as(id, "cancelled").await;
}

#[tokio::test]
async fn a_job_whose_worker_does_not_answer_in_time_fails() {
    let house = House::on(memory(), |config| config.gateway.grace = Duration::from_millis(100)).await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let id = house.run_package("edge-01", json!({"timeout": "300ms"})).await;
    worker.dispatched().await;
    assert_eq!(house.ends_as(id, "failed").await["executions"][0]["error"]["code"], "timed_out");
}

#[tokio::test]
async fn a_job_for_anybody_goes_to_one_worker_that_has_the_package() {
    let (house, _agent) = House::with_agent().await;
    let mut worker = house.worker("w-1", "edge-01").await;
    for target in ["_any", "_any@group:web", "group:web.dev", "_all", "worker-local"] {
        let id = house.run_package(target, json!({})).await;
        let dispatch = worker.dispatched().await;
        worker.finish(&dispatch, "SUCCEEDED", json!({})).await;
        assert_eq!(house.ends_as(id, "completed").await["executions"][0]["hostname"], "edge-01", "{target}");
    }
}

#[tokio::test]
async fn a_package_that_nobody_has_is_refused_when_it_is_asked_for() {
    let (house, _agent) = House::with_agent().await;
    let _worker = house.worker("w-1", "edge-01").await;
    let rows = [
        (
            "_any",
            json!({"package": "other", "node": NODE}),
            "no agent or worker that is ready has the node example.echo of the package other",
        ),
        ("_any", json!({"package": PACKAGE, "node": NODE, "version": "2.0.0"}), "example.pkg 2.0.0"),
        ("_all", json!({"package": "other", "node": NODE}), "no agent or worker that is ready has"),
        ("edge-01", json!({"package": "other", "node": NODE}), "edge-01 does not have the node"),
        ("web-01", json!({"package": PACKAGE, "node": NODE}), "web-01 does not have the node"),
    ];
    for (target, args, expected) in rows {
        let response = house.post("/api/v1/jobs", &json!({"operation": "package.run", "target": target, "args": args})).await;
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["code"], "no_agent", "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(expected), "{problem}");
    }
    let response = house.post("/api/v1/jobs", &json!({"operation": "node.hostname.get", "target": "edge-01"})).await;
    let problem: Value = response.json().await.unwrap();
    assert!(problem["detail"].as_str().unwrap().contains("runs nodes of packages, and does not do this"), "{problem}");
    // And nothing else goes to a worker because everybody is meant.
    let job = house.submit(json!({"target": "_all"})).await;
    assert_eq!(job.executions.len(), 1);
}

#[tokio::test]
async fn a_drained_worker_is_told_takes_nothing_and_begins_anew_when_it_is_undrained() {
    let house = House::start().await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let running = house.run_package("edge-01", json!({})).await;
    let dispatch = worker.dispatched().await;
    house.post("/api/v1/agents/edge-01/drain", &json!({"reason": "holidays"})).await;
    worker.until("control.drain").await;
    house.knows("edge-01", "draining").await;
    worker.finish(&dispatch, "SUCCEEDED", json!({})).await;
    house.ends_as(running, "completed").await;
    house.knows("edge-01", "drained").await;
    let waiting = house.run_package("edge-01", json!({"wait_for_agents": "1m"})).await;
    worker.heartbeat(0).await;
    house.post("/api/v1/agents/edge-01/undrain", &json!({})).await;
    let reset = worker.until("control.reset").await;
    assert_eq!(reset["payload"]["code"], "E.SESSION.STALE_BINDING");
    let mut worker = house.worker("w-1", "edge-01").await;
    let dispatch = worker.dispatched().await;
    worker.finish(&dispatch, "SUCCEEDED", json!({})).await;
    house.ends_as(waiting, "completed").await;
}

#[tokio::test]
async fn a_large_result_arrives_whole() {
    let house = House::start().await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let id = house.run_package("edge-01", json!({})).await;
    let dispatch = worker.dispatched().await;
    let text = "x".repeat(3 << 20);
    worker.finish(&dispatch, "SUCCEEDED", json!({"text": text})).await;
    assert_eq!(house.ends_as(id, "completed").await["executions"][0]["result"]["output"]["text"], text);
}

#[tokio::test]
async fn a_worker_that_says_goodbye_has_stopped_and_raises_no_alarm() {
    let house = House::start().await;
    let mut worker = house.worker("w-1", "edge-01").await;
    worker.close(1000).await;
    house.knows("edge-01", "stopped").await;
    assert_eq!(house.get("/api/v1/status").await["alarms"], json!([]));
}

#[tokio::test]
async fn a_worker_has_no_word_on_what_another_was_handed_or_on_an_earlier_attempt() {
    let house = House::start().await;
    let mut one = house.worker("w-1", "edge-01").await;
    let mut two = house.worker("w-2", "edge-02").await;
    let id = house.run_package("edge-01", json!({})).await;
    let dispatch = one.dispatched().await;
    two.finish(&dispatch, "SUCCEEDED", json!({"forged": true})).await;
    let mut future = dispatch.clone();
    future["payload"]["task_id"] = json!(dispatch["payload"]["task_id"].as_str().unwrap().replace("/1", "/2"));
    one.finish(&future, "SUCCEEDED", json!({"forged": true})).await;
    assert_eq!(house.get(&format!("/api/v1/jobs/{id}")).await["status"], "running");
    one.finish(&dispatch, "SUCCEEDED", json!({"forged": false})).await;
    assert_eq!(house.ends_as(id, "completed").await["executions"][0]["result"]["output"], json!({"forged": false}));
}

#[tokio::test]
async fn a_job_for_every_worker_of_a_group_runs_on_each_once() {
    let house = House::start().await;
    let mut workers = [house.worker("w-1", "edge-01").await, house.worker("w-2", "edge-02").await];
    let id = house.run_package("group:web", json!({})).await;
    for worker in &mut workers {
        let dispatch = worker.dispatched().await;
        assert_eq!(dispatch["payload"]["run_id"], id.to_string());
        worker.finish(&dispatch, "SUCCEEDED", json!({})).await;
    }
    assert_eq!(house.ends_as(id, "completed").await["executions"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn of_jobs_with_one_concurrency_key_one_is_at_a_worker_at_a_time() {
    let house = House::start().await;
    let mut workers = [house.worker("w-1", "edge-01").await, house.worker("w-2", "edge-02").await];
    let mut jobs = Vec::new();
    for n in 0..4 {
        let target = ["edge-01", "edge-02"][n % 2];
        jobs.push(house.run_package(target, json!({"concurrency_key": "one"})).await);
    }
    for (n, id) in jobs.iter().enumerate() {
        let worker = &mut workers[n % 2];
        let dispatch = worker.dispatched().await;
        assert_eq!(dispatch["payload"]["run_id"], id.to_string(), "in the order of submission");
        let running: Value = house.get("/api/v1/jobs?status=running").await;
        assert_eq!(running["items"].as_array().unwrap().len(), 1, "{running}");
        worker.finish(&dispatch, "SUCCEEDED", json!({})).await;
        house.ends_as(*id, "completed").await;
    }
}

#[tokio::test]
async fn an_error_that_cannot_be_read_fails_its_job() {
    let house = House::start().await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let id = house.run_package("edge-01", json!({})).await;
    let dispatch = worker.dispatched().await;
    let mut frame = worker.error(&dispatch, "E.RUNNER.FAILURE");
    frame["payload"]["more"] = json!(1);
    worker.say(&frame).await;
    let job = house.ends_as(id, "failed").await;
    assert!(job["executions"][0]["error"]["message"].as_str().unwrap().contains("error cannot be read"), "{job}");
}

#[tokio::test]
async fn a_result_in_escapes_is_a_result() {
    let house = House::start().await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let id = house.run_package("edge-01", json!({})).await;
    let dispatch = worker.dispatched().await;
    let frame = worker.result(&dispatch, "SUCCEEDED", json!({"n": 1}));
    worker.send_text(frame.to_string().replace("biz.exec.result\"", "biz\\u002eexec.result\"")).await;
    house.ends_as(id, "completed").await;
}

#[tokio::test]
async fn a_worker_that_is_not_well_is_handed_nothing() {
    let house = House::start().await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let sick = worker.envelope("control.heartbeat", json!({"healthy": false, "metrics": {"inflight": 0}}));
    worker.send(&sick).await;
    // A frame that is answered: so it is known that the heartbeat before it was heard.
    let stray = json!({"run_id": "r", "task_id": "t", "status": "SUCCEEDED", "result": {}});
    let stray = worker.numbered("biz.exec.result", stray, &json!({"id": "d", "seq": 1}));
    worker.say(&stray).await;
    let id = house.run_package("edge-01", json!({})).await;
    let second = json!({"run_id": "r", "task_id": "t", "status": "SUCCEEDED", "result": {}});
    let second = worker.numbered("biz.exec.result", second, &json!({"id": "d", "seq": 1}));
    worker.say(&second).await;
    assert_eq!(house.get(&format!("/api/v1/jobs/{id}")).await["status"], "pending");
    worker.heartbeat(0).await;
    let dispatch = worker.dispatched().await;
    worker.finish(&dispatch, "SUCCEEDED", json!({})).await;
    house.ends_as(id, "completed").await;
}

#[tokio::test]
async fn what_its_worker_does_not_have_is_cancelled_for_certain_and_not_handed_out_again() {
    let house = House::start().await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let id = house.run_package("edge-01", json!({})).await;
    let first = worker.dispatched().await;
    let mut frame = worker.error(&first, "E.CMD.OVERLOADED");
    frame["payload"]["context"]["details"]["retry_after_ms"] = json!(60_000);
    worker.say(&frame).await;
    house.post(&format!("/api/v1/jobs/{id}/cancel"), &json!({})).await;
    let job = house.ends_as(id, "cancelled").await;
    assert_eq!(job["executions"][0]["cancel_verified"], true);
    let other = house.run_package("edge-01", json!({})).await;
    assert_eq!(worker.dispatched().await["payload"]["run_id"], other.to_string());
}
