//! What is asked for, and what is answered.

use std::fs;

use serde_json::json;

use super::{Place, lines};

#[tokio::test]
async fn the_first_worker_on_an_empty_server_serves_at_once_and_ends() {
    let place = Place::new().await;
    let dir = place.job("job_2026_01", &["echo one; echo two >&2", "echo made > file; echo more >> job.json"]);
    let source = fs::read_to_string(dir.join("job.json")).unwrap();
    let mut worker = place.worker("");
    longshore_testkit::eventually("the stream is there", super::PATIENCE, async || {
        let info = place.nats.ask("$JS.API.STREAM.INFO.JOBS", &serde_json::Value::Null).await;
        info.get("config").cloned()
    })
    .await;
    place.send(&json!({ "id": "job_2026_01" })).await;
    let response = place.response("job_2026_01", 1).await;
    assert_eq!(response, json!({ "id": "job_2026_01", "status": "success", "exitCode": 0, "manifestFile": "results/result.json" }));
    assert_eq!(place.responses("jobs.results").await, [response], "whoever listens to either form sees it");
    assert_eq!(worker.wait(super::PATIENCE).await.code(), Some(0), "{}", worker.output());

    let result = place.result("job_2026_01");
    assert_eq!((&result["jobId"], &result["status"], &result["exitCode"]), (&json!("job_2026_01"), &json!("success"), &json!(0)));
    assert_eq!(result["steps"][1]["log"], "step_1.log");
    assert_eq!(result["steps"][0]["command"], "echo one; echo two >&2");
    assert_eq!(result["files"]["created"][0]["path"], "file");
    assert_eq!(result["files"]["modified"][0]["path"], "job.json");
    assert_eq!((&result["delivery"]["stream"], &result["delivery"]["sequence"]), (&json!("JOBS"), &json!(1)));
    assert!(result["timing"]["start"].is_string() && result["timing"]["durationMs"].is_u64());
    let log = place.read("job_2026_01", "step_0.log");
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["one", "two"], "both streams, each in its own order");
    assert_eq!(fs::read_to_string(dir.join("job.json")).unwrap(), source, "the source stays as it is");
    place.settled().await;
    place.assert_nothing_left();
}

#[tokio::test]
async fn a_step_of_a_worker_that_waits_until_each_line_was_read_in_its_log_goes_on() {
    const LINES: usize = 20;
    let place = Place::new().await;
    let read = place.file("read").display().to_string();
    place.job("x", &[&format!("for n in $(seq {LINES}); do echo line $n; until test -e {read}.$n; do sleep 0.005; done; done")]);
    place.prepare("").await;
    let _worker = place.worker("");
    place.send(&json!({ "id": "x" })).await;
    let log = place.jobs().join("x/results/step_0.log");
    for n in 1..=LINES {
        let written: Vec<String> = (1..=n).map(|n| format!("line {n}")).collect();
        longshore_testkit::eventually("the line is there", super::PATIENCE, async || (lines(&log) == written).then_some(())).await;
        fs::write(format!("{read}.{n}"), "").unwrap();
    }
    assert_eq!(place.response("x", 1).await["status"], "success");
}

#[tokio::test]
async fn a_failed_step_is_a_result_and_no_job_is_no_error() {
    let place = Place::new().await;
    place.job("bad", &["echo before", "exit 3", "echo after"]);
    place.prepare("").await;
    place.send(&json!({ "id": "bad" })).await;
    let (code, said) = place.run("").await;
    assert_eq!(code, Some(0), "{said}");
    let response = place.response("bad", 1).await;
    assert_eq!((&response["status"], &response["exitCode"]), (&json!("failed"), &json!(3)));
    assert!(response["error"].as_str().unwrap().contains("step 1"), "{response}");
    assert_eq!(place.result("bad")["steps"].as_array().unwrap().len(), 2);
    let (code, said) = place.run("--idle 50ms").await;
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test]
async fn what_can_never_work_is_refused_with_a_response_and_exit_code_1() {
    let place = Place::new().await;
    place.prepare("").await;
    fs::create_dir(place.jobs().join("no-definition")).unwrap();
    fs::create_dir(place.jobs().join("bad-definition")).unwrap();
    fs::write(place.jobs().join("bad-definition/job.json"), r#"{"steps":["true"],"retries":3}"#).unwrap();
    fs::write(place.file("canary"), "x").unwrap();
    for (payload, id, reason) in [
        ("{", None, "not JSON"),
        ("[]", None, "not a JSON object"),
        ("{}", None, "no `id`"),
        (r#"{"id":7}"#, None, "not a text"),
        (r#"{"id":"../jobs","steps":["touch canary"]}"#, Some("../jobs"), "`/`"),
        (r#"{"id":"..","steps":["true"]}"#, Some(".."), "`..`"),
        (r#"{"id":"x","stepz":["true"]}"#, Some("x"), "stepz"),
        (r#"{"id":"no-such-job"}"#, Some("no-such-job"), "there is none"),
        (r#"{"id":"no-definition"}"#, Some("no-definition"), "job.json"),
        (r#"{"id":"bad-definition"}"#, Some("bad-definition"), "retries"),
    ] {
        let before = place.responses("jobs.results").await.len();
        place.send_text(payload).await;
        let (code, said) = place.run("").await;
        assert_eq!(code, Some(1), "{payload}: {said}");
        assert!(said.contains(reason), "{payload}: {said}");
        let responses = place.responses("jobs.results").await;
        assert_eq!(responses.len() - before, usize::from(id.is_some()), "{payload}");
        if let Some(id) = id {
            let response = responses.last().unwrap();
            assert_eq!(
                (&response["id"], &response["status"], &response["exitCode"]),
                (&json!(id), &json!("failed"), &json!(1)),
                "{payload}"
            );
            assert!(response["error"].as_str().unwrap().contains(reason), "{payload}: {response}");
        }
        let info = place.consumer().await;
        assert_eq!((&info["num_ack_pending"], &info["num_pending"]), (&json!(0), &json!(0)), "it is not offered again: {payload}");
    }
    assert_eq!(place.result("no-definition")["status"], "failed");
    assert!(!place.jobs().join("x").exists() && !place.home.path().join("results").exists(), "a bad name touches nothing");
    place.assert_nothing_left();
}

#[tokio::test]
async fn a_worker_that_stays_goes_on_after_bad_requests_and_takes_names_of_any_plain_kind() {
    let place = Place::new().await;
    place.prepare("").await;
    let worker = place.worker("--stay --max-jobs 2");
    place.send_text("nonsense").await;
    place.send(&json!({ "id": "/etc" })).await;
    for (id, listens) in
        [("a.b.c", "jobs.results.a.b.c"), ("größe", "jobs.results.größe"), ("a b", ""), ("*", ""), ("-rf", "jobs.results.-rf")]
    {
        place.job(id, &["echo \"$LONGSHORE_JOB_ID\""]);
        let before = place.responses("jobs.results").await.len();
        place.send(&json!({ "id": id })).await;
        let response = longshore_testkit::eventually("its response", super::PATIENCE, async || {
            place.responses("jobs.results").await.into_iter().skip(before.saturating_sub(1)).find(|response| response["id"] == id)
        })
        .await;
        assert_eq!(response["status"], "success", "{id}: {response} {}", worker.output());
        assert_eq!(place.read(id, "step_0.log"), format!("{id}\n"));
        if !listens.is_empty() {
            assert_eq!(place.responses(listens).await.len(), 1, "{id}");
        }
    }
    place.settled().await;
}

#[tokio::test]
async fn steps_of_the_request_win_and_no_steps_at_all_succeed() {
    let place = Place::new().await;
    place.prepare("").await;
    place.job("x", &["echo from file"]);
    let _worker = place.worker("--stay");
    place.send(&json!({ "id": "x", "steps": ["echo from request", { "name": "second", "run": "echo $A", "env": { "A": "b" } }] })).await;
    assert_eq!(place.response("x", 1).await["status"], "success");
    assert_eq!((place.read("x", "step_0.log").as_str(), place.read("x", "step_1.log").as_str()), ("from request\n", "b\n"));
    place.send(&json!({ "id": "x", "steps": [] })).await;
    let response = place.response("x", 2).await;
    assert_eq!((&response["status"], &response["exitCode"]), (&json!("success"), &json!(0)));
    assert!(!place.jobs().join("x/results/step_0.log").exists(), "logs of an earlier, longer run are gone");
}

#[tokio::test]
async fn a_second_delivery_of_a_message_is_answered_from_disk_and_a_new_message_runs_anew() {
    let place = Place::new().await;
    let ran = place.file("ran");
    place.job("x", &[&format!("echo run >> {}; wc -l < {} > count; echo log $(cat count)", ran.display(), ran.display())]);
    place.prepare("").await;
    place.send(&json!({ "id": "x" })).await;
    assert_eq!(place.run("").await.0, Some(0));
    let first = place.response("x", 1).await;
    // The consumer forgets that it was done, as one does that somebody makes again.
    place.nats.ask("$JS.API.CONSUMER.DELETE.JOBS.worker-01", &serde_json::Value::Null).await;
    let manifest = place.read("x", "result.json");
    let (code, said) = place.run("").await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(place.response("x", 2).await, first, "the stored response is published again");
    assert_eq!((lines(&ran).len(), place.read("x", "result.json")), (1, manifest), "and nothing ran");

    place.send(&json!({ "id": "x" })).await;
    assert_eq!(place.run("").await.0, Some(0));
    place.response("x", 3).await;
    assert_eq!((lines(&ran).len(), place.read("x", "count"), place.read("x", "step_0.log")), (2, "2\n".to_owned(), "log 2\n".to_owned()));
    assert_eq!(place.result("x")["delivery"]["sequence"], 2);
    fs::write(place.jobs().join("x/results/kept"), "by a person").unwrap();
    place.send(&json!({ "id": "x", "steps": ["touch other"] })).await;
    assert_eq!(place.run("").await.0, Some(0));
    place.response("x", 4).await;
    let mut left: Vec<_> = fs::read_dir(place.jobs().join("x/results")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["kept", "other", "result.json", "step_0.log"], "artifacts of the last run are replaced by those of this one");
    place.settled().await;
}

#[tokio::test]
async fn steps_inherit_the_environment_but_no_credentials() {
    let place = Place::new().await;
    place.job("env", &["env", "cat /proc/$(cut -d' ' -f4 /proc/$PPID/stat)/environ | tr '\\0' '\\n'; true"]);
    place.prepare("").await;
    place.send(&json!({ "id": "env" })).await;
    let mut command = place.command("-p hunter2x -n ann");
    command.env("NPM_CONFIG_REGISTRY", "here").env("NATS_TOKEN", "").env("NATS_PASSWORD", "hunter2x").env("COPY", "--pw=hunter2x");
    command.env("NATS_URL", "nats://ann:hunter2x@nowhere").env("LONGSHORE_TOKEN", "secret-token");
    let mut worker = longshore_testkit::Process::spawn(command);
    assert_eq!(worker.wait(super::PATIENCE).await.code(), Some(0), "{}", worker.output());
    let log = place.read("env", "step_0.log");
    let has = |line: &str| log.lines().any(|found| found == line);
    assert!(has("NPM_CONFIG_REGISTRY=here") && has("CI=true") && has("LONGSHORE_JOB_ID=env") && has("LONGSHORE_STEP=0"), "{log}");
    assert!(log.contains(&format!("HOME={}", place.home.path().display())), "{log}");
    for secret in ["hunter2x", "secret-token", "NATS_PASSWORD", "NATS_USERNAME"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
    let read = place.read("env", "step_1.log");
    assert!(rustix::process::geteuid().is_root() || !read.contains("hunter2x"), "{read}");
}
