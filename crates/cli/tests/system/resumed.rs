//! Workspace jobs whose agent is killed while they run: they go on, and the next agent process takes them over.

use std::time::Duration;

use longshore_client::Client;
use longshore_model::wire::rest::JobRequest;
use longshore_model::{ExecutionState, JobStatus};
use longshore_testkit::eventually;
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
