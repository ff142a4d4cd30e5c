//! The earlier form of the API.

use longshore_controller::token::{self, Grant};
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::Outcome;
use longshore_model::{JobId, JobStatus};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::support::{House, problem};

async fn body(response: Response, status: StatusCode) -> Value {
    let found = response.status();
    let text = response.text().await.unwrap();
    assert_eq!(found, status, "{text}");
    serde_json::from_str(&text).unwrap()
}

async fn create(house: &House, operation: Value, target: &str) -> Value {
    let request = json!({"operation": operation, "target_hostname": target});
    body(house.post("/job", &request).await, StatusCode::CREATED).await
}

fn id(job: &Value) -> JobId {
    job["job_id"].as_str().unwrap().parse().unwrap()
}

fn path(job: &Value) -> String {
    format!("/job/{}", id(job))
}

#[tokio::test]
async fn a_job_is_created_read_and_removed_with_the_earlier_fields() {
    let (house, agent) = House::with_agent().await;
    let created = create(&house, json!({"type": "network.ping.do", "data": {"target": "192.0.2.1"}}), "_any").await;
    let names: Vec<&str> = created.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names.len(), 4);
    assert_eq!(created["status"], "unprocessed");
    assert!(created["revision"].as_u64().unwrap() > 0);
    let job = house.job(id(&created)).await;
    assert_eq!((job.operation.as_str(), &job.args["address"]), ("network.ping.run", &json!("192.0.2.1")));
    assert_eq!(created["timestamp"], json!(job.submitted_at));

    let waiting = house.get(&path(&created)).await;
    assert_eq!((&waiting["id"], &waiting["status"]), (&created["job_id"], &json!("unprocessed")));
    assert_eq!(waiting["operation"]["type"], "network.ping.do");
    let refused = house.request(Method::DELETE, &path(&created)).send().await.unwrap();
    assert_eq!(problem(refused).await.code, ErrorCode::JobRunning);

    let task = agent.take().await;
    task.start().await;
    assert_eq!(house.get(&path(&created)).await["status"], "processing");
    task.answer(Outcome::Completed, json!({"sent": 4})).await;
    let done = house.get(&path(&created)).await;
    assert_eq!((&done["status"], &done["result"], &done["hostname"]), (&json!("completed"), &json!({"sent": 4}), &json!("web-01")));
    assert!(done.get("responses").is_none() && done.get("error").is_none());

    let deleted = house.request(Method::DELETE, &path(&created)).send().await.unwrap();
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    let gone = house.request(Method::GET, &path(&created)).send().await.unwrap();
    assert_eq!(problem(gone).await.code, ErrorCode::NotFound);
    let waiting = create(&house, json!({"type": "node.hostname.get"}), "web-01").await;
    let forced = house.request(Method::DELETE, &format!("{}?force=true", path(&waiting))).send().await.unwrap();
    assert_eq!(forced.status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn earlier_operations_are_todays() {
    let (house, _agent) = House::with_agent().await;
    for (earlier, data, ours) in [
        ("node.hostname.get", json!({}), "node.hostname.get"),
        ("node.hostname.update", json!({"hostname": "x"}), "node.hostname.set"),
        ("node.status.get", json!({}), "node.status.get"),
        ("node.uptime.get", json!(null), "node.uptime.get"),
        ("network.dns.get", json!({"interface": "eth0"}), "network.dns.get"),
        ("network.dns.update", json!({"servers": ["192.0.2.1"], "interface_name": "eth0"}), "network.dns.set"),
        ("command.exec.execute", json!({"command": "ls", "args": ["-l"], "timeout": 30}), "command.exec"),
        ("command.shell.execute", json!({"command": "ls"}), "command.shell"),
    ] {
        let job = house.job(id(&create(&house, json!({"type": earlier, "data": data}), "_any").await)).await;
        assert_eq!(job.operation, ours);
        assert_eq!(house.get(&format!("/job/{}", job.id)).await["operation"]["type"], earlier);
        if earlier == "command.exec.execute" {
            assert_eq!((job.timeout.as_str(), &job.args["command"]), ("30s", &json!(["ls", "-l"])));
        }
    }
}

#[tokio::test]
async fn what_cannot_be_is_refused_in_earlier_terms() {
    let (house, _agent) = House::with_agent().await;
    for (request, status, code, pointer) in [
        (json!({"operation": {"type": "node.hostnam.get"}}), 422, ErrorCode::UnknownOperation, Some("/operation/type")),
        (json!({"operation": {"type": "docker.create.execute"}}), 422, ErrorCode::UnknownOperation, Some("/operation/type")),
        (json!({"operation": {"type": "network.ping.do", "data": {}}}), 422, ErrorCode::Validation, Some("/operation/data")),
        (
            json!({"operation": {"type": "network.ping.do", "data": {"address": "192.0.2.1", "x": 1}}}),
            422,
            ErrorCode::Validation,
            Some("/operation/data/x"),
        ),
        (
            json!({"operation": {"type": "node.hostname.get"}, "target_hostname": "../x"}),
            422,
            ErrorCode::Validation,
            Some("/target_hostname"),
        ),
        (json!({"operation": {"type": "node.hostname.get"}, "target_hostname": "web-09"}), 409, ErrorCode::NoAgent, None),
        (json!({"operation": {"type": "node.hostname.get"}, "tarjet": "x"}), 400, ErrorCode::BadRequest, Some("/tarjet")),
        (json!({"operation": "node.hostname.get"}), 400, ErrorCode::BadRequest, Some("/operation")),
        (json!({"target_hostname": "_any"}), 400, ErrorCode::BadRequest, Some("")),
    ] {
        let found = problem(house.post("/job", &request).await).await;
        assert_eq!((found.status, found.code), (status, code), "{request}: {found:?}");
        assert_eq!(found.errors.first().map(|field| field.pointer.as_str()), pointer, "{request}: {found:?}");
    }
    let near = problem(house.post("/job", &json!({"operation": {"type": "network.ping"}})).await).await;
    assert!(near.hint.unwrap().contains("network.ping.do"));
    let unknown = house.request(Method::GET, "/job/nonsense").send().await.unwrap();
    assert_eq!(problem(unknown).await.code, ErrorCode::NotFound);
    assert_eq!(house.get("/job").await, json!({"total_items": 0, "items": []}));
}

#[tokio::test]
async fn lists_speak_the_earlier_words() {
    let (house, agent) = House::with_agent().await;
    let operation = || json!({"type": "network.ping.do", "data": {"address": "192.0.2.1"}});
    let first = create(&house, operation(), "web-01").await;
    let second = create(&house, operation(), "web-01").await;
    let task = agent.inbox().await.remove(0);
    let (done, waiting) = if task.job == id(&first) { (&first, &second) } else { (&second, &first) };
    task.complete().await;
    house.until("it is seen", async || house.get("/job?status=completed").await["total_items"] == 1).await;
    let list = async |query: &str| house.get(&format!("/job{query}")).await;
    let all = list("").await;
    assert_eq!((&all["total_items"], all["items"].as_array().unwrap().len()), (&json!(2), 2));
    assert_eq!(all["items"][0]["id"], second["job_id"], "newest first");
    assert_eq!(all["items"][0]["operation"], json!({"type": "network.ping.do"}));
    assert_eq!(list("?status=completed").await["items"][0]["id"], done["job_id"]);
    assert_eq!(list("?status=unprocessed").await["items"][0]["id"], waiting["job_id"]);
    let page = list("?limit=1").await;
    let rest = list(&format!("?limit=1&cursor={}", page["next_cursor"].as_str().unwrap())).await;
    assert_eq!((&page["items"][0]["id"], &rest["items"][0]["id"]), (&second["job_id"], &first["job_id"]));

    let cancel = house.post(&format!("/api/v1/jobs/{}/cancel", id(waiting)), &json!({})).await;
    assert_eq!(cancel.status(), StatusCode::OK);
    let failed = list("?status=failed").await;
    assert_eq!((&failed["total_items"], &failed["items"][0]["error"]), (&json!(1), &json!("cancelled by ada")));
    assert_eq!(house.get(&path(waiting)).await["status"], "failed");
    for word in ["sideways", ""] {
        let refused = house.request(Method::GET, &format!("/job?status={word}")).send().await.unwrap();
        assert!(problem(refused).await.detail.contains("unprocessed"), "{word:?}");
    }
}

#[tokio::test]
async fn several_hosts_answer_by_name() {
    let (house, one) = House::with_agent().await;
    let two = house.agent(2, "web-02").await;
    let job = create(&house, json!({"type": "node.uptime.get"}), "_all").await;
    for (agent, outcome) in [(&one, Outcome::Completed), (&two, Outcome::Failed)] {
        let task = agent.inbox().await.remove(0);
        task.start().await;
        let seen = house.get(&path(&job)).await;
        assert_eq!(seen["worker_states"][&agent.hostname]["status"], "processing");
        task.answer(outcome, json!({"uptime_seconds": 7})).await;
    }
    let done = house.get(&path(&job)).await;
    assert_eq!(done["status"], "partial_failure");
    assert_eq!(done["responses"]["web-01"]["data"], json!({"uptime_seconds": 7}));
    assert_eq!(done["responses"]["web-02"]["status"], "failed");
    assert!(done.get("result").is_none());
}

#[tokio::test]
async fn a_retry_is_another_job_and_may_have_another_target() {
    let (house, agent) = House::with_agent().await;
    let other = house.agent(2, "web-02").await;
    let first = create(&house, json!({"type": "node.hostname.get"}), "web-01").await;
    let retry = format!("{}/retry", path(&first));
    let early = house.request(Method::POST, &retry).send().await.unwrap();
    assert_eq!(problem(early).await.code, ErrorCode::JobNotFinal);
    agent.inbox().await.remove(0).complete().await;
    let again = body(house.request(Method::POST, &retry).send().await.unwrap(), StatusCode::CREATED).await;
    assert_eq!((&again["status"], agent.inbox().await.len()), (&json!("unprocessed"), 1));
    let elsewhere = body(house.post(&retry, &json!({"target_hostname": "web-02"})).await, StatusCode::CREATED).await;
    assert_eq!(other.inbox().await.len(), 1);
    let repeated = house.job(id(&elsewhere)).await;
    assert_eq!((repeated.retry_of, repeated.target.as_str()), (Some(id(&first)), "web-02"));
    let refused = problem(house.post(&retry, &json!({"target_hostname": "a/b"})).await).await;
    assert_eq!((refused.code, refused.errors[0].pointer.as_str()), (ErrorCode::Validation, "/target_hostname"));
}

#[tokio::test]
async fn tokens_and_keys_hold_for_the_earlier_form_too() {
    let (house, _agent) = House::with_agent().await;
    let exec = json!({"operation": {"type": "command.exec.execute", "data": {"command": "true"}}, "target_hostname": "web-01"});
    let submit = async |token: &str| house.bare(Method::POST, "/job").bearer_auth(token).json(&exec).send().await.unwrap();
    assert_eq!(problem(submit(&house.token(&["write"])).await).await.code, ErrorCode::Forbidden);
    assert_eq!(problem(submit("nonsense").await).await.code, ErrorCode::Unauthenticated);
    let elsewhere = Grant { targets: Some(vec!["db-01".to_owned()]), ..Grant::new("bob", &["admin"]) };
    let elsewhere = token::issue(&house.key, &elsewhere, jiff::Timestamp::now());
    assert_eq!(problem(submit(&elsewhere).await).await.code, ErrorCode::Forbidden);
    let job = body(submit(&house.token(&["admin"])).await, StatusCode::CREATED).await;
    let read = house.token(&["read"]);
    for (method, path) in [(Method::DELETE, path(&job)), (Method::POST, format!("{}/retry", path(&job)))] {
        let refused = house.bare(method, &path).bearer_auth(&read).send().await.unwrap();
        assert_eq!(problem(refused).await.code, ErrorCode::Forbidden, "{path}");
    }
    for path in ["/job".to_owned(), path(&job)] {
        assert_eq!(house.bare(Method::GET, &path).bearer_auth(&read).send().await.unwrap().status(), StatusCode::OK);
        assert_eq!(problem(house.bare(Method::GET, &path).send().await.unwrap()).await.code, ErrorCode::Unauthenticated);
    }

    let keyed = async || house.request(Method::POST, "/job").header("Idempotency-Key", "k-1").json(&exec).send().await.unwrap();
    let first = body(keyed().await, StatusCode::CREATED).await;
    let again = keyed().await;
    assert_eq!(again.headers()["idempotent-replayed"], "true");
    assert_eq!(body(again, StatusCode::OK).await, first);
    assert_eq!(house.job(id(&first)).await.status, JobStatus::Pending);
}
