//! Workspace jobs whose agent is killed while they run: they go on, and the next agent process takes them over.

use std::time::Duration;

use longshore_client::Client;
use longshore_model::wire::rest::{JobRequest, RetryRequest};
use longshore_model::{ExecutionState, JobStatus};
use longshore_testkit::{NatsServer, Random, eventually};
use serde_json::json;

use crate::fleet::{Fleet, PATIENCE};
use crate::run::{User, text};

fn steps(target: &str, steps: &[&str]) -> JobRequest {
    JobRequest { target: target.into(), ..Client::request("workspace.run", json!({ "steps": steps })) }
}

async fn waits_for_file(path: &std::path::Path) {
    eventually("a step to run", PATIENCE, async || path.exists().then_some(())).await;
}

fn workspaces(fleet: &Fleet) -> usize {
    std::fs::read_dir(fleet.dir.path().join("agent-0/agent/workspaces")).map_or(0, Iterator::count)
}

#[tokio::test]
async fn a_workspace_job_outlives_kills_of_its_agent_runs_once_and_loses_no_line() {
    for target in ["_any", "host-0"] {
        let mut fleet = Fleet::start(1).await;
        let (go, up) = (fleet.dir.path().join("go"), fleet.dir.path().join("up"));
        let first = format!(
            "touch {}; n=0; until test -e {}; do n=$((n+1)); echo line $n; sleep 0.01; done; echo last $n; echo $n > count",
            up.display(),
            go.display()
        );
        let job = fleet.client.submit(&steps(target, &[&first, "cat count; echo done"]), None).await.unwrap();
        waits_for_file(&up).await;
        for _ in 0..3 {
            fleet.agents[0].kill_and_restart().await;
            // Long enough for it to go on, and to be killed at another point.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        std::fs::write(&go, "").unwrap();
        let ended = fleet.client.job(job.id, Some(PATIENCE)).await.unwrap();
        let execution = &ended.executions[0];
        assert_eq!((ended.status, execution.attempts), (JobStatus::Completed, 1), "{target}: {execution:?}");
        assert_eq!(execution.result.as_ref().unwrap()["files"]["created"][0]["path"], "count");

        let user = User::of(&fleet);
        let logs = user.types(&["job", "logs", &job.id.to_string()]).await;
        let (seen, complaints) = (text(&logs.stdout), text(&logs.stderr));
        let count: usize = seen.lines().find_map(|line| line.strip_prefix("last ")).unwrap().parse().unwrap();
        let expected: Vec<_> = (1..=count).map(|n| format!("line {n}")).collect();
        let tail = [format!("last {count}"), count.to_string(), "done".to_owned()];
        assert_eq!(seen.lines().collect::<Vec<_>>(), [expected, tail.to_vec()].concat(), "{target}: {complaints}");
        eventually("a clean host", PATIENCE, async || (workspaces(&fleet) == 0).then_some(())).await;
    }
}

#[tokio::test]
async fn a_cancel_while_the_agent_is_gone_ends_the_job_when_it_is_back() {
    let mut fleet = Fleet::start(1).await;
    let up = fleet.dir.path().join("up");
    let job = fleet.client.submit(&steps("host-0", &[&format!("touch {}; exec sleep 3600", up.display())]), None).await.unwrap();
    waits_for_file(&up).await;
    fleet.agents[0].process().kill9();
    // A cancel waits a little for the agent.
    let (cancelled, ()) = tokio::join!(fleet.client.cancel(job.id), fleet.agents[0].kill_and_restart());
    cancelled.unwrap();
    let ended = fleet.client.job(job.id, Some(PATIENCE)).await.unwrap();
    assert_eq!((ended.status, ended.executions[0].cancel_verified), (JobStatus::Cancelled, Some(true)), "{:?}", ended.executions[0]);
    eventually("a clean host", PATIENCE, async || (workspaces(&fleet) == 0).then_some(())).await;
}

#[tokio::test]
async fn a_job_whose_agent_stays_away_ends_by_itself_before_its_claim_and_nobody_takes_it_for_running() {
    let mut fleet = Fleet::start(1).await;
    let up = fleet.dir.path().join("up");
    let script = format!("while :; do touch {}; sleep 0.02; done", up.display());
    let job = fleet.client.submit(&steps("host-0", &[&script]), None).await.unwrap();
    waits_for_file(&up).await;
    fleet.agents[0].process().kill9();
    eventually("its workspace to be gone", PATIENCE, async || (workspaces(&fleet) == 0).then_some(())).await;
    std::fs::remove_file(&up).unwrap();
    fleet.agents[0].kill_and_restart().await;
    let ended = fleet.client.job(job.id, Some(Duration::from_secs(20))).await.unwrap();
    assert!(matches!(ended.executions[0].state, ExecutionState::Lost | ExecutionState::Failed), "{:?}", ended.executions[0]);
    assert!(!up.exists(), "it went on");
}

/// A bundle with a few hundred files, stored.
async fn bundle(fleet: &Fleet) -> String {
    let source = tempfile::tempdir().unwrap();
    for n in 0..300 {
        std::fs::write(source.path().join(n.to_string()), vec![b'x'; 1000]).unwrap();
    }
    let mut packed = Vec::new();
    let info = longshore_exec::bundle::pack(source.path(), &longshore_exec::bundle::PackOptions::default(), &mut packed, &mut |_, _| {});
    let info = info.unwrap();
    let body = futures::stream::iter([Ok::<_, std::io::Error>(packed)]);
    fleet.client.put_bundle(&info.sha256, info.size, body).await.unwrap();
    info.sha256
}

/// `LONGSHORE_TEST_KILLS` sets another number of kills: 200 for the long form.
#[tokio::test]
async fn kills_of_an_agent_at_any_point_of_its_workspace_jobs_lose_none_and_leave_nothing() {
    let setting = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let n_kills = setting("LONGSHORE_TEST_KILLS").unwrap_or(5);
    let seed = setting("LONGSHORE_TEST_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed {seed}, {n_kills} kills");
    let mut random = Random::new(seed);
    // A machine that is busy with other tests must not use up a job's patience, which is half a claim.
    let mut fleet = Fleet::start_with(NatsServer::start().await, "60s", 1).await;
    let (sha256, witness) = (bundle(&fleet).await, fleet.dir.path().join("witness"));
    let witnessed = || std::fs::read_to_string(&witness).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
    let mut jobs = Vec::new();
    for _ in 0..n_kills {
        for _ in 0..2 {
            let (n, file) = (jobs.len(), witness.display());
            let script = format!("echo {n} begins >> {file}; for f in *; do echo more >> $f; echo line $f; done; sleep 0.1");
            let args = json!({ "bundle": sha256, "steps": [script, format!("echo {n} ends >> {file}")] });
            let retry = Some(RetryRequest { max_attempts: 50, backoff: Some(vec!["100ms".into()]) });
            let request = JobRequest { target: "host-0".into(), retry, ..Client::request("workspace.run", args) };
            jobs.push(fleet.client.submit(&request, None).await.unwrap().id);
        }
        // Any point will do; none is waited for.
        tokio::time::sleep(Duration::from_millis(random.below(400) as u64)).await;
        fleet.agents[0].kill_and_restart().await;
    }
    for (n, job) in jobs.iter().enumerate() {
        let ended = fleet.client.job(*job, Some(PATIENCE)).await.unwrap();
        let execution = &ended.executions[0];
        assert_eq!(ended.status, JobStatus::Completed, "{n}: {execution:?}");
        assert_eq!(execution.result.as_ref().unwrap()["files"]["modified"].as_array().map(Vec::len), Some(300), "{n}");
        // Whatever began is gone on with, and only what did not is tried again.
        let count = |word: &str| witnessed().iter().filter(|line| **line == format!("{n} {word}")).count();
        assert_eq!((count("begins"), count("ends")), (1, 1), "{n}: {execution:?}");
    }
    let place = fleet.dir.path().join("agent-0/agent");
    eventually("a clean host", PATIENCE, async || {
        let left = ["workspaces", "tmp", "output", "bundles"].map(|dir| std::fs::read_dir(place.join(dir)).map_or(0, Iterator::count));
        (left == [0; 4] && !carries(&place.join("workspaces"))).then_some(())
    })
    .await;
}

/// Whether a process belongs to a job whose directory is, or was, below this one.
fn carries(workspaces: &std::path::Path) -> bool {
    let place = workspaces.canonicalize().unwrap();
    let of_ours = |text: &[u8]| text.windows(place.as_os_str().len()).any(|part| part == place.as_os_str().as_encoded_bytes());
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries.into_iter().any(|entry| std::fs::read(entry.path().join("environ")).is_ok_and(|text| of_ours(&text)))
}
