//! What authors of packages rely on.

use std::sync::Arc;

use longshore_exec::Output;
use longshore_exec::package::host::{Call, Door, ErrorKind, ExecMode, Feedback, NextError, Status, feedback_channel};
use longshore_model::wire::log::LogStream;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Stand, call, object, package};
use crate::support::{Recorder, eventually};

#[tokio::test]
async fn an_echo_comes_back() {
    let (stand, package) = (Stand::new(), package("example.pkg"));
    let given = json!({ "text": "ü \u{1F600} \" \\ \n", "number": 1.5, "nested": { "list": [1, null, true] } });
    for _ in 0..3 {
        assert_eq!(stand.result(&package, "echo", given.clone()).await, given);
    }
    assert_eq!(stand.hosts.warm_hosts(), 1);
    stand.hosts.close().await;
}

#[tokio::test]
async fn the_context_has_every_field_of_the_existing_workers() {
    let (stand, package) = (Stand::new(), package("example.pkg"));
    let call = Call {
        host_node_id: Some("host".to_owned()),
        middleware_chain: Some(vec![json!("m1")]),
        chain_index: Some(0),
        metadata: object(json!({ "concurrency_key": "k" })),
        ..call("context", json!({ "a": 1 }))
    };
    let outcome = stand.run_call(&package, call, Door::default()).await.unwrap();
    let data_dir = stand.data("context", "").canonicalize().unwrap();
    let expected = json!({
        "run_id": "run", "task_id": "context", "node_id": "node", "package_name": "example.pkg", "package_version": "1.0.0",
        "params": { "a": 1 }, "tenant": "tenant", "host_node_id": "host", "middleware_chain": ["m1"], "chain_index": 0, "trace": null,
        "metadata": { "concurrency_key": "k" }, "resource_refs": null, "leased_resources": {}, "data_dir": data_dir, "helper": "example.pkg",
    });
    assert_eq!(Value::Object(outcome.result), expected);
    assert_eq!(Value::Object(outcome.metadata), json!({ "concurrency_key": "k", "own": 1 }));
    assert_eq!(std::fs::read_to_string(stand.data("context", "file")).unwrap(), "x");
}

#[tokio::test]
async fn values_that_json_does_not_know_are_written_as_the_existing_worker_does() {
    let result = Stand::new().result(&package("example.pkg"), "odd_values", json!({})).await;
    let expected = json!({
        "bytes": "text", "set": [1], "path": "/a/b", "date": "2024-02-29", "time": "2024-02-29T12:00:00+00:00", "span": 90.0,
        "uuid": "00000000-0000-0000-0000-000000000001", "enum": "rot", "decimal": [1.5, 3], "nan": [null, null, 1.0], "tuple": [1, "ü"],
        "keys": { "1": "one", "null": "none", "rot": "enum" },
    });
    assert_eq!(result, expected);
}

#[tokio::test]
async fn every_row_of_the_table_of_exec_modes_runs_where_it_says() {
    let (stand, package) = (Stand::new(), package("example.pkg"));
    let rows = [("where_auto", "thread"), ("where_inline", "loop"), ("where_thread", "thread"), ("where_coroutine", "loop")];
    for (node_type, place) in rows {
        assert_eq!(stand.result(&package, node_type, json!({})).await, json!({ "where": place }), "{node_type}");
    }
    let awaited = stand.result(&package, "where_awaitable", json!({})).await;
    assert_eq!(awaited, json!({ "before": "thread", "where": "loop" }));
    // Nobody but the worker says how a class's methods run, and they are coroutines or not.
    for (mode, place) in [(ExecMode::Inline, "hello X"), (ExecMode::Thread, "hello X")] {
        let call = Call { exec_mode: mode, ..call("class_method", json!({ "name": "X" })) };
        let outcome = stand.run_call(&package, call, Door::default()).await.unwrap();
        assert_eq!(outcome.result["says"], place);
    }
}

#[tokio::test]
async fn adapters_may_be_modules_classes_and_instances() {
    let (stand, package) = (Stand::new(), package("example.pkg"));
    let rows = [
        ("class_method", json!({ "says": "hello ann" })),
        ("class_static", json!({ "says": "ANN" })),
        ("class_run", json!({ "says": "run by Greeter" })),
        ("instance_async_run", json!({ "ran": "async_run" })),
        ("instance_run", json!({ "says": "run by Greeter" })),
    ];
    for (node_type, expected) in rows {
        assert_eq!(stand.result(&package, node_type, json!({ "name": "ann" })).await, expected, "{node_type}");
    }
}

#[tokio::test]
async fn a_node_that_cannot_be_resolved_hides_no_other() {
    let (stand, package) = (Stand::new(), package("example.pkg"));
    let (kind, message) = stand.fault(&package, "missing", json!({})).await;
    assert_eq!((kind, message.as_str()), (ErrorKind::NotLoaded, "Handler not registered: the module adapters.echo has no nowhere"));
    assert_eq!(stand.fault(&package, "no_such_type", json!({})).await.0, ErrorKind::NotLoaded);
    assert_eq!(stand.result(&package, "echo", json!({ "a": 1 })).await, json!({ "a": 1 }));
}

#[tokio::test]
async fn two_packages_with_modules_of_one_name_each_get_their_own() {
    let stand = Stand::new();
    assert_eq!(stand.run(&package("example.pkg"), "context", json!({})).await.unwrap().result["helper"], "example.pkg");
    assert_eq!(stand.result(&package("system"), "whose", json!({})).await, json!({ "whose": "system" }));
    assert_eq!(stand.hosts.warm_hosts(), 2);
}

#[tokio::test]
async fn feedback_arrives_checked_and_in_order() {
    let (stand, package) = (Stand::new(), package("example.pkg"));
    let (sender, mut receiver) = feedback_channel();
    let door = Door { feedback: Some(sender), ..Door::default() };
    let (outcome, all) = tokio::join!(stand.run_call(&package, call("feedback", json!({})), door), async {
        let mut all = Vec::new();
        while let Some(piece) = receiver.recv().await {
            all.push(piece);
        }
        all
    });
    let refused = outcome.unwrap().result["refused"].as_array().unwrap().len();
    assert_eq!(refused, 8);
    assert_eq!(all.iter().filter_map(|piece| piece.progress).next_back(), Some(1.0));
    assert_eq!(all.iter().find_map(|piece| piece.stage.clone()).as_deref(), Some("first"));
    let chunks = all.iter().flat_map(|piece| &piece.chunks).map(|chunk| serde_json::to_value(chunk).unwrap()).collect::<Vec<_>>();
    let expected = [
        json!({ "channel": "log", "text": "without a channel" }),
        json!({ "channel": "llm", "index": 3, "mime_type": "text/plain", "text": "token", "metadata": { "a": 1 } }),
        json!({ "channel": "custom", "text": "an object" }),
        json!({ "channel": "stdout", "text": "emitted" }),
    ];
    assert_eq!(chunks, expected);
    assert!(all.iter().any(|piece| piece.metrics.get("speed") == Some(&json!(1.5))));
    assert!(all.iter().any(|piece| piece.metadata.get("results") == Some(&json!({ "partial": true }))));
}

#[tokio::test]
async fn feedback_from_a_thread_leaves_while_the_handler_runs() {
    let (stand, package) = (Stand::new(), package("example.pkg"));
    let (sender, mut receiver) = feedback_channel();
    let door = Door { feedback: Some(sender), ..Door::default() };
    let (outcome, texts) = tokio::join!(stand.run_call(&package, call("thread_feedback", json!({})), door), async {
        let mut texts = Vec::new();
        while let Some(Feedback { chunks, .. }) = receiver.recv().await {
            texts.extend(chunks.into_iter().filter_map(|chunk| chunk.text));
            if texts.last().is_some_and(|text| text == "from a loop of its own") {
                // All of it is here, and the handler waits for this.
                std::fs::write(stand.data("thread_feedback", "go"), "").unwrap();
            }
        }
        texts
    });
    assert_eq!(outcome.unwrap().result["went"], true);
    let expected = (0..100).map(|n| n.to_string()).chain(["from a loop of its own".to_owned()]).collect::<Vec<_>>();
    assert_eq!(texts, expected);
}

#[tokio::test]
async fn next_runs_what_comes_after_as_often_as_it_is_called() {
    let (stand, package) = (Stand::new(), package("system"));
    let (sender, mut receiver) = mpsc::channel(4);
    let door = Door { next: Some(sender), ..Door::default() };
    let call = Call { middleware_chain: Some(vec![json!("m")]), chain_index: Some(0), ..call("loop", json!({ "times": 3 })) };
    let (outcome, ()) = tokio::join!(stand.run_call(&package, call, door), async {
        while let Some(asked) = receiver.recv().await {
            let turn = asked.request.payload["turn"].clone();
            assert_eq!((&asked.request.middleware_ctx["loop"], &asked.request.host_ctx["of"]), (&turn, &json!("host")));
            asked.reply.send(Ok(object(json!({ "turn": turn })))).unwrap();
        }
    });
    assert_eq!(outcome.unwrap().result["results"], json!([{ "turn": 0 }, { "turn": 1 }, { "turn": 2 }]));
}

#[tokio::test]
async fn next_may_be_called_many_times_at_once() {
    let (stand, package) = (Stand::new(), package("system"));
    let (sender, mut receiver) = mpsc::channel(1);
    let door = Door { next: Some(sender), ..Door::default() };
    let call = Call { middleware_chain: Some(vec![json!("m")]), chain_index: Some(0), ..call("gather", json!({ "times": 100 })) };
    let (outcome, ()) = tokio::join!(stand.run_call(&package, call, door), async {
        while let Some(asked) = receiver.recv().await {
            asked.reply.send(Ok(asked.request.payload)).unwrap();
        }
    });
    assert_eq!(outcome.unwrap().result["results"], json!((0..100).map(|turn| json!({ "turn": turn })).collect::<Vec<_>>()));
}

#[tokio::test]
async fn next_without_an_answer_raises_with_a_code() {
    let (stand, package) = (Stand::new(), package("system"));
    let chained = |node_type| Call { middleware_chain: Some(vec![json!("m")]), chain_index: Some(0), ..call(node_type, json!({})) };

    let outcome = stand.run_call(&package, call("case", json!({})), Door::default()).await.unwrap();
    assert!(outcome.result["text"].as_str().unwrap().contains("needs a chain"), "{outcome:?}");

    let outcome = stand.run_call(&package, chained("case"), Door::default()).await.unwrap();
    assert_eq!((outcome.status, &outcome.result["code"]), (Status::Failed, &json!("next_unavailable")));

    let (sender, mut receiver) = mpsc::channel(4);
    let door = Door { next: Some(sender), ..Door::default() };
    let error = NextError { code: "next_duplicate".to_owned(), message: "twice".to_owned(), trace: Some(object(json!({ "at": "s" }))) };
    let answer = async { receiver.recv().await.unwrap().reply.send(Err(error)).unwrap() };
    let (outcome, ()) = tokio::join!(stand.run_call(&package, chained("case"), door), answer);
    assert_eq!(Value::Object(outcome.unwrap().result), json!({ "code": "next_duplicate", "text": "twice", "trace": { "at": "s" } }));

    let (sender, mut receiver) = mpsc::channel(4);
    let door = Door { next: Some(sender), ..Door::default() };
    let (outcome, ()) = tokio::join!(stand.run_call(&package, chained("case"), door), async { drop(receiver.recv().await) });
    assert_eq!(outcome.unwrap().result["code"], "next_cancelled");
}

#[tokio::test]
async fn next_times_out_by_itself_and_works_from_another_thread() {
    let (stand, package) = (Stand::new(), package("system"));
    let (sender, mut receiver) = mpsc::channel(4);
    let door = Door { next: Some(sender), ..Door::default() };
    let call = Call { middleware_chain: Some(vec![json!("m")]), chain_index: Some(0), ..call("slow_next", json!({})) };
    let (outcome, ()) = tokio::join!(stand.run_call(&package, call, door), async {
        let late = receiver.recv().await.unwrap();
        assert_eq!(late.request.timeout_ms, Some(50));
        let second = receiver.recv().await.unwrap();
        // The late answer is nobody's any more.
        late.reply.send(Ok(object(json!({ "late": true })))).unwrap();
        second.reply.send(Ok(second.request.payload)).unwrap();
    });
    let result = outcome.unwrap().result;
    assert_eq!((&result["first"], &result["in_thread"]), (&json!("next_timeout"), &json!([{ "from": "a thread" }])));
}

#[tokio::test]
async fn resources_are_registered_described_and_leased_by_other_tasks() {
    let (stand, package) = (Stand::new(), package("system"));
    let missing = Call { resource_refs: vec![object(json!({ "resource_id": "made" }))], ..call("use_resource", json!({})) };
    let error = stand.run_call(&package, missing.clone(), Door::default()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::ResourceMissing);

    let outcome = stand.run(&package, "register", json!({})).await.unwrap();
    assert_eq!(Value::Object(outcome.result), json!({ "missing": true, "listed": ["made"] }));
    let described = serde_json::to_value(&outcome.artifacts).unwrap();
    let path = stand.data("register", "made.txt").canonicalize().unwrap();
    let metadata = json!({ "colour": "red", "path": path, "relative_path": "run/register/made.txt" });
    assert_eq!(
        described,
        json!([{ "resource_id": "made", "worker_name": "worker-1", "type": "text", "size_bytes": 4, "metadata": metadata }])
    );
    eventually("the resource is known to the worker", || stand.hosts.resources() == (1, 4)).await;

    // Also for a host that has not seen it before.
    stand.hosts.retire(&package);
    let outcome = stand.run_call(&package, missing, Door::default()).await.unwrap();
    assert_eq!(Value::Object(outcome.result), json!({ "text": "made", "in_use": 1, "ref": "made", "type": "text" }));
}

#[tokio::test]
async fn what_handlers_print_and_log_is_told_apart_by_task() {
    let (stand, package) = (Stand::new(), package("example.pkg"));
    let (one, other) = (Arc::new(Recorder::default()), Arc::new(Recorder::default()));
    let printing = |node_type, recorder: &Arc<Recorder>, name: &str| {
        let output: Arc<dyn Output> = recorder.clone();
        stand.run_call(&package, call(node_type, json!({ "name": name })), Door { output: Some(output), ..Door::default() })
    };
    let (first, second) = tokio::join!(printing("prints", &one, "one"), printing("prints_in_thread", &other, "other"));
    assert!(first.is_ok() && second.is_ok());
    for (recorder, name) in [(&one, "one"), (&other, "other")] {
        assert_eq!(recorder.text(LogStream::Stdout), format!("{name} 0\n{name} 1\n{name} 2\nwithout an end ?"));
        assert_eq!(recorder.text(LogStream::Stderr), format!("INFO adapters.modes: {name}\n"));
    }
    // Nobody wants it: it goes nowhere, and harms nobody.
    stand.result(&package, "prints", json!({ "name": "x" })).await;
}
