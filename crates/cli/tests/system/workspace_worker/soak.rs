//! Small jobs by the hundred, competing workers, and kills.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use longshore_testkit::{Process, Random, eventually};
use serde_json::{Value, json};

use super::{PATIENCE, Place, lines};

const WORKERS: usize = 2;
/// Claims of 6 s: what the broker had on its way to a worker that was killed is offered again after that.
const CLAIM: &str = "-o 0.1";

/// `LONGSHORE_SOAK_JOBS` sets another number of jobs: 500 for the long form.
fn n_jobs() -> usize {
    std::env::var("LONGSHORE_SOAK_JOBS").ok().and_then(|text| text.parse().ok()).unwrap_or(60)
}

#[tokio::test]
async fn competing_workers_answer_every_job_over_kills_and_run_none_to_its_end_twice() {
    let n_jobs = n_jobs();
    let n_kills = n_jobs / 12;
    let place = Place::new().await;
    let witness = place.file("witness");
    place.prepare(CLAIM).await;
    for n in 0..n_jobs {
        // The end is one write: whoever is killed before it did not run to the end.
        place.job(
            &format!("job-{n}"),
            &[&format!("echo {n} start >> {}", witness.display()), &format!("sleep 0.02; echo {n} end >> {}", witness.display())],
        );
        place.send(&json!({ "id": format!("job-{n}") })).await;
    }
    let seed =
        std::env::var("LONGSHORE_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed {seed}, {n_jobs} jobs, {n_kills} kills");
    let mut random = Random::new(seed);
    let mut workers: Vec<Process> = (0..WORKERS).map(|_| place.worker(&format!("--stay --max-jobs 2 {CLAIM}"))).collect();
    let ended = || lines(&witness).iter().filter(|line| line.ends_with("end")).count();
    let mut interrupted = BTreeSet::new();
    for kill in 0..n_kills {
        let due = n_jobs * (kill + 1) / (n_kills + 2);
        eventually("progress", PATIENCE * 2, async || (ended() >= due).then_some(())).await;
        tokio::time::sleep(Duration::from_millis(random.below(40) as u64)).await;
        let worker = random.below(WORKERS);
        workers[worker].kill9();
        for id in held(&place) {
            // What its manifest answers for is done; the rest of what a killed worker held was not, as far as anybody can know.
            if !place.jobs().join(&id).join("results/result.json").exists() {
                interrupted.insert(id);
            }
        }
        workers[worker] = place.worker(&format!("--stay --max-jobs 2 {CLAIM}"));
    }
    for n in 0..n_jobs {
        let response = place.response(&format!("job-{n}"), 1).await;
        assert_eq!(response["status"], "success", "{response}");
    }
    place.settled().await;
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for line in lines(&witness).iter().filter_map(|line| line.strip_suffix(" end")) {
        *ends.entry(line.to_owned()).or_default() += 1;
    }
    assert_eq!(ends.len(), n_jobs);
    let twice: Vec<_> = ends.iter().filter(|(n, times)| **times > 1 && !interrupted.contains(&format!("job-{n}"))).collect();
    assert!(twice.is_empty(), "run to the end more than once: {twice:?}");
    drop(workers);
}

/// The jobs that workers have in their hands, or had when they were killed.
fn held(place: &Place) -> Vec<String> {
    let notes = std::fs::read_dir(place.workspaces()).into_iter().flatten().filter_map(Result::ok);
    let notes = notes.filter(|entry| entry.file_name().to_string_lossy().starts_with(".longshore\\"));
    let ids = notes
        .filter_map(|entry| serde_json::from_slice::<Value>(&std::fs::read(entry.path()).ok()?).ok()?["id"].as_str().map(str::to_owned));
    ids.collect()
}
