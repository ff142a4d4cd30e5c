//! Requests that no client of ours sends, at every operation of the description: each is refused in form, and harms nothing.

use longshore_model::wire::problem::ErrorCode;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{House, problem};

/// Every operation: its method, its path with samples in it, its description.
fn operations() -> Vec<(Method, String, Value)> {
    let document = serde_json::to_value(longshore_controller::openapi()).unwrap();
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            all.push((method.to_uppercase().parse().unwrap(), path.clone(), operation.clone()));
        }
    }
    all
}

/// With every part that can vary set to this.
fn filled(path: &str, part: &str) -> String {
    let each = |segment: &str| if segment.starts_with('{') { part.to_owned() } else { segment.to_owned() };
    path.split('/').map(each).collect::<Vec<_>>().join("/")
}

fn needs_token(operation: &Value) -> bool {
    operation["security"] != json!([{}])
}

/// A problem with a status that is the request's fault, and that the operation is described with.
async fn is_refused(response: Response, operation: &Value, what: &str) {
    let status = response.status();
    assert!(status.is_client_error(), "{what}: {status}");
    assert!(operation["responses"].get(status.as_str()).is_some(), "{what}: {status} is not described");
    if !what.starts_with("HEAD") {
        let found = problem(response).await;
        assert!(!found.detail.contains("/src/") && !found.detail.contains("panicked"), "{what}: {found:?}");
    }
}

#[tokio::test]
async fn parts_of_a_path_that_are_malformed_are_refused_everywhere() {
    let (house, _agent) = House::with_agent().await;
    for (method, path, operation) in operations().into_iter().filter(|(_, path, _)| path.contains('{')) {
        for part in ["%", "%zz", "%ff%fe", "%00", "..%2f..%2fetc", "%0d%0aX:%20y", "*", "%3Cscript%3E", &"a".repeat(5000)] {
            let what = format!("{method} {path} {part}");
            let body = json!({"hostname": "x", "servers": ["192.0.2.1"], "address": "192.0.2.1", "command": "true"});
            let mut request = house.request(method.clone(), &filled(&path, part));
            if method != Method::GET && method != Method::HEAD {
                request = request.json(&body);
            }
            is_refused(request.send().await.unwrap(), &operation, &what).await;
        }
    }
    assert_eq!(house.get("/api/v1/jobs").await["items"], json!([]), "nothing was made");
}

#[tokio::test]
async fn queries_that_are_unknown_malformed_or_huge_are_refused_everywhere() {
    let (house, _agent) = House::with_agent().await;
    for (method, path, operation) in operations().into_iter().filter(|(.., operation)| needs_token(operation)) {
        let path = filled(&path, &longshore_model::JobId::from_bits(1).to_string());
        for query in
            ["colour=red", "access_token=x", "%zz=%ff", "wait=1s&wait=2s", &format!("x={}", "y".repeat(20_000)), &"a&".repeat(8_000)]
        {
            let response = house.request(method.clone(), &format!("{path}?{query}")).send().await.unwrap();
            // Which fault is told first is the operation's choice.
            is_refused(response, &operation, &format!("{method} {path}?{}", &query[..query.len().min(40)])).await;
        }
    }
    // Longer than any line may be: the connection's end is no end of the controller.
    let _ = house.request(Method::GET, &format!("/api/v1/jobs?text={}", "x".repeat(1 << 20))).send().await;
    assert_eq!(house.get("/api/v1/jobs").await["items"], json!([]));
}

#[tokio::test]
async fn a_field_that_no_query_has_is_named() {
    let house = House::start().await;
    for path in ["/api/v1/agents", "/api/v1/status", "/api/v1/queue", "/api/v1/operations", "/api/v1/jobs", "/api/v1/audit"] {
        let found = problem(house.request(Method::GET, &format!("{path}?colour=red")).send().await.unwrap()).await;
        assert_eq!((found.code, found.errors[0].pointer.as_str()), (ErrorCode::BadRequest, "?colour"), "{path}");
    }
    assert_eq!(
        house.bare(Method::GET, "/livez?colour=red").send().await.unwrap().status(),
        StatusCode::OK,
        "who probes may add what he likes"
    );
}

#[tokio::test]
async fn bodies_of_another_kind_are_refused_everywhere() {
    let (house, _agent) = House::with_agent().await;
    let takes_json = |operation: &Value| operation["requestBody"]["content"].get("application/json").is_some();
    let mut n_tried = 0;
    for (method, path, operation) in operations().into_iter().filter(|(.., operation)| takes_json(operation)) {
        let path = filled(&path, &longshore_model::JobId::from_bits(1).to_string());
        for (kind, body) in
            [("text/plain", "{}"), ("application/xml", "<a/>"), ("multipart/form-data; boundary=x", "--x--"), ("application/json5", "{}")]
        {
            let response = house.request(method.clone(), &path).header("content-type", kind).body(body).send().await.unwrap();
            assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{method} {path} {kind}");
            assert_eq!(problem(response).await.code, ErrorCode::UnsupportedMediaType);
            n_tried += 1;
        }
        for body in [&b"\xff\xfe"[..], b"\xef\xbb\xbf{}", b"NaN", b"{\"a\":1e999999}", b"{\"command\":\"\\ud800\"}", &b"[".repeat(100_000)]
        {
            let request = house.request(method.clone(), &path).header("content-type", "application/json").body(body.to_vec());
            is_refused(request.send().await.unwrap(), &operation, &format!("{method} {path} {:?}", &body[..body.len().min(20)])).await;
        }
    }
    assert!(n_tried >= 4 * 8, "{n_tried}");
}

#[tokio::test]
async fn headers_that_ask_for_another_method_or_path_change_nothing() {
    let (house, _agent) = House::with_agent().await;
    let job = house.submit(json!({})).await.id;
    let path = format!("/api/v1/jobs/{job}");
    for name in ["x-http-method-override", "x-http-method", "x-method-override"] {
        let response = house.request(Method::GET, &path).header(name, "DELETE").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{name}");
        let response = house.bare(Method::GET, &path).header(name, "OPTIONS").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{name}");
    }
    for name in ["x-original-url", "x-rewrite-url", "x-forwarded-path"] {
        let response = house.bare(Method::GET, &path).header(name, "/livez").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{name}");
    }
    // Other spellings of a path are other paths.
    for other in [format!("{path}/"), format!("/API/v1/jobs/{job}"), format!("//api/v1/jobs/{job}"), format!("/api/v1/./jobs%2f{job}")] {
        let response = house.bare(Method::GET, &other).send().await.unwrap();
        assert!(matches!(response.status().as_u16(), 401 | 404), "{other}: {}", response.status());
    }
    assert_eq!(house.job(job).await.id, job);
}

/// What the controller says to these bytes, up to the end of the connection or of its patience.
async fn said(house: &House, bytes: &[u8]) -> String {
    let address = house.request(Method::GET, "/").build().unwrap().url().socket_addrs(|| None).unwrap()[0];
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    // It may hang up before it has heard everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = vec![0; 4096];
    let read = tokio::time::timeout(std::time::Duration::from_secs(10), stream.read(&mut answer)).await.expect("it answers or hangs up");
    String::from_utf8_lossy(&answer[..read.unwrap_or(0)]).into_owned()
}

#[tokio::test]
async fn requests_with_too_many_or_too_large_headers_are_cut_off_and_others_are_served() {
    let house = House::start().await;
    let many: String = (0..5000).map(|n| format!("x-{n}: y\r\n")).collect();
    let large = format!("x-large: {}\r\n", "y".repeat(2 << 20));
    for headers in [many, large] {
        let answer = said(&house, format!("GET /api/v1/jobs HTTP/1.1\r\nhost: x\r\n{headers}\r\n").as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
        assert_eq!(house.bare(Method::GET, "/livez").send().await.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn requests_whose_length_can_be_read_in_two_ways_are_refused() {
    let house = House::start().await;
    let token = house.token(&["admin"]);
    let head = format!("POST /api/v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n");
    for lengths in [
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: -1\r\n",
        "content-length: 5\r\n x: y\r\n",
        "transfer-encoding: chunked, x\r\n",
    ] {
        let answer = said(&house, format!("{head}{lengths}\r\n{{}}\r\n0\r\n\r\nGET /livez HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await;
        assert!(!answer.contains("200 OK"), "{lengths}: {answer}");
    }
    assert_eq!(house.get("/api/v1/jobs").await["items"], json!([]));
}
