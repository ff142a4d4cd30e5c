//! Output on its way from a program to a reader: whatever the broker and the agent do, every byte arrives, or a gap says how many do not.

use std::path::Path;
use std::time::{Duration, Instant};

use longshore_client::{Client, JobId};
use longshore_model::wire::rest::JobRequest;
use longshore_testkit::{NatsServer, eventually};

use crate::fleet::{Fleet, PATIENCE, shell};
use crate::run::{User, peak_mib, text};

const MIB: usize = 1024 * 1024;
/// Longer than any pause in here.
const LONG_LEASE: &str = "90s";

fn patient(script: &str) -> JobRequest {
    JobRequest { timeout: Some("5m".into()), ..shell(script) }
}

async fn exists(path: &Path) {
    eventually("a file", PATIENCE, async || path.exists().then_some(())).await;
}

fn number(path: &Path) -> u64 {
    std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

async fn ended(client: &Client, id: JobId) -> String {
    let view = client.job(id, Some(PATIENCE * 2)).await.unwrap();
    assert!(view.status.is_final(), "{view:?}");
    view.status.as_str().to_owned()
}

/// What waits in an agent's directory.
fn waiting(fleet: &Fleet) -> Vec<(String, u64)> {
    let Ok(entries) = std::fs::read_dir(fleet.dir.path().join("agent-0/agent/output")) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().map_or(0, |meta| meta.len())))
        .collect()
}

#[tokio::test]
async fn a_broker_that_stands_still_slows_no_program_and_loses_none_of_its_output() {
    let fleet = Fleet::start_with(NatsServer::start().await, LONG_LEASE, 1).await;
    let user = User::of(&fleet);
    let dir = fleet.dir.path();
    let (go, began, done) = (dir.join("go"), dir.join("began"), dir.join("done"));
    let bytes = 50 * MIB;
    let script = format!(
        "until [ -e {go} ]; do sleep 0.01; done; date +%s%N > {began}; yes 0123456789abcdef | head -c {bytes}; date +%s%N > {done}.draft; mv {done}.draft {done}",
        go = go.display(),
        began = began.display(),
        done = done.display(),
    );
    let job = fleet.client.submit(&patient(&script), None).await.unwrap();
    eventually("a running job", PATIENCE, async || (fleet.client.job(job.id, None).await.ok()?.status.as_str() == "running").then_some(()))
        .await;

    fleet.nats.pause();
    let paused = Instant::now();
    std::fs::write(&go, "").unwrap();
    // It ends although nobody takes what it prints: nothing but the agent's disk stands behind it.
    exists(&done).await;
    let printing = Duration::from_nanos(number(&done) - number(&began));
    tokio::time::sleep(Duration::from_secs(5).saturating_sub(paused.elapsed())).await;
    println!("50 MiB were printed in {printing:?} while the broker stood still for {:?}; waiting: {:?}", paused.elapsed(), waiting(&fleet));
    eventually("all of it on the agent's disk", PATIENCE, async || {
        waiting(&fleet).iter().any(|(_, waiting)| *waiting > bytes as u64).then_some(())
    })
    .await;
    fleet.nats.resume();

    assert_eq!(ended(&fleet.client, job.id).await, "completed");
    println!("all of it was stored {:?} after the pause began", paused.elapsed());
    let read = user.types(&["job", "logs", &job.id.to_string()]).await;
    let expected = "0123456789abcdef\n".repeat(bytes / 17 + 1);
    assert_eq!(read.stdout.len(), bytes);
    assert!(read.stdout == expected.as_bytes()[..bytes], "it differs");
    assert_eq!(text(&read.stderr), "", "there is no gap");
    assert_eq!(waiting(&fleet), []);
}

#[tokio::test]
async fn what_a_killed_agent_had_not_sent_is_sent_by_its_next_process() {
    let mut fleet = Fleet::start_with(NatsServer::start().await, LONG_LEASE, 1).await;
    let printed = fleet.dir.path().join("printed");
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    let go = fleet.dir.path().join("go");
    let script = format!("until [ -e {} ]; do sleep 0.01; done; seq 1 200000; touch {}; sleep 2", go.display(), printed.display());
    let job = fleet.client.submit(&patient(&script), None).await.unwrap();
    eventually("a running job", PATIENCE, async || (fleet.client.job(job.id, None).await.ok()?.status.as_str() == "running").then_some(()))
        .await;
    fleet.nats.pause();
    std::fs::write(&go, "").unwrap();
    exists(&printed).await;
    eventually("output that waits", PATIENCE, async || {
        waiting(&fleet).iter().any(|(_, bytes)| *bytes > expected.len() as u64).then_some(())
    })
    .await;
    fleet.agents[0].process().kill9();
    fleet.nats.resume();
    fleet.agents[0].restart().await;
    ended(&fleet.client, job.id).await;
    eventually("nothing that waits", PATIENCE, async || waiting(&fleet).is_empty().then_some(())).await;
    let read = User::of(&fleet).types(&["job", "logs", &job.id.to_string()]).await;
    assert_eq!(read.stdout.len(), expected.len());
    assert!(read.stdout == expected.as_bytes(), "it differs");
    println!("and it says: {}", text(&read.stderr));
}

#[tokio::test]
async fn output_is_unchanged_whatever_bytes_it_has_and_numbers_say_where_to_go_on() {
    let fleet = Fleet::start(1).await;
    let user = User::of(&fleet);
    // Each part is printed once the one before it was read, so that each is a record of its own.
    let (second, third) = (fleet.dir.path().join("second"), fleet.dir.path().join("third"));
    let script = format!(
        r"printf 'first\n'; until test -e {}; do sleep 0.01; done; printf '\377\376\000 \033[2J no newline'; until test -e {}; do sleep 0.01; done; printf 'err' >&2",
        second.display(),
        third.display()
    );
    let job = fleet.client.submit(&patient(&script), None).await.unwrap();
    let id = job.id.to_string();
    for (printed, gate) in [("first\n", second), ("no newline", third)] {
        eventually("what was printed", PATIENCE, async || {
            text(&user.types(&["job", "logs", &id]).await.stdout).ends_with(printed).then_some(())
        })
        .await;
        std::fs::write(gate, "").unwrap();
    }
    assert_eq!(ended(&fleet.client, job.id).await, "completed");
    let all = user.types(&["job", "logs", &id]).await;
    assert_eq!((all.stdout.as_slice(), all.stderr.as_slice()), (&b"first\n\xff\xfe\0 \x1b[2J no newline"[..], &b"err"[..]));
    let from = user.types(&["job", "logs", &id, "--from", "1"]).await;
    assert_eq!(from.stdout, b"\xff\xfe\0 \x1b[2J no newline");
    let lines = text(&user.types(&["job", "logs", "-f", &id, "--from", "2", "-o", "jsonl"]).await.stdout);
    let record: serde_json::Value = serde_json::from_str(&lines).unwrap();
    assert_eq!(
        (&record["seq"], &record["stream"], &record["text"], &record["attempt"]),
        (&2.into(), &"stderr".into(), &"err".into(), &1.into())
    );
}

#[tokio::test]
async fn a_flood_is_cut_at_its_bound_with_one_marker_in_little_memory() {
    let mut fleet = Fleet::start(1).await;
    let began = Instant::now();
    let job = fleet.client.submit(&patient(&format!("yes | head -c {}", 200 * MIB)), None).await.unwrap();
    assert_eq!(ended(&fleet.client, job.id).await, "completed");
    let peak = peak_mib(fleet.agents[0].process().pid()).unwrap();
    println!("200 MiB of output: {:?}, the agent's peak {peak} MiB", began.elapsed());
    let read = User::of(&fleet).types(&["job", "logs", &job.id.to_string()]).await;
    assert_eq!(read.stdout.len(), 64 * MIB);
    assert_eq!(text(&read.stderr).matches("the rest is cut").count(), 1, "{}", text(&read.stderr));
    assert!(peak < 128, "{peak} MiB");
}
