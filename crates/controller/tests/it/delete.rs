//! Delete, then look: nothing is left.

use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::rest::JobView;
use longshore_store::{archive_name, bundle_name};
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
