//! Jobs with a concurrency key, with kills in between: the jobs themselves say whether two of them ever ran at once, and in which order.

use futures::future::join_all;
use longshore_model::JobStatus;
use longshore_model::wire::rest::{JobRequest, JobView};
use longshore_testkit::eventually;

use crate::fleet::{Fleet, PATIENCE, persistent};

const JOBS: usize = 30;

#[tokio::test]
async fn jobs_with_one_key_never_run_at_once_whatever_is_killed() {
    let mut fleet = Fleet::start(2).await;
    let log = fleet.dir.path().join("order.log");
    let lock = fleet.dir.path().join("lock");
    std::fs::write(&log, "").unwrap();
    // A lock of the system's own: it goes with the last process that has it, so a job that was killed leaves none.
    let script = |n: usize| {
        let (lock, log) = (lock.display(), log.display());
        format!("exec 9>'{lock}'; flock -n 9 || echo 'overlap {n}' >> '{log}'; echo \"{n} $LONGSHORE_FENCE\" >> '{log}'; sleep 0.1")
    };
    let mut jobs: Vec<JobView> = Vec::new();
    for n in 0..JOBS {
        let request = JobRequest { concurrency_key: Some("one at a time".to_owned()), ..persistent(&script(n)) };
        jobs.push(fleet.client.submit(&request, None).await.unwrap());
    }
    let n_lines = async |at_least: usize| {
        let count = || std::fs::read_to_string(&log).unwrap().lines().count();
        eventually("progress", PATIENCE * 3, async || (count() >= at_least).then_some(())).await;
    };
    n_lines(4).await;
    fleet.agents[0].kill_and_restart().await;
    n_lines(10).await;
    fleet.controller.kill_and_restart().await;
    n_lines(14).await;
    fleet.agents[1].kill_and_restart().await;
    n_lines(18).await;
    fleet.nats.kill();
    fleet.nats.restart().await;

    let ended = join_all(jobs.iter().map(|job| {
        let client = fleet.client.clone();
        async move {
            eventually("the end of a job", PATIENCE * 4, async || {
                client.job(job.id, Some(PATIENCE)).await.ok().filter(|view| view.status.is_final())
            })
            .await
        }
    }))
    .await;
    for job in &ended {
        assert_eq!(job.status, JobStatus::Completed, "{:?}", job.executions[0].error);
        assert_eq!(job.concurrency_key.as_deref(), Some("one at a time"));
    }
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(!text.contains("overlap"), "{text}");
    let lines: Vec<(usize, u64)> = text
        .lines()
        .map(|line| {
            let (n, fence) = line.split_once(' ').unwrap();
            (n.parse().unwrap(), fence.parse().unwrap())
        })
        .collect();
    assert!(lines.is_sorted_by_key(|(n, _)| *n), "in the order of submission: {text}");
    assert!(lines.windows(2).all(|pair| pair[0].1 < pair[1].1), "every start has a higher fence than the one before: {text}");
}
