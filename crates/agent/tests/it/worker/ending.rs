//! Drains, stops and kills.

use super::*;

#[tokio::test]
async fn a_killed_workers_tasks_are_given_back_and_its_answers_sent_again() {
    let bench = Bench::new(SchedulerOptions::default()).await.set("concurrency_max_parallel", json!(3));
    let running = bench.ready().await;
    for n in 0..5 {
        bench.dispatch(&format!("lost-{n}"), json!({"gate": true}));
    }
    bench.until("some run and some wait", || running.view().running == 3 && running.view().queued == 2).await;
    running.kill().await;
    let running = bench.ready().await;
    for n in 0..5 {
        let answer = bench.answer(&format!("lost-{n}")).await;
        assert_eq!(
            (answer["payload"]["code"].as_str(), answer["corr"].as_str()),
            (Some("E.RUNNER.CANCELLED"), Some(format!("lost-{n}").as_str()))
        );
        assert_eq!(answer["payload"]["context"]["details"]["node_id"], format!("node of lost-{n}"));
    }
    bench.until("all acknowledged", || running.view().unacknowledged == 0).await;
    // The scheduler sends the same execution again, and now it is done.
    let seq = bench.scheduler.answers("lost-0")[0]["seq"].clone();
    let frame = json!({"type": "biz.exec.dispatch", "id": "again", "ts": "2025-12-24T10:00:00Z", "tenant": "default",
        "sender": {"role": "scheduler", "id": "s"}, "payload": Scheduler::task("r", "lost-0", &json!({})), "corr": "t", "seq": seq, "ack": {"request": true}});
    bench.scheduler.send_text(&frame.to_string());
    bench.until("a result", || bench.scheduler.answers("lost-0").iter().any(|answer| answer["type"] == "biz.exec.result")).await;
    assert_eq!(running.handlers.started("lost-0"), 1);
}

#[tokio::test]
async fn answers_that_were_not_acknowledged_are_sent_by_the_next_process_under_their_ids() {
    let mut bench = Bench::new(SchedulerOptions::default()).await;
    let running = bench.ready().await;
    bench.dispatch("t", json!({"gate": true}));
    bench.until("it runs", || running.view().running == 1).await;
    bench.scheduler = Scheduler::start(SchedulerOptions::default()).await;
    bench.until("the connection gone", || !running.view().is_open).await;
    running.handlers.gate.cancel();
    bench.until("it has ended", || running.view().running == 0).await;
    running.kill().await;
    // Killed once more before anything could be said.
    let running = bench.start_with(Arc::default());
    running.kill().await;
    let running = bench.ready().await;
    assert_eq!(bench.answer("t").await["payload"]["status"], "SUCCEEDED");
    bench.until("it is acknowledged", || running.view().unacknowledged == 0).await;
    running.kill().await;
    let running = bench.ready().await;
    assert_eq!((running.view().unacknowledged, bench.scheduler.answers("t").len()), (0, 1));
}

#[tokio::test]
async fn kills_at_random_moments_lose_no_task_and_no_answer() {
    let options =
        SchedulerOptions { ack_within: Duration::from_millis(200), redispatch_after: Duration::from_millis(20), ..Default::default() };
    let bench = Bench::new(options).await;
    let mut random = longshore_testkit::Random::new(3);
    let mut running = bench.ready().await;
    let mut n_tasks = 0;
    for _ in 0..60 {
        for _ in 0..random.below(5) {
            bench.dispatch(&format!("t-{n_tasks}"), json!({"sleep_ms": random.below(6)}));
            n_tasks += 1;
        }
        tokio::time::sleep(Duration::from_micros(random.below(12_000) as u64)).await;
        running.kill().await;
        running = bench.start();
    }
    // Given back or done: each was answered.
    for n in 0..n_tasks {
        let answer = bench.answer(&format!("t-{n}")).await;
        assert!(answer["payload"]["status"] == "SUCCEEDED" || answer["payload"]["code"] == "E.RUNNER.CANCELLED", "{answer}");
    }
    drop(running);
}

#[tokio::test]
async fn a_drain_takes_no_more_gives_back_what_waits_and_lets_what_runs_finish() {
    let bench = Bench::new(SchedulerOptions::default()).await.set("concurrency_max_parallel", json!(1));
    let mut running = bench.ready().await;
    bench.dispatch("runs", json!({"gate": true}));
    bench.until("it runs", || running.view().running == 1).await;
    bench.dispatch("waits", json!({}));
    bench.until("one waits", || running.view().queued == 1).await;
    running.drain.cancel();
    assert_eq!(bench.code("waits").await, "E.RUNNER.CANCELLED");
    bench.dispatch("late", json!({}));
    assert_eq!(bench.code("late").await, "E.RUNNER.CANCELLED");
    running.handlers.gate.cancel();
    assert_eq!(bench.answer("runs").await["payload"]["status"], "SUCCEEDED");
    running.ended().await.unwrap();
    assert_eq!(running.handlers.seen().started, ["runs"]);
}

#[tokio::test]
async fn at_the_deadline_of_a_drain_and_at_a_stop_what_runs_is_given_back() {
    let bench = Bench::new(SchedulerOptions::default()).await.set("drain_timeout_seconds", json!(0.2));
    for ask in ["drain", "stop"] {
        let mut running = bench.ready().await;
        bench.dispatch(ask, json!({"gate": true}));
        bench.until("it runs", || running.view().running == 1).await;
        if ask == "drain" {
            running.drain.cancel()
        } else {
            running.stop.cancel()
        }
        assert_eq!(bench.code(ask).await, "E.RUNNER.CANCELLED");
        running.ended().await.unwrap();
        assert_eq!(running.handlers.seen().stopped, [ask]);
        bench.until("it has gone", || !bench.scheduler.has_worker()).await;
    }
}

#[tokio::test]
async fn a_handler_that_does_not_listen_does_not_keep_the_worker() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let mut running = bench.ready().await;
    bench.dispatch("deaf", json!({"deaf": true}));
    bench.until("it runs", || running.view().running == 1).await;
    running.stop.cancel();
    assert_eq!(bench.code("deaf").await, "E.RUNNER.CANCELLED");
    running.ended().await.unwrap();
}

#[tokio::test]
async fn the_schedulers_drain_is_kept_to_and_the_worker_stays() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let running = bench.ready().await;
    bench.dispatch("short", json!({"sleep_ms": 50}));
    bench.dispatch("long", json!({"gate": true}));
    bench.until("both run", || running.view().running == 2).await;
    bench.scheduler.send_control("control.drain", &json!({"reason": "update", "deadline_ms": 500}));
    bench.until("it drains", || running.view().is_draining).await;
    assert_eq!(bench.answer("short").await["payload"]["status"], "SUCCEEDED");
    assert_eq!(bench.code("long").await, "E.RUNNER.CANCELLED");
    bench.dispatch("late", json!({}));
    assert_eq!(bench.code("late").await, "E.RUNNER.CANCELLED");
    assert!(running.view().is_open);
}

#[tokio::test]
async fn a_draining_worker_says_so_at_once_and_does_not_spin_with_a_scheduler_that_has_no_other() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let running = bench.ready().await;
    bench.scheduler.send_control("control.drain", &json!({}));
    // The next regular one is half a minute away.
    bench.until("a heartbeat", || bench.scheduler.frames("control.heartbeat").iter().any(|beat| beat["payload"]["healthy"] == false)).await;
    let began = std::time::Instant::now();
    for n in 0..3 {
        bench.dispatch(&format!("t-{n}"), json!({}));
        assert_eq!(bench.code(&format!("t-{n}")).await, "E.RUNNER.CANCELLED");
    }
    assert!(began.elapsed() >= Duration::from_millis(1500), "{:?}", began.elapsed());
    assert!(running.handlers.seen().started.is_empty());
}

#[tokio::test]
async fn a_worker_that_never_met_its_scheduler_ends_when_asked() {
    let bench = Bench::new(SchedulerOptions::default()).await.set("scheduler_ws_url", json!("ws://127.0.0.1:1/"));
    let mut running = bench.start();
    running.drain.cancel();
    running.ended().await.unwrap();
}

#[tokio::test]
async fn no_process_uses_an_id_of_another() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let (mut seen, mut n_read) = (std::collections::BTreeSet::new(), 0);
    for process in 0..3 {
        let running = bench.ready().await;
        bench.dispatch(&format!("good-{process}"), json!({"feedback": 3}));
        bench.dispatch(&format!("bad-{process}"), json!({"fail": "no"}));
        bench.answer(&format!("good-{process}")).await;
        bench.answer(&format!("bad-{process}")).await;
        // Nothing is left that the next one says again.
        bench.until("all acknowledged", || running.view().unacknowledged == 0).await;
        running.kill().await;
        bench.until("it is gone", || !bench.scheduler.has_worker()).await;
        let received = bench.scheduler.received();
        let ids: std::collections::BTreeSet<String> =
            received[n_read..].iter().map(|text| serde_json::from_str::<Value>(text).unwrap()["id"].as_str().unwrap().to_owned()).collect();
        n_read = received.len();
        assert!(ids.len() >= 7 && ids.iter().all(|id| uuid::Uuid::parse_str(id).is_ok()), "{ids:?}");
        assert_eq!(seen.intersection(&ids).collect::<Vec<_>>(), Vec::<&String>::new());
        seen.extend(ids);
    }
}
