//! Programs that are ended, and do not want to be.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use longshore_exec::{Executor, Finished, Output, Task};
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::Outcome;
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::{Bench, PATIENCE, Recorder, config, eventually, is_alive, pid_in, shell, steps, within};

/// Scripts that write a process number to `$PID`; that process must not live on.
const ESCAPES: &[(&str, &str)] = &[
    ("plain", "echo $$ > $PID; exec sleep 1000"),
    ("child", "sleep 1000 & echo $! > $PID; wait"),
    ("setsid", "setsid sh -c 'echo $$ > $PID; exec sleep 1000' & sleep 1000"),
    ("double fork", "( ( sleep 1000 & echo $! > $PID ) & ) ; sleep 1000"),
    ("double fork into a session of its own", "( ( setsid sh -c 'echo $$ > $PID; exec sleep 1000' & ) & ) ; sleep 1000"),
    ("SIGTERM ignored", "trap '' TERM HUP INT; echo $$ > $PID; while :; do sleep 1; done"),
    ("orphan that ignores SIGTERM", "( trap '' TERM; setsid sh -c 'echo $$ > $PID; while :; do sleep 1; done' & ) ; sleep 1000"),
    ("environment emptied", "setsid env -i sh -c \"echo \\$\\$ > $PID; exec sleep 1000\" & sleep 1000"),
    ("stopped", "sh -c 'echo $$ > $PID; kill -STOP $$' & sleep 1000"),
    ("output closed", "exec >/dev/null 2>&1; echo $$ > $PID; sleep 1000"),
];

fn escape(bench: &Bench, script: &str) -> Task {
    shell(&script.replace("$PID", &bench.file("pid").display().to_string()))
}

fn start(executor: &Executor, task: Task, cancel: CancellationToken) -> impl Future<Output = Finished> + Send + 'static {
    let (executor, output): (_, Arc<dyn Output>) = (executor.clone(), Arc::new(Recorder::default()));
    async move { executor.run(task, output, cancel).await }
}

#[tokio::test]
async fn cancelling_leaves_nobody_and_knows_it() {
    for (name, script) in ESCAPES {
        let (bench, cancel) = (Bench::new(), CancellationToken::new());
        let task = escape(&bench, script);
        let (finished, pid) = tokio::join!(start(&bench.executor, task, cancel.clone()), async {
            let pid = pid_in(&bench.file("pid")).await;
            assert!(is_alive(pid), "{name}");
            cancel.cancel();
            pid
        });
        assert_eq!((finished.outcome, finished.cancel_verified), (Outcome::Cancelled, Some(true)), "{name}");
        assert!(!is_alive(pid), "{name}");
    }
}

#[tokio::test]
async fn a_stop_that_is_there_before_the_program_is_heard() {
    let bench = Bench::new();
    for task in [shell("sleep 1000"), steps(None, json!(["sleep 1000"]))] {
        let (name, cancel) = (task.job.call.operation().name(), CancellationToken::new());
        cancel.cancel();
        let finished = tokio::time::timeout(PATIENCE, start(&bench.executor, task, cancel)).await.unwrap();
        assert_eq!((finished.outcome, finished.cancel_verified), (Outcome::Cancelled, Some(true)), "{name}");
    }
}

#[test]
fn an_order_that_comes_together_with_the_program_is_heard() {
    let (mut agent, theirs) = UnixStream::pair().unwrap();
    let mut supervisor = Command::new(env!("CARGO_BIN_EXE_longshore-supervise")).stdin(std::os::fd::OwnedFd::from(theirs)).spawn().unwrap();
    let program = json!({ "words": ["/bin/sleep", "1000"], "cwd": "/", "env": {} });
    agent.write_all(format!(" {program}\n{}\n", json!({ "kill": { "grace_ms": 0 } })).as_bytes()).unwrap();
    agent.set_read_timeout(Some(PATIENCE)).unwrap();
    let said: Vec<String> = BufReader::new(agent).lines().map(|line| line.expect("it answers")).collect();
    assert!(supervisor.wait().unwrap().success());
    assert_eq!(said.last().map(String::as_str), Some(r#"{"done":{"verified":true}}"#), "{said:?}");
}

#[tokio::test]
async fn a_time_out_leaves_nobody() {
    for (name, script) in ESCAPES {
        let bench = Bench::new();
        let finished = bench.run(within(Duration::from_millis(400), escape(&bench, script))).await;
        let failure = finished.failure.unwrap();
        assert_eq!(
            (finished.outcome, failure.code, failure.message.as_str()),
            (Outcome::Failed, ErrorCode::TimedOut, "ran longer than 400ms")
        );
        assert!(!is_alive(pid_in(&bench.file("pid")).await), "{name}");
    }
}

#[tokio::test]
async fn sigterm_comes_first_and_may_be_used() {
    let (bench, cancel) = (Bench::with_grace(PATIENCE), CancellationToken::new());
    let task = escape(&bench, "trap 'sleep 0.1; echo tidied; exit 0' TERM; echo $$ > $PID; while :; do sleep 0.05; done");
    let began = Instant::now();
    let (finished, _) = tokio::join!(start(&bench.executor, task, cancel.clone()), async {
        pid_in(&bench.file("pid")).await;
        cancel.cancel();
    });
    assert_eq!((finished.outcome, finished.cancel_verified), (Outcome::Cancelled, Some(true)));
    assert!(finished.result.unwrap()["stdout"].as_str().unwrap().contains("tidied"));
    assert!(began.elapsed() < PATIENCE);
}

#[tokio::test]
async fn dropping_the_future_leaves_nobody() {
    for (name, script) in ESCAPES {
        let bench = Bench::with_grace(PATIENCE);
        let mut running = JoinSet::new();
        running.spawn(start(&bench.executor, escape(&bench, script), CancellationToken::new()));
        let pid = pid_in(&bench.file("pid")).await;
        drop(running);
        tokio::time::timeout(PATIENCE, bench.executor.close()).await.expect(name);
        assert!(!is_alive(pid), "{name}");
    }
}

#[test]
fn the_agents_death_leaves_nobody() {
    for (name, script) in ESCAPES {
        let bench = Bench::with_grace(PATIENCE);
        let runtime = Runtime::new().unwrap();
        let running = runtime.spawn(start(&bench.executor, escape(&bench, script), CancellationToken::new()));
        let pid = runtime.block_on(pid_in(&bench.file("pid")));
        // Every task is dropped where it stands, and with it our end of the supervisor's socket.
        runtime.shutdown_background();
        Runtime::new().unwrap().block_on(eventually(name, || !is_alive(pid)));
        drop(running);
    }
}

#[tokio::test]
async fn killing_the_supervisor_helps_nobody() {
    let bench = Bench::new();
    let task =
        escape(&bench, "setsid sh -c 'echo $$ > $PID; exec sleep 1000' & while ! test -s $PID; do :; done; kill -9 $PPID; sleep 1000");
    let finished = bench.run(task).await;
    let failure = finished.failure.unwrap();
    assert_eq!((finished.outcome, failure.code, finished.transient), (Outcome::Failed, ErrorCode::HostFault, true));
    assert!(!is_alive(pid_in(&bench.file("pid")).await));
}

#[tokio::test]
async fn stopping_the_supervisor_helps_nobody() {
    let (bench, cancel) = (Bench::with_grace(Duration::ZERO), CancellationToken::new());
    let task = escape(&bench, "kill -STOP $PPID; echo $$ > $PID; exec sleep 1000");
    let (finished, pid) = tokio::join!(start(&bench.executor, task, cancel.clone()), async {
        let pid = pid_in(&bench.file("pid")).await;
        cancel.cancel();
        pid
    });
    assert_eq!((finished.outcome, finished.cancel_verified), (Outcome::Cancelled, Some(true)));
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn a_tree_that_keeps_moving_is_ended() {
    let (bench, cancel) = (Bench::with_grace(Duration::ZERO), CancellationToken::new());
    // Every process lives for a moment and leaves an orphan that does the same.
    let step = bench.file("step");
    std::fs::write(&step, "echo $$ > $2; sleep 0.02; setsid sh $1 $1 $2 &").unwrap();
    let script = format!("for i in 1 2 3 4 5 6; do sh {0} {0} {1} & done; sleep 1000", step.display(), bench.file("pid").display());
    let (finished, ()) = tokio::join!(start(&bench.executor, shell(&script), cancel.clone()), async {
        let first = pid_in(&bench.file("pid")).await;
        eventually("it moves", || std::fs::read_to_string(bench.file("pid")).is_ok_and(|now| now.trim() != first.to_string())).await;
        cancel.cancel();
    });
    assert_eq!((finished.outcome, finished.cancel_verified), (Outcome::Cancelled, Some(true)));
    std::fs::remove_file(bench.file("pid")).unwrap();
    // Whoever were left would write it again.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!bench.file("pid").exists());
}

#[tokio::test]
async fn signals_to_the_supervisor_do_not_end_it() {
    let bench = Bench::new();
    let finished = bench.run(shell("for signal in TERM INT HUP QUIT USR1; do kill -$signal $PPID; done; sleep 0.05; echo fine")).await;
    assert_eq!((finished.outcome, &finished.result.unwrap()["stdout"]), (Outcome::Completed, &serde_json::json!("fine\n")));
}

#[tokio::test]
async fn a_supervisor_that_is_missing_is_a_fault_of_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), Duration::ZERO);
    config.supervisor.program = "/no/such/supervisor".into();
    let executor = Executor::open(config).unwrap();
    let finished = start(&executor, shell("true"), CancellationToken::new()).await;
    assert_eq!((finished.failure.unwrap().code, finished.transient), (ErrorCode::HostFault, true));
}
