//! Bounds: how much runs at once and for how long, and how much waits.

use super::*;

fn task(name: &str, node_type: &str, parameters: &Value) -> Value {
    let mut task = Scheduler::task("r", name, parameters);
    task["node_type"] = json!(node_type);
    task
}

#[tokio::test]
async fn no_more_tasks_run_at_once_than_each_setting_says() {
    let rows = [
        ("dispatch_max_inflight", json!(3), 3),
        ("concurrency_max_parallel", json!(2), 2),
        ("concurrency_per_node_limits", json!({"slow": 1}), 8),
    ];
    for (name, value, most) in rows {
        let bench = Bench::new(SchedulerOptions::default()).await.set(name, value);
        let running = bench.ready().await;
        for n in 0..30 {
            bench.scheduler.dispatch(&task(&format!("t-{n}"), if n % 3 == 0 { "slow" } else { "fast" }, &json!({"sleep_ms": 20})));
        }
        for n in 0..30 {
            bench.answer(&format!("t-{n}")).await;
        }
        let seen = running.handlers.seen();
        assert_eq!(seen.most, most, "{name}");
        assert!(name != "concurrency_per_node_limits" || seen.most_of["slow"] == 1, "{:?}", seen.most_of);
    }
}

#[tokio::test]
async fn one_task_runs_under_a_concurrency_key() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let running = bench.ready().await;
    bench.dispatch_keyed("first");
    bench.dispatch_keyed("second");
    assert_eq!(bench.code("second").await, "E.CMD.CONCURRENCY_VIOLATION");
    running.handlers.gate.cancel();
    assert_eq!(bench.answer("first").await["payload"]["status"], "SUCCEEDED");
    bench.dispatch_keyed("third");
    assert_eq!(bench.answer("third").await["payload"]["status"], "SUCCEEDED");
}

#[tokio::test]
async fn a_task_that_takes_longer_than_it_may_is_ended_and_told() {
    let bench = Bench::new(SchedulerOptions::default()).await.set("dispatch_timeout_seconds", json!(0.3));
    let running = bench.ready().await;
    bench.dispatch("by setting", json!({"gate": true}));
    let mut constrained = Scheduler::task("r", "by constraint", &json!({"gate": true}));
    constrained["constraints"] = json!({"timeout_ms": 50});
    bench.scheduler.dispatch(&constrained);
    for (name, ms) in [("by constraint", "50 ms"), ("by setting", "300 ms")] {
        let answer = bench.answer(name).await;
        assert_eq!(answer["payload"]["code"], "E.RUNNER.TIMEOUT");
        assert!(answer["payload"]["message"].as_str().unwrap().contains(ms), "{answer}");
    }
    assert_eq!(running.handlers.seen().stopped.len(), 2);
}

#[tokio::test]
async fn a_handler_that_fails_in_a_row_is_left_alone_and_others_are_not() {
    let bench = Bench::new(SchedulerOptions::default())
        .await
        .set("dispatch_max_failures", json!(2))
        .set("dispatch_failure_cooldown_seconds", json!(1.0));
    let running = bench.ready().await;
    for n in 0..2 {
        bench.dispatch(&format!("bad-{n}"), json!({"fail": "no"}));
        assert_eq!(bench.code(&format!("bad-{n}")).await, "E.RUNNER.FAILURE");
    }
    bench.dispatch("early", json!({}));
    let early = bench.answer("early").await;
    assert_eq!(early["payload"]["code"], "E.RUNNER.COOLDOWN");
    let left = early["payload"]["context"]["details"]["retry_after_ms"].as_u64().unwrap();
    assert!((1..=1000).contains(&left), "{left}");
    bench.scheduler.dispatch(&task("other", "other", &json!({})));
    bench.answer("other").await;
    tokio::time::sleep(Duration::from_millis(left + 10)).await;
    bench.dispatch("later", json!({}));
    assert_eq!(bench.answer("later").await["payload"]["status"], "SUCCEEDED");
    assert_eq!(running.handlers.started("early"), 0);
}

#[tokio::test]
async fn what_finds_no_room_is_refused_and_told_under_each_policy_and_queue() {
    for (queue, policy) in [
        ("dispatch_queue", "drop_new"),
        ("dispatch_queue", "drop_oldest"),
        ("session_app_queue", "drop_new"),
        ("session_app_queue", "drop_oldest"),
    ] {
        let bench = Bench::new(SchedulerOptions::default()).await;
        let bench = bench
            .set(&format!("{queue}_max"), json!(2))
            .set(&format!("{queue}_overflow"), json!(policy))
            .set("concurrency_max_parallel", json!(1));
        // The other queue is what makes frames wait in the session.
        let bench = if queue == "session_app_queue" { bench.set("dispatch_queue_max", json!(1)) } else { bench };
        let running = bench.ready().await;
        for n in 0..10 {
            bench.dispatch(&format!("t-{n}"), json!({"gate": true}));
        }
        let refused = || (0..10).filter(|n| !bench.scheduler.answers(&format!("t-{n}")).is_empty()).collect::<Vec<_>>();
        let n_kept = if queue == "session_app_queue" { 4 } else { 3 };
        bench.until("the rest refused", || refused().len() == 10 - n_kept).await;
        let refused = refused();
        assert_eq!(refused.contains(&9), policy == "drop_new", "{queue} {policy}: {refused:?}");
        for n in &refused {
            assert_eq!(bench.code(&format!("t-{n}")).await, "E.CMD.OVERLOADED");
        }
        running.handlers.gate.cancel();
        for n in (0..10).filter(|n| !refused.contains(n)) {
            assert_eq!(bench.answer(&format!("t-{n}")).await["payload"]["status"], "SUCCEEDED", "{queue} {policy}");
        }
        assert_eq!(running.handlers.seen().started.len(), n_kept);
    }
}

#[tokio::test]
async fn a_queue_that_blocks_loses_nothing_and_control_frames_pass_it() {
    let bench = Bench::new(SchedulerOptions::default())
        .await
        .set("dispatch_queue_max", json!(2))
        .set("session_app_queue_max", json!(2))
        .set("concurrency_max_parallel", json!(1));
    let running = bench.ready().await;
    for n in 0..100 {
        bench.dispatch(&format!("t-{n:03}"), json!({"gate": true}));
    }
    bench.until("the window is full", || bench.scheduler.dispatched().len() >= 64).await;
    // Behind a hundred frames that wait, this one is heard at once.
    bench.scheduler.send_control("control.drain", &json!({"deadline_ms": 60_000}));
    bench.until("it drains", || running.view().is_draining).await;
    running.handlers.gate.cancel();
    for n in 0..100 {
        let answer = bench.answer(&format!("t-{n:03}")).await;
        assert!(answer["payload"]["status"] == "SUCCEEDED" || answer["payload"]["code"] == "E.RUNNER.CANCELLED", "{answer}");
    }
}

#[tokio::test]
async fn everything_that_blocks_is_run_in_its_order_once_there_is_room() {
    let bench = Bench::new(SchedulerOptions::default())
        .await
        .set("dispatch_queue_max", json!(2))
        .set("session_app_queue_max", json!(2))
        .set("concurrency_max_parallel", json!(1));
    let running = bench.ready().await;
    for n in 0..200 {
        bench.dispatch(&format!("t-{n:03}"), json!({}));
    }
    bench.answer("t-199").await;
    let started = running.handlers.seen().started.clone();
    assert_eq!(started, (0..200).map(|n| format!("t-{n:03}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn kinds_that_payload_types_leaves_out_are_refused_and_told() {
    let bench = Bench::new(SchedulerOptions::default()).await.set("payload_types", json!(["biz.pkg.uninstall"]));
    let running = bench.ready().await;
    bench.dispatch("t", json!({}));
    assert_eq!(bench.code("t").await, "E.CMD.UNSUPPORTED");
    bench.scheduler.send("biz.pkg.install", &json!({"name": "p", "version": "1", "url": "file:///x"}), None);
    bench.until("an event", || !bench.scheduler.frames("biz.pkg.event").is_empty()).await;
    assert_eq!(bench.scheduler.frames("biz.pkg.event")[0]["payload"]["status"], "failed");
    assert!(running.handlers.seen().installs.is_empty() && running.handlers.seen().started.is_empty());
}
