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
