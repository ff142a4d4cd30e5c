//! Tasks, answers, feedback, `next()` and packages.

use std::collections::BTreeMap;

use super::*;

#[tokio::test]
async fn two_hundred_dispatches_to_a_scheduler_with_its_race_run_each_exactly_once() {
    let options = SchedulerOptions {
        race: Duration::from_millis(60),
        ack_within: Duration::from_millis(900),
        redispatch_after: Duration::from_millis(50),
        ..Default::default()
    };
    let bench = Bench::new(options).await;
    let running = bench.ready().await;
    for n in 0..200 {
        let task = format!("t-{n}");
        bench.dispatch(&task, json!({"n": n}));
        let answer = bench.answer(&task).await;
        assert_eq!(answer["payload"]["result"]["echo"]["n"], n);
    }
    // Long enough for the last to be sent again, if its acknowledgement had been lost.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let mut sent = BTreeMap::<String, usize>::new();
    for dispatched in bench.scheduler.dispatched() {
        *sent.entry(dispatched.task).or_default() += 1;
    }
    assert_eq!((sent.len(), sent.values().max()), (200, Some(&1)));
    assert_eq!(running.handlers.seen().started.len(), 200);
}

#[tokio::test]
async fn a_task_that_is_sent_again_is_not_run_again_and_answered_as_before() {
    let options = SchedulerOptions {
        race: PATIENCE,
        ack_within: Duration::from_millis(50),
        redispatch_after: Duration::from_millis(50),
        ..Default::default()
    };
    let bench = Bench::new(options).await;
    let running = bench.ready().await;
    // No acknowledgement is ever heard, so it is sent again while it runs and after it has ended.
    bench.dispatch("t", json!({"sleep_ms": 500}));
    bench.until("five answers", || bench.scheduler.answers("t").len() >= 5).await;
    let answers = bench.scheduler.answers("t");
    assert!(bench.scheduler.dispatched().len() > 5);
    assert_eq!(running.handlers.started("t"), 1);
    assert!(answers.iter().all(|answer| answer["payload"] == answers[0]["payload"]));
    let ids: std::collections::BTreeSet<_> = answers.iter().map(|answer| answer["id"].to_string()).collect();
    assert_eq!(ids.len(), answers.len());
    // Each answers the dispatch that asked.
    let dispatched: Vec<_> = bench.scheduler.dispatched().into_iter().map(|dispatched| dispatched.id).collect();
    assert!(answers.iter().all(|answer| dispatched.iter().any(|id| answer["corr"] == id.as_str())));
}

#[tokio::test]
async fn the_memory_of_answers_survives_a_kill() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let running = bench.ready().await;
    let task = Scheduler::task("r", "t", &json!({"a": 1}));
    bench.scheduler.dispatch(&task);
    let first = bench.answer("t").await;
    bench.until("everything acknowledged", || running.view().unacknowledged == 0).await;
    running.kill().await;
    let running = bench.ready().await;
    let frame = json!({"type": "biz.exec.dispatch", "id": "again", "ts": "2025-12-24T10:00:00Z", "tenant": "default",
        "sender": {"role": "scheduler", "id": "s"}, "payload": task, "corr": "t", "seq": first["seq"], "ack": {"request": true}});
    bench.scheduler.send_text(&frame.to_string());
    bench.until("a second answer", || bench.scheduler.answers("t").len() == 2).await;
    let second = bench.scheduler.answers("t").remove(1);
    assert_eq!((&second["payload"], second["corr"].as_str()), (&first["payload"], Some("again")));
    assert_eq!(running.handlers.started("t"), 0);
}

#[tokio::test]
async fn results_name_their_dispatch_and_errors_their_task() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let _running = bench.ready().await;
    let seq = bench.dispatch("good", json!({}));
    let good = bench.answer("good").await;
    let id = bench.scheduler.dispatched()[0].id.clone();
    assert_eq!((good["corr"].as_str(), good["seq"].as_u64(), good["ack"]["request"].as_bool()), (Some(id.as_str()), Some(seq), Some(true)));
    assert_eq!(good["payload"]["metadata"]["concurrency_key"], "r:good");
    bench.dispatch("bad", json!({"fail": "ValueError: nothing works"}));
    let bad = bench.answer("bad").await;
    assert_eq!((bad["corr"].as_str(), bad["payload"]["code"].as_str()), (Some("bad"), Some("E.RUNNER.FAILURE")));
    assert_eq!(bad["payload"]["message"], "ValueError: nothing works");
    let details = &bad["payload"]["context"]["details"];
    assert_eq!([&details["run_id"], &details["task_id"], &details["node_id"]], ["r", "bad", "node of bad"]);
    assert!(uuid::Uuid::parse_str(good["id"].as_str().unwrap()).is_ok());
}

#[tokio::test]
async fn a_failure_of_any_kind_is_told_and_harms_no_other_task() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let _running = bench.ready().await;
    bench.dispatch("empty", json!({"fail": ""}));
    bench.dispatch("panic", json!({"panic": true}));
    // More than any scheduler reads.
    bench.dispatch("large", json!({"result_bytes": 17 << 20}));
    bench.dispatch("fine", json!({"result_bytes": 3 << 20}));
    for task in ["empty", "panic", "large"] {
        assert_eq!(bench.code(task).await, "E.RUNNER.FAILURE", "{task}");
    }
    assert!(bench.answer("large").await["payload"]["message"].as_str().unwrap().contains("cannot be sent"));
    assert_eq!(bench.answer("fine").await["payload"]["result"]["fill"].as_str().unwrap().len(), 3 << 20);
    assert_eq!(bench.scheduler.counts(), (1, 1, 0));
}

#[tokio::test]
async fn a_dispatch_that_cannot_be_read_is_answered_with_what_is_wrong() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let running = bench.ready().await;
    let good = Scheduler::task("r", "t", &json!({}));
    let rows = [
        ("node_type", Value::Null, "node_type"),
        ("run_id", json!(""), "run_id is empty"),
        ("odd", json!(1), "odd"),
        ("parameters", json!([]), "parameters"),
        ("constraints", json!({"timeout_ms": 0}), "timeout_ms"),
    ];
    for (n, (field, value, expected)) in rows.into_iter().enumerate() {
        let mut task = good.clone();
        let name = format!("t-{n}");
        task["task_id"] = json!(name);
        if value.is_null() {
            drop(task.as_object_mut().unwrap().remove(field))
        } else {
            task[field] = value
        }
        bench.scheduler.dispatch(&task);
        let answer = bench.answer(&name).await;
        assert_eq!((answer["payload"]["code"].as_str(), answer["corr"].as_str()), (Some("E.CMD.INVALID"), Some(name.as_str())));
        let message = answer["payload"]["message"].as_str().unwrap();
        assert!(message.contains(expected), "{field}: {message}");
    }
    assert!(running.handlers.seen().started.is_empty());
}

#[tokio::test]
async fn feedback_is_sent_in_order_and_before_the_result() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let _running = bench.ready().await;
    bench.dispatch("t", json!({"feedback": 500}));
    let answer = bench.answer("t").await;
    let feedback = bench.scheduler.frames("biz.exec.feedback");
    let pieces: Vec<_> = feedback
        .iter()
        .flat_map(|frame| frame["payload"]["chunks"].as_array().unwrap())
        .map(|chunk| chunk["index"].as_u64().unwrap())
        .collect();
    assert_eq!(pieces, (0..500).collect::<Vec<_>>());
    assert!(feedback.iter().all(|frame| frame["corr"] == "t" && frame["payload"]["task_id"] == "t" && frame["ack"].is_null()));
    assert!(feedback.last().unwrap()["session_seq"].as_u64() < answer["session_seq"].as_u64());
}

#[tokio::test]
async fn a_middleware_calls_the_next_element_and_holds_no_slot_meanwhile() {
    let bench = Bench::new(SchedulerOptions::default()).await.set("concurrency_max_parallel", json!(1));
    let running = bench.ready().await;
    let mut task = Scheduler::task("r", "middleware", &json!({"next": null}));
    (task["middleware_chain"], task["chain_index"], task["host_node_id"]) = (json!(["middleware", "host"]), json!(0), json!("host"));
    bench.scheduler.dispatch(&task);
    bench.until("a request", || !bench.scheduler.frames("biz.exec.next.request").is_empty()).await;
    let request = bench.scheduler.frames("biz.exec.next.request").remove(0);
    let payload = &request["payload"];
    assert_eq!(
        (request["corr"].as_str(), payload["middlewareId"].as_str(), payload["chainIndex"].as_u64()),
        (Some("middleware"), Some("node of middleware"), Some(0))
    );
    // What it waits for runs on this worker, although only one may run.
    bench.dispatch("host", json!({"a": 1}));
    let result = bench.answer("host").await["payload"]["result"].clone();
    let answer = json!({"requestId": payload["requestId"], "runId": "r", "nodeId": payload["nodeId"], "middlewareId": payload["middlewareId"], "result": result});
    bench.scheduler.send("biz.exec.next.response", &answer, payload["requestId"].as_str());
    assert_eq!(bench.answer("middleware").await["payload"]["result"]["next"], result);
    assert_eq!(running.handlers.started("host"), 1);
}

#[tokio::test]
async fn calls_of_next_that_are_refused_late_or_impossible_fail_with_their_code() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let _running = bench.ready().await;
    bench.dispatch("no chain", json!({"next": null}));
    assert!(bench.answer("no chain").await["payload"]["message"].as_str().unwrap().starts_with("next_no_chain"));
    let chained = |name: &str, timeout: Value| {
        let mut task = Scheduler::task("r", name, &json!({"next": timeout}));
        (task["middleware_chain"], task["chain_index"]) = (json!(["a", "b"]), json!(0));
        bench.scheduler.dispatch(&task);
    };
    chained("late", json!(50));
    assert!(bench.answer("late").await["payload"]["message"].as_str().unwrap().starts_with("next_timeout"));
    chained("refused", Value::Null);
    bench.until("a request", || bench.scheduler.frames("biz.exec.next.request").len() == 2).await;
    let payload = bench.scheduler.frames("biz.exec.next.request").remove(1)["payload"].clone();
    let mut answer =
        json!({"requestId": payload["requestId"], "runId": "r", "nodeId": payload["nodeId"], "middlewareId": payload["middlewareId"]});
    answer["error"] = json!({"code": "next_duplicate", "message": "twice"});
    bench.scheduler.send("biz.exec.next.response", &answer, None);
    assert_eq!(bench.answer("refused").await["payload"]["message"], "next_duplicate: twice");
    chained("unreadable", Value::Null);
    bench.until("a request", || bench.scheduler.frames("biz.exec.next.request").len() == 3).await;
    let request = bench.scheduler.frames("biz.exec.next.request").remove(2)["payload"]["requestId"].clone();
    bench.scheduler.send("biz.exec.next.response", &json!({"requestId": request, "result": "a text"}), None);
    assert!(bench.answer("unreadable").await["payload"]["message"].as_str().unwrap().starts_with("next_failed: the answer cannot be read"));
    // A new session means that an answer may be lost.
    chained("lost", Value::Null);
    bench.until("a request", || bench.scheduler.frames("biz.exec.next.request").len() == 4).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    bench.scheduler.cut();
    assert!(bench.answer("lost").await["payload"]["message"].as_str().unwrap().starts_with("next_cancelled"));
}

#[tokio::test]
async fn frames_that_make_no_sense_are_passed_over() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let _running = bench.ready().await;
    for text in ["", "{", "[]", "null", r#"{"type":"biz.x"}"#, "\u{0}"] {
        bench.scheduler.send_text(text);
    }
    bench.scheduler.send("biz.unknown", &json!({}), None);
    bench.scheduler.send("ext.vendor.x", &json!({"a": [1]}), None);
    bench.scheduler.send_control("control.future", &json!({}));
    bench.scheduler.send_control("control.drain", &json!({"odd": 1}));
    bench.dispatch("t", json!({}));
    assert_eq!(bench.answer("t").await["payload"]["status"], "SUCCEEDED");
    assert_eq!(bench.scheduler.counts(), (1, 1, 0));
}
