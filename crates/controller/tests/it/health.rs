//! Health, and what the API says of itself.

use longshore_controller::token::{self, Grant};
use reqwest::{Method, StatusCode};

use crate::support::House;

#[tokio::test]
async fn health_needs_no_token_and_status_shows_the_whole() {
    let (house, agent) = House::with_agent().await;
    for path in ["/livez", "/readyz", "/api/openapi.json", "/problems/no_agent"] {
        assert_eq!(house.bare(Method::GET, path).send().await.unwrap().status(), StatusCode::OK, "{path}");
    }
    let text = house.bare(Method::GET, "/problems/no_agent").send().await.unwrap().text().await.unwrap();
    assert!(text.starts_with("no_agent: "));
    let status = house.get("/api/v1/status").await;
    assert_eq!(status["healthy"], true);
    assert_eq!(status["agents"][0]["id"], agent.id.to_string());
    // The agents are told to those who may know them.
    let token = token::issue(
        &house.key,
        &Grant { permissions: Some(vec!["job:read".to_owned()]), ..Grant::new("bob", &["read"]) },
        jiff::Timestamp::now(),
    );
    let narrow =
        house.bare(Method::GET, "/api/v1/status").bearer_auth(token).send().await.unwrap().json::<serde_json::Value>().await.unwrap();
    assert_eq!((narrow["healthy"].clone(), narrow["agents"].clone()), (true.into(), serde_json::json!([])));
    assert_eq!(house.get("/api/v1/operations").await["items"].as_array().unwrap().len(), longshore_model::operation::Operation::ALL.len());
}

#[tokio::test]
async fn a_request_keeps_the_id_it_came_with() {
    let house = House::start().await;
    let answer = async |id: &str| {
        let response = house.bare(Method::GET, "/livez").header("x-request-id", id).send().await.unwrap();
        response.headers()["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(answer("mine-7").await, "mine-7");
    assert_ne!(answer(&"x".repeat(129)).await, "x".repeat(129));
}

#[tokio::test]
async fn metrics_count_what_happened_and_say_how_things_stand() {
    let (house, agent) = House::with_agent().await;
    let job = house.submit(serde_json::json!({"operation": "node.hostname.get"})).await;
    agent.take().await.complete().await;
    house.until("it has ended", async || house.job(job.id).await.status.is_final()).await;
    house.bare(Method::GET, "/api/v1/jobs").send().await.unwrap();
    agent.beat_as(|heartbeat| heartbeat.refused_writes = 3).await;
    let asked = async || house.bare(Method::GET, "/metrics").bearer_auth(house.token(&["read"])).send().await.unwrap();
    house.until("its word", async || asked().await.text().await.unwrap().contains("longshore_agents_refused_writes 3")).await;
    let response = asked().await;
    assert_eq!(response.headers()["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = response.text().await.unwrap();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse::<u64>().unwrap()
    };
    assert_eq!(value("longshore_jobs{status=\"completed\"}"), 1);
    assert_eq!(value("longshore_jobs{status=\"failed\"}"), 0);
    assert_eq!(value("longshore_agents{state=\"ready\"}"), 1);
    assert_eq!((value("longshore_ready"), value("longshore_dead_letters"), value("longshore_audit_records_given_up")), (1, 0, 0));
    assert!(value("longshore_requests_total{status=\"2xx\"}") >= 1);
    assert_eq!(value("longshore_requests_total{status=\"4xx\"}"), 1);
    assert_eq!(["longshore_refused_writes_total", "longshore_contradictory_jobs"].map(value), [0; 2]);
    assert!(text.ends_with("# EOF\n"));
}
