//! What an agent that was killed leaves, and what one that lives does not let go of.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use longshore_exec::{Executor, OpenError};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::support::{Bench, PATIENCE, Recorder, config, is_alive, pid_in, shell, write};

#[test]
fn opening_sweeps_files_of_an_earlier_agent() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    write(&state, &[("workspaces/j.any.1.x/workspace/a/b", "x"), ("tmp/j.tar.zst", "x"), ("kept", "x")]);
    fs::set_permissions(state.join("workspaces/j.any.1.x/workspace/a"), std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();

    let _executor = Executor::open(config(&state, Duration::ZERO)).unwrap();
    assert_eq!(fs::read_dir(state.join("workspaces")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(state.join("tmp")).unwrap().count(), 0);
    assert!(state.join("kept").exists());
}

#[test]
fn opening_ends_processes_of_an_earlier_agent_and_of_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().canonicalize().unwrap().join("state");
    let sleeping = |owner: &std::path::Path| {
        let mark = format!("0123@{}", owner.display());
        Command::new("sleep").arg("1000").env("LONGSHORE_TREE", mark).stdin(Stdio::null()).spawn().unwrap()
    };
    let (mut ours, mut others) = (sleeping(&state), sleeping(&state.join("other")));

    let _executor = Executor::open(config(&state, Duration::ZERO)).unwrap();
    assert!(!ours.wait().unwrap().success());
    assert!(others.try_wait().unwrap().is_none());
    others.kill().unwrap();
    others.wait().unwrap();
}

#[test]
fn a_stopped_supervisor_of_an_earlier_agent_is_woken_to_do_its_work() {
    let bench = Bench::new();
    let (state, executor, pid) = (bench.state(), bench.executor.clone(), bench.file("pid"));
    let runtime = Runtime::new().unwrap();
    let task = shell(&format!("kill -STOP $PPID; echo $$ > {}; exec sleep 1000", pid.display()));
    runtime.spawn(async move { executor.run(task, Arc::new(Recorder::default()), CancellationToken::new()).await });
    let pid = runtime.block_on(pid_in(&pid));
    // Waits until the task is dropped, and with it its hold on the state directory.
    runtime.shutdown_timeout(PATIENCE);
    let Bench { dir, executor } = bench;
    drop(executor);

    let _executor = Executor::open(config(&state, Duration::ZERO)).unwrap();
    assert!(!is_alive(pid));
    drop(dir);
}

#[test]
fn a_state_directory_has_one_executor() {
    let bench = Bench::new();
    let again = Executor::open(config(&bench.state(), Duration::ZERO));
    assert!(matches!(again, Err(OpenError::InUse { .. })));
    let state = bench.state();
    drop(bench.executor);
    assert!(Executor::open(config(&state, Duration::ZERO)).is_ok());
}
