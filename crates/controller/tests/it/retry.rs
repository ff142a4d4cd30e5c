//! Repeating by hand.

use longshore_controller::token::{self, Grant};
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::rest::JobView;
use reqwest::Method;
use serde_json::json;

use crate::support::{House, problem};

#[tokio::test]
async fn a_repeat_is_a_new_job_of_the_same_kind_linked_both_ways() {
    let (house, agent) = House::with_agent().await;
    let body = json!({
        "operation": "command.exec", "args": {"command": ["true"]}, "target": "web-01", "timeout": "7s",
        "retry": {"max_attempts": 2, "backoff": ["1s"]}, "annotations": {"ticket": "7"}
    });
    let first: JobView = house.post("/api/v1/jobs", &body).await.json().await.unwrap();
    let retry = format!("/api/v1/jobs/{}/retry", first.id);
    assert_eq!(problem(house.post(&retry, &json!({})).await).await.code, ErrorCode::JobNotFinal);
    agent.inbox().await[0].complete().await;

    let response = house.request(Method::POST, &retry).send().await.unwrap();
    assert_eq!(response.status(), 201);
    let second: JobView = response.json().await.unwrap();
    assert_ne!(second.id, first.id);
    assert_eq!(second.retry_of, Some(first.id));
    for (a, b) in [(&first.operation, &second.operation), (&first.target, &second.target), (&first.timeout, &second.timeout)] {
        assert_eq!(a, b);
    }
    assert_eq!((second.args, second.max_attempts, second.annotations), (first.args, first.max_attempts, first.annotations));
    assert_eq!(house.job(first.id).await.retried_by, [second.id]);
    assert_eq!(agent.inbox().await.len(), 1);

    let nothing_failed = problem(house.post(&retry, &json!({"only": "failed"})).await).await;
    assert_eq!(nothing_failed.errors[0].pointer, "/only");
    assert_eq!(problem(house.post(&retry, &json!({"only": "x"})).await).await.code, ErrorCode::BadRequest);
}

#[tokio::test]
async fn a_repeat_needs_the_permission_of_the_operation_itself() {
    let (house, agent) = House::with_agent().await;
    let body = json!({"operation": "command.exec", "args": {"command": ["true"]}});
    let first: JobView = house.post("/api/v1/jobs", &body).await.json().await.unwrap();
    agent.take().await.complete().await;
    let path = format!("/api/v1/jobs/{}/retry", first.id);
    let as_who = async |permissions: &[&str]| {
        let only = permissions.iter().map(|permission| (*permission).to_owned()).collect();
        let token = token::issue(&house.key, &Grant { permissions: Some(only), ..Grant::new("bob", &["admin"]) }, jiff::Timestamp::now());
        house.bare(Method::POST, &path).bearer_auth(token).send().await.unwrap().status().as_u16()
    };
    assert_eq!(as_who(&["job:write"]).await, 403);
    assert_eq!(as_who(&["command:execute"]).await, 403);
    assert_eq!(as_who(&["job:write", "command:execute"]).await, 201);
}
