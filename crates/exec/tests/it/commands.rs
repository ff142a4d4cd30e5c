//! Programs that end by themselves.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use longshore_model::limits::{ANSWER_OUTPUT_BYTES_MAX, LOG_BYTES_PER_STEP_MAX, LOG_RECORD_BYTES_MAX};
use longshore_model::wire::log::LogStream;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::Outcome;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::support::{Bench, Recorder, eventually, failure, is_alive, pid_in, shell, task, within};

#[tokio::test]
async fn output_and_exit_status_come_back() {
    let (bench, recorder) = (Bench::new(), Arc::new(Recorder::default()));
    let finished = bench.run_into(shell("echo out; echo err >&2; exit 3"), &recorder).await;

    assert_eq!((finished.outcome, finished.failure.unwrap().code), (Outcome::Failed, ErrorCode::ExitStatus));
    let result = finished.result.unwrap();
    assert_eq!((&result["exit_code"], &result["stdout"], &result["stderr"]), (&json!(3), &json!("out\n"), &json!("err\n")));
    assert_eq!((&result["stdout_bytes"], &result["truncated"]), (&json!(4), &json!(false)));
    assert_eq!((recorder.text(LogStream::Stdout), recorder.text(LogStream::Stderr)), ("out\n".into(), "err\n".into()));
}

#[tokio::test]
async fn success_and_signals_are_told_apart() {
    let bench = Bench::new();
    let finished = bench.run(shell("true")).await;
    assert_eq!((finished.outcome, finished.transient, finished.cancel_verified), (Outcome::Completed, false, None));

    let finished = bench.run(shell("kill -SEGV $$")).await;
    let failure = finished.failure.unwrap();
    assert_eq!((failure.code, failure.message.as_str()), (ErrorCode::ExitStatus, "was ended by signal 11"));
    assert_eq!(finished.result.unwrap()["signal"], 11);
}

/// The supervisor blocks signals to wait for them; its program must not inherit that.
#[tokio::test]
async fn programs_hear_every_signal() {
    let bench = Bench::new();
    for (script, stdout) in [
        ("grep SigBlk /proc/self/status | tr -d '\\t'", "SigBlk:0000000000000000\n"),
        ("sleep 0.01 & wait; echo waited", "waited\n"),
        ("trap 'echo heard; exit 0' TERM; kill -TERM $$; echo deaf", "heard\n"),
        ("timeout 0.1 sleep 600; echo $?", "124\n"),
    ] {
        let finished = bench.run(shell(script)).await;
        assert_eq!(finished.result.unwrap()["stdout"], stdout, "{script}");
    }
}

#[tokio::test]
async fn what_cannot_start_is_named() {
    let bench = Bench::new();
    let plain = bench.file("plain");
    std::fs::write(&plain, "no program").unwrap();
    for (args, code, part) in [
        (json!({"command": ["no-such-program-here"]}), ErrorCode::CommandNotFound, "\"no-such-program-here\": command not found"),
        (json!({"command": [plain]}), ErrorCode::CommandNotFound, "Permission denied"),
        (json!({"command": ["true"], "cwd": "/no/such/dir"}), ErrorCode::Staging, "working directory \"/no/such/dir\""),
    ] {
        let finished = bench.run(task("command.exec", args)).await;
        let failure = finished.failure.unwrap();
        assert_eq!((finished.outcome, failure.code, finished.transient), (Outcome::Failed, code, false));
        assert!(failure.message.contains(part), "{}", failure.message);
    }
}

#[tokio::test]
async fn words_arrive_verbatim() {
    let bench = Bench::new();
    let words = ["a b", "", "'; rm -rf / #", "\"$(id)\"", "`id`", "\\", "*", "--", "\n", "ü€😀", "a\u{1b}[31m"];
    let mut command = vec!["printf", "%s|"];
    command.extend(words);
    let finished = bench.run(task("command.exec", json!({ "command": command, "env": {"X": "'\"$(id)\n"} }))).await;
    assert_eq!(finished.result.unwrap()["stdout"], words.map(|word| format!("{word}|")).concat());
}

#[tokio::test]
async fn nothing_of_the_agent_is_inherited() {
    let bench = Bench::new();
    // Without close-on-exec, as a careless parent of the agent may have left it.
    let leak = rustix::io::dup(std::fs::File::open("/dev/null").unwrap()).unwrap();
    assert!(leak.as_raw_fd() > 2);
    // Cargo sets variables for its tests: canaries enough.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());

    let finished = bench.run(shell("env; tr '\\0' '\\n' </proc/$PPID/environ; tr '\\0' ' ' </proc/$PPID/cmdline")).await;
    let result = finished.result.unwrap();
    let seen = result["stdout"].as_str().unwrap();
    assert!(seen.contains("PATH=") && seen.contains("LANG=C.UTF-8") && !seen.contains("CARGO"), "{seen}");
    assert!(seen.contains("LONGSHORE_ATTEMPT=1\n") && !seen.contains("LONGSHORE_FENCE"), "it is told which attempt it is: {seen}");

    let finished = bench.run(shell("ls /proc/self/fd; readlink /proc/self/fd/0")).await;
    // The fourth is the directory being listed.
    assert_eq!(finished.result.unwrap()["stdout"], "0\n1\n2\n3\n/dev/null\n");
    drop(leak);
}

/// `LC_ALL=C` is for programs whose words are read here: `docs/adr/0023-whose-programs-speak-c.md`.
#[tokio::test]
async fn a_users_program_is_not_made_to_speak_ascii_and_chooses_its_own_locale() {
    let bench = Bench::new();
    let said = async |env: serde_json::Value| {
        let script = "echo \"${LC_ALL-none} $LANG\"";
        let finished = bench.run(task("command.shell", json!({ "command": script, "env": env }))).await;
        finished.result.unwrap()["stdout"].as_str().unwrap().trim().to_owned()
    };
    assert_eq!(said(json!({})).await, "none C.UTF-8");
    assert_eq!(said(json!({"LC_ALL": "de_DE.UTF-8", "LANG": "C"})).await, "de_DE.UTF-8 C");
}

#[tokio::test]
async fn variables_of_the_job_are_not_in_the_supervisors_arguments_or_environment() {
    let bench = Bench::new();
    let script = "tr '\\0' '\\n' </proc/$PPID/environ; tr '\\0' ' ' </proc/$PPID/cmdline; echo $SECRET >&2";
    let finished = bench.run(task("command.shell", json!({"command": script, "env": {"SECRET": "canary"}}))).await;
    let result = finished.result.unwrap();
    assert!(!result["stdout"].as_str().unwrap().contains("canary"));
    assert_eq!(result["stderr"], "canary\n");
}

#[tokio::test]
async fn a_flood_is_cut_with_one_mark_and_read_to_its_end() {
    let (bench, recorder) = (Bench::new(), Arc::new(Recorder::default()));
    let finished = bench.run_into(shell("head -c 209715200 /dev/zero; echo last >&2"), &recorder).await;

    assert_eq!(finished.outcome, Outcome::Completed);
    let result = finished.result.unwrap();
    assert_eq!((&result["stdout_bytes"], &result["truncated"]), (&json!(209_715_200), &json!(true)));
    assert!(serde_json::to_vec(&result).unwrap().len() < 4 * ANSWER_OUTPUT_BYTES_MAX);
    assert_eq!(result["stderr"], "last\n");
    let pieces = recorder.0.lock().unwrap();
    let logged: usize = pieces.iter().filter(|(_, stream, _)| *stream == LogStream::Stdout).map(|(_, _, bytes)| bytes.len()).sum();
    assert_eq!(logged as u64, LOG_BYTES_PER_STEP_MAX);
    assert_eq!(pieces.iter().filter(|(_, stream, _)| *stream == LogStream::System).count(), 1);
    assert!(pieces.iter().all(|(_, _, bytes)| bytes.len() <= LOG_RECORD_BYTES_MAX));
}

#[tokio::test]
async fn what_a_program_leaves_behind_ends_with_it() {
    let bench = Bench::new();
    let pid = bench.file("pid");
    // It holds stdout open, too.
    let finished = bench.run(shell(&format!("sleep 1000 & echo $! > {}; echo said", pid.display()))).await;
    assert_eq!((finished.outcome, &finished.result.unwrap()["stdout"]), (Outcome::Completed, &json!("said\n")));
    assert!(!is_alive(pid_in(&pid).await));
}

/// Real programs, and a clock that is put forward: nothing ends one before its time, however many hours that is.
#[tokio::test]
async fn a_program_may_run_for_hours_and_is_stopped_when_its_time_is_up() {
    let bench = Bench::new();
    const MINUTES: Duration = Duration::from_secs(300);
    let (pid, go, hours) = (bench.file("pid"), bench.file("go"), Duration::from_secs(6 * 3600));
    let script = format!(
        "echo before; while [ ! -e '{}' ]; do sleep 0.05; done; echo and more; echo $$ >'{}'; exec sleep 100000",
        go.display(),
        pid.display()
    );
    let recorder = Arc::new(Recorder::default());
    let began = Instant::now();
    let running = bench.executor.run(within(hours, shell(&script)), recorder.clone(), CancellationToken::new());
    let pass = async |time: Duration| {
        tokio::time::pause();
        tokio::time::advance(time).await;
        tokio::time::resume();
    };
    let hours_pass = async {
        // What comes after its first words comes after everything about its start has been heard.
        eventually("its first words", || recorder.text(LogStream::Stdout) == "before\n").await;
        std::fs::write(&go, "").unwrap();
        eventually("what came after them", || recorder.text(LogStream::Stdout) == "before\nand more\n").await;
        let program = pid_in(&pid).await;
        // However long that took on a busy machine: minutes are left, and then none.
        pass(hours - began.elapsed() - MINUTES).await;
        assert!(is_alive(program), "minutes are left");
        pass(MINUTES).await;
        program
    };
    let (finished, program) = tokio::join!(running, hours_pass);
    assert_eq!(failure(&finished), (ErrorCode::TimedOut, "ran longer than 6h"));
    let result = finished.result.as_ref().unwrap();
    assert_eq!(result["stdout"], "before\nand more\n", "what it wrote is kept");
    // Counted from the program's own start, which came a moment after that of its time.
    assert!(result["duration_ms"].as_u64().unwrap() + 60_000 >= 6 * 3_600_000 && finished.duration >= hours, "{result}");
    assert!(!is_alive(program));
}
