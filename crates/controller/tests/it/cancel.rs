//! Ending jobs in every state, and twice.

use longshore_controller::token::{self, Grant};
use longshore_model::wire::record::{EventKind, Outcome};
use longshore_model::wire::rest::{CancelView, JobView};
use longshore_model::{JobId, JobStatus};
use longshore_store::Appended;
use serde_json::json;

use crate::support::House;

async fn cancel(house: &House, id: JobId) -> CancelView {
    let response = house.request(reqwest::Method::POST, &format!("/api/v1/jobs/{id}/cancel")).send().await.unwrap();
    assert_eq!(response.status(), 200);
    response.json().await.unwrap()
}

#[tokio::test]
async fn a_pending_job_is_cancelled_and_never_starts() {
    let (house, agent) = House::with_agent().await;
    let task = {
        let job = house.submit(json!({})).await;
        let task = agent.take().await;
        let view = cancel(&house, job.id).await;
        assert!(view.changed);
        assert_eq!((view.job.status, view.message.as_str()), (JobStatus::Cancelled, "the job was cancelled before it started"));
        assert_eq!(view.job.executions[0].error.as_ref().unwrap().message, "cancelled by ada");
        task
    };
    // The agent that had been offered it already is refused by the ledger.
    assert_eq!(task.start().await, Appended::Conflict);
    let twice = cancel(&house, task.job).await;
    assert!(!twice.changed);
    assert_eq!(twice.job.status, JobStatus::Cancelled);
    assert!(house.store.ledger.load_answer(task.job, task.execution).await.unwrap().is_some());
}

/// So that starts and cancels can be put in order without looking at a clock.
#[tokio::test]
async fn a_cancel_names_the_revision_it_took_effect_at_and_every_repeat_the_same() {
    let (house, agent) = House::with_agent().await;
    let (waiting, running) = (house.submit(json!({"target": "web-01"})).await, house.submit(json!({})).await);
    let task = agent.take().await;
    let Appended::Stored(started) = task.start().await else { panic!("nobody else writes") };
    let (first, second) = (cancel(&house, waiting.id).await, cancel(&house, running.id).await);
    for (view, id) in [(first, waiting.id), (second, running.id)] {
        let record = house.store.ledger.load(id).await.unwrap().unwrap();
        let (revision, _, event) = record.events.last().unwrap();
        assert!(matches!(event.kind, EventKind::Cancelled { .. } | EventKind::CancelRequested { .. }), "{event:?}");
        assert_eq!(view.revision, Some(*revision));
        assert_eq!(cancel(&house, id).await.revision, Some(*revision), "a repeat changes nothing, and names the same");
    }
    assert!(house.store.ledger.load(running.id).await.unwrap().unwrap().events.last().unwrap().0 > started);
    let done = house.submit(json!({})).await;
    agent.take().await.complete().await;
    assert_eq!(cancel(&house, done.id).await.revision, None);
}

#[tokio::test]
async fn a_cancelled_addressed_job_leaves_the_inbox() {
    let (house, agent) = House::with_agent().await;
    let job = house.submit(json!({"target": "web-01"})).await;
    cancel(&house, job.id).await;
    assert!(agent.inbox().await.is_empty());
}

#[tokio::test]
async fn a_finished_job_is_not_cancelled_and_says_so() {
    let (house, agent) = House::with_agent().await;
    let job = house.submit(json!({})).await;
    agent.take().await.complete().await;
    let view = cancel(&house, job.id).await;
    assert_eq!((view.changed, view.message.as_str(), view.job.status), (false, "the job had ended already", JobStatus::Completed));
}

#[tokio::test]
async fn a_running_job_is_stopped_by_its_agent() {
    let (house, agent) = House::with_agent().await;
    let job = house.submit(json!({})).await;
    let obey = agent.obey(job.id, 1).await;
    let (view, ()) = tokio::join!(cancel(&house, job.id), obey);
    assert!(view.changed);
    assert_eq!((view.job.status, view.message.as_str()), (JobStatus::Cancelled, "the job was stopped"));
    assert_eq!(view.job.executions[0].cancel_verified, Some(true));
    assert!(view.job.executions[0].cancel_requested);
}

#[tokio::test]
async fn a_running_job_cancelled_twice_is_asked_for_once() {
    let (house, agent) = House::with_agent().await;
    let job = house.submit(json!({})).await;
    // Both callers have told the agent before it answers.
    let obey = agent.obey(job.id, 2).await;
    let (one, two, ()) = tokio::join!(cancel(&house, job.id), cancel(&house, job.id), obey);
    assert_eq!([one.changed, two.changed].iter().filter(|changed| **changed).count(), 1);
    let requests = house.job(job.id).await.timeline.iter().filter(|entry| entry.event == "cancel_requested").count();
    assert_eq!(requests, 1);
}

#[tokio::test]
async fn who_may_not_read_jobs_is_not_told_what_they_hold() {
    let (house, agent) = House::with_agent().await;
    let secret = json!({"operation": "command.exec", "args": {"command": ["s3cret"]}, "annotations": {"s3cret": "1"}});
    let job: JobView = house.post("/api/v1/jobs", &secret).await.json().await.unwrap();
    let task = agent.take().await;
    task.start().await;
    task.answer(Outcome::Failed, json!({"stdout": "s3cret"})).await;
    house.get(&format!("/api/v1/jobs/{}?wait=20s", job.id)).await;
    let told = async |path: &str, more: &[&str]| {
        let permissions = ["job:write", "command:execute"].iter().chain(more).map(|permission| (*permission).to_owned()).collect();
        let token =
            token::issue(&house.key, &Grant { permissions: Some(permissions), ..Grant::new("bob", &["admin"]) }, jiff::Timestamp::now());
        let response =
            house.bare(reqwest::Method::POST, &format!("/api/v1/jobs/{}/{path}", job.id)).bearer_auth(token).send().await.unwrap();
        assert!(response.status().is_success(), "{path}");
        response.text().await.unwrap()
    };
    for path in ["cancel", "retry"] {
        assert!(!told(path, &[]).await.contains("s3cret"), "{path}");
        assert!(told(path, &["job:read"]).await.contains("s3cret"), "{path}");
    }
}
