//! Jobs and requests that mean harm: each gets a clear answer, and nothing is left behind.

use std::time::{Duration, Instant};

use longshore_client::Client;
use longshore_model::JobStatus;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::rest::JobRequest;
use longshore_testkit::eventually;
use serde_json::json;

use crate::fleet::{Fleet, PATIENCE, shell};

#[tokio::test]
async fn jobs_that_mean_harm_are_answered_and_leave_nothing() {
    let fleet = Fleet::start(1).await;
    let marker = format!("longshore-hostile-{}", std::process::id());

    let missing = fleet.perform(&Client::request("command.exec", json!({"command": ["/no/such/program"]}))).await;
    let error = missing.executions[0].error.clone().unwrap();
    assert_eq!(error.code, ErrorCode::CommandNotFound);
    assert!(error.message.contains("/no/such/program"), "{error:?}");

    let loud = fleet.perform(&shell("yes 0123456789abcdef0123456789abcde | head -c 209715200; echo done >&2")).await;
    assert_eq!(loud.status, JobStatus::Completed);
    let result = loud.executions[0].result.clone().unwrap();
    assert_eq!((&result["stdout_bytes"], &result["truncated"]), (&json!(209_715_200), &json!(true)));
    assert_eq!(result["stderr"], "done\n");

    // A child in a session of its own, one that is forked twice, one that ignores SIGTERM: all end with their job.
    let script = format!(
        "setsid sh -c 'exec sleep 3600.{0}' & (setsid sh -c 'sh -c \"exec sleep 3601.{0}\" &' &) ; sh -c 'trap \"\" TERM; sleep 3602.{0}' & echo started",
        std::process::id()
    );
    let forking = fleet.perform(&shell(&script)).await;
    assert_eq!(forking.executions[0].result.as_ref().unwrap()["stdout"], "started\n");
    none_left(&format!(".{}", std::process::id())).await;

    let stubborn = JobRequest { timeout: Some("1s".into()), ..shell(&format!("trap '' TERM; while :; do sleep 0.05; : {marker}; done")) };
    let since = Instant::now();
    let stubborn = fleet.perform(&stubborn).await;
    assert_eq!(stubborn.executions[0].error.as_ref().unwrap().code, ErrorCode::TimedOut);
    assert!(since.elapsed() < Duration::from_secs(20));
    none_left(&marker).await;

    let quoted = "it's \"quoted\" $(touch /tmp/never) `x` \\ \n";
    let verbatim = fleet.perform(&Client::request("command.exec", json!({"command": ["printf", "%s", quoted]}))).await;
    assert_eq!(verbatim.executions[0].result.as_ref().unwrap()["stdout"], quoted);

    let workspaces = std::fs::read_dir(fleet.dir.path().join("agent-0/agent/workspaces")).map_or(0, Iterator::count);
    assert_eq!(workspaces, 0, "a workspace was left behind");
}

#[tokio::test]
async fn cancel_stops_the_whole_tree_and_says_that_it_is_verified() {
    let fleet = Fleet::start(1).await;
    let marker = format!("7200.{}", std::process::id());
    let running = fleet.client.submit(&shell(&format!("setsid sleep {marker} & sleep {marker}")), None).await.unwrap();
    eventually("the job to run", PATIENCE, async || (n_processes(&marker) >= 2).then_some(())).await;
    let cancelled = fleet.client.cancel(running.id).await.unwrap();
    assert!(cancelled.changed);
    let ended = fleet.client.job(running.id, Some(PATIENCE)).await.unwrap();
    assert_eq!((ended.status, ended.executions[0].cancel_verified), (JobStatus::Cancelled, Some(true)));
    assert_eq!(n_processes(&marker), 0, "verified means gone");
    let again = fleet.client.cancel(running.id).await.unwrap();
    assert!(!again.changed, "{}", again.message);
}

#[tokio::test]
async fn cancelled_work_that_has_not_started_never_does() {
    let mut fleet = Fleet::start(1).await;
    let witness = longshore_testkit::witness::Witness::new_in(fleet.dir.path());
    fleet.agents[0].process().kill9();
    let mut ids = Vec::new();
    for (n, target) in ["_any", "host-0"].into_iter().enumerate() {
        let request = JobRequest { target: target.into(), ..shell(&witness.script(&format!("cancelled-{n}"), "true")) };
        ids.push(fleet.client.submit(&request, None).await.unwrap().id);
    }
    for id in &ids {
        assert_eq!(fleet.client.cancel(*id).await.unwrap().job.status, JobStatus::Cancelled);
    }
    fleet.agents[0].kill_and_restart().await;
    let marker = JobRequest { target: "host-0".into(), ..shell("true") };
    eventually("later work to run", PATIENCE, async || {
        let view = fleet.client.submit(&marker, Some(PATIENCE)).await.ok()?;
        (view.status == JobStatus::Completed).then_some(())
    })
    .await;
    assert_eq!(witness.read().n_starts(), 0);
}

fn n_processes(marker: &str) -> usize {
    let Ok(processes) = std::fs::read_dir("/proc") else { return 0 };
    let me = std::process::id().to_string();
    processes
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name != me && name.bytes().all(|byte| byte.is_ascii_digit())))
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .filter(|line| String::from_utf8_lossy(line).contains(marker))
        .count()
}

async fn none_left(marker: &str) {
    eventually("every process to be gone", Duration::from_secs(5), async || (n_processes(marker) == 0).then_some(())).await;
}
