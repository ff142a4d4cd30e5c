//! Kills at random times: nothing is lost, nothing that has ended changes, nothing runs more often than the record says.
//!
//! The jobs themselves write a witness file; what is true is read from it by code that shares nothing with the product.

use std::cell::Cell;
use std::collections::BTreeMap;

use futures::future::join_all;
use longshore_client::Client;
use longshore_model::wire::rest::{JobRequest, JobView};
use longshore_model::{JobId, JobStatus};
use longshore_testkit::witness::Witness;
use longshore_testkit::{Random, eventually};

use crate::fleet::{Fleet, PATIENCE, persistent, shell};

const JOBS: usize = 2_000;
const SUBMITTERS: usize = 24;
const KILLS: usize = 18;
const AGENTS: usize = 2;

#[tokio::test]
async fn two_thousand_jobs_survive_kills_of_controller_agents_and_broker() {
    let mut fleet = Fleet::start(AGENTS).await;
    let witness = Witness::new_in(fleet.dir.path());
    let n_ended = Cell::new(0);
    let seed =
        std::env::var("LONGSHORE_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed {seed}");
    let client = fleet.client.clone();
    let submitters = join_all((0..SUBMITTERS).map(|first| submit_share(first, &client, &witness, &n_ended)));
    let (seen, ()) = tokio::join!(submitters, kill_at_random(&mut fleet, seed, &n_ended));
    let seen: BTreeMap<usize, JobView> = seen.into_iter().flatten().collect();
    assert_eq!(seen.len(), JOBS, "every submission was accepted and ended");
    check(&fleet.client, &witness, &seen).await;
}

async fn submit_share(first: usize, client: &Client, witness: &Witness, n_ended: &Cell<usize>) -> Vec<(usize, JobView)> {
    let mut seen = Vec::new();
    for n in (first..JOBS).step_by(SUBMITTERS) {
        seen.push((n, submit_and_wait(client, &job(n, witness)).await));
        n_ended.set(n_ended.get() + 1);
    }
    seen
}

async fn kill_at_random(fleet: &mut Fleet, seed: u64, n_ended: &Cell<usize>) {
    let mut random = Random::new(seed);
    for kill in 0..KILLS {
        // Spread over the run by its own progress, not by a clock.
        let due = JOBS * (kill + 1) / (KILLS + 2) + random.below(20);
        eventually("progress", PATIENCE * 3, async || (n_ended.get() >= due).then_some(())).await;
        match random.below(3) {
            0 => fleet.controller.kill_and_restart().await,
            1 => {
                let agent = random.below(AGENTS);
                fleet.agents[agent].kill_and_restart().await;
            }
            _ => {
                fleet.nats.kill();
                fleet.nats.restart().await;
            }
        }
    }
}

/// Two in three may be run again, half of them addressed to a host; the rest must never start twice.
fn job(n: usize, witness: &Witness) -> JobRequest {
    let script = witness.script(&label(n), "true");
    let request = if is_once(n) { shell(&script) } else { persistent(&script) };
    let target = if n.is_multiple_of(2) { "_any".to_owned() } else { format!("host-{}", n / 2 % AGENTS) };
    JobRequest { target, idempotency_key: Some(label(n)), ..request }
}

fn is_once(n: usize) -> bool {
    n.is_multiple_of(3)
}

fn label(n: usize) -> String {
    format!("job-{n}")
}

/// Goes on until the job is accepted and has ended, whatever is killed meanwhile.
async fn submit_and_wait(client: &Client, request: &JobRequest) -> JobView {
    let id: JobId = eventually("an accepted submission", PATIENCE * 2, async || {
        let submitted = client.submit(request, None).await;
        submitted.inspect_err(|error| assert!(error.is_retryable() || error.code().is_some(), "{error}")).ok().map(|view| view.id)
    })
    .await;
    eventually("the end of a job", PATIENCE * 3, async || {
        let view = client.job(id, Some(PATIENCE)).await.ok()?;
        view.status.is_final().then_some(view)
    })
    .await
}

async fn check(client: &Client, witness: &Witness, seen: &BTreeMap<usize, JobView>) {
    let account = witness.read();
    let labels: Vec<String> = seen.keys().map(|n| label(*n)).collect();
    let (mut n_completed, mut n_interrupted, mut n_second) = (0, 0, 0);
    for (n, then) in seen {
        let now = client.job(then.id, None).await.unwrap();
        let [before, after] = [then, &now].map(|view| &view.executions[0]);
        // `lost` alone may be replaced, by a late answer.
        if before.state.as_str() != "lost" {
            assert_eq!(before, after, "{} changed after it had ended", then.id);
        }
        let starts = account.starts_of(&label(*n));
        assert!(starts <= after.attempts, "{} started {starts} times, recorded {}", then.id, after.attempts);
        for (attempt, starts) in account.attempts.get(&label(*n)).into_iter().flatten() {
            assert!(*attempt <= after.attempts && *starts == 1, "attempt {attempt} of {} started {starts} times: {after:?}", then.id);
        }
        n_second += u32::from(after.attempts > 1);
        match now.status {
            JobStatus::Completed => {
                n_completed += 1;
                assert!(starts >= 1, "{} is completed and never ran", then.id);
                assert!(account.ends_of(&label(*n)) >= 1, "{} is completed and never got to its end", then.id);
            }
            JobStatus::Failed if is_once(*n) => {
                n_interrupted += 1;
                assert!(starts <= 1, "{} must not start twice", then.id);
            }
            JobStatus::Scheduled
            | JobStatus::Pending
            | JobStatus::Running
            | JobStatus::Retryable
            | JobStatus::Failed
            | JobStatus::Skipped
            | JobStatus::PartialFailure
            | JobStatus::Cancelled
            | JobStatus::Expired => panic!("{} ended {}: {now:?}", then.id, now.status.as_str()),
        }
    }
    let never: Vec<_> = account
        .discrepancies(labels.iter().map(String::as_str), 50)
        .into_iter()
        .filter(|found| !matches!(found, longshore_testkit::witness::Discrepancy::NeverStarted(_)))
        .collect();
    assert!(never.is_empty(), "{never:?}");
    println!(
        "{JOBS} submitted, {} answered, 0 lost: {n_completed} completed, {n_interrupted} interrupted and not run again, {n_second} with a second attempt",
        seen.len()
    );
}
