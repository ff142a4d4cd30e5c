//! The typed doors, and the queue.

use longshore_controller::token::{self, Grant};
use longshore_model::operation::Operation;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::Outcome;
use longshore_model::wire::rest::{ExecutionView, NodeResult, NodeResults, QueueView};
use longshore_model::{ExecutionState, JobStatus};
use longshore_store::{jetstream, memory};
use longshore_testkit::NatsServer;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::support::{Agent, House, Task, problem};

/// What arrives in an agent's inbox next.
async fn next(house: &House, agent: &Agent) -> Task {
    house.until("there is work", async || !agent.inbox().await.is_empty()).await;
    agent.inbox().await.remove(0)
}

async fn results(response: Response, status: StatusCode) -> NodeResults {
    let found = response.status();
    let text = response.text().await.unwrap();
    assert_eq!(found, status, "{text}");
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn one_host_is_asked_and_answers_in_one_request() {
    let (house, agent) = House::with_agent().await;
    let by_id = agent.id.to_string();
    for target in ["web-01", "WEB-01", &by_id, "_all"] {
        let path = format!("/api/v1/nodes/{target}/hostname?wait=20s");
        let asking = house.request(Method::GET, &path).send();
        let (response, ()) = tokio::join!(asking, async { next(&house, &agent).await.complete().await });
        let response = response.unwrap();
        assert_eq!(response.headers()["cache-control"], "no-store");
        let location = response.headers()["location"].to_str().unwrap().to_owned();
        let body: Value = response.json().await.unwrap();
        let row = json!({"hostname": "web-01", "agent": by_id, "status": "completed", "changed": false});
        assert_eq!(body["results"], json!([row]), "{target}");
        assert_eq!(location, format!("/api/v1/jobs/{}", body["job_id"].as_str().unwrap()));
        assert_eq!(house.get(&location).await["target"], target);
    }
    let asking = house.request(Method::GET, "/api/v1/nodes/_any/load").send();
    let work = async {
        let task = agent.take().await;
        task.start().await;
        task.answer(Outcome::Completed, json!({"load": [0.5, 0.25, 0.125], "cpus": 4})).await;
    };
    let (response, ()) = tokio::join!(asking, work);
    let found = results(response.unwrap(), StatusCode::OK).await;
    assert_eq!(found.results[0].fields["load"], json!([0.5, 0.25, 0.125]));
    assert_eq!(house.get(&format!("/api/v1/jobs/{}", found.job_id)).await["operation"], "node.load.get");
}

#[tokio::test]
async fn each_of_several_hosts_has_a_row_and_the_time_that_is_up_hides_nothing() {
    let house = House::start().await;
    let [one, two, three] =
        [house.member(1, "web-01", &["group:web"]).await, house.member(2, "web-02", &["group:web"]).await, house.agent(3, "db-01").await];
    let ask = async |wait: &str| {
        let path = format!("/api/v1/nodes/_all/os?wait={wait}");
        house.request(Method::GET, &path).header("Idempotency-Key", "k-1").send().await.unwrap()
    };
    let first = results(ask("10ms").await, StatusCode::ACCEPTED).await;
    assert_eq!(first.results.iter().map(|row| (row.agent, row.status)).collect::<Vec<_>>(), {
        [one.id, two.id, three.id].map(|id| (Some(id), ExecutionState::Pending))
    });
    for (agent, outcome) in [(&one, Outcome::Completed), (&two, Outcome::Failed)] {
        let task = next(&house, agent).await;
        task.start().await;
        task.answer(outcome, json!({"os": "Debian"})).await;
    }
    let second = ask("10ms").await;
    assert_eq!(second.headers()["idempotent-replayed"], "true");
    let second = results(second, StatusCode::ACCEPTED).await;
    assert_eq!(second.job_id, first.job_id);
    let states: Vec<_> = second.results.iter().map(|row| (row.hostname.as_deref(), row.status)).collect();
    assert_eq!(
        states,
        [(Some("web-01"), ExecutionState::Completed), (Some("web-02"), ExecutionState::Failed), (None, ExecutionState::Pending)]
    );
    assert_eq!(second.results[0].fields["os"], "Debian");

    let (third, ()) = tokio::join!(ask("20s"), async { next(&house, &three).await.complete().await });
    let third = results(third, StatusCode::OK).await;
    assert_eq!((third.job_id, third.results[2].status), (first.job_id, ExecutionState::Completed));
    assert_eq!(house.job(first.job_id).await.status, JobStatus::PartialFailure);

    // A group, percent-encoded, and one of it.
    let group = house.request(Method::GET, "/api/v1/nodes/group%3Aweb/uptime?wait=10ms").send().await.unwrap();
    assert_eq!(results(group, StatusCode::ACCEPTED).await.results.len(), 2);
    let asking = house.request(Method::GET, "/api/v1/nodes/_any%40group%3Aweb/uptime?wait=20s").send();
    let (response, ()) = tokio::join!(asking, async {
        house.until("there is work", async || house.store.work.has_work(&"group:web".parse().unwrap()).await.unwrap()).await;
        two.take_of("group:web").await.complete().await;
    });
    assert_eq!(results(response.unwrap(), StatusCode::OK).await.results[0].agent, Some(two.id));
}

#[tokio::test]
async fn without_a_word_it_waits_as_long_as_the_configuration_says() {
    let short = std::time::Duration::from_millis(10);
    let house = House::on(memory::open(memory::MemoryOptions::default()), |config| config.job_timeout = short).await;
    house.agent(1, "web-01").await;
    for query in ["", "?wait"] {
        let response = house.request(Method::GET, &format!("/api/v1/nodes/web-01/status{query}")).send().await.unwrap();
        let found = results(response, StatusCode::ACCEPTED).await;
        assert_eq!(found.results[0].status, ExecutionState::Pending);
    }
    let refused = problem(house.request(Method::GET, "/api/v1/nodes/web-01/status?wait=6m").send().await.unwrap()).await;
    assert_eq!((refused.code, refused.errors[0].pointer.as_str()), (ErrorCode::BadRequest, "?wait"));
}

#[tokio::test]
async fn a_broker_that_goes_away_meanwhile_does_not_hide_the_job() {
    let mut server = NatsServer::start().await;
    let config = jetstream::Config { url: server.url(), ..jetstream::Config::default() };
    let house = House::on(jetstream::connect(&config).await.unwrap(), |_| {}).await;
    house.agent(1, "web-01").await;
    let asking = house.request(Method::GET, "/api/v1/nodes/web-01/hostname?wait=2s").send();
    let (response, accepted) = tokio::join!(asking, async {
        let mut list = Value::Null;
        house
            .until("the job is accepted", async || {
                list = house.get("/api/v1/jobs").await;
                list["items"] != json!([])
            })
            .await;
        server.kill();
        list["items"][0]["id"].clone()
    });
    let found = results(response.unwrap(), StatusCode::ACCEPTED).await;
    assert_eq!(json!(found.job_id), accepted);
    assert_eq!(found.results[0].status, ExecutionState::Pending);
}

#[tokio::test]
async fn each_door_makes_the_job_of_its_operation() {
    let (house, _agent) = House::with_agent().await;
    let rows = [
        (Method::GET, "hostname", Value::Null, "node.hostname.get", json!({})),
        (Method::GET, "status", Value::Null, "node.status.get", json!({})),
        (Method::GET, "disk", Value::Null, "node.disk.get", json!({})),
        (Method::GET, "memory", Value::Null, "node.memory.get", json!({})),
        (Method::GET, "load", Value::Null, "node.load.get", json!({})),
        (Method::GET, "uptime", Value::Null, "node.uptime.get", json!({})),
        (Method::GET, "os", Value::Null, "node.os.get", json!({})),
        (Method::GET, "network/dns/eth0", Value::Null, "network.dns.get", json!({"interface": "eth0"})),
        (Method::PUT, "hostname", json!({"hostname": "web-02"}), "node.hostname.set", json!({"hostname": "web-02"})),
        (
            Method::PUT,
            "network/dns/eth0",
            json!({"servers": ["192.0.2.1"]}),
            "network.dns.set",
            json!({"interface": "eth0", "servers": ["192.0.2.1"]}),
        ),
        (Method::POST, "network/ping", json!({"address": "192.0.2.1"}), "network.ping.run", json!({"address": "192.0.2.1"})),
        (Method::POST, "command/exec", json!({"command": ["true"]}), "command.exec", json!({"command": ["true"]})),
        (Method::POST, "command/shell", json!({"command": "true"}), "command.shell", json!({"command": "true"})),
    ];
    for (method, door, body, operation, args) in rows {
        let request = house.request(method, &format!("/api/v1/nodes/web-01/{door}?wait=1ms"));
        let request = if body.is_null() { request } else { request.json(&body) };
        let found = results(request.send().await.unwrap(), StatusCode::ACCEPTED).await;
        let job = house.job(found.job_id).await;
        assert_eq!((job.operation.as_str(), job.target.as_str()), (operation, "web-01"));
        for (name, value) in args.as_object().unwrap() {
            assert_eq!(job.args[name], *value, "{door}");
        }
    }
}

#[tokio::test]
async fn work_behind_a_door_may_take_hours_if_it_is_told_so() {
    let (house, _agent) = House::with_agent().await;
    let ask = async |query: &str| {
        let request = house.request(Method::POST, &format!("/api/v1/nodes/web-01/command/exec?wait=1ms{query}"));
        request.header("Idempotency-Key", "k-1").json(&json!({"command": ["true"]})).send().await.unwrap()
    };
    let found = results(ask("&timeout=6h").await, StatusCode::ACCEPTED).await;
    assert_eq!(house.job(found.job_id).await.timeout, "6h");
    assert_eq!(problem(ask("").await).await.code, ErrorCode::IdempotencyConflict, "it is a part of what was asked for");
    for odd in ["", "0s", "169h", "-1s", "soon"] {
        let refused = problem(ask(&format!("&timeout={odd}")).await).await;
        assert_eq!((refused.code, refused.errors[0].pointer.as_str()), (ErrorCode::Validation, "?timeout"), "{odd:?}");
    }
}

#[tokio::test]
async fn a_token_opens_the_doors_of_its_permissions_and_targets_only() {
    let (house, _agent) = House::with_agent().await;
    let ask = async |token: &str, method: Method, door: &str, body: Value| {
        let path = format!("/api/v1/nodes/web-01/{door}?wait=1ms");
        house.bare(method, &path).bearer_auth(token).json(&body).send().await.unwrap()
    };
    let (read, write) = (house.token(&["read"]), house.token(&["write"]));
    for (token, method, door, body, expected) in [
        (&read, Method::GET, "hostname", json!({}), 202),
        (&read, Method::PUT, "hostname", json!({"hostname": "x"}), 403),
        (&read, Method::POST, "network/ping", json!({"address": "192.0.2.1"}), 202),
        (&write, Method::PUT, "hostname", json!({"hostname": "x"}), 202),
        (&write, Method::PUT, "network/dns/eth0", json!({"servers": ["192.0.2.1"]}), 202),
        (&write, Method::POST, "command/exec", json!({"command": ["true"]}), 403),
        (&write, Method::POST, "command/shell", json!({"command": "true"}), 403),
    ] {
        let response = ask(token, method, door, body).await;
        assert_eq!(response.status(), expected, "{door}");
        if expected == 403 {
            assert_eq!(problem(response).await.code, ErrorCode::Forbidden);
        }
    }
    let elsewhere = Grant { targets: Some(vec!["db-01".to_owned()]), ..Grant::new("bob", &["admin"]) };
    let elsewhere = token::issue(&house.key, &elsewhere, jiff::Timestamp::now());
    assert_eq!(problem(ask(&elsewhere, Method::GET, "hostname", json!({})).await).await.code, ErrorCode::Forbidden);
    let nobody = house.bare(Method::GET, "/api/v1/nodes/web-01/hostname").send().await.unwrap();
    assert_eq!(problem(nobody).await.code, ErrorCode::Unauthenticated);
    // What was refused made no job.
    let total: u64 = house.get("/api/v1/queue").await["jobs"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert_eq!(total, 4);
}

#[tokio::test]
async fn paths_that_mean_harm_or_nobody_are_refused_and_named() {
    let (house, _agent) = House::with_agent().await;
    let long = "x".repeat(300);
    for (target, status, code) in [
        ("web-02", 409, ErrorCode::NoAgent),
        ("group%3Aweb", 409, ErrorCode::NoAgent),
        ("_nobody", 422, ErrorCode::Validation),
        ("a%2Fb", 422, ErrorCode::Validation),
        ("..%2F..%2Fetc", 422, ErrorCode::Validation),
        ("a%00b", 422, ErrorCode::Validation),
        ("%0d%0aX:1", 422, ErrorCode::Validation),
        ("%3E", 422, ErrorCode::Validation),
        ("*", 422, ErrorCode::Validation),
        ("-rf", 422, ErrorCode::Validation),
        ("%20", 422, ErrorCode::Validation),
        ("", 422, ErrorCode::Validation),
        ("group:a..b", 422, ErrorCode::Validation),
        (&long, 422, ErrorCode::Validation),
        ("%ff", 404, ErrorCode::NotFound),
        ("..", 404, ErrorCode::NotFound),
    ] {
        let found = problem(house.request(Method::GET, &format!("/api/v1/nodes/{target}/hostname")).send().await.unwrap()).await;
        assert_eq!((found.status, found.code), (status, code), "{target}: {found:?}");
        if code == ErrorCode::Validation {
            assert_eq!(found.errors[0].pointer, "{target}", "{target}");
            assert!(found.detail.starts_with("{target}: "), "{}", found.detail);
        }
    }
    for interface in ["..%2Feth0", "eth0%3Btrue", "%00", "-x", "a%20b"] {
        let path = format!("/api/v1/nodes/web-01/network/dns/{interface}");
        let found = problem(house.request(Method::GET, &path).send().await.unwrap()).await;
        assert_eq!((found.code, found.errors[0].pointer.as_str()), (ErrorCode::Validation, "{interface}"), "{interface}");
    }
    for (method, door, body, status, pointer) in [
        (Method::PUT, "network/dns/eth0", json!({"servers": ["192.0.2.1"], "interface": "eth1"}), 422, "/interface"),
        (Method::PUT, "network/dns/eth0", json!({"servers": ["nonsense"]}), 422, "/servers/0"),
        (Method::PUT, "hostname", json!({"hostname": "a b"}), 422, "/hostname"),
        (Method::PUT, "hostname", json!({"hostname": "a", "x": 1}), 422, "/x"),
        (Method::PUT, "hostname", json!(["a"]), 400, ""),
        (Method::POST, "command/exec", json!({"command": "ls"}), 422, "/command"),
    ] {
        let response = house.request(method, &format!("/api/v1/nodes/web-01/{door}")).json(&body).send().await.unwrap();
        let found = problem(response).await;
        assert_eq!((found.status, found.errors[0].pointer.as_str()), (status, pointer), "{body}: {found:?}");
    }
    let bare = house.request(Method::POST, "/api/v1/nodes/web-01/command/shell").body("{}").send().await.unwrap();
    assert_eq!(problem(bare).await.code, ErrorCode::UnsupportedMediaType);
    let wrong = house.request(Method::POST, "/api/v1/nodes/web-01/hostname").json(&json!({})).send().await.unwrap();
    assert_eq!(problem(wrong).await.code, ErrorCode::MethodNotAllowed);
    assert_eq!(house.get("/api/v1/jobs").await["items"], json!([]));
}

#[tokio::test]
async fn a_door_entered_again_with_its_key_is_the_same_job() {
    let (house, _agent) = House::with_agent().await;
    let set = async |name: &str| {
        let request = house.request(Method::PUT, "/api/v1/nodes/web-01/hostname?wait=1ms").header("Idempotency-Key", "h-1");
        request.json(&json!({"hostname": name})).send().await.unwrap()
    };
    let first = results(set("web-02").await, StatusCode::ACCEPTED).await;
    let again = set("web-02").await;
    assert_eq!(again.headers()["idempotent-replayed"], "true");
    assert_eq!(results(again, StatusCode::ACCEPTED).await.job_id, first.job_id);
    assert_eq!(problem(set("web-03").await).await.code, ErrorCode::IdempotencyConflict);
}

#[tokio::test]
async fn the_queue_counts_what_waits_and_what_is_claimed() {
    let house = House::start().await;
    let [one, two] = [house.agent(1, "web-01").await, house.agent(2, "web-02").await];
    house.submit(json!({"target": "_all"})).await;
    house.submit(json!({"not_before": "1h"})).await;
    house.submit(json!({"target": "web-02"})).await;
    let queue = async || serde_json::from_value::<QueueView>(house.get("/api/v1/queue").await).unwrap();
    let first = queue().await;
    assert_eq!((first.waiting, first.claimed, first.jobs["pending"], first.jobs["scheduled"]), (3, 0, 2, 1));
    next(&house, &one).await.start().await;
    house.until("it is claimed", async || queue().await.claimed == 1).await;
    assert_eq!(queue().await.waiting, 2);
    for task in two.inbox().await {
        task.complete().await;
    }
    house.until("they are done", async || queue().await.waiting == 0).await;
    assert_eq!((queue().await.claimed, queue().await.jobs["completed"]), (1, 1));
    let refused = house.bare(Method::GET, "/api/v1/queue").bearer_auth(token::issue(
        &house.key,
        &Grant { permissions: Some(vec!["node:read".to_owned()]), ..Grant::new("bob", &["read"]) },
        jiff::Timestamp::now(),
    ));
    assert_eq!(problem(refused.send().await.unwrap()).await.code, ErrorCode::Forbidden);
}

#[test]
fn every_door_is_described_with_what_it_takes_and_gives() {
    let document = serde_json::to_value(longshore_controller::openapi()).unwrap();
    let mut doors = 0;
    for (path, methods) in document["paths"].as_object().unwrap().iter().filter(|(path, _)| path.starts_with("/api/v1/nodes/")) {
        for (method, door) in methods.as_object().unwrap() {
            doors += 1;
            for status in ["200", "202"] {
                let rows = &door["responses"][status]["content"]["application/json"]["schema"]["$ref"];
                assert_eq!(rows, "#/components/schemas/NodeResults", "{method} {path}");
            }
            let named: Vec<&str> =
                door["parameters"].as_array().unwrap().iter().filter_map(|parameter| parameter["name"].as_str()).collect();
            assert_eq!(named.contains(&"interface"), path.contains("{interface}"), "{method} {path}");
            assert_eq!(door["requestBody"].is_object(), method != "get", "{method} {path}");
            assert!(door["summary"].is_string());
        }
    }
    assert_eq!(doors, 13);
}

#[test]
fn no_result_has_fields_that_a_row_would_hide() {
    // `workspace.run` has no door.
    for operation in Operation::ALL.into_iter().filter(|operation| *operation != Operation::WorkspaceRun) {
        let schema = operation.result_schema();
        let has = |name: &str| schema["properties"].get(name).is_some();
        let hidden: Vec<&str> = NodeResult::OWN_FIELDS.into_iter().filter(|own| *own != "hostname" && has(own)).collect();
        assert!(hidden.is_empty(), "{}: {hidden:?}", operation.name());
    }
}

#[test]
fn a_row_says_each_thing_once() {
    let execution: ExecutionView = serde_json::from_value(json!({
        "id": "any", "state": "completed", "hostname": "old", "attempts": 1,
        "result": {"hostname": "new", "previous": "old", "status": "a lie", "agent": 7},
    }))
    .unwrap();
    let row = NodeResult::from(execution);
    let text = serde_json::to_string(&row).unwrap();
    assert_eq!(text, r#"{"hostname":"new","status":"completed","previous":"old"}"#);
    assert_eq!(serde_json::from_str::<NodeResult>(&text).unwrap(), row);
}

#[tokio::test]
async fn the_head_of_a_door_is_refused_and_makes_no_job() {
    let (house, _agent) = House::with_agent().await;
    for (path, allowed) in [
        ("/api/v1/nodes/web-01/status", "GET"),
        ("/api/v1/nodes/_all/hostname", "GET,PUT"),
        ("/api/v1/nodes/_any/network/dns/eth0", "GET,PUT"),
    ] {
        let response = house.request(Method::HEAD, path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(response.headers()["allow"], allowed, "{path}");
    }
    assert_eq!(house.get("/api/v1/jobs").await["items"], json!([]));
    // Where a GET has no effect its head has none.
    let head = house.request(Method::HEAD, "/api/v1/jobs").send().await.unwrap();
    assert_eq!(head.status(), StatusCode::OK);
}
