//! Ending jobs in every state, and twice.

use futures::StreamExt as _;
use longshore_model::wire::record::Outcome;
use longshore_model::wire::rest::CancelView;
use longshore_model::{JobId, JobStatus};
use longshore_store::{Appended, Wake};
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
    let task = agent.take().await;
    task.start().await;
    let mut wakes = house.store.work.wakes(agent.id).await.unwrap();
    let obey = async {
        while wakes.next().await != Some(Wake::Cancel(job.id)) {}
        task.answer(Outcome::Cancelled, json!(null)).await;
    };
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
    let task = agent.take().await;
    task.start().await;
    let mut wakes = house.store.work.wakes(agent.id).await.unwrap();
    let obey = async {
        // Both callers have told the agent before it answers.
        for _ in 0..2 {
            while wakes.next().await != Some(Wake::Cancel(job.id)) {}
        }
        task.answer(Outcome::Cancelled, json!(null)).await;
    };
    let (one, two, ()) = tokio::join!(cancel(&house, job.id), cancel(&house, job.id), obey);
    assert_eq!([one.changed, two.changed].iter().filter(|changed| **changed).count(), 1);
    let requests = house.job(job.id).await.timeline.iter().filter(|entry| entry.event == "cancel_requested").count();
    assert_eq!(requests, 1);
}
