//! The same API over a real broker: what the in-memory stores cannot show.

use std::time::Duration;

use futures::future::join_all;
use longshore_model::JobStatus;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::rest::JobView;
use longshore_store::jetstream;
use longshore_testkit::{NatsServer, Tap};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{Agent, House, Reader, problem};

async fn house() -> (NatsServer, House, Agent) {
    let server = NatsServer::start().await;
    let config = jetstream::Config { url: server.url(), ..jetstream::Config::default() };
    let store = jetstream::connect(&config).await.unwrap();
    let house = House::on(store, |config| config.reconcile_every = Duration::from_secs(1)).await;
    let agent = house.agent(1, "web-01").await;
    (server, house, agent)
}

#[tokio::test]
async fn a_job_lives_and_leaves_nothing_behind() {
    let (_server, house, agent) = house().await;
    let mut all = Reader::new(house.request(Method::GET, "/api/v1/jobs/events").send().await.unwrap());
    let body = json!({"operation": "node.hostname.get"});
    let work = async {
        let task = agent.take().await;
        task.log(0, b"hello\n").await;
        task.complete().await;
    };
    let (response, ()) = tokio::join!(house.post("/api/v1/jobs?wait=20s", &body), work);
    assert_eq!(response.status(), StatusCode::OK);
    let job: JobView = response.json().await.unwrap();
    let path = format!("/api/v1/jobs/{}", job.id);
    assert_eq!(house.get("/api/v1/jobs?status=completed").await["items"][0]["id"], job.id.to_string());
    let events = Reader::new(house.request(Method::GET, &format!("{path}/events")).send().await.unwrap()).rest().await;
    assert_eq!(events.len(), 4);
    assert_eq!(events[3].event.as_deref(), Some("end"));
    let logs = Reader::new(house.request(Method::GET, &format!("{path}/logs")).send().await.unwrap()).rest().await;
    assert_eq!(logs[0].data["text"], "hello\n");
    assert_eq!(logs[1].event.as_deref(), Some("end"));

    // A controller that comes later knows the same.
    let later = House::on(house.store.clone(), |_| {}).await;
    assert_eq!(later.get("/api/v1/jobs").await, house.get("/api/v1/jobs").await);

    assert_eq!(house.request(Method::DELETE, &path).send().await.unwrap().status(), StatusCode::NO_CONTENT);
    assert!(house.store.ledger.load(job.id).await.unwrap().is_none());
    assert_eq!(house.store.logs.last(job.id).await.unwrap(), 0);
    // The other controller is told.
    later.until("the deletion is known", async || later.get("/api/v1/jobs").await["items"] == json!([])).await;
    let mut told = Vec::new();
    while told.last().is_none_or(|word| word != "deleted") {
        told.push(all.next().await.unwrap().data["event"].as_str().unwrap().to_owned());
    }
    told.sort_unstable();
    assert_eq!(told, ["answered", "deleted", "started", "submitted"]);
}

#[tokio::test]
async fn a_pending_job_is_cancelled_and_its_inbox_is_empty() {
    let (_server, house, agent) = house().await;
    let job = house.submit(json!({"target": "web-01"})).await;
    house.until("it is in the inbox", async || agent.inbox().await.len() == 1).await;
    let view: serde_json::Value =
        house.request(Method::POST, &format!("/api/v1/jobs/{}/cancel", job.id)).send().await.unwrap().json().await.unwrap();
    assert_eq!((view["changed"].clone(), view["job"]["status"].clone()), (json!(true), json!("cancelled")));
    assert!(agent.inbox().await.is_empty());
    house.until("the index knows", async || house.get("/api/v1/jobs").await["counts"]["cancelled"] == 1).await;
}

#[tokio::test]
async fn a_broker_that_is_gone_is_a_problem_and_nothing_is_lost_when_it_is_back() {
    let (mut server, house, agent) = house().await;
    let body = json!({"operation": "node.hostname.get", "idempotency_key": "k"});
    let job: JobView = house.post("/api/v1/jobs", &body).await.json().await.unwrap();
    server.kill();
    house.until("it is noticed", async || house.bare(Method::GET, "/readyz").send().await.unwrap().status() == 503).await;
    let refused = house.post("/api/v1/jobs", &json!({"operation": "node.status.get"})).await;
    assert!(refused.headers().contains_key("retry-after"));
    let refused = problem(refused).await;
    assert_eq!((refused.code, refused.retryable), (ErrorCode::Unavailable, true));
    assert_eq!(house.bare(Method::GET, "/livez").send().await.unwrap().status(), StatusCode::OK);

    server.restart().await;
    house.until("it is back", async || house.bare(Method::GET, "/readyz").send().await.unwrap().status() == 200).await;
    agent.beat().await;
    let again: JobView = house.post("/api/v1/jobs", &body).await.json().await.unwrap();
    assert_eq!(again.id, job.id);
    agent.take().await.complete().await;
    // From the ledger: the feed may need some seconds to find its consumer gone.
    assert_eq!(house.job(job.id).await.status, JobStatus::Completed);
}

#[tokio::test]
async fn lists_are_served_without_asking_the_broker() {
    let server = NatsServer::start().await;
    let config = jetstream::Config { url: server.url(), ..jetstream::Config::default() };
    // Reconcilers ask the broker by themselves, so none runs meanwhile.
    let house = House::on(jetstream::connect(&config).await.unwrap(), |config| config.reconcile_every = Duration::from_secs(3600)).await;
    let agent = house.agent(1, "web-01").await;
    let jobs: Vec<JobView> = join_all((0..100).map(|_| house.submit(json!({})))).await;
    agent.take().await.complete().await;
    house.until("all is indexed", async || house.get("/api/v1/jobs").await["counts"]["completed"] == 1).await;

    let mut tap = server.tap("$JS.API.>").await;
    let asked = async |tap: &mut Tap| -> Vec<String> {
        // Long polls of what is followed go on all the time and read nothing by themselves, and the broker sources by consumers of its own.
        let is_asked = |subject: &String| !subject.starts_with("$JS.API.CONSUMER.MSG.NEXT.") && !subject.contains(".JS_SRC_");
        tap.heard().await.into_iter().filter(is_asked).collect()
    };
    for n in 0..20 {
        let query = ["", "?limit=1000", "?status=pending", "?text=web"][n % 4];
        house.get(&format!("/api/v1/jobs{query}")).await;
    }
    assert_eq!(asked(&mut tap).await, [""; 0], "a list is read from memory");
    house.get(&format!("/api/v1/jobs/{}", jobs[0].id)).await;
    assert_ne!(asked(&mut tap).await, [""; 0], "the tap hears what is asked");
}
