//! Draining an agent: what is refused, what is shown, and what is not touched.

use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::rest::{AgentCondition, AgentView};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{House, problem};

async fn told(house: &House, agent: &str, what: &str, body: &Value) -> AgentView {
    let response = house.post(&format!("/api/v1/agents/{agent}/{what}"), body).await;
    assert_eq!(response.status(), StatusCode::OK);
    response.json().await.unwrap()
}

#[tokio::test]
async fn a_drained_agent_is_in_no_new_set_until_it_is_undrained() {
    let house = House::start().await;
    let one = house.member(1, "web-01", &["group:web"]).await;
    let two = house.member(2, "web-02", &["group:web"]).await;
    let before = house.submit(json!({"target": "web-01"})).await;
    let drained = told(&house, "web-01", "drain", &json!({"reason": "new disk"})).await;
    assert_eq!((drained.id, drained.state), (one.id, AgentCondition::Draining), "it has not said that it knows");
    assert_eq!(drained.drained.unwrap().reason.as_deref(), Some("new disk"));
    let again = told(&house, &one.id.to_string(), "drain", &json!({})).await;
    assert_eq!(again.drained.unwrap().reason.as_deref(), Some("new disk"), "who was first stays on record");

    for target in ["_all", "group:web"] {
        let job = house.submit(json!({ "target": target })).await;
        assert_eq!(job.executions.iter().map(|execution| execution.id.agent()).collect::<Vec<_>>(), [Some(two.id)]);
    }
    let refused = problem(house.post("/api/v1/jobs", &json!({"operation": "node.hostname.get", "target": "web-01"})).await).await;
    assert_eq!(refused.code, ErrorCode::AgentOffline);
    assert!(refused.detail.contains("ada"), "{}", refused.detail);
    let waits = house.submit(json!({"target": "web-01", "wait_for_agents": "1m"})).await;
    assert_eq!(one.inbox().await.iter().map(|task| task.job).collect::<Vec<_>>(), [before.id, waits.id], "what was addressed waits");

    one.beat_as(|beat| beat.drained = true).await;
    house.until("it is drained", async || house.get("/api/v1/agents").await["items"][0]["state"] == "drained").await;
    told(&house, "web-02", "drain", &json!({})).await;
    let nobody = problem(house.post("/api/v1/jobs", &json!({"operation": "node.hostname.get"})).await).await;
    assert_eq!(nobody.code, ErrorCode::NoAgent);
    let back = told(&house, "web-01", "undrain", &json!({})).await;
    assert_eq!((back.state, back.drained), (AgentCondition::Ready, None));
    house.submit(json!({"target": "web-01"})).await;
}

#[tokio::test]
async fn draining_needs_its_permission_and_an_agent_that_is_known() {
    let (house, _) = House::with_agent().await;
    for role in ["read", "write"] {
        let response = house.bare(Method::POST, "/api/v1/agents/web-01/drain").bearer_auth(house.token(&[role])).send().await.unwrap();
        assert_eq!(problem(response).await.code, ErrorCode::Forbidden, "{role}");
    }
    for (path, body, code) in [
        ("nowhere/drain", json!({}), ErrorCode::NotFound),
        ("..%2f/undrain", json!({}), ErrorCode::NotFound),
        ("web-01/drain", json!({"reason": "x".repeat(257)}), ErrorCode::Validation),
        ("web-01/drain", json!({"reason": "a\x1b[2J"}), ErrorCode::Validation),
        ("web-01/drain", json!({"because": "x"}), ErrorCode::BadRequest),
    ] {
        assert_eq!(problem(house.post(&format!("/api/v1/agents/{path}"), &body).await).await.code, code, "{path} {body}");
    }
}
