//! Handlers that loop, allocate, fork, flood, lie, crash and stay. Each harms its own task; at worst its host, and then the truth is told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use longshore_exec::Output;
use longshore_exec::package::Installed;
use longshore_exec::package::host::{Call, Door, ErrorKind, Feedback, HandlerError, Outcome, feedback_channel};
use longshore_model::wire::log::LogStream;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Stand, call, package};
use crate::support::{PATIENCE, Recorder, eventually, is_alive, pid_in};

const LIMIT: Duration = Duration::from_millis(300);

fn limited(node_type: &str, parameters: Value) -> Call {
    Call { timeout: Some(LIMIT), ..call(node_type, parameters) }
}

/// Begins a task that goes on until it is told, and gives it once it runs.
async fn bystander(stand: &Stand, package: &Installed) -> JoinSet<Result<Outcome, HandlerError>> {
    let (hosts, package) = (stand.hosts.clone(), package.clone());
    let until = stand.dir.path().join("until");
    let waits = call("waits", json!({ "until": until }));
    let mut running = JoinSet::new();
    running.spawn(async move { hosts.run(&package, waits, Door::default(), CancellationToken::new()).await });
    eventually("the bystander runs", || stand.data("waits", "begun").exists()).await;
    running
}

async fn ends_well(stand: &Stand, mut running: JoinSet<Result<Outcome, HandlerError>>) {
    std::fs::write(stand.dir.path().join("until"), "").unwrap();
    let ended = tokio::time::timeout(PATIENCE, running.join_next()).await.unwrap().unwrap().unwrap();
    assert_eq!(ended.unwrap().result["waited"], true);
}

async fn dies_with_its_host(mut running: JoinSet<Result<Outcome, HandlerError>>) -> String {
    let error = tokio::time::timeout(PATIENCE, running.join_next()).await.unwrap().unwrap().unwrap().unwrap_err();
    assert_eq!((error.kind, error.verified), (ErrorKind::HostDied, true), "{error:?}");
    error.message
}

#[tokio::test]
async fn a_loop_in_a_thread_costs_its_host_only_when_the_others_are_done() {
    let (stand, package) = (Stand::new(), package("hostile"));
    let others = bystander(&stand, &package).await;
    let (looping, ()) = tokio::join!(stand.run_call(&package, limited("loops", json!({})), Door::default()), async {
        let first = pid_in(&stand.data("loops", "begun")).await;
        eventually("the host takes no new tasks", || stand.hosts.warm_hosts() == 0).await;
        // New tasks get a new host, while the others of the old one go on.
        assert_ne!(stand.result(&package, "well", json!({})).await["pid"], first);
        ends_well(&stand, others).await;
    });
    let error = looping.unwrap_err();
    assert_eq!((error.kind, error.message.as_str(), error.verified), (ErrorKind::TimedOut, "the handler ran longer than 300ms", true));
    assert!(!is_alive(pid_in(&stand.data("loops", "begun")).await));
}

#[tokio::test]
async fn a_loop_on_the_event_loop_costs_its_host_and_the_others_are_told() {
    let (stand, package) = (Stand::new(), package("hostile"));
    let others = bystander(&stand, &package).await;
    let error = stand.run_call(&package, limited("loops_on_the_loop", json!({})), Door::default()).await.unwrap_err();
    assert_eq!((error.kind, error.verified), (ErrorKind::TimedOut, true));
    let told = dies_with_its_host(others).await;
    assert!(told.contains("hostile@1.0.0 had to be ended: a task did not stop when it was asked to, and its event loop"), "{told}");
    assert!(!is_alive(pid_in(&stand.data("loops_on_the_loop", "begun")).await));
    stand.result(&package, "well", json!({})).await;
}

#[tokio::test]
async fn a_blocked_event_loop_delays_the_others_and_no_more() {
    let (stand, package) = (Stand::new(), package("hostile"));
    let others = bystander(&stand, &package).await;
    stand.result(&package, "blocks_the_loop_for_a_while", json!({})).await;
    ends_well(&stand, others).await;
}

#[tokio::test]
async fn a_handler_that_swallows_its_cancellation_is_ended_with_its_host() {
    let (stand, package) = (Stand::new(), package("hostile"));
    stand.result(&package, "well", json!({})).await;
    let error = stand.run_call(&package, limited("will_not_be_cancelled", json!({})), Door::default()).await.unwrap_err();
    assert_eq!((error.kind, error.verified), (ErrorKind::TimedOut, true));
    assert!(!is_alive(pid_in(&stand.data("will_not_be_cancelled", "begun")).await));
}

#[tokio::test]
async fn a_handler_that_is_stopped_may_tidy_up_and_costs_nothing() {
    let (stand, package) = (Stand::patient(), package("hostile"));
    let others = bystander(&stand, &package).await;
    let error = stand.run_call(&package, limited("tidies_up", json!({})), Door::default()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TimedOut);
    assert!(stand.data("tidies_up", "tidied").exists());
    ends_well(&stand, others).await;

    let cancel = CancellationToken::new();
    let stopped = stand.hosts.run(&package, call("returns_when_cancelled", json!({})), Door::default(), cancel.clone());
    let (outcome, ()) = tokio::join!(stopped, async {
        pid_in(&stand.data("returns_when_cancelled", "begun")).await;
        cancel.cancel();
    });
    // What was done anyway is not thrown away.
    assert_eq!(outcome.unwrap().result["half"], true);
    assert_eq!(stand.hosts.warm_hosts(), 1);
}

#[tokio::test]
async fn dropping_the_future_stops_the_handler() {
    let (stand, package) = (Stand::new(), package("hostile"));
    let mut running = JoinSet::new();
    let hosts = stand.hosts.clone();
    let theirs = package.clone();
    running.spawn(async move { hosts.run(&theirs, call("loops", json!({})), Door::default(), CancellationToken::new()).await });
    let pid = pid_in(&stand.data("loops", "begun")).await;
    drop(running);
    eventually("its host is gone", || !is_alive(pid)).await;
}

#[tokio::test]
async fn tasks_that_are_given_up_at_once_cost_nothing() {
    let (stand, package) = (Stand::patient(), package("hostile"));
    let others = bystander(&stand, &package).await;
    for n in 0_u64..200 {
        let running = stand.hosts.run(&package, call("tidies_up", json!({})), Door::default(), CancellationToken::new());
        // From before its first step to somewhere in the middle.
        let _given_up = tokio::time::timeout(Duration::from_micros(n * 10), running).await;
    }
    ends_well(&stand, others).await;
    assert_eq!(stand.hosts.warm_hosts(), 1);
}

#[tokio::test]
async fn allocating_without_end_raises_in_its_own_task() {
    let (stand, package) = (Stand::with(|settings| settings.memory_bytes_max = Some(1 << 30)), package("hostile"));
    let others = bystander(&stand, &package).await;
    let error = stand.run(&package, "allocates", json!({})).await.unwrap_err();
    assert_eq!((error.kind, error.type_name.as_deref()), (ErrorKind::Raised, Some("MemoryError")));
    ends_well(&stand, others).await;
}

#[tokio::test]
async fn a_forked_copy_answers_for_nobody() {
    let (stand, package) = (Stand::new(), package("hostile"));
    for node_type in ["forks", "forks_on_the_loop"] {
        let (sender, mut receiver) = feedback_channel();
        let door = Door { feedback: Some(sender), ..Door::default() };
        let outcome = stand.run_call(&package, call(node_type, json!({})), door).await.unwrap();
        assert_eq!(outcome.result["who"], "the handler", "{node_type}");
        assert_eq!(receiver.recv().await, None, "{node_type}");
    }
    assert_eq!(stand.hosts.warm_hosts(), 1);
}

#[tokio::test]
async fn what_handlers_have_started_goes_with_the_host() {
    let (stand, package) = (Stand::new(), package("hostile"));
    let result = stand.result(&package, "forks_many", json!({ "count": 50 })).await;
    let child = i32::try_from(result["child"].as_i64().unwrap()).unwrap();
    assert!(is_alive(child));
    stand.hosts.close().await;
    assert!(!is_alive(child));
}

#[tokio::test]
async fn printing_a_gibibyte_is_read_away() {
    let (stand, package) = (Stand::new(), package("hostile"));
    let others = bystander(&stand, &package).await;
    for stream in ["stdout", "stderr"] {
        stand.result(&package, "prints", json!({ "stream": stream, "mebibytes": 1024 })).await;
    }
    let recorder = Arc::new(Recorder::default());
    let output: Arc<dyn Output> = recorder.clone();
    let door = Door { output: Some(output), ..Door::default() };
    stand.run_call(&package, call("prints", json!({ "stream": "stdout", "mebibytes": 100 })), door).await.unwrap();
    let kept = recorder.text(LogStream::Stdout);
    assert!(kept.len() < 65 << 20 && kept.ends_with("the rest is cut, the handler goes on\n"), "{}", kept.len());
    ends_well(&stand, others).await;
}

#[tokio::test]
async fn hosts_that_lose_their_pipes_or_write_nonsense_or_die_tell_their_tasks_the_truth() {
    let rows = [
        ("closes_the_pipe", "cannot be"),
        ("closes_everything", "exited with status"),
        ("writes_nonsense", "wrote what is no frame"),
        ("exits_at_once", "exited with status 3 while 2 of its tasks ran; its last words: last words of the host"),
        ("crashes", "was ended by signal 11"),
        ("kills_itself", "was ended by signal 9"),
        ("kills_its_supervisor", "its supervisor ended before it"),
    ];
    for (node_type, words) in rows {
        let (stand, package) = (Stand::new(), package("hostile"));
        let others = bystander(&stand, &package).await;
        let host = pid_in(&stand.data("waits", "begun")).await;
        let (kind, message) = stand.fault(&package, node_type, json!({})).await;
        assert_eq!(kind, ErrorKind::HostDied, "{node_type}: {message}");
        assert!(message.contains(words), "{node_type}: {message}");
        assert_eq!(dies_with_its_host(others).await, message, "{node_type}");
        // Whoever kills its supervisor is killed by the kernel, which takes its time.
        let gone = async {
            while is_alive(host) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.unwrap_or_else(|_| panic!("{node_type} goes on"));
        stand.result(&package, "well", json!({})).await;
    }
}

#[tokio::test]
async fn a_stopped_host_is_ended_when_a_task_has_to_end() {
    let (stand, package) = (Stand::new(), package("hostile"));
    stand.result(&package, "well", json!({})).await;
    let error = stand.run_call(&package, limited("stops_itself", json!({})), Door::default()).await.unwrap_err();
    assert_eq!((error.kind, error.verified), (ErrorKind::TimedOut, true));
    assert!(!is_alive(pid_in(&stand.data("stops_itself", "begun")).await));
}

#[tokio::test]
async fn what_cannot_be_sent_fails_its_own_task() {
    let (stand, package) = (Stand::with(|settings| settings.frame_bytes_max = 2 << 20), package("hostile"));
    let others = bystander(&stand, &package).await;
    let rows = [
        ("object", "an object of the type Opaque"),
        ("deep", "nest"),
        ("circle", "contains itself"),
        ("surrogate", "half a character"),
        ("not_utf8", "not UTF-8"),
        ("huge_number", "number out of range"),
        ("large", "2097152 are the most"),
        ("generator", "an iterator"),
        ("tuple_keys", "tuples as keys"),
        ("lies", "KeyError"),
        ("angry", ""),
        ("coroutine_never_awaited", "coroutine"),
    ];
    for (what, words) in rows {
        let (kind, message) = stand.fault(&package, "returns", json!({ "what": what })).await;
        assert!(matches!(kind, ErrorKind::BadReturn | ErrorKind::Raised), "{what}: {kind:?} {message}");
        assert!(message.contains(words), "{what}: {message}");
    }
    stand.result(&package, "returns", json!({ "what": "nested" })).await;
    let (kind, message) = stand.fault(&package, "returns_no_dict", json!({})).await;
    assert_eq!(kind, ErrorKind::BadReturn);
    assert!(message.contains("returned a list"), "{message}");
    let large = json!({ "text": "x".repeat(3 << 20) });
    assert!(stand.fault(&package, "well", large).await.1.contains("2097152 are the most"));
    ends_well(&stand, others).await;
}

#[tokio::test]
async fn what_is_too_large_to_be_said_is_refused_where_it_is_said() {
    let (stand, package) = (Stand::with(|settings| settings.frame_bytes_max = 2 << 20), package("hostile"));
    let others = bystander(&stand, &package).await;
    let (sender, receiver) = feedback_channel();
    let door = Door { feedback: Some(sender), ..Door::default() };
    let outcome = stand.run_call(&package, call("says_too_much", json!({})), door).await.unwrap();
    drop(receiver);
    let refused = outcome.result["refused"].as_array().unwrap();
    for (said, words) in refused.iter().zip(["2097136 are the most", "feedback cannot be sent: an object", "65536 are the most"]) {
        assert!(said.as_str().unwrap().contains(words), "{said}");
    }
    assert_eq!(refused.len(), 3);
    let error = stand.run(&package, "raises", json!({ "what": "long_name" })).await.unwrap_err();
    assert_eq!((error.type_name.unwrap().len(), error.message.as_str()), (256, "m"));
    ends_well(&stand, others).await;
}

#[tokio::test]
async fn whatever_is_raised_is_the_failure_of_its_own_task_with_type_and_words() {
    let (stand, package) = (Stand::new(), package("hostile"));
    let others = bystander(&stand, &package).await;
    let rows = [
        ("ValueError", "ValueError", "bad value"),
        ("empty", "KeyError", "KeyError"),
        ("SystemExit", "SystemExit", "3"),
        ("KeyboardInterrupt", "KeyboardInterrupt", "KeyboardInterrupt"),
        ("GeneratorExit", "GeneratorExit", "g"),
        ("BaseException", "Ends", "the base of all"),
        ("CancelledError", "CancelledError", "own"),
        ("Unspeakable", "Unspeakable", "Unspeakable"),
        ("surrogate", "ValueError", "?"),
        ("RecursionError", "RecursionError", "r"),
    ];
    for node_type in ["raises", "raises_in_thread"] {
        for (what, type_name, message) in rows {
            let error = stand.run(&package, node_type, json!({ "what": what })).await.unwrap_err();
            let seen = (error.kind, error.type_name.as_deref(), error.message.as_str());
            assert_eq!(seen, (ErrorKind::Raised, Some(type_name), message), "{node_type} {what}");
        }
        // Inside a coroutine Python makes something else of it.
        assert_eq!(stand.fault(&package, node_type, json!({ "what": "StopIteration" })).await.0, ErrorKind::Raised);
        assert!(stand.fault(&package, node_type, json!({ "what": "long" })).await.1.len() <= 16 * 1024);
    }
    let error = stand.run(&package, "recursion", json!({})).await.unwrap_err();
    assert_eq!(error.type_name.as_deref(), Some("RecursionError"));
    ends_well(&stand, others).await;
}

#[tokio::test]
async fn modules_that_arrive_slowly_break_or_leave_are_waited_for_by_their_own_tasks() {
    let (stand, package) = (Stand::new(), package("hostile"));
    let began = Instant::now();
    let (slow, quick) = tokio::join!(stand.run(&package, "snail", json!({})), async {
        stand.result(&package, "well", json!({})).await;
        began.elapsed()
    });
    assert_eq!(slow.unwrap().result["arrived"], true);
    assert!(quick < began.elapsed(), "nobody else waits");

    let (kind, message) = stand.fault(&package, "broken", json!({})).await;
    let expected = "Handler not registered: ModuleNotFoundError: No module named 'nothing_of_this_name'";
    assert_eq!((kind, message.as_str()), (ErrorKind::NotLoaded, expected));
    let (kind, message) = stand.fault(&package, "leaver", json!({})).await;
    assert_eq!((kind, message.as_str()), (ErrorKind::NotLoaded, "Handler not registered: SystemExit: left at import"));
    assert_eq!(stand.result(&package, "same_name", json!({})).await, json!({ "whose": "hostile" }));
    assert_eq!(stand.hosts.warm_hosts(), 1);
}

#[tokio::test]
async fn an_import_that_takes_too_long_times_its_task_out_and_is_there_for_the_next() {
    let (stand, package) = (Stand::patient(), package("hostile"));
    stand.result(&package, "well", json!({})).await;
    let error = stand.run_call(&package, limited("snail", json!({})), Door::default()).await.unwrap_err();
    assert_eq!((error.kind, stand.hosts.warm_hosts()), (ErrorKind::TimedOut, 1));
    assert_eq!(stand.result(&package, "snail", json!({})).await, json!({ "arrived": true }));
}

#[tokio::test]
async fn threads_and_tasks_that_are_left_behind_hold_nobody_up() {
    let (stand, package) = (Stand::new(), package("hostile"));
    let others = bystander(&stand, &package).await;
    stand.result(&package, "leaves_threads", json!({})).await;
    stand.result(&package, "well", json!({})).await;
    ends_well(&stand, others).await;
    let began = Instant::now();
    stand.hosts.close().await;
    assert!(began.elapsed() < PATIENCE / 2);
}

#[tokio::test]
async fn a_flood_of_feedback_is_coalesced_and_bounded_and_a_polite_one_complete() {
    let (stand, package) = (Stand::new(), package("hostile"));
    let count: u64 = 20_000;
    let flooded = |node_type: &'static str| {
        let (sender, mut receiver) = feedback_channel();
        let running =
            stand.run_call(&package, call(node_type, json!({ "count": count })), Door { feedback: Some(sender), ..Door::default() });
        async move {
            let taking = async {
                let mut all: Vec<Feedback> = Vec::new();
                while let Some(piece) = receiver.recv().await {
                    all.push(piece);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                all
            };
            let (outcome, all) = tokio::join!(running, taking);
            outcome.unwrap();
            let indexes = all.iter().flat_map(|piece| &piece.chunks).filter_map(|chunk| chunk.index).collect::<Vec<_>>();
            assert!(indexes.is_sorted(), "{node_type}");
            (indexes.len() as u64, all.iter().map(|piece| piece.dropped_chunks).sum::<u64>(), all.len() as u64)
        }
    };
    let (kept, dropped, pieces) = flooded("floods_feedback").await;
    assert_eq!(kept + dropped, count);
    assert!(pieces < count);
    let (kept, dropped, _) = flooded("sends_feedback_politely").await;
    assert_eq!((kept, dropped), (count, 0));
}

#[tokio::test]
async fn feedback_after_the_end_is_nobodys() {
    let (stand, package) = (Stand::new(), package("hostile"));
    let (sender, mut receiver) = feedback_channel();
    stand.run_call(&package, call("late_feedback", json!({})), Door { feedback: Some(sender), ..Door::default() }).await.unwrap();
    assert_eq!(receiver.recv().await, None);
    stand.result(&package, "well", json!({})).await;
}

#[tokio::test]
async fn nothing_of_the_workers_environment_is_in_the_hosts() {
    let (stand, package) =
        (Stand::with(|settings| drop(settings.environment.insert("GIVEN".to_owned(), "yes".to_owned()))), package("hostile"));
    let result = stand.result(&package, "environment", json!({})).await;
    let environment = result["environment"].as_object().unwrap();
    let names = environment.keys().map(String::as_str).collect::<Vec<_>>();
    assert!(["GIVEN", "HOME", "LANG", "LONGSHORE_TREE", "PATH"].iter().all(|name| names.contains(name)), "{names:?}");
    assert_eq!(of_the_worker(&names), Vec::<&str>::new());
    let limits = result["limits"].as_str().unwrap();
    assert!(limits.contains("Max open files            4096") && limits.contains("Max core file size        0"), "{limits}");
    let argv = result["argv"].to_string();
    assert!(!argv.contains("tenant"), "{argv}");
}

/// The names that can only come from our own environment. The interpreter, or a wrapper of it, may have added some of its own.
pub(super) fn of_the_worker<'a>(names: &[&'a str]) -> Vec<&'a str> {
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "cargo gives tests something that must not get there");
    let harmless = |name: &str| matches!(name, "PATH" | "HOME" | "LANG" | "LC_CTYPE" | "PWD" | "SHLVL") || name.contains("PYENV");
    names.iter().copied().filter(|name| std::env::var_os(name).is_some() && !harmless(name)).collect()
}
