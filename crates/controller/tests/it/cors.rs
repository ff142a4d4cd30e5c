//! Web pages of others: none may call the API unless its origin is configured.

use longshore_store::memory;
use reqwest::{Method, Response, StatusCode};

use crate::support::House;

const JOBS: &str = "/api/v1/jobs";

async fn allowing(origins: &[&str]) -> House {
    let origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
    House::on(memory::open(memory::MemoryOptions::default()), |config| config.allow_origins = origins).await
}

async fn preflight(house: &House, origin: &str) -> Response {
    let request = house.bare(Method::OPTIONS, JOBS).header("origin", origin).header("access-control-request-method", "POST");
    request.header("access-control-request-headers", "authorization,content-type,idempotency-key").send().await.unwrap()
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn pages_of_configured_origins_may_call_and_all_others_may_not() {
    let house = allowing(&["https://ops.example", "http://localhost:3000"]).await;
    for origin in ["https://ops.example", "http://localhost:3000"] {
        let asked = preflight(&house, origin).await;
        assert_eq!((asked.status(), header(&asked, "access-control-allow-origin")), (StatusCode::OK, Some(origin)));
        assert!(header(&asked, "access-control-allow-methods").unwrap().contains("POST"));
        assert!(header(&asked, "access-control-allow-headers").unwrap().contains("authorization"));
        assert_eq!(header(&asked, "access-control-allow-credentials"), None);
        // The answer itself, and a refusal, can be read by the page.
        let listed = house.request(Method::GET, JOBS).header("origin", origin).send().await.unwrap();
        assert_eq!((listed.status(), header(&listed, "access-control-allow-origin")), (StatusCode::OK, Some(origin)));
        assert!(header(&listed, "access-control-expose-headers").unwrap().contains("x-request-id"));
        let refused = house.bare(Method::GET, JOBS).header("origin", origin).send().await.unwrap();
        assert_eq!((refused.status(), header(&refused, "access-control-allow-origin")), (StatusCode::UNAUTHORIZED, Some(origin)));
    }
    let strangers = [
        "null",
        "https://evil.example",
        "https://ops.example.evil.example",
        "https://evilops.example",
        "http://ops.example",
        "https://ops.example:444",
        "https://OPS.example/",
    ];
    for origin in strangers {
        let asked = preflight(&house, origin).await;
        assert_eq!(header(&asked, "access-control-allow-origin"), None, "{origin}");
        let listed = house.request(Method::GET, JOBS).header("origin", origin).send().await.unwrap();
        assert_eq!(header(&listed, "access-control-allow-origin"), None, "{origin}");
    }
}

#[tokio::test]
async fn without_a_configured_origin_no_page_of_others_may_call() {
    let house = House::start().await;
    let asked = preflight(&house, "https://ops.example").await;
    assert_eq!((asked.status(), header(&asked, "access-control-allow-origin")), (StatusCode::METHOD_NOT_ALLOWED, None));
    let listed = house.request(Method::GET, JOBS).header("origin", "https://ops.example").send().await.unwrap();
    assert!(listed.headers().keys().all(|name| !name.as_str().starts_with("access-control")), "{:?}", listed.headers());
    assert!(house.store.audit.after(0, 10).await.unwrap().items.is_empty(), "asking is no change");
}

#[tokio::test]
async fn a_star_lets_every_page_call_and_never_with_what_a_browser_sends_of_itself() {
    let house = allowing(&["*"]).await;
    let asked = preflight(&house, "https://anywhere.example").await;
    assert_eq!(header(&asked, "access-control-allow-origin"), Some("*"));
    assert_eq!(header(&asked, "access-control-allow-credentials"), None);
}
