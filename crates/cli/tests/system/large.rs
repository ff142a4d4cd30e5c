//! Answers that are larger than a message of the broker.

use longshore_client::{JobRequest, JobView};
use longshore_testkit::{NatsOptions, NatsServer, eventually};
use serde_json::{Value, json};

use crate::fleet::{Fleet, PATIENCE, persistent, shell};
use crate::run::{User, text};

const MIB: usize = 1024 * 1024;

/// Prints so many bytes of text with line feeds and characters that JSON escapes.
fn prints(bytes: usize, max_output: &str) -> JobRequest {
    let mut request = shell(&format!("yes '{}' | head -c {bytes}", line()));
    request.args["max_output"] = max_output.into();
    request
}

fn printed(bytes: usize) -> String {
    let line = line() + "\n";
    line.repeat(bytes / line.len() + 1)[..bytes].to_owned()
}

/// With characters that JSON escapes, and others.
fn line() -> String {
    format!("a \"b\" \\ é {}", "0123456789".repeat(100))
}

/// Equal without printing megabytes when they are not.
#[track_caller]
fn same(found: &Value, expected: &str) {
    let found = found.as_str().unwrap();
    assert!(found == expected, "{} bytes that are not the {} expected", found.len(), expected.len());
}

fn result(job: &JobView) -> &Value {
    let [execution] = job.executions.as_slice() else { panic!("{job:?}") };
    assert_eq!(execution.large_result, None);
    execution.result.as_ref().unwrap()
}

async fn objects(nats: &NatsServer) -> Vec<String> {
    nats.stored_subjects().await.into_iter().filter(|(stream, _)| stream == "OBJ_objects").map(|(_, subject)| subject).collect()
}

async fn answers_bytes(nats: &NatsServer) -> u64 {
    nats.ask("$JS.API.STREAM.INFO.KV_job-responses", &Value::Null).await["state"]["bytes"].as_u64().unwrap()
}

#[tokio::test]
async fn answers_of_up_to_64_mib_arrive_byte_for_byte_and_one_byte_more_is_cut_and_says_so() {
    let fleet = Fleet::start(1).await;
    let user = User::of(&fleet);
    for (bytes, kept) in [(3 * MIB / 2, 3 * MIB / 2), (64 * MIB, 64 * MIB), (64 * MIB + 1, 64 * MIB)] {
        let began = std::time::Instant::now();
        let job = fleet.perform(&prints(bytes, "64MiB")).await;
        println!("{bytes} bytes of output: accepted, printed, stored and read in {:?}", began.elapsed());
        let expected = printed(kept);
        assert_eq!((job.status.as_str(), job.executions[0].attempts), ("completed", 1));
        same(&result(&job)["stdout"], &expected);
        assert_eq!((&result(&job)["stdout_bytes"], &result(&job)["truncated"]), (&json!(bytes), &json!(bytes > kept)));
        let id = job.id.to_string();
        if bytes == kept {
            let shown = user.data(&["job", "show", &id]).await;
            same(&shown["executions"][0]["result"]["stdout"], &expected);
        }
        println!("and read once more and shown: {:?}", began.elapsed());
        if bytes < MIB * 2 {
            same(&fleet.client.result(job.id, job.executions[0].id).await.unwrap()["stdout"], &expected);
            same(&user.data(&["job", "result", &id]).await["stdout"], &expected);
        }
        assert!(!objects(&fleet.nats).await.is_empty());
        fleet.client.delete(job.id, false).await.unwrap();
        assert_eq!(objects(&fleet.nats).await, [] as [&str; 0]);
    }
    let bound = (64 * MIB + 1).to_string();
    let refused = user.types(&["node", "exec", "--max-output", &bound, "--", "true"]).await;
    assert_eq!(refused.status.code(), Some(10), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("/args/max_output: at most 64MiB"), "{}", text(&refused.stderr));
    let printed = user.types(&["run", "--max-output", "2MiB", "--", "sh", "-c", "yes abcdefg | head -c 2097152"]).await;
    assert_eq!((printed.status.code(), printed.stdout.len()), (Some(0), 2 * MIB), "{}", text(&printed.stderr));
    let row = user.types(&["node", "shell", "yes | head -c 2097153", "--max-output", "2MiB"]).await;
    assert!(text(&row.stdout).contains("y (and 1048575 more) [cut]"), "{}", text(&row.stdout));
    assert!(answers_bytes(&fleet.nats).await < 64 * 1024, "answers lead to their results and do not carry them");
}

#[tokio::test]
async fn a_broker_with_small_messages_carries_answers_bundles_and_doors_all_the_same() {
    let nats = NatsServer::start_with(NatsOptions { max_payload: Some(64 * 1024), ..NatsOptions::default() }).await;
    let fleet = Fleet::start_on(nats, 1).await;
    let user = User::of(&fleet);
    for bytes in [20 * 1024, 60 * 1024, 3 * MIB] {
        let job = fleet.perform(&prints(bytes, "4MiB")).await;
        same(&result(&job)["stdout"], &printed(bytes));
    }
    let usual = fleet.perform(&shell("yes | head -c 300000")).await;
    assert_eq!((&result(&usual)["stdout_bytes"], &result(&usual)["truncated"]), (&json!(300_000), &json!(true)));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("input"), printed(MIB)).unwrap();
    let out = dir.path().join("out");
    let words = ["run", dir.path().to_str().unwrap(), "--out", out.to_str().unwrap(), "--", "cp input copied"];
    let ran = user.types(&words).await;
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    assert_eq!(std::fs::metadata(out.join("copied")).unwrap().len(), MIB as u64);
    let mut large = shell("true");
    large.args["env"] = json!({ "LARGE": "x".repeat(100_000) });
    let refused = fleet.client.submit(&large, None).await.unwrap_err();
    assert_eq!(refused.code(), Some(longshore_client::ErrorCode::TooLarge), "{refused}");
}

#[tokio::test]
async fn an_agent_that_is_killed_between_a_result_and_its_answer_delivers_it_later_and_runs_nothing_again() {
    let mut fleet = Fleet::start(1).await;
    let witness = fleet.dir.path().join("witness");
    let script = format!("echo ran >> {}; yes | head -c {}", witness.display(), 2 * MIB);
    for (n, mut request) in [shell(&script), persistent(&script)].into_iter().enumerate() {
        request.args["max_output"] = "2MiB".into();
        // There is room for results and none for answers.
        const ANSWERS: &str = "KV_job-responses";
        let mut config = fleet.nats.ask(&format!("$JS.API.STREAM.INFO.{ANSWERS}"), &Value::Null).await["config"].take();
        config["max_bytes"] = 1.into();
        let updated = fleet.nats.ask(&format!("$JS.API.STREAM.UPDATE.{ANSWERS}"), &config).await;
        assert!(updated.get("error").is_none(), "{updated}");

        let job = fleet.client.submit(&request, None).await.unwrap();
        eventually("a stored result", PATIENCE, async || {
            objects(&fleet.nats).await.iter().any(|subject| subject.contains(".M.")).then_some(())
        })
        .await;
        let view = fleet.client.job(job.id, None).await.unwrap();
        assert_eq!(view.status.as_str(), "running");
        // What starts sees to it that the bounds are the configuration's.
        fleet.agents[0].kill_and_restart().await;
        let view = fleet.client.job(job.id, Some(PATIENCE)).await.unwrap();
        assert_eq!((view.status.as_str(), view.executions[0].attempts), ("completed", 1), "{:?}", view.timeline);
        same(&result(&view)["stdout"], &"y\n".repeat(MIB));
        assert_eq!(std::fs::read_to_string(&witness).unwrap().lines().count(), n + 1);
        fleet.client.delete(job.id, false).await.unwrap();
        assert_eq!(objects(&fleet.nats).await, [] as [&str; 0]);
        let files = walk(&fleet.dir.path().join("agent-0"));
        assert!(!files.iter().any(|path| path.contains("/answers/")), "{files:?}");
    }
}

fn walk(dir: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap().filter_map(Result::ok);
    entries.flat_map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { vec![entry.path().display().to_string()] }).collect()
}
