//! Submitting, waiting, and doing both twice.

use std::time::Duration;

use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::Outcome;
use longshore_model::wire::rest::JobView;
use longshore_model::{ExecutionId, ExecutionState, JobStatus};
use longshore_store::memory;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::support::{House, problem};

#[tokio::test]
async fn a_job_is_submitted_done_and_read_in_one_request() {
    let (house, agent) = House::with_agent().await;
    let body = json!({"operation": "node.hostname.get"});
    let submission = house.post("/api/v1/jobs?wait=20s", &body);
    let work = async { agent.take().await.complete().await };
    let (response, ()) = tokio::join!(submission, work);
    assert_eq!(response.status(), StatusCode::OK);
    let job: JobView = response.json().await.unwrap();
    assert_eq!(job.status, JobStatus::Completed);
    assert_eq!(job.executions[0].result, Some(json!({"hostname": "web-01"})));
    assert_eq!(job.executions[0].hostname.as_deref(), Some("web-01"));
    let words: Vec<&str> = job.timeline.iter().map(|entry| entry.event.as_str()).collect();
    assert_eq!(words, ["submitted", "started", "answered"]);
    let statuses: Vec<_> = job.timeline.iter().map(|entry| entry.status).collect();
    assert_eq!(statuses, [Some(JobStatus::Pending), Some(JobStatus::Running), Some(JobStatus::Completed)]);
}

#[tokio::test]
async fn an_accepted_job_is_found_at_its_location_at_once() {
    let (house, _agent) = House::with_agent().await;
    let response = house.post("/api/v1/jobs", &json!({"operation": "node.status.get", "annotations": {"ticket": "7"}})).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let job: JobView = response.json().await.unwrap();
    assert_eq!(location, format!("/api/v1/jobs/{}", job.id));
    assert_eq!(job.status, JobStatus::Pending);
    assert_eq!(serde_json::from_value::<JobView>(house.get(&location).await).unwrap(), job);
    assert_eq!(house.get("/api/v1/jobs").await["items"][0]["id"], job.id.to_string());
}

#[tokio::test]
async fn a_wait_whose_time_is_up_gives_the_job_as_it_is() {
    let (house, _agent) = House::with_agent().await;
    let response = house.post("/api/v1/jobs?wait=10ms", &json!({"operation": "node.hostname.get"})).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let job: JobView = response.json().await.unwrap();
    let again = house.get(&format!("/api/v1/jobs/{}?wait=10ms", job.id)).await;
    assert_eq!(again["status"], "pending");
}

#[tokio::test]
async fn a_wait_ends_with_the_job_not_with_its_time() {
    let (house, agent) = House::with_agent().await;
    let job = house.submit(json!({})).await;
    let path = format!("/api/v1/jobs/{}?wait=5m", job.id);
    let (view, ()) = tokio::join!(house.get(&path), async { agent.take().await.complete().await });
    assert_eq!(view["status"], "completed");
}

#[tokio::test]
async fn a_wait_ends_with_the_controller() {
    let (house, _agent) = House::with_agent().await;
    let body = json!({"operation": "node.hostname.get"});
    let waiting = house.post("/api/v1/jobs?wait=5m", &body);
    let ending = async {
        house.until("the job is accepted", async || house.get("/api/v1/jobs").await["counts"]["pending"] == 1).await;
        house.drain.cancel();
    };
    let (response, ()) = tokio::join!(waiting, ending);
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    house.ended().await;
}

#[tokio::test]
async fn addressed_work_goes_to_its_host_only() {
    let (house, web) = House::with_agent().await;
    let db = house.agent(2, "db-01").await;
    let job = house.submit(json!({"target": "DB-01"})).await;
    assert_eq!(job.executions[0].id, ExecutionId::Agent(db.id));
    assert!(web.inbox().await.is_empty());
    let tasks = db.inbox().await;
    tasks[0].complete().await;
    let done = house.get(&format!("/api/v1/jobs/{}?wait=20s", job.id)).await;
    assert_eq!(done["executions"][0]["state"], json!(ExecutionState::Completed));
    assert!(db.inbox().await.is_empty());
}

#[tokio::test]
async fn targets_without_an_agent_are_refused_with_the_nearest_names() {
    let (house, agent) = House::with_agent().await;
    let submit =
        async |target: &str| problem(house.post("/api/v1/jobs", &json!({"operation": "node.hostname.get", "target": target})).await).await;
    let unknown = submit("web-02").await;
    assert_eq!((unknown.code, unknown.hint.as_deref()), (ErrorCode::NoAgent, Some("did you mean web-01?")));
    house.store.registry.leave(agent.id).await.unwrap();
    house.until("the agent is gone", async || house.get("/api/v1/agents").await["items"][0]["state"] == "stopped").await;
    assert_eq!(submit("web-01").await.code, ErrorCode::AgentOffline);
    assert_eq!(submit("_any").await.code, ErrorCode::NoAgent);
    house.agent(2, "twin").await;
    house.agent(3, "twin").await;
    let ambiguous = submit("twin").await;
    assert_eq!(ambiguous.code, ErrorCode::Validation);
    assert_eq!(ambiguous.errors[0].pointer, "/target");
    assert_eq!(house.get("/api/v1/jobs").await["items"], json!([]));
}

#[tokio::test]
async fn a_submission_sent_again_with_its_key_is_the_same_job() {
    let (house, agent) = House::with_agent().await;
    let body = json!({"operation": "node.hostname.get", "idempotency_key": "k-1"});
    let first = house.post("/api/v1/jobs", &body).await;
    assert_eq!(first.status(), StatusCode::CREATED);
    assert!(!first.headers().contains_key("idempotent-replayed"));
    let first: JobView = first.json().await.unwrap();
    agent.take().await.complete().await;

    // Also when nobody could take it any more.
    house.store.registry.leave(agent.id).await.unwrap();
    let second = house.post("/api/v1/jobs", &body).await;
    assert_eq!(second.status(), StatusCode::OK);
    assert_eq!(second.headers()["idempotent-replayed"], "true");
    let second: JobView = second.json().await.unwrap();
    assert_eq!((second.id, second.status), (first.id, JobStatus::Completed));

    let other = house.post("/api/v1/jobs", &json!({"operation": "node.status.get", "idempotency_key": "k-1"})).await;
    assert_eq!(problem(other).await.code, ErrorCode::IdempotencyConflict);
    assert_eq!(house.get("/api/v1/jobs").await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_submission_that_nobody_can_do_takes_no_key() {
    let (house, _agent) = House::with_agent().await;
    let submit = async |target: &str| {
        house.post("/api/v1/jobs", &json!({"operation": "node.hostname.get", "target": target, "idempotency_key": "k-1"})).await
    };
    for _ in 0..2 {
        assert_eq!(problem(submit("web-99").await).await.code, ErrorCode::NoAgent);
    }
    assert_eq!(submit("web-01").await.status(), StatusCode::CREATED);
    assert_eq!(problem(submit("web-99").await).await.code, ErrorCode::IdempotencyConflict, "now it stands for another body");
}

#[tokio::test]
async fn the_key_may_come_as_a_header() {
    let (house, _agent) = House::with_agent().await;
    let submit = async |body: Value| {
        house.request(reqwest::Method::POST, "/api/v1/jobs").header("Idempotency-Key", "h-1").json(&body).send().await.unwrap()
    };
    let first: JobView = submit(json!({"operation": "node.hostname.get"})).await.json().await.unwrap();
    let second: JobView = submit(json!({"operation": "node.hostname.get", "idempotency_key": "h-1"})).await.json().await.unwrap();
    assert_eq!(first.id, second.id);
    let differs = submit(json!({"operation": "node.hostname.get", "idempotency_key": "h-2"})).await;
    assert_eq!(problem(differs).await.errors[0].pointer, "/idempotency_key");
}

#[tokio::test]
async fn one_key_sent_many_times_at_once_makes_one_job() {
    let (house, _agent) = House::with_agent().await;
    let body = json!({"operation": "node.hostname.get", "idempotency_key": "many"});
    let answers = futures::future::join_all((0..16).map(|_| house.post("/api/v1/jobs", &body))).await;
    let mut ids = std::collections::BTreeSet::new();
    let mut created = 0;
    for answer in answers {
        created += usize::from(answer.status() == StatusCode::CREATED);
        ids.insert(answer.json::<JobView>().await.unwrap().id);
    }
    assert_eq!((ids.len(), created), (1, 1));
}

#[tokio::test]
async fn a_submission_that_crashed_after_its_reservation_is_completed_by_its_repeat() {
    let (house, agent) = House::with_agent().await;
    let body = json!({"operation": "node.hostname.get", "idempotency_key": "crash"});
    let first: JobView = house.post("/api/v1/jobs", &body).await.json().await.unwrap();
    // As if the controller had died between the two writes.
    let record = house.store.ledger.load(first.id).await.unwrap().unwrap();
    house.store.work.withdraw(&record.definition).await.unwrap();
    house.store.ledger.delete(first.id).await.unwrap();
    let second = house.post("/api/v1/jobs", &body).await;
    assert_eq!(second.status(), StatusCode::CREATED);
    assert_eq!(second.json::<JobView>().await.unwrap().id, first.id);
    let task = agent.take().await;
    task.start().await;
    task.answer(Outcome::Completed, json!({})).await;
    assert_eq!(house.get(&format!("/api/v1/jobs/{}?wait=20s", first.id)).await["status"], "completed");
}

#[tokio::test]
async fn what_could_outlive_its_records_is_refused() {
    let store = longshore_store::memory::open(longshore_store::memory::MemoryOptions::default());
    let house = House::on(store, |config| config.retention = std::time::Duration::from_secs(7200)).await;
    house.agent(1, "web-01").await;
    let body = json!({"operation": "node.hostname.get", "expires_in": "3h"});
    assert_eq!(problem(house.post("/api/v1/jobs", &body).await).await.code, ErrorCode::Retention);
    // `node.hostname.get` retries by itself for close to an hour.
    house.submit(json!({"retry": {"max_attempts": 1}})).await;
}

#[tokio::test]
async fn a_scheduled_job_is_pending_when_its_time_comes() {
    let (house, _agent) = House::with_agent().await;
    let job = house.submit(json!({"not_before": "300ms"})).await;
    assert_eq!(job.status, JobStatus::Scheduled);
    assert_eq!(house.get("/api/v1/jobs").await["counts"]["scheduled"], 1);
    house.until("pending", async || house.get("/api/v1/jobs?status=pending").await["counts"]["pending"] == 1).await;
    assert_eq!(house.job(job.id).await.status, JobStatus::Pending);
}

#[tokio::test]
async fn many_jobs_at_once_are_each_done_once_and_counted() {
    const JOBS: usize = 300;
    let (house, agent) = House::with_agent().await;
    let body = json!({"operation": "node.hostname.get"});
    let submissions = futures::future::join_all((0..JOBS).map(|_| house.post("/api/v1/jobs?wait=20s", &body)));
    let work = async {
        for _ in 0..JOBS {
            agent.take().await.complete().await;
        }
    };
    let (answers, ()) = tokio::join!(submissions, work);
    assert!(answers.iter().all(|answer| answer.status() == StatusCode::OK));
    let counts = house.get("/api/v1/jobs?limit=1").await["counts"].clone();
    assert_eq!((counts["completed"].as_u64(), counts["pending"].as_u64()), (Some(JOBS as u64), Some(0)));
}

#[tokio::test]
async fn a_bundle_is_there_for_as_long_as_its_job_may_need_it_or_the_job_is_refused() {
    let store = memory::open(memory::MemoryOptions::default());
    let house = House::on(store, |config| config.objects_retention = Duration::from_secs(3600)).await;
    house.agent(1, "web-01").await;
    let content = "anything";
    let sha256 = sha2::Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let path = format!("/api/v1/bundles/{sha256}");
    assert_eq!(house.request(Method::PUT, &path).body(content).send().await.unwrap().status(), StatusCode::CREATED);
    assert_eq!(house.request(Method::PUT, &path).body(content).send().await.unwrap().status(), StatusCode::OK, "it is there and fresh");
    let submit = async |expires_in: &str| {
        let args = json!({"steps": ["true"], "bundle": sha256});
        house.post("/api/v1/jobs", &json!({"operation": "workspace.run", "args": args, "expires_in": expires_in, "timeout": "1m"})).await
    };
    assert_eq!(submit("30m").await.status(), StatusCode::CREATED);
    let refused = problem(submit("2h").await).await;
    assert_eq!(refused.errors[0].pointer, "/args/bundle");
    assert!(refused.errors[0].detail.contains("kept until"), "{refused:?}");
}
