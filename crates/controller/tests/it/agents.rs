//! Agents one by one: what they are, what they know of their hosts, when they are lost, and that nothing is kept of one that is removed.

use std::time::Duration;

use jiff::Timestamp;
use longshore_model::AgentId;
use longshore_model::wire::agent::Condition;
use longshore_model::wire::facts::{Facts, FactsRecord, InterfaceFacts};
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::SCHEMA;
use longshore_store::jetstream;
use longshore_testkit::NatsServer;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{House, problem};

fn facts(agent: AgentId) -> FactsRecord {
    let interface = InterfaceFacts { primary: Some("eth0".to_owned()), address: None };
    let facts = Facts { hostname: "web-01".to_owned(), interface, ..Facts::default() };
    FactsRecord { schema: SCHEMA, agent, gathered_at: Timestamp::UNIX_EPOCH, left: false, facts }
}

async fn remove(house: &House, agent: &str) -> reqwest::Response {
    house.request(Method::DELETE, &format!("/api/v1/agents/{agent}")).send().await.unwrap()
}

async fn shown(house: &House, agent: &str) -> Value {
    house.get(&format!("/api/v1/agents/{agent}")).await
}

#[tokio::test]
async fn an_agent_is_shown_with_its_conditions_and_the_history_of_its_drains() {
    let (house, agent) = House::with_agent().await;
    let condition = Condition {
        kind: "disk_pressure".to_owned(),
        percent: 93,
        threshold_percent: 90,
        mount: Some("/var".to_owned()),
        since: Timestamp::UNIX_EPOCH,
    };
    agent.beat_as(|beat| beat.conditions = vec![condition]).await;
    house.post("/api/v1/agents/web-01/drain", &json!({"reason": "new disk"})).await;
    house.post("/api/v1/agents/web-01/undrain", &json!({})).await;
    house.until("the condition is known", async || shown(&house, "web-01").await["conditions"] != json!([])).await;
    for name in ["web-01", "WEB-01", &agent.id.to_string()] {
        let detail = shown(&house, name).await;
        assert_eq!((&detail["id"], &detail["state"]), (&json!(agent.id), &json!("ready")));
        assert_eq!((&detail["conditions"][0]["percent"], &detail["conditions"][0]["mount"]), (&json!(93), &json!("/var")));
        let last_seen: Timestamp = detail["last_seen"].as_str().unwrap().parse().unwrap();
        assert!(Timestamp::now().duration_since(last_seen).unsigned_abs() < Duration::from_secs(60));
        let drains: Vec<_> = detail["drains"].as_array().unwrap().iter().map(|change| (&change["drained"], &change["reason"])).collect();
        assert_eq!(drains, [(&json!(false), &Value::Null), (&json!(true), &json!("new disk"))], "the newest first");
    }
    let listed = &house.get("/api/v1/agents").await["items"][0];
    assert_eq!(listed["conditions"][0]["kind"], "disk_pressure");
}

#[tokio::test]
async fn facts_are_given_by_name_and_after_their_agent_went_by_id() {
    let (house, agent) = House::with_agent().await;
    let none = problem(house.request(Method::GET, "/api/v1/agents/web-01/facts").send().await.unwrap()).await;
    assert_eq!(none.code, ErrorCode::NotFound);
    house.store.facts.put(&facts(agent.id)).await.unwrap();
    let found = house.get("/api/v1/agents/web-01/facts").await;
    assert_eq!((&found["agent"], &found["facts"]["interface"]["primary"]), (&json!(agent.id), &json!("eth0")));
    let unheard = AgentId::from_bits(9);
    house.store.facts.put(&facts(unheard)).await.unwrap();
    assert_eq!(house.get(&format!("/api/v1/agents/{unheard}/facts")).await["agent"], json!(unheard));
}

#[tokio::test]
async fn what_is_not_there_or_not_allowed_is_refused() {
    let (house, _agent) = House::with_agent().await;
    for (method, path) in [
        (Method::GET, "nowhere"),
        (Method::GET, "nowhere/facts"),
        (Method::DELETE, "nowhere"),
        (Method::GET, "..%2f"),
        (Method::DELETE, &AgentId::from_bits(77).to_string()),
        (Method::GET, &AgentId::from_bits(77).to_string()),
        (Method::GET, &format!("{}/facts", AgentId::from_bits(77))),
    ] {
        let refused = problem(house.request(method.clone(), &format!("/api/v1/agents/{path}")).send().await.unwrap()).await;
        assert_eq!(refused.code, ErrorCode::NotFound, "{method} {path}");
    }
    for (method, path, role, status) in [
        (Method::GET, "web-01", None, 401),
        (Method::GET, "web-01/facts", None, 401),
        (Method::DELETE, "web-01", None, 401),
        (Method::DELETE, "web-01", Some("read"), 403),
        (Method::DELETE, "web-01", Some("write"), 403),
    ] {
        let request = house.bare(method.clone(), &format!("/api/v1/agents/{path}"));
        let request = if let Some(role) = role { request.bearer_auth(house.token(&[role])) } else { request };
        assert_eq!(problem(request.send().await.unwrap()).await.status, status, "{method} {path} {role:?}");
    }
    let online = problem(remove(&house, "web-01").await).await;
    assert_eq!((online.code, online.status), (ErrorCode::AgentOnline, 409));
    assert!(online.hint.unwrap().contains("drain web-01"));
}

#[tokio::test]
async fn an_agent_that_is_removed_leaves_nothing_and_comes_back_as_new() {
    let server = NatsServer::start().await;
    let config = jetstream::Config { url: server.url(), ..jetstream::Config::default() };
    let house = House::on(jetstream::connect(&config).await.unwrap(), |_| {}).await;
    let (gone, stays) = (house.agent(1, "web-01").await, house.agent(2, "web-02").await);
    let job = house.submit(json!({"target": "web-01", "expires_in": "2s"})).await;
    for agent in [&gone, &stays] {
        house.store.facts.put(&facts(agent.id)).await.unwrap();
        house.post(&format!("/api/v1/agents/{}/drain", agent.id), &json!({})).await;
    }
    gone.leave().await;
    house.until("it is stopped", async || shown(&house, "web-01").await["state"] == "stopped").await;
    assert_eq!(house.get("/api/v1/status").await["alarms"], json!([]), "a clean stop is no alarm");
    assert_eq!(remove(&house, "web-01").await.status(), StatusCode::NO_CONTENT);
    assert_eq!(problem(remove(&house, "web-01").await).await.code, ErrorCode::NotFound);
    let left = |subjects: Vec<(String, String)>| {
        let of_it = |(stream, subject): &(String, String)| {
            subject.contains(&gone.id.to_string()) && !["KV_job-queue", "KV_job-responses", "KV_agent-registry"].contains(&stream.as_str())
        };
        subjects.into_iter().filter(of_it).collect::<Vec<_>>()
    };
    // What waits for it is announced again until it expires; then its inbox is empty for good.
    house.until("the job has expired", async || house.job(job.id).await.status.is_final()).await;
    assert_eq!(house.job(job.id).await.status.as_str(), "expired");
    house.until("nothing is left", async || left(server.stored_subjects().await).is_empty()).await;
    let names: Vec<_> =
        house.get("/api/v1/agents").await["items"].as_array().unwrap().iter().map(|item| item["hostname"].clone()).collect();
    assert_eq!(names, ["web-02"]);
    gone.beat().await;
    house.until("it is back", async || house.get("/api/v1/agents").await["items"][0]["hostname"] == "web-01").await;
    let back = shown(&house, "web-01").await;
    assert_eq!((&back["state"], &back["drains"]), (&json!("ready"), &json!([])), "a new start: nobody drained it");
    assert_eq!(shown(&house, "web-02").await["drained"]["by"], "ada");
}

#[tokio::test]
async fn an_agent_that_falls_silent_is_an_alarm_until_it_is_back() {
    let store = longshore_store::memory::open(longshore_store::memory::MemoryOptions {
        registry_ttl: Duration::from_millis(600),
        ..longshore_store::memory::MemoryOptions::default()
    });
    let house = House::on(store, |_| {}).await;
    let agent = house.agent(1, "web-01").await;
    house.until("it is lost", async || shown(&house, "web-01").await["state"] == "offline").await;
    let alarm = &house.get("/api/v1/status").await["alarms"][0];
    assert_eq!((&alarm["agent"], &alarm["hostname"]), (&json!(agent.id), &json!("web-01")));
    assert!(alarm["message"].as_str().unwrap().contains("longshore agent remove web-01"), "{alarm}");
    let reader = house.bare(Method::GET, "/api/v1/status").bearer_auth(house.token(&["read"])).send().await.unwrap();
    assert_eq!(reader.json::<Value>().await.unwrap()["alarms"].as_array().unwrap().len(), 1);
    agent.beat().await;
    house.until("it is back", async || house.get("/api/v1/status").await["alarms"] == json!([])).await;
}

#[tokio::test]
async fn agents_that_went_before_the_controller_came_are_known_and_a_crash_is_told_from_a_stop() {
    let store = longshore_store::memory::open(longshore_store::memory::MemoryOptions::default());
    let named = |bits: u128, hostname: &str, left| {
        let mut record = FactsRecord { left, ..facts(AgentId::from_bits(bits)) };
        record.facts.hostname = hostname.to_owned();
        record.facts.label = [("group".to_owned(), "web".to_owned())].into();
        record
    };
    for record in [named(1, "crashed", false), named(2, "stopped", true)] {
        store.facts.put(&record).await.unwrap();
    }
    let house = House::on(store, |_| {}).await;
    let listed = house.get("/api/v1/agents").await;
    let states: Vec<_> =
        listed["items"].as_array().unwrap().iter().map(|item| (&item["hostname"], &item["state"], &item["labels"])).collect();
    let labels = &json!(["group:web"]);
    assert_eq!(states, [(&json!("crashed"), &json!("offline"), labels), (&json!("stopped"), &json!("stopped"), labels)]);
    let alarms = house.get("/api/v1/status").await["alarms"].clone();
    assert_eq!((&alarms[0]["hostname"], alarms.as_array().unwrap().len()), (&json!("crashed"), 1));
    let refused = house.post("/api/v1/jobs", &json!({"operation": "node.hostname.get", "target": "crashed"})).await;
    assert_eq!(problem(refused).await.code, ErrorCode::AgentOffline);
    assert_eq!(remove(&house, "crashed").await.status(), StatusCode::NO_CONTENT);
    assert_eq!(house.get("/api/v1/status").await["alarms"], json!([]));
    house.agent(2, "stopped").await;
}

#[tokio::test]
async fn arguments_may_name_facts_through_every_door_and_are_kept_as_they_were_given() {
    let (house, agent) = House::with_agent().await;
    let job = house.submit(json!({"operation": "network.dns.get", "args": {"interface": "@fact.interface.primary"}})).await;
    assert_eq!(house.job(job.id).await.args, json!({"interface": "@fact.interface.primary"}));
    agent.take().await;
    for (method, path, body) in [
        (Method::GET, "network/dns/@fact.interface.primary?wait=1ms", None),
        (Method::PUT, "network/dns/@fact.interface.primary?wait=1ms", Some(json!({"servers": ["@fact.interface.address"]}))),
        (Method::PUT, "hostname?wait=1ms", Some(json!({"hostname": "new-@fact.hostname"}))),
        (Method::POST, "network/ping?wait=1ms", Some(json!({"address": "@fact.interface.address"}))),
        (Method::POST, "command/exec?wait=1ms", Some(json!({"command": ["echo", "@fact.arch"]}))),
        (Method::POST, "command/shell?wait=1ms", Some(json!({"command": "echo @fact.arch"}))),
    ] {
        let request = house.request(method, &format!("/api/v1/nodes/_any/{path}"));
        let response = if let Some(body) = body { request.json(&body) } else { request }.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::ACCEPTED, "{path}");
    }
    let refused = house.post("/api/v1/jobs", &json!({"operation": "network.dns.get", "args": {"interface": "@fact."}})).await;
    assert_eq!(problem(refused).await.errors[0].pointer, "/args/interface");
}
