//! Long jobs, several workers, signals and kills.

use std::time::Duration;

use longshore_testkit::{Process, Signal, eventually};
use serde_json::json;

use super::{PATIENCE, Place, gone, is_alive, lines, pid_in};

#[tokio::test]
async fn a_job_longer_than_the_claim_runs_once() {
    let place = Place::new().await;
    let ran = place.file("ran");
    place.job("long", &[&format!("echo start >> {0}; sleep 4; echo end >> {0}", ran.display())]);
    // Claims of 1.2 s.
    place.prepare("-o 0.02").await;
    let _workers = [place.worker("--stay -o 0.02"), place.worker("--stay -o 0.02")];
    place.send(&json!({ "id": "long", "timeout": "30s" })).await;
    assert_eq!(place.response("long", 1).await["status"], "success");
    place.settled().await;
    assert_eq!(lines(&ran), ["start", "end"]);
    assert_eq!(place.responses("jobs.results.long").await.len(), 1);
}

#[tokio::test]
async fn two_messages_with_one_name_never_share_a_workspace() {
    let place = Place::new().await;
    let lock = place.file("lock").display().to_string();
    place.job("x", &[&format!("mkdir {lock} || exit 9; test ! -e mine || exit 8; touch mine; sleep 1; rmdir {lock}")]);
    place.prepare("").await;
    let _workers = [place.worker("--stay --max-jobs 2"), place.worker("--stay")];
    for _ in 0..3 {
        place.send(&json!({ "id": "x" })).await;
    }
    for n in 1..=3 {
        assert_eq!(place.response("x", n).await["status"], "success");
    }
    place.settled().await;
    eventually("nothing is left", PATIENCE, async || std::fs::read_dir(place.workspaces()).unwrap().next().is_none().then_some(())).await;
}

#[tokio::test]
async fn a_worker_that_ends_after_a_job_takes_one_of_many() {
    const JOBS: usize = 5;
    let place = Place::new().await;
    place.prepare("").await;
    for n in 0..JOBS {
        place.job(&format!("one-{n}"), &["true"]);
        place.send(&json!({ "id": format!("one-{n}") })).await;
    }
    for n in 1..=JOBS {
        let (code, said) = place.run("").await;
        assert_eq!(code, Some(0), "{said}");
        let left = eventually("the job is ended", PATIENCE, async || {
            let info = place.consumer().await;
            (info["num_ack_pending"] == 0).then(|| info["num_pending"].clone())
        });
        assert_eq!(left.await, json!(JOBS - n));
    }
}

#[tokio::test]
async fn several_jobs_run_at_once_in_a_worker_that_may() {
    let place = Place::new().await;
    place.prepare("").await;
    // Each waits for the other.
    for (id, other) in [("a", "b"), ("b", "a")] {
        let (own, other) = (place.file(id).display().to_string(), place.file(other).display().to_string());
        place.job(id, &[&format!("pwd; touch {own}; while ! test -e {other}; do sleep 0.05; done")]);
    }
    let mut by_variable = place.command("");
    by_variable.env("WORKER_STAY", "1").env("WORKER_MAX_JOBS", "2");
    for (n, command) in [place.command("--stay --max-jobs 2"), by_variable].into_iter().enumerate() {
        for id in ["a", "b"] {
            let _not_there_at_first = std::fs::remove_file(place.file(id));
        }
        for id in ["a", "b"] {
            place.send(&json!({ "id": id })).await;
        }
        let _worker = Process::spawn(command);
        for id in ["a", "b"] {
            assert_eq!(place.response(id, n + 1).await["status"], "success");
        }
        place.settled().await;
    }
    for id in ["a", "b"] {
        assert!(place.read(id, "step_0.log").trim().ends_with(&format!("workspaces/{id}")), "each in its own directory");
    }
}

#[tokio::test]
async fn a_worker_told_to_end_finishes_what_it_holds_and_takes_no_more() {
    let place = Place::new().await;
    let pid = place.file("pid");
    place.job("x", &[&format!("echo $$ > {}; sleep 1; echo done", pid.display())]);
    place.prepare("").await;
    let mut worker = place.worker("--stay");
    place.send(&json!({ "id": "x" })).await;
    pid_in(&pid).await;
    worker.signal(Signal::TERM);
    place.send(&json!({ "id": "x" })).await;
    assert_eq!(worker.wait(PATIENCE).await.code(), Some(0), "{}", worker.output());
    assert_eq!((place.response("x", 1).await["status"].as_str(), place.read("x", "step_0.log").as_str()), (Some("success"), "done\n"));
    let info = place.consumer().await;
    assert_eq!((&info["num_ack_pending"], &info["num_pending"]), (&json!(0), &json!(1)), "the other message is nobody's");
    place.assert_nothing_left();
}

#[tokio::test]
async fn what_does_not_end_in_time_is_stopped_and_another_worker_does_it() {
    let place = Place::new().await;
    let (mark, flag) = (place.file("escaped").display().to_string(), place.file("flag").display().to_string());
    // Known by a word of its own: its number is one of the step's namespace.
    place.job("x", &[&format!("test ! -e {flag} || exit 0; touch {flag}; setsid sh -c 'sleep 600; :' {mark} & sleep 600")]);
    place.prepare("").await;
    let mut worker = place.worker("--stay --drain-timeout 300ms");
    place.send(&json!({ "id": "x" })).await;
    eventually("the step has left something", PATIENCE, async || is_alive(&mark).then_some(())).await;
    worker.signal(Signal::TERM);
    let status = worker.wait(PATIENCE).await;
    assert_eq!(status.code(), Some(0), "{}", worker.output());
    assert!(!is_alive(&mark), "also what has left its group");
    assert!(place.responses("jobs.results").await.is_empty(), "it has no result");
    place.assert_nothing_left();

    let (code, said) = place.run("").await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(place.response("x", 1).await["status"], "success");
    assert_eq!(place.result("x")["attempt"], 2);
}

#[tokio::test]
async fn a_killed_worker_leaves_nothing_once_it_is_back_and_the_job_is_answered() {
    let place = Place::new().await;
    let (mark, flag) = (place.file("escaped").display().to_string(), place.file("flag").display().to_string());
    // Known by a word of its own: its number is one of the step's namespace.
    place.job("x", &[&format!("test ! -e {flag} || exit 0; touch {flag}; setsid sh -c 'sleep 600; :' {mark} & sleep 600")]);
    // The claim lasts for half an hour: nobody could wait for that.
    place.prepare("").await;
    let mut worker = place.worker("");
    place.send(&json!({ "id": "x" })).await;
    eventually("the step has left something", PATIENCE, async || is_alive(&mark).then_some(())).await;
    worker.kill9();
    gone(&mark).await;
    assert!(place.workspaces().join("x").exists());
    let (code, said) = place.run("").await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(place.response("x", 1).await["status"], "success");
    place.assert_nothing_left();
    place.settled().await;
}

#[tokio::test]
async fn an_idle_worker_that_is_told_to_end_ends_at_once_and_keeps_no_message() {
    let place = Place::new().await;
    place.prepare("").await;
    for flags in ["--stay", ""] {
        let mut worker = place.worker(flags);
        eventually("it waits", PATIENCE, async || (place.consumer().await["num_waiting"].as_u64() > Some(0)).then_some(())).await;
        worker.signal(Signal::TERM);
        assert_eq!(worker.wait(Duration::from_secs(5)).await.code(), Some(0), "{}", worker.output());
    }
    place.job("x", &["true"]);
    place.send(&json!({ "id": "x" })).await;
    assert_eq!(place.run("").await.0, Some(0));
    assert_eq!(place.result("x")["attempt"], 1, "no worker that has ended was given it");
}

#[tokio::test]
async fn a_paused_worker_does_not_run_what_another_has_done() {
    let place = Place::new().await;
    let ran = place.file("ran");
    place.job("x", &[&format!("echo run >> {}", ran.display())]);
    place.prepare("-o 0.02").await;
    let paused = place.worker("--stay -o 0.02");
    eventually("it waits", PATIENCE, async || (place.consumer().await["num_waiting"].as_u64() > Some(0)).then_some(())).await;
    paused.signal(Signal::STOP);
    place.send(&json!({ "id": "x" })).await;
    eventually("the message is on its way to it", PATIENCE, async || (place.consumer().await["num_ack_pending"] == 1).then_some(())).await;
    let _other = place.worker("--stay -o 0.02");
    assert_eq!(place.response("x", 1).await["status"], "success");
    place.settled().await;
    let other_done = place.read("x", "result.json");
    paused.signal(Signal::CONT);
    // It gets to the message, finds the answer, and takes the next one in its turn.
    paused.wait_for_line(|line| line.contains("a job has left"), PATIENCE).await;
    assert_eq!((lines(&ran).len(), place.read("x", "result.json")), (1, other_done));
}
