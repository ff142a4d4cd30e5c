//! Package commands: install and uninstall.

use super::*;

#[tokio::test]
async fn packages_are_installed_and_removed_with_an_event_and_a_new_registration() {
    let bench = Bench::new(SchedulerOptions::default()).await.set("scheduler_rest_base_url", json!("http://scheduler:1/api/v1"));
    let running = bench.ready().await;
    let events = || bench.scheduler.frames("biz.pkg.event").into_iter().map(|frame| frame["payload"].clone()).collect::<Vec<_>>();
    bench.scheduler.send(
        "biz.pkg.install",
        &json!({"name": "p", "version": "1.0.0", "url": "packages/p.zip", "sha256": "abc"}),
        Some("c-1"),
    );
    bench.until("an event", || events().len() == 1).await;
    assert_eq!(
        (&events()[0]["status"], &events()[0]["name"], &events()[0]["version"]),
        (&json!("installed"), &json!("p"), &json!("1.0.0"))
    );
    assert_eq!(running.handlers.seen().installs[0].url, "http://scheduler:1/api/v1/packages/p.zip");
    assert_eq!(bench.scheduler.registered().unwrap()["packages"], json!([{"name": "p", "version": "1.0.0", "status": "installed"}]));
    // By the documents' name, and refused in every way there is.
    bench.scheduler.send("package.install", &json!({"name": "q", "version": "1.0.0", "url": "file:///q", "sha256": "wrong"}), None);
    bench.until("an event", || events().len() == 2).await;
    assert_eq!((&events()[1]["status"], &events()[1]["details"]["error"]), (&json!("failed"), &json!("its sha256 is another one")));
    for bad in [
        json!({"name": "q", "version": "1.0.0"}),
        json!({"name": "q", "url": "file:///q"}),
        json!({"name": "q", "odd": 1}),
        json!({"version": "1"}),
    ] {
        let n = events().len();
        bench.scheduler.send("biz.pkg.install", &bad, None);
        bench.until("an event", || events().len() == n + 1).await;
        assert_eq!(events()[n]["status"], "failed", "{bad}");
    }
    let n = events().len();
    bench.scheduler.send("biz.pkg.uninstall", &json!({"name": "p"}), None);
    bench.until("an event", || events().len() == n + 1).await;
    assert_eq!((&events()[n]["status"], &events()[n]["details"]["action"]), (&json!("installed"), &json!("uninstall")));
    assert_eq!(bench.scheduler.registered().unwrap()["packages"], json!([]));
    bench.scheduler.send("package.uninstall", &json!({"name": "p", "version": "1.0.0"}), None);
    bench.until("an event", || events().len() == n + 2).await;
    assert_eq!(events()[n + 1]["status"], "failed");
}

#[tokio::test]
async fn packages_that_cannot_be_looked_at_are_not_taken_to_be_gone_and_are_registered_when_they_can_be() {
    let bench =
        Bench::new(SchedulerOptions::default()).await.set("heartbeat_interval_seconds", json!(1)).set("heartbeat_jitter_seconds", json!(1));
    let running = bench.ready().await;
    bench.scheduler.send("biz.pkg.install", &json!({"name": "p", "version": "1", "url": "file:///p"}), None);
    bench.until("an event", || events(&bench).len() == 1).await;
    let registered = |bench: &Bench| bench.scheduler.registered().unwrap()["packages"].as_array().unwrap().len();
    assert_eq!(registered(&bench), 1);
    running.handlers.seen().is_unreadable = true;
    bench.scheduler.send("biz.pkg.install", &json!({"name": "q", "version": "1", "url": "file:///q"}), None);
    bench.until("an event", || events(&bench).len() == 2).await;
    assert_eq!(registered(&bench), 1, "what was there before counts");
    let handlers = Arc::clone(&running.handlers);
    running.kill().await;
    // The same at the start: nothing is known of any, until they can be looked at.
    let mut running = bench.start_with(handlers);
    bench.open(&mut running).await;
    assert_eq!(registered(&bench), 0);
    running.handlers.seen().is_unreadable = false;
    bench.until("both are registered", || registered(&bench) == 2).await;
}

fn events(bench: &Bench) -> Vec<Value> {
    bench.scheduler.frames("biz.pkg.event").into_iter().map(|frame| frame["payload"].clone()).collect()
}

#[tokio::test]
async fn commands_are_done_in_the_order_in_which_they_came() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let running = bench.ready().await;
    let install =
        |name: &str, url: &str| bench.scheduler.send("biz.pkg.install", &json!({"name": name, "version": "1.0.0", "url": url}), None);
    install("p", "file:///gate");
    bench.until("it is being installed", || running.handlers.seen().installs.len() == 1).await;
    install("q", "file:///q");
    bench.scheduler.send("biz.pkg.uninstall", &json!({"name": "q"}), None);
    bench.until("both wait", || running.view().queued == 2).await;
    running.handlers.gate.cancel();
    bench.until("three events", || events(&bench).len() == 3).await;
    let order: Vec<_> =
        events(&bench).iter().map(|event| format!("{} {} {}", event["details"]["action"], event["name"], event["status"])).collect();
    assert_eq!(order, [r#""install" "p" "installed""#, r#""install" "q" "installed""#, r#""uninstall" "q" "installed""#]);
    assert_eq!(bench.scheduler.registered().unwrap()["packages"], json!([{"name": "p", "version": "1.0.0", "status": "installed"}]));
}

#[tokio::test]
async fn a_command_that_breaks_is_told_and_one_that_hangs_keeps_no_worker_from_ending() {
    let bench = Bench::new(SchedulerOptions::default()).await.set("drain_timeout_seconds", json!(0.2));
    let mut running = bench.ready().await;
    bench.scheduler.send("biz.pkg.install", &json!({"name": "p", "version": "1", "url": "file:///panic"}), None);
    bench.until("an event", || events(&bench).len() == 1).await;
    bench.scheduler.send("biz.pkg.install", &json!({"name": "q", "version": "1", "url": "file:///gate"}), None);
    bench.until("it is being installed", || running.handlers.seen().installs.len() == 2).await;
    running.drain.cancel();
    running.ended().await.unwrap();
    let told: Vec<_> = events(&bench).into_iter().map(|event| (event["status"].clone(), event["details"]["error"].clone())).collect();
    assert_eq!(
        told,
        [
            (json!("failed"), json!("the worker met a fault of its own while it did this")),
            (json!("failed"), json!("the worker ended before it was done"))
        ]
    );
}
