//! Delete, then look: nothing is left.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use longshore_model::JobId;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::rest::JobView;
use longshore_model::wire::turn::{Hold, Waiter};
use longshore_store::{Error, Revision, Store, Turn, Turns, WaiterPage, archive_name, bundle_name, memory};
use reqwest::Method;
use serde_json::json;

use crate::support::{House, problem};

const BUNDLE: &[u8] = b"not really an archive";
const BUNDLE_SHA256: &str = "80b1ed2abf29ef2b0d0e3dd09ebf5da09a6da7cf64b6a1f3ab4a6b0d0f8cbb2d";

#[tokio::test]
async fn nothing_of_a_deleted_job_is_left() {
    let (house, agent) = House::with_agent().await;
    let sha256 = upload(&house).await;
    let body = json!({"operation": "workspace.run", "args": {"steps": ["true"], "bundle": sha256}});
    let job: JobView = house.post("/api/v1/jobs", &body).await.json().await.unwrap();
    let other: JobView = house.post("/api/v1/jobs", &body).await.json().await.unwrap();
    let task = agent.take().await;
    let (job, other) = if task.job == job.id { (job, other) } else { (other, job) };
    let path = format!("/api/v1/jobs/{}", job.id);
    let refused = house.request(Method::DELETE, &path).send().await.unwrap();
    assert_eq!(problem(refused).await.code, ErrorCode::JobRunning);
    task.log(0, b"hello").await;
    let archive = archive_name(job.id, task.execution);
    house.store.objects.put(&archive, Box::pin(&b"archive"[..])).await.unwrap();
    task.complete().await;
    house.get(&format!("{path}?wait=20s")).await;

    assert_eq!(house.request(Method::DELETE, &path).send().await.unwrap().status(), 204);
    assert!(house.store.ledger.load(job.id).await.unwrap().is_none());
    assert!(house.store.ledger.load_answer(job.id, task.execution).await.unwrap().is_none());
    assert!(house.store.objects.info(&archive).await.unwrap().is_none());
    assert_eq!(house.store.logs.last(job.id).await.unwrap(), 0);
    assert_eq!(problem(house.request(Method::GET, &path).send().await.unwrap()).await.code, ErrorCode::NotFound);
    assert_eq!(problem(house.request(Method::DELETE, &path).send().await.unwrap()).await.code, ErrorCode::NotFound);
    let list = house.get("/api/v1/jobs").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert_eq!(list["counts"]["completed"], 0);

    // The bundle stays as long as a job needs it.
    assert!(house.store.objects.info(&bundle_name(&sha256)).await.unwrap().is_some());
    let forced = house.request(Method::DELETE, &format!("/api/v1/jobs/{}?force=true", other.id)).send().await.unwrap();
    assert_eq!(forced.status(), 204);
    assert!(house.store.objects.info(&bundle_name(&sha256)).await.unwrap().is_none());
    assert_eq!(house.get("/api/v1/jobs").await["items"], json!([]));
}

#[tokio::test]
async fn a_forced_delete_stops_what_runs_first() {
    let (house, agent) = House::with_agent().await;
    let job = house.submit(json!({})).await;
    let obey = agent.obey(job.id, 1).await;
    let path = format!("/api/v1/jobs/{}?force=true", job.id);
    let (response, ()) = tokio::join!(house.request(Method::DELETE, &path).send(), obey);
    assert_eq!(response.unwrap().status(), 204);
    assert!(house.store.ledger.load(job.id).await.unwrap().is_none());
}

#[tokio::test]
async fn a_flag_without_a_value_is_refused_and_forces_nothing() {
    let (house, _agent) = House::with_agent().await;
    let job = house.submit(json!({})).await.id;
    for path in [format!("/api/v1/jobs/{job}"), format!("/job/{job}")] {
        for flag in ["force=", "force", "force=1", "force=TRUE"] {
            let refused = house.request(Method::DELETE, &format!("{path}?{flag}")).send().await.unwrap();
            let found = problem(refused).await;
            assert_eq!((found.code, found.errors[0].pointer.as_str()), (ErrorCode::BadRequest, "?force"), "{path}?{flag}");
        }
    }
    let logs = house.request(Method::GET, &format!("/api/v1/jobs/{job}/logs?follow=")).send().await.unwrap();
    assert_eq!(problem(logs).await.errors[0].pointer, "?follow");
    assert_eq!(house.store.ledger.load(job).await.unwrap().unwrap().events, []);
}

/// Turns of a fleet in which an agent asks for its turn whenever somebody has left the queue while the job is still there.
struct Asking(Store);

#[async_trait]
impl Turns for Asking {
    async fn leave(&self, key: &str, job: JobId) -> Result<(), Error> {
        let place = self.0.turns.waiting(key).await?.into_iter().find(|waiter| waiter.job == job);
        self.0.turns.leave(key, job).await?;
        match place {
            Some(place) if self.0.ledger.load(job).await?.is_some() => self.0.turns.enter(&place).await,
            Some(_) | None => Ok(()),
        }
    }

    async fn enter(&self, waiter: &Waiter) -> Result<(), Error> {
        self.0.turns.enter(waiter).await
    }

    async fn waiting(&self, key: &str) -> Result<Vec<Waiter>, Error> {
        self.0.turns.waiting(key).await
    }

    async fn page(&self, after: Revision) -> Result<WaiterPage, Error> {
        self.0.turns.page(after).await
    }

    async fn turn(&self, key: &str) -> Result<Turn, Error> {
        self.0.turns.turn(key).await
    }

    async fn take(&self, key: &str, hold: &Hold, after: Revision) -> Result<Option<Revision>, Error> {
        self.0.turns.take(key, hold, after).await
    }

    async fn release(&self, key: &str, held: Revision) -> Result<(), Error> {
        self.0.turns.release(key, held).await
    }
}

#[tokio::test]
async fn a_place_in_a_queue_that_an_agent_takes_while_its_job_is_deleted_goes_with_the_job() {
    let sound = memory::open(memory::MemoryOptions::default());
    let store = Store { turns: Arc::new(Asking(sound.clone())), ..sound.clone() };
    let house = House::on(store, |config| config.reconcile_every = Duration::from_secs(3600)).await;
    let _agent = house.agent(1, "web-01").await;
    let job = house.submit(json!({"concurrency_key": "k"})).await.id;
    assert_eq!(sound.turns.waiting("k").await.unwrap().len(), 1);
    let deleted = house.request(Method::DELETE, &format!("/api/v1/jobs/{job}?force=true")).send().await.unwrap();
    assert_eq!(deleted.status(), 204);
    assert_eq!(sound.turns.waiting("k").await.unwrap(), []);
}

async fn upload(house: &House) -> String {
    // The controller itself tells the digest it found.
    let wrong = house.request(Method::PUT, &format!("/api/v1/bundles/{BUNDLE_SHA256}")).body(BUNDLE).send().await.unwrap();
    let found = problem(wrong).await;
    assert_eq!(found.code, ErrorCode::DigestMismatch);
    assert!(house.store.objects.info(&bundle_name(BUNDLE_SHA256)).await.unwrap().is_none());
    let sha256 = found.detail.split("SHA-256 ").nth(1).unwrap()[..64].to_owned();
    let put = async || house.request(Method::PUT, &format!("/api/v1/bundles/{sha256}")).body(BUNDLE).send().await.unwrap();
    let head = async || house.request(Method::HEAD, &format!("/api/v1/bundles/{sha256}")).send().await.unwrap();
    assert_eq!(head().await.status(), 404);
    assert_eq!(put().await.status(), 201);
    assert_eq!(head().await.headers()["bundle-size"], BUNDLE.len().to_string());
    let again = put().await;
    assert_eq!(again.status(), 200);
    assert_eq!(again.json::<serde_json::Value>().await.unwrap()["existed"], true);
    sha256
}

#[tokio::test]
async fn a_job_that_was_deleted_behind_the_controllers_back_leaves_the_list_when_it_is_looked_for() {
    let (house, _agent) = House::with_agent().await;
    let job = house.submit(json!({})).await;
    house.store.ledger.delete(job.id).await.unwrap();
    let path = format!("/api/v1/jobs/{}", job.id);
    assert_eq!(house.request(Method::GET, &path).send().await.unwrap().status(), 404);
    assert_eq!(house.get("/api/v1/jobs").await["items"], json!([]));
}

#[tokio::test]
async fn a_key_whose_job_was_deleted_makes_no_other() {
    let (house, agent) = House::with_agent().await;
    let body = json!({"operation": "node.hostname.get", "idempotency_key": "k"});
    let job: JobView = house.post("/api/v1/jobs", &body).await.json().await.unwrap();
    agent.take().await.complete().await;
    house.get(&format!("/api/v1/jobs/{}?wait=20s", job.id)).await;
    let deleted = house.request(Method::DELETE, &format!("/api/v1/jobs/{}", job.id)).send().await.unwrap();
    assert_eq!(deleted.status(), 204);
    let refused = problem(house.post("/api/v1/jobs", &body).await).await;
    assert_eq!((refused.status, refused.code, refused.retryable), (409, ErrorCode::JobDeleted, false));
    assert!(refused.detail.contains(&job.id.to_string()) && refused.hint.unwrap().contains("new key"));
    assert_eq!(house.get("/api/v1/jobs").await["items"], json!([]));
    let another = json!({"operation": "node.hostname.get", "idempotency_key": "k-2"});
    assert_eq!(house.post("/api/v1/jobs", &another).await.status(), 201);
}
