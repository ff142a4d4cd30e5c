//! Bad input: every refusal is a problem document that says where and why.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use longshore_controller::{
    SigningKey,
    token::{self, Grant},
};
use longshore_model::JobId;
use longshore_model::wire::problem::ErrorCode;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{House, problem};

#[tokio::test]
async fn bad_bodies_are_refused_and_name_the_place() {
    let (house, _agent) = House::with_agent().await;
    let rows = [
        ("{", 400, ErrorCode::BadRequest, None),
        ("", 400, ErrorCode::BadRequest, None),
        (r#"{"operation": "node.hostname.get"} {}"#, 400, ErrorCode::BadRequest, None),
        ("[]", 400, ErrorCode::BadRequest, Some("")),
        (r#" ["node.hostname.get", {}, "_any"]"#, 400, ErrorCode::BadRequest, Some("")),
        ("{}", 400, ErrorCode::BadRequest, Some("")),
        (r#"{"operation": 7}"#, 400, ErrorCode::BadRequest, Some("/operation")),
        (r#"{"operation": "node.hostname.get", "tarjet": "x"}"#, 400, ErrorCode::BadRequest, Some("/tarjet")),
        (r#"{"operation": "node.hostname.get", "retry": {"max_attempts": "x"}}"#, 400, ErrorCode::BadRequest, Some("/retry/max_attempts")),
        (r#"{"operation": "node.hostnam.get"}"#, 422, ErrorCode::UnknownOperation, Some("/operation")),
        (r#"{"operation": "command.exec", "args": {"command": "ls"}}"#, 422, ErrorCode::Validation, Some("/args/command")),
        (r#"{"operation": "command.exec", "args": {"command": ["ls", 7]}}"#, 422, ErrorCode::Validation, Some("/args/command/1")),
        (r#"{"operation": "node.hostname.get", "args": {"x": 1}}"#, 422, ErrorCode::Validation, Some("/args/x")),
        (r#"{"operation": "node.hostname.get", "timeout": "5"}"#, 422, ErrorCode::Validation, Some("/timeout")),
        (r#"{"operation": "node.hostname.get", "target": "../x"}"#, 422, ErrorCode::Validation, Some("/target")),
        (r#"{"operation": "node.hostname.get", "target": "a\u0000b"}"#, 422, ErrorCode::Validation, Some("/target")),
        (r#"{"operation": "node.hostname.get", "target": ">"}"#, 422, ErrorCode::Validation, Some("/target")),
        (r#"{"operation": "node.hostname.get", "retry": {"max_attempts": 0}}"#, 422, ErrorCode::Validation, Some("/retry")),
    ];
    for (body, status, code, pointer) in rows {
        let request = house.request(Method::POST, "/api/v1/jobs").header("content-type", "application/json").body(body);
        let found = problem(request.send().await.unwrap()).await;
        assert_eq!((found.status, found.code), (status, code), "{body}: {found:?}");
        assert_eq!(found.errors.first().map(|field| field.pointer.as_str()), pointer, "{body}: {found:?}");
    }
    let missing = json!({"operation": "workspace.run", "args": {"steps": ["true"], "bundle": "0".repeat(64)}});
    let found = problem(house.post("/api/v1/jobs", &missing).await).await;
    assert_eq!((found.code, found.errors[0].pointer.as_str()), (ErrorCode::Validation, "/args/bundle"));
    let near = problem(house.post("/api/v1/jobs", &json!({"operation": "node.hostnam.get"})).await).await;
    assert!(near.hint.unwrap().contains("node.hostname.get"));
    assert_eq!(house.get("/api/v1/jobs").await["items"], json!([]));
}

#[tokio::test]
async fn every_field_at_fault_is_named_at_once() {
    let (house, _agent) = House::with_agent().await;
    let body = json!({"operation": "command.shell", "args": {"command": ""}, "timeout": "x", "target": "_all!", "concurrency_key": "a\nb"});
    let found = problem(house.post("/api/v1/jobs", &body).await).await;
    let pointers: Vec<&str> = found.errors.iter().map(|field| field.pointer.as_str()).collect();
    assert_eq!(pointers, ["/args/command", "/target", "/timeout", "/concurrency_key"]);
}

#[tokio::test]
async fn bodies_that_are_too_large_or_not_json_are_refused() {
    let (house, _agent) = House::with_agent().await;
    let large = json!({"operation": "command.shell", "args": {"command": "x".repeat(2 << 20)}});
    let response = house.post("/api/v1/jobs", &large).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(problem(response).await.code, ErrorCode::TooLarge);
    for media_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"] {
        let request = house.request(Method::POST, "/api/v1/jobs").header("content-type", media_type).body("{}");
        let found = problem(request.send().await.unwrap()).await;
        assert_eq!((found.status, found.code), (415, ErrorCode::UnsupportedMediaType), "{media_type}");
    }
}

#[tokio::test]
async fn only_a_valid_token_opens_the_door() {
    let (house, _agent) = House::with_agent().await;
    let now = Timestamp::now();
    let past = now.checked_sub(SignedDuration::from_secs(61)).unwrap();
    let tokens = [
        None,
        Some("Bearer".to_owned()),
        Some("Basic YTpi".to_owned()),
        Some("Bearer x.y.z".to_owned()),
        Some(format!("Bearer {}", token::issue(&SigningKey::new(b"another".to_vec()), &Grant::new("eve", &["admin"]), now))),
        Some(format!(
            "Bearer {}",
            token::issue(&house.key, &Grant { lifetime: Some(Duration::from_secs(60)), ..Grant::new("ada", &["admin"]) }, past)
        )),
        Some(format!("Bearer {}", token::issue(&house.key, &Grant::new("ada", &["root"]), now))),
    ];
    for header in tokens {
        for (method, path) in [(Method::POST, "/api/v1/jobs"), (Method::GET, "/api/v1/jobs"), (Method::GET, "/api/v1/jobs/events")] {
            let mut request = house.bare(method, path);
            if let Some(header) = &header {
                request = request.header("authorization", header);
            }
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{header:?} {path}");
            assert!(response.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
            assert_eq!(problem(response).await.code, ErrorCode::Unauthenticated);
        }
    }
}

#[tokio::test]
async fn what_a_token_does_not_grant_is_refused() {
    let (house, _agent) = House::with_agent().await;
    let job = house.submit(json!({})).await.id;
    let exec = json!({"operation": "command.exec", "args": {"command": ["true"]}});
    let rows = [
        ("read", Method::GET, format!("/api/v1/jobs/{job}"), None, false),
        ("read", Method::POST, "/api/v1/jobs".to_owned(), Some(json!({"operation": "node.hostname.get"})), false),
        ("read", Method::POST, "/api/v1/jobs".to_owned(), Some(exec.clone()), true),
        ("write", Method::POST, "/api/v1/jobs".to_owned(), Some(exec), true),
        ("read", Method::POST, format!("/api/v1/jobs/{job}/cancel"), None, true),
        ("read", Method::DELETE, format!("/api/v1/jobs/{job}"), None, true),
        ("read", Method::POST, format!("/api/v1/jobs/{job}/retry"), None, true),
        ("write", Method::PUT, format!("/api/v1/bundles/{}", "0".repeat(64)), None, true),
    ];
    for (role, method, path, body, is_refused) in rows {
        let mut request = house.bare(method.clone(), &path).bearer_auth(house.token(&[role]));
        if let Some(body) = &body {
            request = request.json(body);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status() == StatusCode::FORBIDDEN, is_refused, "{role} {method} {path} {body:?}");
        if is_refused {
            assert_eq!(problem(response).await.code, ErrorCode::Forbidden);
        }
    }
}

#[tokio::test]
async fn paths_and_methods_that_are_not_there_are_problems() {
    let house = House::start().await;
    for path in ["/", "/api", "/api/v1/nothing", "/api/v1/jobs/x/y/z", "/problems/nothing"] {
        let found = problem(house.request(Method::GET, path).send().await.unwrap()).await;
        assert_eq!((found.status, found.code), (404, ErrorCode::NotFound), "{path}");
    }
    for (method, path, allowed) in
        [(Method::PATCH, "/api/v1/jobs", "POST"), (Method::POST, "/livez", "GET"), (Method::PUT, "/api/v1/jobs/events", "GET")]
    {
        let response = house.request(method, path).send().await.unwrap();
        assert!(response.headers()["allow"].to_str().unwrap().contains(allowed), "{path}");
        let found = problem(response).await;
        assert_eq!((found.status, found.code), (405, ErrorCode::MethodNotAllowed), "{path}");
    }
}

#[tokio::test]
async fn hostile_ids_are_not_found_and_reach_no_store() {
    let house = House::start().await;
    let absent = JobId::from_bits(7).to_string();
    for id in ["..%2Fx", "%2e%2e", "j-%00", "*", "%3E", "j-*", "%ff%fe", "any", &absent, &absent.to_uppercase(), &"j".repeat(4000)] {
        for (method, tail) in [
            (Method::GET, ""),
            (Method::DELETE, ""),
            (Method::POST, "/cancel"),
            (Method::POST, "/retry"),
            (Method::GET, "/events"),
            (Method::GET, "/logs"),
            (Method::GET, "/artifacts"),
            (Method::GET, "/artifacts/..%2f..%2fetc%2fpasswd"),
        ] {
            let response = house.request(method.clone(), &format!("/api/v1/jobs/{id}{tail}")).send().await.unwrap();
            let found = problem(response).await;
            assert!(matches!(found.code, ErrorCode::NotFound | ErrorCode::MethodNotAllowed), "{method} {id}{tail}: {found:?}");
        }
    }
    for digest in ["x", "..%2fx", &"A".repeat(64), &"0".repeat(63)] {
        let response = house.request(Method::PUT, &format!("/api/v1/bundles/{digest}")).body("x").send().await.unwrap();
        assert_eq!(problem(response).await.code, ErrorCode::BadRequest, "{digest}");
    }
}

#[tokio::test]
async fn bad_queries_are_refused_and_name_the_field() {
    let house = House::start().await;
    for (query, field) in [
        ("status=odd", "?status"),
        ("limit=0", "?limit"),
        ("limit=1001", "?limit"),
        ("limit=x", "?limit"),
        ("annotation=x", "?annotation"),
        ("since=yesterday", "?since"),
        ("colour=red", "?colour"),
        ("limit=1&limit=2", "?limit"),
    ] {
        let found = problem(house.request(Method::GET, &format!("/api/v1/jobs?{query}")).send().await.unwrap()).await;
        assert_eq!((found.status, found.code), (400, ErrorCode::BadRequest), "{query}");
        assert_eq!(found.errors[0].pointer, field, "{query}");
    }
    for query in ["wait=5", "wait=6m", "wait=-1s"] {
        let path = format!("/api/v1/jobs/{}?{query}", JobId::from_bits(1));
        assert_eq!(problem(house.request(Method::GET, &path).send().await.unwrap()).await.errors[0].pointer, "?wait", "{query}");
    }
    let cursor = problem(house.request(Method::GET, "/api/v1/jobs?cursor=x").send().await.unwrap()).await;
    assert_eq!(cursor.code, ErrorCode::BadRequest);
    let events = house.request(Method::GET, "/api/v1/jobs/events").header("last-event-id", "x").send().await.unwrap();
    assert_eq!(problem(events).await.code, ErrorCode::BadRequest);
}

#[tokio::test]
async fn a_refusal_names_no_other_hosts_to_who_may_not_look_at_the_fleet() {
    let (house, _agent) = House::with_agent().await;
    house.request(Method::POST, "/api/v1/agents/web-01/drain").send().await.unwrap();
    let only = Grant { permissions: Some(vec!["node:read".to_owned()]), ..Grant::new("eve", &["admin"]) };
    let tokens = [(token::issue(&house.key, &only, Timestamp::now()), false), (house.token(&["admin"]), true)];
    for (token, may_look) in tokens {
        for (target, secret) in [("web-02", "web-01"), ("web-01", "by ada")] {
            let body = json!({"operation": "node.hostname.get", "target": target});
            let refused = house.bare(Method::POST, "/api/v1/jobs").bearer_auth(&token).json(&body).send().await.unwrap();
            let found = problem(refused).await;
            let text = serde_json::to_string(&found).unwrap();
            assert_eq!((found.status, text.contains(secret)), (409, may_look), "{target}: {text}");
        }
    }
}
