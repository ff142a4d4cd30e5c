//! What settings change that has no test of its own elsewhere.

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
    let bench = Bench::new(SchedulerOptions::default()).await;
    let bench = bench.set("ack_retry_base_ms", json!(50)).set("ack_retry_max_ms", json!(60)).set("ack_retry_attempts", json!(2));
    let _running = bench.ready().await;
    bench.dispatch("t", json!({"sleep_ms": 100}));
    bench.until("it was sent", || !bench.scheduler.dispatched().is_empty()).await;
    // Hears nothing for longer than 50 + 60 + 60 ms: the session is given up, and no result with it.
    bench.scheduler.stall(Duration::from_millis(600));
    bench.answer("t").await;
    bench.until("another session", || bench.scheduler.counts().1 >= 2).await;
    let sent = bench.scheduler.received().iter().filter(|text| text.contains("biz.exec.result")).count();
    assert!((2..=4).contains(&sent), "{sent}");
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
    let nowhere = path.join("below a file");
    assert_ne!(longshore_agent::worker::lasting_identity(&nowhere).unwrap(), longshore_agent::worker::lasting_identity(&nowhere).unwrap());
}
