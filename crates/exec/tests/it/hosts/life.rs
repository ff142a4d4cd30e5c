//! Hosts that start, stay warm, retire, die in a row, and are found missing.

use std::time::{Duration, Instant};

use longshore_exec::package::host::{Call, Door, ErrorKind, Hosts};
use longshore_exec::{OpenError, SupervisorCommand};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Stand, call, package, settings};
use crate::support::{eventually, is_alive};

async fn pid(stand: &Stand) -> i32 {
    let result = stand.result(&package("hostile"), "well", json!({})).await;
    i32::try_from(result["pid"].as_i64().unwrap()).unwrap()
}

#[tokio::test]
async fn a_host_is_kept_warm_and_retires_when_it_is_idle() {
    let stand = Stand::with(|settings| settings.idle = Duration::from_millis(300));
    let first = pid(&stand).await;
    assert_eq!(pid(&stand).await, first);
    eventually("it retires", || !is_alive(first)).await;
    assert_eq!(stand.hosts.warm_hosts(), 0);
    assert_ne!(pid(&stand).await, first);
}

#[tokio::test]
async fn what_a_call_opens_is_closed_again() {
    let stand = Stand::new();
    let package = package("hostile");
    let first = stand.result(&package, "well", json!({})).await["fds"].clone();
    for _ in 0..50 {
        assert_eq!(stand.result(&package, "well", json!({})).await["fds"], first);
    }
}

#[tokio::test]
async fn one_host_too_many_takes_the_place_of_an_idle_one() {
    let stand = Stand::with(|settings| settings.hosts_max = 1);
    let first = pid(&stand).await;
    stand.result(&package("system"), "whose", json!({})).await;
    assert!(!is_alive(first));
    assert_eq!(stand.hosts.warm_hosts(), 1);
}

#[tokio::test]
async fn a_package_that_is_replaced_gets_a_new_host() {
    let stand = Stand::new();
    let first = pid(&stand).await;
    stand.hosts.retire(&package("hostile"));
    assert_ne!(pid(&stand).await, first);
    eventually("the first one leaves", || !is_alive(first)).await;
}

#[tokio::test]
async fn hosts_that_die_in_a_row_wait_longer_each_time() {
    let stand = Stand::with(|settings| settings.restart_base = Duration::from_millis(100));
    let package = package("hostile");
    let mut waits = Vec::new();
    for _ in 0..4 {
        let began = Instant::now();
        assert_eq!(stand.run(&package, "exits_at_once", json!({})).await.unwrap_err().kind, ErrorKind::HostDied);
        waits.push(began.elapsed());
    }
    // 100, 200 and 400 ms before the second, third and fourth start, a fifth less or more.
    assert!(waits[3] > Duration::from_millis(320), "{waits:?}");
    let error =
        stand.run_call(&package, Call { timeout: Some(Duration::from_millis(50)), ..call("well", json!({})) }, Door::default()).await;
    assert_eq!(error.unwrap_err().kind, ErrorKind::TimedOut, "the wait counts");
}

#[tokio::test]
async fn a_missing_python_is_said_and_nothing_is_waited_for() {
    let stand = Stand::with(|settings| settings.python = "python-that-is-not-there".into());
    for _ in 0..2 {
        let (kind, message) = stand.fault(&package("hostile"), "well", json!({})).await;
        assert_eq!(kind, ErrorKind::HostUnavailable);
        assert!(
            message.contains("\"python-that-is-not-there\": command not found") && message.contains("Python 3.9 or newer"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_python_that_is_too_old_or_none_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let fake = dir.path().join("python");
    std::fs::write(&fake, "#!/bin/sh\necho 'Python 3.9 or newer is needed, and this is 3.6.1' >&2\nexit 78\n").unwrap();
    std::fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let stand = Stand::with(|settings| settings.python.clone_from(&fake));
    let (kind, message) = stand.fault(&package("hostile"), "well", json!({})).await;
    assert_eq!(kind, ErrorKind::HostUnavailable);
    assert!(message.contains("exited with status 78") && message.contains("this is 3.6.1"), "{message}");

    std::fs::write(&fake, "#!/bin/sh\nsleep 1000\n").unwrap();
    let stand = Stand::with(|settings| {
        settings.python.clone_from(&fake);
        settings.start_max = Duration::from_millis(100);
    });
    let (kind, message) = stand.fault(&package("hostile"), "well", json!({})).await;
    assert_eq!(kind, ErrorKind::HostUnavailable);
    assert!(message.contains("was not ready within 100ms"), "{message}");
}

/// An interpreter that is written in shell.
fn interpreter(dir: &std::path::Path, script: &str) -> std::path::PathBuf {
    let path = dir.join("python");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    path
}

#[tokio::test]
async fn a_host_that_never_is_ready_gives_its_place_back_though_nobody_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let stand = Stand::with(|settings| {
        settings.python = interpreter(dir.path(), "sleep 1000");
        (settings.hosts_max, settings.start_max) = (1, Duration::from_millis(300));
    });
    let impatient = Call { timeout: Some(Duration::from_millis(10)), ..call("well", json!({})) };
    let error = stand.run_call(&package("hostile"), impatient, Door::default()).await.unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::TimedOut, "no handler host was ready for the task within 10ms"));
    stand.result(&package("programs"), "lines", json!({})).await;
}

#[tokio::test]
async fn a_package_that_is_replaced_while_its_host_starts_fails_no_task() {
    let dir = tempfile::tempdir().unwrap();
    let begun = dir.path().join("begun");
    let script = format!("if ! [ -e {0} ]; then touch {0}; sleep 1; fi\nexec python3 \"$@\"", begun.display());
    let stand = Stand::with(|settings| settings.python = interpreter(dir.path(), &script));
    let package = package("hostile");
    let (result, ()) = tokio::join!(stand.result(&package, "well", json!({})), async {
        eventually("the host starts", || begun.exists()).await;
        stand.hosts.retire(&package);
    });
    assert!(result["pid"].is_number());
}

#[tokio::test]
async fn two_workers_cannot_have_one_state_directory() {
    let stand = Stand::new();
    let refused = Hosts::new(settings(stand.dir.path()));
    assert!(matches!(refused, Err(OpenError::InUse { .. })), "{refused:?}");
}

#[tokio::test]
async fn without_a_supervisor_there_is_no_host() {
    let nothing = SupervisorCommand { program: "/nowhere".into(), args: Vec::new() };
    let stand = Stand::with(|settings| settings.supervisor = nothing);
    let (kind, message) = stand.fault(&package("hostile"), "well", json!({})).await;
    assert_eq!(kind, ErrorKind::HostUnavailable);
    assert!(message.contains("/nowhere"), "{message}");
}

#[tokio::test]
async fn closing_stops_what_runs_and_leaves_nobody() {
    let (stand, package) = (Stand::patient(), package("hostile"));
    let host = pid(&stand).await;
    let running = stand.hosts.run(&package, call("tidies_up", json!({})), Door::default(), CancellationToken::new());
    let (ended, ()) = tokio::join!(running, async {
        eventually("it runs", || stand.data("tidies_up", "begun").exists()).await;
        stand.hosts.close().await;
    });
    assert_eq!(ended.unwrap_err().kind, ErrorKind::Cancelled);
    assert!(stand.data("tidies_up", "tidied").exists() && !is_alive(host));
}

#[test]
fn the_workers_death_leaves_nobody() {
    let (stand, runtime) = (tempfile::tempdir().unwrap(), tokio::runtime::Runtime::new().unwrap());
    let (host, hosts) = runtime.block_on(async {
        let hosts = Hosts::new(settings(stand.path())).unwrap();
        let outcome = hosts.run(&package("hostile"), call("well", json!({})), Door::default(), CancellationToken::new()).await.unwrap();
        (i32::try_from(outcome.result["pid"].as_i64().unwrap()).unwrap(), hosts)
    });
    // Every task is dropped where it stands, as in a process that is killed.
    runtime.shutdown_background();
    tokio::runtime::Runtime::new().unwrap().block_on(eventually("the host is gone", || !is_alive(host)));
    drop(hosts);
}

#[tokio::test]
async fn a_thousand_calls_at_once_are_all_answered() {
    let (stand, package) = (Stand::new(), package("example.pkg"));
    let mut running = tokio::task::JoinSet::new();
    for n in 0..1000 {
        let (hosts, package) = (stand.hosts.clone(), package.clone());
        running.spawn(async move { hosts.run(&package, call("echo", json!({ "n": n })), Door::default(), CancellationToken::new()).await });
    }
    let mut seen = Vec::new();
    while let Some(ended) = running.join_next().await {
        seen.push(ended.unwrap().unwrap().result["n"].as_u64().unwrap());
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..1000).collect::<Vec<_>>());
    assert_eq!(stand.hosts.warm_hosts(), 1);
}

#[tokio::test]
async fn a_package_that_is_gone_and_a_data_directory_that_cannot_be_made_are_said() {
    let stand = Stand::new();
    let gone = stand.dir.path().join("package");
    std::fs::create_dir(&gone).unwrap();
    std::fs::copy(package("hostile").directory.join("manifest.json"), gone.join("manifest.json")).unwrap();
    let package = super::at(&gone);
    std::fs::remove_dir_all(&gone).unwrap();
    let (kind, message) = stand.fault(&package, "well", json!({})).await;
    assert_eq!(kind, ErrorKind::HostUnavailable);
    assert!(message.contains("it was removed"), "{message}");

    std::fs::write(stand.dir.path().join("data/blocked"), "in the way").unwrap();
    let blocked = Call { run_id: "blocked".to_owned(), ..call("well", json!({})) };
    let error = stand.run_call(&super::package("hostile"), blocked, Door::default()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::HostUnavailable);
    assert!(error.message.contains("data directory could not be made"), "{error}");
}
