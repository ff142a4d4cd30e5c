//! What a workspace's steps are kept within: namespaces and control groups where the host has them, limits everywhere.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use longshore_exec::{Finished, Task};
use longshore_model::wire::log::LogStream;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::Outcome;
use serde_json::{Value, json};

use crate::drive::is_root;
use crate::support::{Bench, Recorder, config, failure, is_alive, pid_in, task};

/// Runs one step, and gives its end and what it wrote.
async fn step(bench: &Bench, script: &str, limits: Value) -> (Finished, String) {
    let recorder = Arc::new(Recorder::default());
    let mut finished = bench.run_into(limited(script, limits), &recorder).await;
    finished.archive = None;
    let output = recorder.text(LogStream::Stdout) + &recorder.text(LogStream::Stderr);
    bench.assert_nothing_left();
    (finished, output)
}

fn limited(script: &str, limits: Value) -> Task {
    task("workspace.run", json!({ "steps": [script], "limits": limits }))
}

/// Whether this user may make namespaces. Where not, what they are for is not there to be tested.
fn has_namespaces() -> bool {
    let tried = std::process::Command::new("unshare").args(["--pid", "--mount", "--ipc", "--fork", "true"]).status();
    tried.is_ok_and(|status| status.success())
}

#[tokio::test]
async fn steps_have_processes_mounts_and_shared_memory_of_their_own() {
    if !has_namespaces() {
        return;
    }
    let bench = Bench::new();
    let mount = bench.file("mount");
    fs::create_dir(&mount).unwrap();
    let script = format!(
        "ls /proc | grep -c '^[0-9]*$'; mount -t tmpfs none {0} && touch {0}/seen; touch /dev/shm/longshore-left; ipcmk -Q >/dev/null; ls {0}",
        mount.display()
    );
    let (finished, output) = step(&bench, &script, Value::Null).await;
    assert_eq!(finished.outcome, Outcome::Completed, "{output}");
    let (count, seen) = output.split_once('\n').unwrap();
    assert!(count.parse::<u32>().unwrap() < 8, "it sees its own processes only: {output}");
    assert_eq!(seen, "seen\n");
    assert!(fs::read_dir(&mount).unwrap().next().is_none(), "the mount went with the step");
    assert!(!Path::new("/dev/shm/longshore-left").exists());
    let queues = fs::read_to_string("/proc/sysvipc/msg").unwrap();
    assert_eq!(queues.lines().count(), 1, "{queues}");
}

#[tokio::test]
async fn workspaces_may_be_in_shared_memory() {
    let place = Path::new("/dev/shm");
    if !place.is_dir() {
        return;
    }
    let bench = Bench::below(place, Duration::from_millis(200));
    let (finished, output) = step(&bench, "pwd && touch made && touch $TMPDIR/made", Value::Null).await;
    assert_eq!(finished.outcome, Outcome::Completed, "{finished:?}");
    assert!(output.starts_with("/dev/shm/"), "{output}");
}

#[tokio::test]
async fn exit_statuses_signals_and_missing_shells_come_through_namespaces() {
    let bench = Bench::new();
    for (script, part) in
        [("exit 7", "exited with status 7"), ("kill -SEGV $$", "was ended by signal 11"), ("kill -9 $$", "was ended by signal 9")]
    {
        let (finished, _) = step(&bench, script, Value::Null).await;
        assert_eq!(failure(&finished).0, ErrorCode::ExitStatus);
        assert!(failure(&finished).1.contains(part), "{finished:?}");
    }
    let missing = task("workspace.run", json!({ "steps": [{ "run": "true", "shell": ["no-such-shell-here"] }] }));
    assert_eq!(failure(&bench.run(missing).await).0, ErrorCode::CommandNotFound);
}

#[tokio::test]
async fn a_step_gains_no_rights_and_writes_no_core_files() {
    let bench = Bench::new();
    let (finished, output) = step(&bench, "grep NoNewPrivs /proc/self/status; ulimit -c; sh -c 'kill -SEGV $$'; ls", Value::Null).await;
    assert_eq!(finished.outcome, Outcome::Completed, "{output}");
    assert!(output.starts_with("NoNewPrivs:\t1\n0\n") && !output.contains("core"), "{output}");
}

#[tokio::test]
async fn a_file_may_be_as_large_as_the_limit_and_no_larger() {
    let bench = Bench::new();
    let script = "head -c 1048576 /dev/zero > fits; trap '' XFSZ; head -c 1048577 /dev/zero > large || echo refused; wc -c < large";
    let (finished, output) = step(&bench, script, json!({ "file_size": "1MiB" })).await;
    assert_eq!(finished.outcome, Outcome::Completed);
    assert!(output.contains("refused") && output.contains("1048576"), "{output}");
}

#[tokio::test]
async fn memory_processes_and_processors_are_bounded_or_the_job_says_why_not() {
    let bench = Bench::new();
    let endless = "x=x; while :; do x=$x$x; done";
    let (finished, output) = step(&bench, endless, json!({ "memory": "32MiB" })).await;
    if failure(&finished).0 == ErrorCode::Unsupported {
        assert!(failure(&finished).1.starts_with("this host could not bound memory: "), "{finished:?}");
        return;
    }
    assert!(failure(&finished).1.ends_with("used up its limit of 32MiB of memory"), "{finished:?} {output}");

    let forks = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; echo all";
    let (finished, output) = step(&bench, forks, json!({ "processes": 5 })).await;
    assert_eq!(finished.outcome, Outcome::Failed);
    assert!(!output.contains("all"), "{output}");

    let spins = "end=$(($(date +%s) + 2)); while [ $(date +%s) -lt $end ]; do :; done; times";
    let (finished, output) = step(&bench, spins, json!({ "cpu": "0.1" })).await;
    assert_eq!(finished.outcome, Outcome::Completed, "{output}");
    let used: f64 = output.split_whitespace().map(|time| time.trim_start_matches("0m").trim_end_matches('s').parse::<f64>().unwrap()).sum();
    assert!(used < 1.0, "a tenth of about two seconds: {output}");
}

#[tokio::test]
async fn killing_the_supervisor_of_a_step_leaves_nobody_however_it_hides() {
    let bench = Bench::new();
    let pid = bench.file("pid");
    // Of a process that says nothing of where it comes from, in a session of its own; the number is the host's.
    let script = format!(
        "setsid env -i sh -c 'exec sleep 1000.77' & until pgrep -f 'sleep 1000.77' >/dev/null; do :; done; touch {}; sleep 1000",
        pid.display()
    );
    let (mut finished, ()) = tokio::join!(bench.run(limited(&script, Value::Null)), async {
        crate::support::eventually("it hides", || pid.exists()).await;
        let hidden = sleeping("1000.77");
        assert_eq!(hidden.len(), 1);
        let supervisor = supervisor_above(hidden[0]);
        rustix::process::kill_process(rustix::process::Pid::from_raw(supervisor).unwrap(), rustix::process::Signal::KILL).unwrap();
        crate::support::eventually("everything is gone", || !is_alive(hidden[0])).await;
    });
    assert_eq!((finished.outcome, failure(&finished).0), (Outcome::Failed, ErrorCode::HostFault));
    finished.archive = None;
    bench.assert_nothing_left();
}

fn sleeping(seconds: &str) -> Vec<i32> {
    let line = format!("sleep\0{seconds}\0").into_bytes();
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|found| found == line)).collect()
}

/// The nearest ancestor that is a supervisor of ours and not the first process of namespaces.
fn supervisor_above(pid: i32) -> i32 {
    let parent = |pid: i32| -> i32 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat[stat.rfind(')').unwrap() + 2..].split(' ').nth(1).unwrap().parse().unwrap()
    };
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap();
    let mut at = pid;
    while namespace(at) != namespace(std::process::id().try_into().unwrap()) {
        at = parent(at);
    }
    if at == pid { parent(parent(pid)) } else { at }
}

#[tokio::test]
async fn a_step_in_namespaces_is_ended_as_soon_as_it_is_told_to() {
    let bench = Bench::with_grace(Duration::from_secs(20));
    let pid = bench.file("pid");
    let script = format!("trap 'echo tidied; exit 0' TERM; echo $$ > {}; while :; do sleep 0.02; done", pid.display());
    let (recorder, cancel) = (Arc::new(Recorder::default()), tokio_util::sync::CancellationToken::new());
    let since = Instant::now();
    let (finished, ()) = tokio::join!(bench.executor.run(limited(&script, Value::Null), recorder.clone(), cancel.clone()), async {
        pid_in(&pid).await;
        cancel.cancel();
    });
    assert_eq!((finished.outcome, finished.cancel_verified), (Outcome::Cancelled, Some(true)));
    assert!(recorder.text(LogStream::Stdout).contains("tidied") && since.elapsed() < Duration::from_secs(10));
}

/// What an agent that is not root meets, or one in a container: the kernel refuses namespaces.
#[tokio::test]
async fn without_the_right_to_make_namespaces_the_sweep_stands_in() {
    let is_there = std::process::Command::new("setpriv").args(["--bounding-set", "-sys_admin", "true"]).status();
    if !is_root() || !is_there.is_ok_and(|status| status.success()) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&dir.path().join("state"), Duration::from_millis(100));
    let supervisor = std::mem::replace(&mut config.supervisor.program, "setpriv".into());
    config.supervisor.args = ["--bounding-set".into(), "-sys_admin".into(), "--".into(), supervisor.into_os_string()].into();

    let facilities = longshore_exec::facilities(config.supervisor.clone()).await;
    let namespaces = facilities.iter().find(|facility| facility.name == "namespaces").unwrap();
    assert!(!namespaces.used && namespaces.why.contains("CAP_SYS_ADMIN"), "{namespaces:?}");

    let executor = longshore_exec::Executor::open(config).unwrap();
    let (output, cancel) = (Arc::new(Recorder::default()), tokio_util::sync::CancellationToken::new());
    let script =
        format!("(setsid env -i sh -c 'sleep 1000.88; sleep 1000.88' &); touch {}; sleep 1000.88", dir.path().join("up").display());
    let (finished, ()) = tokio::join!(executor.run(limited(&script, Value::Null), output, cancel.clone()), async {
        crate::support::eventually("it hides", || dir.path().join("up").exists() && sleeping("1000.88").len() == 2).await;
        cancel.cancel();
    });
    assert_eq!((finished.outcome, finished.cancel_verified), (Outcome::Cancelled, Some(true)));
    assert_eq!(sleeping("1000.88"), Vec::<i32>::new());
}

#[tokio::test]
async fn every_facility_says_how_or_why_not() {
    let dir = tempfile::tempdir().unwrap();
    let facilities = longshore_exec::facilities(config(dir.path(), Duration::ZERO).supervisor).await;
    let names: Vec<_> = facilities.iter().map(|facility| facility.name).collect();
    let expected = [
        "supervisor",
        "namespaces",
        "cgroup_kill",
        "limit_memory",
        "limit_cpu",
        "limit_processes",
        "limit_file_size",
        "no_new_privileges",
        "resume",
    ];
    assert_eq!(names, expected);
    assert!(facilities.iter().all(|facility| !facility.why.is_empty()), "{facilities:?}");
    assert_eq!(facilities[1].used, has_namespaces(), "{facilities:?}");

    let missing = longshore_exec::SupervisorCommand { program: "/no/such/supervisor".into(), args: Vec::new() };
    let facilities = longshore_exec::facilities(missing).await;
    assert!(!facilities[0].used && facilities[0].why.contains("/no/such/supervisor"), "{facilities:?}");
}

#[tokio::test]
async fn a_step_has_no_descriptor_terminal_or_input_of_its_agents() {
    let bench = Bench::new();
    let script = "for fd in /proc/$$/fd/*; do readlink $fd; done | grep -v '^pipe:\\|^/proc/\\|^/dev/null$'; \
        cat; (: < /dev/tty) 2>/dev/null && echo terminal; tr '\\0' '\\n' < /proc/self/environ | grep -c 'SUPERVISOR\\|CARRIER'";
    let (finished, output) = step(&bench, script, Value::Null).await;
    assert_eq!((finished.outcome, output.as_str()), (Outcome::Failed, "0\n"), "grep found none: {finished:?}");
}

#[tokio::test]
async fn orphans_of_a_step_are_reaped_while_it_runs() {
    if !has_namespaces() {
        return;
    }
    let bench = Bench::new();
    let zombies = "zombies() { cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z '; }";
    let script =
        format!("{zombies}; for n in $(seq 200); do (true & ); done; while test $(zombies) -gt 2; do sleep 0.01; done; echo reaped");
    let (finished, output) = step(&bench, &script, Value::Null).await;
    assert_eq!((finished.outcome, output.as_str()), (Outcome::Completed, "reaped\n"), "{finished:?}");
}

#[tokio::test]
async fn a_step_ends_with_its_program_whoever_still_has_its_output() {
    let bench = Bench::new();
    for script in ["setsid sleep 1000 & echo done", "exec 3>&1 4>&2 >&- 2>&-; (sleep 1000 >&3 2>&4) & echo done >&3"] {
        let (finished, output) = step(&bench, script, Value::Null).await;
        assert_eq!((finished.outcome, output.as_str()), (Outcome::Completed, "done\n"), "{script}: {finished:?}");
    }
}
