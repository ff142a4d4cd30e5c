//! Connections that break, refuse, lie or stall.

use std::collections::BTreeSet;

use longshore_testkit::Random;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_result_is_lost_and_no_task_run_twice_over_random_cuts() {
    survive(100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "two minutes: each connection waits a tenth of a second before the next"]
async fn no_result_is_lost_and_no_task_run_twice_over_a_thousand_cuts_of_a_real_socket() {
    survive(1000).await;
}

async fn survive(cuts: usize) {
    // One that is resumed and keeps its holes; it knows of no dispatch whether it arrived, so only those that were acknowledged are looked at.
    let options =
        SchedulerOptions { ack_within: Duration::from_millis(300), redispatch_after: Duration::from_millis(20), ..Default::default() };
    let bench = Bench::new(options).await.set("dispatch_max_inflight", json!(0)).set("reconnect_base_delay_seconds", json!(0.0));
    let running = bench.ready().await;
    let mut random = Random::new(7);
    let mut n_tasks = 0;
    while bench.scheduler.counts().0 <= cuts {
        for _ in 0..random.below(4) {
            bench.dispatch(&format!("t-{n_tasks}"), json!({"sleep_ms": random.below(3)}));
            n_tasks += 1;
        }
        tokio::time::sleep(Duration::from_micros(random.below(4000) as u64)).await;
        bench.scheduler.cut();
        if random.below(2) == 0 {
            bench.until("a connection", || bench.scheduler.has_worker()).await;
        }
    }
    let tasks: BTreeSet<String> = (0..n_tasks).map(|n| format!("t-{n}")).collect();
    let done = || {
        let results = bench.scheduler.frames("biz.exec.result");
        let done: BTreeSet<_> = results.iter().map(|frame| frame["payload"]["task_id"].as_str().unwrap().to_owned()).collect();
        done == tasks
    };
    eventually("a result of every task", Duration::from_secs(60), async || done().then_some(())).await;
    let started = running.handlers.seen().started.clone();
    assert_eq!((started.len(), started.into_iter().collect::<BTreeSet<_>>()), (n_tasks, tasks));
}

#[tokio::test]
async fn results_that_end_during_an_outage_arrive_after_it() {
    let mut bench = Bench::new(SchedulerOptions::default()).await;
    let running = bench.ready().await;
    for n in 0..8 {
        bench.dispatch(&format!("t-{n}"), json!({"gate": true}));
    }
    bench.until("all running", || running.view().running == 8).await;
    // The scheduler is gone with all that it knew.
    let address = bench.scheduler.address().to_string();
    bench.scheduler = Scheduler::start(SchedulerOptions::default()).await;
    bench.until("the connection gone", || !running.view().is_open).await;
    running.handlers.gate.cancel();
    bench.until("all ended", || running.view().running == 0).await;
    assert_eq!(running.view().unacknowledged, 8);
    bench.scheduler = Scheduler::start_at(&address, SchedulerOptions::default()).await;
    for n in 0..8 {
        assert_eq!(bench.answer(&format!("t-{n}")).await["payload"]["status"], "SUCCEEDED");
    }
    bench.until("all acknowledged", || running.view().unacknowledged == 0).await;
}

#[tokio::test]
async fn a_refused_token_backs_off_or_ends_the_worker_and_never_hangs() {
    let bench = Bench::new(SchedulerOptions { token: Some("another".to_owned()), ..Default::default() }).await;
    let mut running = bench.start();
    bench.until("several attempts", || bench.scheduler.counts().0 >= 4).await;
    running.drain.cancel();
    running.ended().await.unwrap();
    let bench = bench.set("reconnect_abort_on_auth_error", json!(true));
    let error = bench.start().ended().await.unwrap_err();
    assert!(matches!(&error, Error::Refused(reason) if reason.contains("E.AUTH.INVALID_TOKEN")), "{error}");
}

#[tokio::test]
async fn refused_upgrades_follow_the_flag_of_their_kind() {
    let rows = [
        (403, "reconnect_abort_on_auth_error"),
        (401, "reconnect_abort_on_auth_error"),
        (404, "reconnect_abort_on_protocol_error"),
        (426, "reconnect_abort_on_protocol_error"),
    ];
    for (status, flag) in rows {
        let bench = Bench::new(SchedulerOptions::default()).await;
        bench.scheduler.refuse_upgrades(Some(status));
        let running = bench.start();
        bench.until("several attempts", || bench.scheduler.counts().0 >= 3).await;
        bench.scheduler.refuse_upgrades(None);
        bench.scheduler.worker().await;
        running.kill().await;
        bench.scheduler.refuse_upgrades(Some(status));
        let bench = bench.set(flag, json!(true));
        assert!(matches!(bench.start().ended().await, Err(Error::Refused(_))), "{status}");
    }
}

#[tokio::test]
async fn a_session_that_is_closed_for_its_credentials_follows_the_flag() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let running = bench.ready().await;
    let n = bench.scheduler.counts().0;
    bench.scheduler.close(1008, "forbidden");
    bench.until("another connection", || bench.scheduler.counts().0 > n).await;
    running.kill().await;
    let bench = bench.set("reconnect_abort_on_auth_error", json!(true));
    let mut running = bench.ready().await;
    bench.scheduler.close(1008, "forbidden");
    assert!(matches!(running.ended().await, Err(Error::Refused(reason)) if reason.contains("forbidden")));
}

#[tokio::test]
async fn a_scheduler_that_accepts_and_closes_is_not_stormed() {
    let bench = Bench::new(SchedulerOptions::default())
        .await
        .set("reconnect_base_delay_seconds", json!(0.1))
        .set("reconnect_max_delay_seconds", json!(0.2));
    bench.scheduler.close_at_once(true);
    let _running = bench.start();
    bench.until("a first attempt", || bench.scheduler.counts().0 >= 1).await;
    let (first, n_first) = (std::time::Instant::now(), bench.scheduler.counts().0);
    bench.until("six more", || bench.scheduler.counts().0 >= n_first + 6).await;
    // Between two of them a tenth of a second at least, less its jitter.
    assert!(first.elapsed() >= Duration::from_millis(5 * 80), "{:?}", first.elapsed());
    bench.scheduler.close_at_once(false);
    bench.scheduler.worker().await;
}

#[tokio::test]
async fn a_restarted_scheduler_is_greeted_anew_and_a_reset_too() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let running = bench.ready().await;
    bench.scheduler.forget();
    bench.until("a new session", || bench.scheduler.counts().1 == 2).await;
    bench.scheduler.worker().await;
    bench.scheduler.send_control("control.reset", &json!({"code": "E.SESSION.UNKNOWN", "reason": "x"}));
    bench.until("a new session", || bench.scheduler.counts().1 == 3).await;
    bench.scheduler.worker().await;
    bench.dispatch("t", json!({}));
    bench.answer("t").await;
    drop(running);
}

#[tokio::test]
async fn a_frame_larger_than_a_mebibyte_arrives_and_one_over_the_limit_breaks_the_connection_only() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let running = bench.ready().await;
    bench.dispatch("large", json!({"fill": "x".repeat(5 << 20)}));
    assert_eq!(bench.answer("large").await["payload"]["status"], "SUCCEEDED");
    bench.scheduler.send("biz.x", &json!({"fill": "x".repeat(17 << 20)}), None);
    bench.until("a new session", || bench.scheduler.counts().1 == 2).await;
    bench.scheduler.worker().await;
    bench.dispatch("t", json!({}));
    bench.answer("t").await;
    assert!(running.view().is_open);
}

#[tokio::test]
async fn a_scheduler_that_stops_reading_holds_up_nothing_but_itself() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let running = bench.ready().await;
    for n in 0..8 {
        bench.dispatch(&format!("t-{n}"), json!({"gate": true}));
    }
    bench.until("all running", || running.view().running == 8).await;
    bench.scheduler.stall(Duration::from_secs(2));
    running.handlers.gate.cancel();
    bench.until("all ended", || running.view().running == 0).await;
    for n in 0..8 {
        bench.answer(&format!("t-{n}")).await;
    }
}

#[tokio::test]
async fn heartbeats_say_what_is_so() {
    let bench = Bench::new(SchedulerOptions::default())
        .await
        .set("heartbeat_interval_seconds", json!(1))
        .set("heartbeat_jitter_seconds", json!(1))
        .set("concurrency_max_parallel", json!(2));
    let running = bench.ready().await;
    for n in 0..5 {
        bench.dispatch(&format!("t-{n}"), json!({"gate": true}));
    }
    let beat = |n: usize| bench.scheduler.frames("control.heartbeat").get(n).map(|frame| frame["payload"].clone());
    let first = eventually("a heartbeat", PATIENCE, async || beat(0)).await;
    let metrics = &first["metrics"];
    assert_eq!([&metrics["inflight"], &metrics["running"], &metrics["queued"]], [5, 2, 3]);
    assert_eq!(
        (&first["healthy"], &first["packages"]["drift"], &metrics["conn_state"]),
        (&json!(true), &json!(false), &json!("connected"))
    );
    for name in [
        "resource_handles",
        "resource_bytes",
        "pending_acks",
        "app_queue",
        "app_queue_drops",
        "conn_state",
        "send_inflight",
        "send_waiters",
        "cpu_pct",
        "mem_pct",
        "disk_pct",
        "last_recv_ms",
        "last_send_ms",
        "last_ack_ms",
        "recv_queue",
        "recv_base_seq",
        "recv_buffer",
    ] {
        // Nothing of this worker was acknowledged by number yet.
        assert!(!metrics[name].is_null() || name == "last_ack_ms", "{name} is missing");
    }
    // Installed behind its back.
    running.handlers.seen().installed.push(("p".to_owned(), "1".to_owned()));
    running.handlers.gate.cancel();
    bench.answer("t-4").await;
    let n = bench.scheduler.frames("control.heartbeat").len();
    let later = eventually("another heartbeat", PATIENCE, async || beat(n + 1)).await;
    assert_eq!((&later["packages"]["drift"], &later["metrics"]["inflight"]), (&json!(true), &json!(0)));
    running.drain.cancel();
}

#[tokio::test]
async fn a_disk_that_hangs_holds_up_no_heartbeat_and_no_task() {
    let bench =
        Bench::new(SchedulerOptions::default()).await.set("heartbeat_interval_seconds", json!(1)).set("heartbeat_jitter_seconds", json!(1));
    let running = bench.ready().await;
    let handlers = Arc::clone(&running.handlers);
    // On a thread of its own: held over what is waited for here.
    let (held, (release, released)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
    let holder = std::thread::spawn(move || {
        let _disk = handlers.disk.lock().unwrap();
        held.0.send(()).unwrap();
        let _dropped_by_the_test = released.recv();
    });
    held.1.recv().unwrap();
    let n = bench.scheduler.frames("control.heartbeat").len();
    bench.until("heartbeats all the same", || bench.scheduler.frames("control.heartbeat").len() > n + 1).await;
    bench.dispatch("t", json!({}));
    bench.answer("t").await;
    running.drain.cancel();
    bench.until("a drain", || running.view().is_draining).await;
    drop(release);
    holder.join().unwrap();
}

#[tokio::test]
async fn no_frame_and_no_request_has_an_id_that_another_process_gave() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    for n in 0..3 {
        let running = bench.ready().await;
        let mut task = Scheduler::task("r", &format!("t-{n}"), &json!({"next": null, "feedback": 3}));
        (task["middleware_chain"], task["chain_index"]) = (json!(["a", "b"]), json!(0));
        bench.scheduler.dispatch(&task);
        bench.until("a request", || bench.scheduler.frames("biz.exec.next.request").len() == n + 1).await;
        running.kill().await;
    }
    let requests: BTreeSet<_> =
        bench.scheduler.frames("biz.exec.next.request").iter().map(|frame| frame["payload"]["requestId"].to_string()).collect();
    assert_eq!(requests.len(), 3);
    // A frame that is sent again is the same text, and an answer that is given back keeps its id on purpose.
    let texts: BTreeSet<_> = bench.scheduler.received().into_iter().filter(|text| !text.contains(r#""type":"biz.exec.error""#)).collect();
    let id = |text: &String| serde_json::from_str::<Value>(text).unwrap()["id"].as_str().unwrap().to_owned();
    let ids: Vec<_> = texts.iter().map(id).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    assert!(ids.iter().all(|id| uuid::Uuid::parse_str(id).is_ok()));
}

#[tokio::test]
async fn after_a_cut_changes_are_registered_and_drains_are_kept_to() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let mut running = bench.ready().await;
    bench.scheduler.cut();
    bench.until("another connection", || bench.scheduler.counts().0 == 2).await;
    bench.open(&mut running).await;
    bench.scheduler.send("biz.pkg.install", &json!({"name": "p", "version": "1", "url": "file:///p"}), None);
    bench.until("the package", || bench.scheduler.registered().unwrap()["packages"][0]["name"] == "p").await;
    bench.scheduler.send_control("control.drain", &json!({}));
    bench.dispatch("t", json!({}));
    assert_eq!(bench.code("t").await, "E.RUNNER.CANCELLED");
    assert!(running.view().is_draining && running.handlers.seen().started.is_empty());
}

#[tokio::test]
async fn two_workers_of_one_identity_on_one_host_are_refused_by_name() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let running = bench.ready().await;
    let error = bench.worker(Arc::default()).err().expect("it is refused").to_string();
    assert!(error.contains("journal"), "{error}");
    running.kill().await;
    assert!(bench.worker(Arc::default()).is_ok());
}
