//! What settings change that has no test of its own elsewhere.

use longshore_testkit::Disk;

use super::*;

#[tokio::test]
async fn what_a_worker_says_of_itself_is_as_set() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let bench = bench
        .set("worker_name", json!("name"))
        .set("worker_version", json!("9.9.9"))
        .set("handshake_protocol_version", json!(3))
        .set("feature_flags", json!(["flag"]))
        .set("runtime_names", json!(["python", "process"]))
        .set("concurrency_max_parallel", json!(7))
        .set("concurrency_per_node_limits", json!({"echo": 2}))
        .set("payload_types", json!(["biz.exec.dispatch"]));
    let _running = bench.ready().await;
    let handshake: Value = serde_json::from_str(&bench.scheduler.received()[0]).unwrap();
    assert_eq!((&handshake["tenant"], &handshake["sender"]), (&json!("default"), &json!({"role": "worker", "id": "w-1"})));
    let payload = &handshake["payload"];
    assert_eq!((&payload["protocol"], &payload["auth"]), (&json!(3), &json!({"mode": "token", "token": "let-me-in"})));
    assert_eq!(payload["worker"], json!({"worker_name": "name", "worker_instance_id": "w-1", "version": "9.9.9", "hostname": "host"}));
    let registered = bench.scheduler.registered().unwrap();
    let capabilities = &registered["capabilities"];
    assert_eq!(capabilities["concurrency"], json!({"max_parallel": 7, "per_node_limits": {"echo": 2}}));
    assert_eq!((&capabilities["runtimes"], &capabilities["features"][0]), (&json!(["python", "process"]), &json!("flag")));
    assert_eq!((&registered["payload_types"], &registered["packages"]), (&json!(["biz.exec.dispatch"]), &json!([])));
}

#[tokio::test]
async fn a_token_in_a_file_and_a_fingerprint_are_shown_as_set() {
    let bench = Bench::new(SchedulerOptions { token: Some("from-file".to_owned()), ..Default::default() }).await;
    let file = bench.dir.path().join("token");
    std::fs::write(&file, "from-file\n").unwrap();
    let bench = bench.set("auth_token", Value::Null).set("auth_token_file", json!(file));
    bench.ready().await.kill().await;
    let bench = Bench::new(SchedulerOptions { token: Some("AA:BB".to_owned()), ..Default::default() }).await;
    let bench = bench.set("auth_mode", json!("mtls")).set("auth_fingerprint", json!("AA:BB"));
    bench.ready().await.kill().await;
}

#[tokio::test]
async fn a_file_without_a_token_is_said_before_anything_is_dialled() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let file = bench.dir.path().join("token");
    std::fs::write(&file, "\n").unwrap();
    let bench = bench.set("auth_token", Value::Null).set("auth_token_file", json!(file));
    let error = bench.worker(Arc::default()).err().expect("it is refused");
    assert!(matches!(&error, Error::File { source, .. } if source.to_string().contains("no token")), "{error}");
    assert!(bench.scheduler.received().is_empty());
}

#[tokio::test]
async fn the_default_of_max_parallel_is_said_and_bounds_nothing() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let running = bench.ready().await;
    assert_eq!(bench.scheduler.registered().unwrap()["capabilities"]["concurrency"]["max_parallel"], 1);
    for n in 0..20 {
        bench.dispatch(&format!("t-{n}"), json!({"gate": true}));
    }
    bench.until("as many as dispatch_max_inflight says", || running.view().running == 8).await;
}

#[tokio::test]
async fn handlers_are_told_their_tenant_mode_and_time() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let bench = bench.set("exec_mode_default", json!("thread")).set("dispatch_timeout_seconds", json!(9.5));
    let running = bench.ready().await;
    bench.dispatch("t", json!({"a": 1}));
    bench.answer("t").await;
    let task = running.handlers.seen().tasks[0].clone();
    assert_eq!((task.tenant.as_str(), task.exec_mode), ("default", longshore_agent::worker::settings::ExecMode::Thread));
    assert_eq!((task.timeout, &task.parameters), (Some(Duration::from_millis(9500)), &object(json!({"a": 1}))));
}

#[tokio::test]
async fn frames_are_sent_again_as_often_and_as_quickly_as_set() {
    // Without a window nothing is acknowledged by number, and a session is given up after 50 + 60 + 60 ms.
    let bench = Bench::new(SchedulerOptions { window: 0, ..Default::default() }).await;
    let bench = bench.set("ack_retry_base_ms", json!(50)).set("ack_retry_max_ms", json!(60)).set("ack_retry_attempts", json!(2));
    let _running = bench.ready().await;
    bench.again("t", "d", 1, &json!({}));
    // By default the first would take a quarter of a minute.
    bench.until("two more sessions", || bench.scheduler.counts().1 >= 3).await;
    let mut results = Vec::new();
    for text in bench.scheduler.received() {
        let frame: Value = serde_json::from_str(&text).unwrap();
        match frame["type"].as_str().unwrap() {
            "control.handshake" => results.push(0),
            "biz.exec.result" => *results.last_mut().unwrap() += 1,
            _ => {}
        }
    }
    assert_eq!(results[..2], [3, 3]);
}

/// The acknowledgements that a worker has said, in order.
fn acks(bench: &Bench) -> Vec<Value> {
    let read = |text: &String| serde_json::from_str::<Value>(text).unwrap();
    bench.scheduler.received().iter().map(read).filter(|frame| frame["type"] == "control.ack").collect()
}

#[tokio::test]
async fn as_many_frames_are_under_way_in_each_direction_as_set() {
    // The scheduler would take a hundred.
    let bench = Bench::new(SchedulerOptions { window: 100, ..Default::default() }).await;
    let bench = bench
        .set("session_window_size", json!(4))
        .set("dispatch_queue_max", json!(1))
        .set("session_app_queue_max", json!(1))
        .set("concurrency_max_parallel", json!(1));
    let running = bench.ready().await;
    bench.dispatch("t", json!({"gate": true}));
    bench.until("it is acknowledged", || acks(&bench).iter().any(|ack| ack["payload"]["ack_seq"] == 1)).await;
    assert!(acks(&bench).iter().all(|ack| ack["payload"]["recv_window"] == 4));
    // One waits in its queue, one in the session's, four in the window; what is beyond is not acknowledged.
    for n in 0..8 {
        bench.dispatch(&format!("more-{n}"), json!({"gate": true}));
    }
    let of = |n: usize| bench.scheduler.dispatched()[1 + n].id.clone();
    let numbers = || acks(&bench).into_iter().filter(|ack| ack["payload"]["ack_seq"] == 3).collect::<Vec<_>>();
    bench.until("all were judged", || numbers().len() >= 7).await;
    let by_id = |n: usize| acks(&bench).iter().any(|ack| ack["ack"]["for"] == of(n).as_str());
    assert_eq!((0..8).map(by_id).collect::<Vec<_>>(), [true, true, true, true, true, true, false, false]);
    // The other direction: nobody acknowledges, so no more than four answers leave.
    let bench = Bench::new(SchedulerOptions { window: 0, ..Default::default() }).await.set("session_window_size", json!(4));
    drop(running);
    let running = bench.ready().await;
    for n in 0..8 {
        bench.again(&format!("t-{n}"), &format!("d-{n}"), n, &json!({}));
    }
    bench.until("all have ended", || running.view().unacknowledged == 8).await;
    let sent = || {
        let results = bench.scheduler.received().into_iter().filter(|text| text.contains(r#""type":"biz.exec.result""#));
        results.map(|text| serde_json::from_str::<Value>(&text).unwrap()["session_seq"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    // They are sent again, and still no other.
    bench.until("two rounds", || sent().len() >= 8).await;
    assert!(sent().iter().all(|number| (1..=4).contains(number)), "{:?}", sent());
}

#[tokio::test]
async fn an_acceptance_is_waited_for_as_long_as_set() {
    let bench = Bench::new(SchedulerOptions { accepts: false, ..Default::default() }).await.set("session_accept_timeout_seconds", json!(1));
    let began = std::time::Instant::now();
    let running = bench.start();
    bench.until("two more tries", || bench.scheduler.counts().1 >= 3).await;
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(!running.view().is_open);
    // With more patience there is one try.
    let bench =
        Bench::new(SchedulerOptions { accepts: false, ..Default::default() }).await.set("session_accept_timeout_seconds", json!(100));
    let running = bench.start();
    bench.until("a registration", || bench.scheduler.registered().is_some()).await;
    bench.scheduler.send_control("control.drain", &json!({}));
    assert_eq!((bench.scheduler.counts().1, running.view().is_open), (1, false));
}

#[tokio::test]
async fn waits_between_dials_are_spread_as_set() {
    let waits = async |jitter: f64, n_waits: usize| {
        let bench = Bench::new(SchedulerOptions::default()).await;
        bench.scheduler.refuse_upgrades(Some(500));
        let bench = bench
            .set("reconnect_jitter", json!(jitter))
            .set("reconnect_base_delay_seconds", json!(0.15))
            .set("reconnect_max_delay_seconds", json!(0.15));
        let _running = bench.start();
        bench.until("the dials", || bench.scheduler.dialled().len() > n_waits).await;
        let dials = bench.scheduler.dialled();
        dials.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>()
    };
    // A wait may take longer than it should, and never less.
    let even = waits(0.0, 4).await;
    assert!(even.iter().all(|wait| *wait >= Duration::from_millis(145)), "{even:?}");
    // Nearly every second one is as short as this.
    let spread = waits(1.0, 16).await;
    assert!(spread.iter().any(|wait| *wait < Duration::from_millis(140)), "{spread:?}");
}

#[tokio::test]
async fn a_worker_whose_disk_is_full_says_that_it_is_unwell_until_it_is_not_and_loses_nothing() {
    let disk = match Disk::mount("1m") {
        Ok(disk) => disk,
        Err(why) => return eprintln!("not run: {why}"),
    };
    let bench = Bench::new(SchedulerOptions::default()).await.set("state_dir", json!(disk.path()));
    let bench = bench.set("heartbeat_interval_seconds", json!(1)).set("heartbeat_jitter_seconds", json!(1));
    let running = bench.ready().await;
    let says = |bench: &Bench| bench.scheduler.frames("control.heartbeat").last().is_some_and(|beat| beat["payload"]["healthy"] == true);
    bench.until("a heartbeat of one that is well", || says(&bench)).await;
    disk.fill();
    bench.dispatch("t", json!({"gate": true}));
    bench.until("it runs all the same", || running.view().running == 1).await;
    bench.until("a heartbeat of one that is not", || !says(&bench)).await;
    disk.make_room();
    bench.until("a heartbeat of one that is well again", || says(&bench)).await;
    // What could not be written then is there now.
    running.kill().await;
    let running = bench.ready().await;
    assert_eq!(bench.code("t").await, "E.RUNNER.CANCELLED");
    running.kill().await;
    // A full disk below the tasks' data is the same to them.
    let bench = bench.set("state_dir", Value::Null).set("data_dir", json!(disk.path().join("data")));
    let n = bench.scheduler.frames("control.heartbeat").len();
    disk.fill();
    let _running = bench.start();
    bench.until("a heartbeat", || bench.scheduler.frames("control.heartbeat").len() > n).await;
    assert!(!says(&bench));
}

#[tokio::test]
async fn without_a_scheduler_the_worker_stays_up_until_it_is_asked_to_end() {
    let bench = Bench::new(SchedulerOptions::default()).await.set("transport", json!("dummy"));
    let mut running = bench.start();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((bench.scheduler.counts().0, running.tasks.try_join_next().is_none()), (0, true));
    running.drain.cancel();
    running.ended().await.unwrap();
}

#[tokio::test]
async fn addresses_that_are_none_are_refused_by_name() {
    for address in ["http://x/", "ws://", "x", "", "ws:///path"] {
        let bench =
            Bench::new(SchedulerOptions::default()).await.set("scheduler_ws_url", json!(if address.is_empty() { " " } else { address }));
        let error = bench.worker(Arc::default()).err().expect("it is refused");
        assert!(matches!(error, Error::Dialer(_)), "{address}: {error}");
    }
}

#[tokio::test]
async fn an_identity_lasts_and_one_that_cannot_be_kept_is_another_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("var/worker_instance_id");
    let first = longshore_agent::worker::lasting_identity(&path).unwrap();
    assert_eq!((first.len(), longshore_agent::worker::lasting_identity(&path).unwrap()), (36, first.clone()));
    std::fs::write(&path, "  given \n").unwrap();
    assert_eq!(longshore_agent::worker::lasting_identity(&path).unwrap(), "given");
    // What a full disk or a kill may leave of one is made good.
    std::fs::write(&path, "").unwrap();
    let made = longshore_agent::worker::lasting_identity(&path).unwrap();
    assert_eq!((made.len(), longshore_agent::worker::lasting_identity(&path).unwrap()), (36, made.clone()));
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    let nowhere = path.join("below a file");
    assert_ne!(longshore_agent::worker::lasting_identity(&nowhere).unwrap(), longshore_agent::worker::lasting_identity(&nowhere).unwrap());
}

#[tokio::test]
async fn a_worker_of_another_tenant_says_so_in_every_frame_and_to_its_handlers() {
    let bench = Bench::new(SchedulerOptions::default()).await.set("tenant", json!("blue"));
    let running = bench.ready().await;
    bench.dispatch("t", json!({"feedback": 1}));
    bench.answer("t").await;
    let frames: Vec<Value> = bench.scheduler.received().iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    assert!(frames.len() >= 4 && frames.iter().all(|frame| frame["tenant"] == "blue"), "{frames:?}");
    assert_eq!(running.handlers.seen().tasks[0].tenant, "blue");
}

#[tokio::test]
async fn the_window_and_the_frames_that_wait_are_as_set() {
    let options = SchedulerOptions { window: 3, ..Default::default() };
    let bench = Bench::new(options).await.set("session_window_size", json!(3)).set("transport_recv_queue_max", json!(1));
    let _running = bench.ready().await;
    // Many windows of them, each over a queue for one.
    for n in 0..50 {
        bench.dispatch(&format!("t-{n}"), json!({}));
    }
    for n in 0..50 {
        bench.answer(&format!("t-{n}")).await;
    }
    let windows = acks(&bench).into_iter().filter_map(|frame| frame["payload"]["recv_window"].as_u64());
    assert_eq!(windows.collect::<std::collections::BTreeSet<_>>(), [3].into());
}
