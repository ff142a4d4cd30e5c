//! Handlers that are programs: a shell, a script, one that stays.

use std::sync::Arc;
use std::time::Duration;

use longshore_exec::Output;
use longshore_exec::package::host::{Call, Door, ErrorKind, feedback_channel};
use longshore_model::wire::log::LogStream;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Stand, call, object, package};
use crate::support::{Recorder, is_alive, pid_in};

#[tokio::test]
async fn a_shell_takes_one_object_and_gives_one() {
    let (stand, package) = (Stand::new(), package("programs"));
    let result = stand.result(&package, "shell", json!({ "name": "ann" })).await;
    assert_eq!(result, json!({ "says": "hello ann", "cwd": package.directory }));
    assert_eq!(stand.hosts.warm_hosts(), 0);
}

#[tokio::test]
async fn a_script_sees_its_task_and_nothing_of_the_worker() {
    let (stand, package) = (Stand::new(), package("programs"));
    // More than a pipe holds.
    let params = json!({ "text": "x".repeat(300_000) });
    let result = stand.result(&package, "once", params.clone()).await;
    assert_eq!((&result["params"], &result["run"]), (&params, &json!("run")));
    let names = result["environment"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(super::misbehave::of_the_worker(&names), Vec::<&str>::new());
}

#[tokio::test]
async fn programs_that_fail_flood_or_write_nonsense_fail_their_task() {
    let (stand, package) = (Stand::with(|settings| settings.frame_bytes_max = 1 << 20), package("programs"));
    let rows = [
        ("fail", ErrorKind::Raised, "exited with status 7; its last words: it went wrong"),
        ("nothing", ErrorKind::BadReturn, "it wrote nothing"),
        ("nonsense", ErrorKind::BadReturn, "expected value"),
        ("flood", ErrorKind::BadReturn, "more than 1048576 bytes"),
    ];
    for (what, kind, words) in rows {
        let (seen, message) = stand.fault(&package, "shell", json!({ what: true })).await;
        assert_eq!(seen, kind, "{what}: {message}");
        assert!(message.contains(words), "{what}: {message}");
    }
    assert_eq!(stand.result(&package, "shell", json!({ "unread": true })).await, json!({ "unread": true }));
    for node_type in ["missing", "missing_lines"] {
        let (kind, message) = stand.fault(&package, node_type, json!({})).await;
        assert_eq!(kind, ErrorKind::HostUnavailable, "{message}");
        assert!(message.contains("bin/missing") && message.contains("command not found"), "{message}");
    }
}

#[tokio::test]
async fn programs_that_hang_are_ended_with_all_they_have_started() {
    let (stand, package) = (Stand::new(), package("programs"));
    let hangs = |timeout| Call { timeout, ..call("shell", json!({ "hang": true })) };
    let error = stand.run_call(&package, hangs(Some(Duration::from_millis(300))), Door::default()).await.unwrap_err();
    assert_eq!((error.kind, error.message.as_str(), error.verified), (ErrorKind::TimedOut, "the handler ran longer than 300ms", true));
    std::fs::remove_file(stand.data("shell", "begun")).unwrap();

    let cancel = CancellationToken::new();
    let running = stand.hosts.run(&package, hangs(None), Door::default(), cancel.clone());
    let (ended, pid) = tokio::join!(running, async {
        let pid = pid_in(&stand.data("shell", "begun")).await;
        cancel.cancel();
        pid
    });
    let error = ended.unwrap_err();
    assert_eq!((error.kind, error.verified), (ErrorKind::Cancelled, true));
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn programs_that_allocate_fork_or_print_a_great_deal_harm_nobody_else() {
    let (stand, package) = (Stand::with(|settings| settings.memory_bytes_max = Some(256 << 20)), package("programs"));
    let cancel = CancellationToken::new();
    let other = Call { task_id: "other".to_owned(), ..call("shell", json!({ "hang": true })) };
    let (ended, ()) = tokio::join!(stand.hosts.run(&package, other, Door::default(), cancel.clone()), async {
        let bystander = pid_in(&stand.data("other", "begun")).await;
        let (kind, message) = stand.fault(&package, "shell", json!({ "allocates": true })).await;
        assert!(kind == ErrorKind::Raised && message.contains("memory"), "{message}");
        assert_eq!(stand.result(&package, "shell", json!({ "prints": true })).await, json!({ "printed": true }));
        let forked = stand.result(&package, "shell", json!({ "forks": true })).await;
        let child = i32::try_from(forked["child"].as_i64().unwrap()).unwrap();
        assert!(!is_alive(child), "what it started went with it");
        assert!(is_alive(bystander));
        cancel.cancel();
    });
    assert_eq!(ended.unwrap_err().kind, ErrorKind::Cancelled);
}

#[tokio::test]
async fn a_program_that_stays_takes_a_line_for_each_call() {
    let (stand, package) = (Stand::patient(), package("programs"));
    let (sender, mut receiver) = feedback_channel();
    let door = Door { feedback: Some(sender), ..Door::default() };
    let first = stand.run_call(&package, call("lines", json!({ "a": "\n" })), door).await.unwrap();
    let said = receiver.recv().await.unwrap();
    assert_eq!((said.progress, said.chunks[0].text.as_deref()), (Some(0.5), Some("half")));
    assert_eq!((first.result["params"].clone(), first.duration), (json!({ "a": "\n" }), Duration::from_millis(3)));
    assert_eq!(stand.result(&package, "lines", json!({})).await["pid"], first.result["pid"]);

    let (sender, mut receiver) = mpsc::channel(1);
    let door = Door { next: Some(sender), ..Door::default() };
    let (outcome, ()) = tokio::join!(stand.run_call(&package, call("lines", json!({ "do": "next" })), door), async {
        let asked = receiver.recv().await.unwrap();
        asked.reply.send(Ok(object(json!({ "got": asked.request.payload })))).unwrap();
    });
    assert_eq!(outcome.unwrap().result["next"], json!({ "got": { "a": 1 } }));

    let error = stand.run(&package, "lines", json!({ "do": "fail" })).await.unwrap_err();
    assert_eq!((error.type_name.as_deref(), error.message.as_str()), (Some("Oops"), "it went wrong"));
    let call = Call { timeout: Some(Duration::from_millis(200)), ..call("lines", json!({ "do": "hang" })) };
    assert_eq!(stand.run_call(&package, call, Door::default()).await.unwrap_err().kind, ErrorKind::TimedOut);
    assert_eq!(stand.result(&package, "lines", json!({})).await["pid"], first.result["pid"]);

    let (kind, message) = stand.fault(&package, "lines", json!({ "do": "nonsense" })).await;
    assert!(kind == ErrorKind::HostDied && message.contains("wrote what is no frame"), "{message}");
    let (kind, message) = stand.fault(&package, "lines", json!({ "do": "exit" })).await;
    assert!(kind == ErrorKind::HostDied && message.contains("exited with status 4") && message.contains("leaving"), "{message}");
    stand.result(&package, "lines", json!({})).await;
}

#[tokio::test]
async fn what_a_program_says_amiss_is_answered_or_the_fault_of_its_task() {
    let (stand, package) = (Stand::patient(), package("programs"));
    let cancel = CancellationToken::new();
    let hangs = stand.hosts.run(&package, call("lines", json!({ "do": "hang" })), Door::default(), cancel.clone());
    let (ended, ()) = tokio::join!(hangs, async {
        let pid = pid_in(&stand.data("lines", "begun")).await;
        let (kind, message) = stand.fault(&package, "lines", json!({ "do": "nan" })).await;
        assert!(kind == ErrorKind::BadReturn && message.contains("cannot be sent"), "{message}");
        // What belongs to no task is not answered.
        assert_eq!(stand.result(&package, "lines", json!({ "do": "stray" })).await["pid"], pid);
        let refused = stand.result(&package, "lines", json!({ "do": "bad_next" })).await;
        assert_eq!(refused["error"]["code"], "next_invalid");
        assert_eq!(stand.result(&package, "lines", json!({})).await["pid"], pid);
        cancel.cancel();
    });
    assert_eq!(ended.unwrap_err().kind, ErrorKind::Cancelled, "all of it harmed nobody else");
}

#[tokio::test]
async fn what_a_program_prints_is_cut_here() {
    let stand = Stand::with(|settings| settings.output_bytes_max = 100_000);
    let (package, recorder) = (package("programs"), Arc::new(Recorder::default()));
    let output: Arc<dyn Output> = recorder.clone();
    let door = Door { output: Some(output), ..Door::default() };
    stand.run_call(&package, call("lines", json!({ "do": "prints" })), door).await.unwrap();
    let kept = recorder.text(LogStream::Stdout);
    assert!(
        kept.len() < 101_000
            && kept.ends_with(
                "x
[longshore] more output than is kept: the rest is cut, the handler goes on
"
            ),
        "{}",
        kept.len()
    );
}

#[tokio::test]
async fn a_program_that_reads_no_more_is_ended_and_its_tasks_are_told() {
    let (stand, package) = (Stand::new(), package("programs"));
    stand.result(&package, "lines", json!({ "do": "deaf" })).await;
    let (kind, message) = stand.fault(&package, "lines", json!({})).await;
    assert!(kind == ErrorKind::HostDied && message.contains("has closed its input and lives on"), "{message}");
    stand.result(&package, "lines", json!({})).await;
}

#[tokio::test]
#[cfg(not(feature = "wasm"))]
async fn a_module_that_this_program_cannot_run_is_refused() {
    let (kind, message) = Stand::new().fault(&package("programs"), "wasm", json!({})).await;
    assert_eq!(kind, ErrorKind::NotLoaded);
    assert!(message.contains("built without WebAssembly (cargo feature `wasm`)"), "{message}");
}
