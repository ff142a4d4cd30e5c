//! The audit trail: every call that could change something and every refusal, once, with nothing of what was sent; and nobody waits for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use longshore_client::{AuditFilter, AuditRecord};
use longshore_controller::token::{self, Grant};
use longshore_model::limits::AUDIT_STRANGERS_EACH_MAX;
use longshore_model::wire::audit::AuditOutcome;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::SCHEMA;
use longshore_model::wire::rest::AuditList;
use longshore_store::{Audit, AuditPage, Error, Revision, Store, jetstream, memory};
use longshore_testkit::NatsServer;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{House, problem};

const AUDIT: &str = "/api/v1/audit";
/// Stands in arguments, queries and tokens, and must not be found in the trail.
const MARKER: &str = "hunter2-the-marker";

/// Everything in the trail, oldest first, once it has so many records and a little later still has.
async fn trail(house: &House, n_records: usize) -> Vec<AuditRecord> {
    house.until("the trail is written", async || house.store.audit.after(0, 1000).await.unwrap().items.len() >= n_records).await;
    // Records are written in the order of their calls, so this one tells that nothing else was to come.
    house.bare(Method::POST, "/api/v1/last").send().await.unwrap();
    let read = async || house.store.audit.after(0, 1000).await.unwrap().items.into_iter().map(|stored| stored.record).collect::<Vec<_>>();
    house.until("the last call is told", async || read().await.iter().any(|record| record.path == "/api/v1/last")).await;
    let mut records = read().await;
    assert_eq!(records.pop().unwrap().path, "/api/v1/last");
    assert_eq!(records.len(), n_records, "{records:#?}");
    records
}

#[tokio::test]
async fn a_submission_a_cancel_and_every_refusal_leave_one_record_each_and_reads_none() {
    let (house, _agent) = House::with_agent().await;
    let body =
        json!({"operation": "command.exec", "target": "web-01", "args": {"command": ["true", MARKER]}, "annotations": {"x": MARKER}});
    let response = house.request(Method::POST, &format!("/api/v1/jobs?wait=1ms&x={MARKER}")).json(&body).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let response = house.request(Method::POST, "/api/v1/jobs").header("x-request-id", "r-1").json(&body).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    let job = response.json::<longshore_client::JobView>().await.unwrap().id;
    for path in ["/api/v1/jobs", &format!("/api/v1/jobs/{job}"), AUDIT, "/api/v1/audit?format=jsonl", "/livez"] {
        assert_eq!(house.request(Method::GET, path).send().await.unwrap().status(), StatusCode::OK, "{path}");
    }
    let cancel = house.request(Method::POST, &format!("/api/v1/jobs/{job}/cancel")).send().await.unwrap();
    assert_eq!(cancel.status(), StatusCode::OK);
    let refused = house.bare(Method::GET, &format!("/api/v1/jobs?text={MARKER}")).bearer_auth(MARKER).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let forbidden = house.bare(Method::POST, "/api/v1/jobs").bearer_auth(house.token(&["write"])).json(&body).send().await.unwrap();
    assert_eq!(forbidden.status(), StatusCode::FORBIDDEN);
    let delete = house.request(Method::DELETE, &format!("/api/v1/jobs/{job}")).send().await.unwrap();
    assert_eq!(delete.status(), StatusCode::NO_CONTENT);
    // Outside the API there is nothing to change.
    assert_eq!(house.request(Method::POST, "/livez").send().await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(house.request(Method::POST, "/nothing").send().await.unwrap().status(), StatusCode::NOT_FOUND);
    let drain = house.request(Method::POST, "/api/v1/agents/web-01/drain").json(&json!({"reason": MARKER})).send().await.unwrap();
    assert_eq!(drain.status(), StatusCode::OK);

    let records = trail(&house, 7).await;
    let [malformed, submit, cancel, refused, forbidden, delete, drain] = &records[..] else { panic!("{records:?}") };
    let ends = |record: &AuditRecord| (record.status, record.code);
    let done_by_ada = |record: &AuditRecord, method: &str, path: &str| {
        assert_eq!((record.who.as_deref(), &*record.method, &*record.path), (Some("ada"), method, path));
        assert_eq!((record.schema, record.remote.as_deref(), record.dropped_before), (SCHEMA, Some("127.0.0.1"), 0));
    };
    done_by_ada(malformed, "POST", "/api/v1/jobs");
    assert_eq!((ends(malformed), &malformed.reason), ((Some(400), Some(ErrorCode::BadRequest)), &None));
    done_by_ada(submit, "POST", "/api/v1/jobs");
    assert_eq!((ends(submit), &*submit.request_id), ((Some(201), None), "r-1"));
    done_by_ada(cancel, "POST", &format!("/api/v1/jobs/{job}/cancel"));
    done_by_ada(delete, "DELETE", &format!("/api/v1/jobs/{job}"));
    assert_eq!((ends(cancel), ends(delete)), ((Some(200), None), (Some(204), None)));
    for record in [submit, cancel, delete] {
        assert_eq!(
            (record.job, record.operation.as_deref(), &record.targets[..]),
            (Some(job), Some("command.exec"), &["web-01".to_owned()][..])
        );
    }
    assert_eq!((&refused.who, &*refused.method, &*refused.path), (&None, "GET", "/api/v1/jobs"));
    assert_eq!(ends(refused), (Some(401), Some(ErrorCode::Unauthenticated)));
    done_by_ada(forbidden, "POST", "/api/v1/jobs");
    assert_eq!((ends(forbidden), forbidden.job), ((Some(403), Some(ErrorCode::Forbidden)), None));
    assert_eq!(forbidden.reason.as_deref(), Some("the token does not grant command:execute"));
    done_by_ada(drain, "POST", "/api/v1/agents/web-01/drain");
    assert_eq!(drain.targets, ["web-01"]);
    let text = serde_json::to_string(&records).unwrap();
    assert!(!text.contains(MARKER), "{text}");
}

#[tokio::test]
async fn only_who_has_the_permission_reads_the_audit_trail() {
    let house = House::start().await;
    let narrowed = Grant { permissions: Some(vec!["audit:read".to_owned()]), ..Grant::new("auditor", &["admin"]) };
    let auditor = token::issue(&house.key, &narrowed, Timestamp::now());
    for path in [AUDIT, "/api/v1/audit?format=jsonl"] {
        assert_eq!(problem(house.bare(Method::GET, path).send().await.unwrap()).await.code, ErrorCode::Unauthenticated);
        for roles in [&["read"][..], &["write"], &["read", "write"]] {
            let refused = house.bare(Method::GET, path).bearer_auth(house.token(roles)).send().await.unwrap();
            assert_eq!(problem(refused).await.code, ErrorCode::Forbidden, "{roles:?} {path}");
        }
        assert_eq!(house.bare(Method::GET, path).bearer_auth(&auditor).send().await.unwrap().status(), StatusCode::OK);
    }
    // Each try is on record itself.
    trail(&house, 8).await;
    let bad = [
        "limit=0",
        "limit=1001",
        "cursor=x",
        "format=xml",
        "since=yesterday",
        "outcome=odd",
        "x=1",
        "format=jsonl&limit=1",
        "format=jsonl&cursor=1",
    ];
    for query in bad {
        let found = problem(house.request(Method::GET, &format!("{AUDIT}?{query}")).send().await.unwrap()).await;
        assert_eq!(found.code, ErrorCode::BadRequest, "{query}");
    }
}

/// So many records, every third a refusal of `eve`, a second apart, the last one now.
async fn fill(house: &House, n_records: usize) -> Vec<AuditRecord> {
    let now = Timestamp::now();
    let record = |n: usize| AuditRecord {
        request_id: "r".to_owned(),
        who: Some(if n.is_multiple_of(3) { "eve" } else { "ada" }.to_owned()),
        status: Some(if n.is_multiple_of(3) { 403 } else { 201 }),
        code: n.is_multiple_of(3).then_some(ErrorCode::Forbidden),
        ..AuditRecord::new(
            format!("id-{n}"),
            now - SignedDuration::from_secs((n_records - n) as i64),
            "POST".to_owned(),
            "/api/v1/jobs".to_owned(),
        )
    };
    let all: Vec<_> = (0..n_records).map(record).collect();
    for chunk in all.chunks(100) {
        house.store.audit.append(chunk).await.unwrap();
    }
    all
}

fn is_refusal(record: &AuditRecord) -> bool {
    record.outcome() == AuditOutcome::Refused
}

async fn pages(house: &House, mut filter: AuditFilter) -> Vec<AuditRecord> {
    let mut found = Vec::new();
    loop {
        let AuditList { items, next_cursor } = house.client().audit(&filter).await.unwrap();
        assert!(items.len() <= filter.limit.unwrap_or(50));
        found.extend(items);
        match next_cursor {
            Some(cursor) => filter.cursor = Some(cursor),
            None => return found,
        }
    }
}

#[tokio::test]
async fn the_audit_trail_is_listed_newest_first_in_pages_and_filtered() {
    let house = House::start().await;
    let mut all = fill(&house, 2500).await;
    all.reverse();
    for limit in [999, 1000] {
        assert!(pages(&house, AuditFilter { limit: Some(limit), ..AuditFilter::default() }).await == all, "{limit}");
    }
    let only = |takes: &dyn Fn(&AuditRecord) -> bool| all.iter().filter(|record| takes(record)).cloned().collect::<Vec<_>>();
    let filter = || AuditFilter { limit: Some(300), ..AuditFilter::default() };
    let refused = pages(&house, AuditFilter { outcome: Some("refused".to_owned()), ..filter() }).await;
    assert!(refused == only(&is_refusal) && refused.len() == 834);
    assert!(pages(&house, AuditFilter { who: Some("eve".to_owned()), ..filter() }).await == refused);
    let action = |what: &str| AuditFilter { action: Some(what.to_owned()), ..filter() };
    assert!(pages(&house, action("post")).await == all && pages(&house, action("/jobs")).await == all);
    assert_eq!(pages(&house, action("command.exec")).await, []);
    let ended = |ends: &str| AuditFilter { outcome: Some(ends.to_owned()), ..filter() };
    assert!(pages(&house, ended("done,refused")).await == all && pages(&house, ended("failed,unknown")).await.is_empty());
    let (since, until) = (all[1000].at, all[200].at);
    let some = pages(&house, AuditFilter { since: Some(since.to_string()), until: Some(until.to_string()), ..filter() }).await;
    assert!(some == only(&|record| record.at >= since && record.at < until) && some.len() == 800);
    assert_eq!(pages(&house, AuditFilter { who: Some("nobody".to_owned()), ..filter() }).await, []);
    // What was stored before a moment was answered before it: nothing is left to look at.
    let later = (Timestamp::now() + SignedDuration::from_secs(60)).to_string();
    let none = house.client().audit(&AuditFilter { since: Some(later), ..filter() }).await.unwrap();
    assert_eq!(none, AuditList { items: Vec::new(), next_cursor: None });
}

async fn exported(house: &House, query: &str) -> Vec<AuditRecord> {
    let response = house.request(Method::GET, &format!("{AUDIT}?format=jsonl{query}")).send().await.unwrap();
    assert_eq!((response.status(), &response.headers()["content-type"]), (StatusCode::OK, &"application/jsonl".parse().unwrap()));
    response.text().await.unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn an_export_has_everything_oldest_first_over_many_pages() {
    let house = House::start().await;
    assert_eq!(exported(&house, "").await, []);
    let all = fill(&house, 3210).await;
    assert!(exported(&house, "").await == all);
    let refused: Vec<_> = all.iter().filter(|record| is_refusal(record)).cloned().collect();
    assert!(exported(&house, "&outcome=refused").await == refused);
}

#[tokio::test]
async fn the_audit_trail_is_kept_by_the_broker_over_its_absence() {
    let mut server = NatsServer::start().await;
    let config = jetstream::Config { url: server.url(), ..jetstream::Config::default() };
    let store = jetstream::connect(&config).await.unwrap();
    let house = House::on(store, |_| {}).await;
    let all = fill(&house, 1500).await;
    server.kill();
    house.until("it is noticed", async || house.bare(Method::GET, "/readyz").send().await.unwrap().status() == 503).await;
    // Refused while the broker is away: answered at once, written when it is back.
    let asked = Instant::now();
    let refused = house.bare(Method::POST, "/api/v1/jobs").send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert!(asked.elapsed() < Duration::from_secs(10));
    server.restart().await;
    let newest = async || house.store.audit.before(None, 1).await.ok().and_then(|page| page.items.into_iter().next());
    house.until("it is written", async || newest().await.is_some_and(|stored| stored.record.status == Some(401))).await;
    let mut ids: Vec<_> = exported(&house, "").await.into_iter().map(|record| record.id).collect();
    assert_eq!(ids.len(), all.len() + 1, "each once");
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all.len() + 1);
    assert_eq!(pages(&house, AuditFilter { limit: Some(700), ..AuditFilter::default() }).await.len(), all.len() + 1);
}

/// A trail that takes nothing and never says so.
struct Silent;

#[async_trait]
impl Audit for Silent {
    async fn append(&self, _: &[AuditRecord]) -> Result<(), Error> {
        std::future::pending().await
    }

    async fn before(&self, _: Option<Revision>, _: usize) -> Result<AuditPage, Error> {
        std::future::pending().await
    }

    async fn after(&self, _: Revision, _: usize) -> Result<AuditPage, Error> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn an_audit_trail_that_does_not_answer_delays_no_call_and_the_end_only_so_long() {
    let store = Store { audit: Arc::new(Silent), ..memory::open(memory::MemoryOptions::default()) };
    let house = House::on(store, |_| {}).await;
    let _agent = house.agent(1, "web-01").await;
    let calls = async {
        for _ in 0..300 {
            house.submit(json!({})).await;
            assert_eq!(house.bare(Method::POST, "/api/v1/jobs").send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
        }
    };
    tokio::time::timeout(Duration::from_secs(120), calls).await.expect("no call waits for the trail");
    // What is waited for from here on is time only.
    tokio::time::pause();
    house.drain.cancel();
    house.ended().await;
}

#[tokio::test]
async fn what_waits_is_written_before_the_controller_has_ended() {
    let house = House::start().await;
    let store = house.store.clone();
    for _ in 0..500 {
        house.request(Method::DELETE, "/api/v1/jobs/x").send().await.unwrap();
    }
    house.drain.cancel();
    house.ended().await;
    assert_eq!(store.audit.after(0, 1000).await.unwrap().items.len(), 500);
}

#[tokio::test]
async fn a_refused_submission_says_what_was_to_be_done_and_by_whom() {
    let (house, _agent) = House::with_agent().await;
    let reader = house.token(&["read"]);
    let ours = json!({"operation": "command.exec", "args": {"command": ["true"]}, "target": "web-01"});
    let earlier = json!({"operation": {"type": "command.exec.execute", "data": {"command": "true"}}, "target_hostname": "web-01"});
    let door = json!({"command": ["true"]});
    for (path, body) in [("/api/v1/jobs", ours), ("/job", earlier), ("/api/v1/nodes/web-01/command/exec", door)] {
        let refused = house.bare(Method::POST, path).bearer_auth(&reader).json(&body).send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{path}");
    }
    // What is neither an operation nor a target could be anything, such as a secret in the wrong place.
    let odd = json!({"operation": MARKER, "target": "web-01"});
    assert_eq!(house.request(Method::POST, "/api/v1/jobs").json(&odd).send().await.unwrap().status(), StatusCode::UNPROCESSABLE_ENTITY);
    let odd = json!({"operation": "node.hostname.get", "target": format!("../{MARKER}")});
    assert_eq!(house.request(Method::POST, "/api/v1/jobs").json(&odd).send().await.unwrap().status(), StatusCode::UNPROCESSABLE_ENTITY);
    let records = trail(&house, 5).await;
    for record in &records[..3] {
        let said = (record.operation.as_deref(), &record.targets[..], record.reason.as_deref());
        assert_eq!(
            said,
            (Some("command.exec"), &["web-01".to_owned()][..], Some("the token does not grant command:execute")),
            "{record:?}"
        );
    }
    assert_eq!((&records[3].operation, &records[4].operation), (&None, &Some("node.hostname.get".to_owned())));
    assert!(!serde_json::to_string(&records).unwrap().contains(MARKER));
}

#[tokio::test]
async fn a_flood_of_calls_without_a_token_is_counted_and_drives_nothing_out_of_the_trail() {
    let server = NatsServer::start().await;
    // So small that the flood, recorded one by one, would have driven out what was there before.
    let audit = jetstream::Stream { max_bytes: 256 * 1024, ..jetstream::Config::default().audit };
    let store = jetstream::connect(&jetstream::Config { url: server.url(), audit, ..jetstream::Config::default() }).await.unwrap();
    let house = House::on(store.clone(), |_| {}).await;
    let _agent = house.agent(1, "web-01").await;
    let job = house.submit(json!({})).await.id;
    const N_CALLERS: usize = 8;
    const N_CALLS: usize = 400;
    let began = Instant::now();
    let calls = (0..N_CALLERS).map(async |caller| {
        for n in 0..N_CALLS {
            let request = match n % 4 {
                0 => house.bare(Method::GET, "/api/v1/jobs"),
                1 => house.bare(Method::POST, "/api/v1/jobs").json(&json!({"operation": "command.exec"})),
                2 => house.bare(Method::DELETE, &format!("/api/v1/jobs/{job}")).bearer_auth("x.y.z"),
                _ => house.bare(Method::POST, &format!("/api/v1/nothing/{caller}")),
            };
            assert!(request.send().await.unwrap().status().is_client_error());
        }
    });
    futures::future::join_all(calls).await;
    let took = began.elapsed();
    // Somebody with a token is recorded as ever, meanwhile and afterwards.
    assert_eq!(house.request(Method::POST, &format!("/api/v1/jobs/{job}/cancel")).send().await.unwrap().status(), StatusCode::OK);
    let read = async || store.audit.after(0, 1000).await.unwrap().items.into_iter().map(|stored| stored.record).collect::<Vec<_>>();
    house.until("the cancel is told", async || read().await.iter().any(|record| record.path.ends_with("/cancel"))).await;
    let of_nobody = |records: &[AuditRecord]| records.iter().filter(|record| record.who.is_none()).cloned().collect::<Vec<_>>();
    assert!(of_nobody(&read().await).len() <= 2 * (AUDIT_STRANGERS_EACH_MAX + 1), "a test may last over the end of a minute");
    house.drain.cancel();
    house.ended().await;
    let records = read().await;
    assert_eq!(records.iter().filter(|record| record.who.as_deref() == Some("ada")).count(), 2, "the submission and the cancel");
    let counted: u64 = of_nobody(&records).iter().map(|record| record.more + 1).sum();
    assert_eq!(counted, (N_CALLERS * N_CALLS) as u64, "each call is told of, by itself or in a count; they took {took:?}");
    assert!(of_nobody(&records).last().unwrap().more > 1000);
}

#[tokio::test]
async fn a_call_whose_caller_hangs_up_is_recorded_without_a_status() {
    let (house, _agent) = House::with_agent().await;
    let body = json!({"operation": "node.hostname.get"});
    let waiting = house.request(Method::POST, "/api/v1/jobs?wait=60s").json(&body).send();
    assert!(tokio::time::timeout(Duration::from_millis(300), waiting).await.is_err());
    let records = trail(&house, 1).await;
    assert_eq!((records[0].who.as_deref(), &*records[0].path, records[0].status), (Some("ada"), "/api/v1/jobs", None));
}

#[tokio::test]
async fn a_door_that_is_read_from_makes_a_job_and_leaves_a_record_like_every_submission() {
    let (house, agent) = House::with_agent().await;
    let path = "/api/v1/nodes/web-01/uptime";
    let waiting = house.request(Method::GET, &format!("{path}?wait=1ms")).send().await.unwrap();
    assert_eq!(waiting.status(), StatusCode::ACCEPTED);
    let job = waiting.json::<serde_json::Value>().await.unwrap()["job_id"].clone();
    let hung_up = house.request(Method::GET, &format!("{path}?wait=60s")).send();
    assert!(tokio::time::timeout(Duration::from_millis(300), hung_up).await.is_err());
    let unknown = house.request(Method::GET, "/api/v1/nodes/web-99/uptime").send().await.unwrap();
    assert_eq!(problem(unknown).await.code, ErrorCode::NoAgent);
    let malformed = house.request(Method::GET, &format!("{path}?colour=red")).send().await.unwrap();
    assert_eq!(malformed.status(), StatusCode::BAD_REQUEST);
    let head = house.request(Method::HEAD, path).send().await.unwrap();
    assert_eq!(head.status(), StatusCode::METHOD_NOT_ALLOWED);

    let records = trail(&house, 4).await;
    let said: Vec<_> = records.iter().map(|record| (record.status, record.targets.join(","))).collect();
    let to = |host: &str| host.to_owned();
    assert_eq!(said, [(Some(202), to("web-01")), (None, to("web-01")), (Some(409), to("web-99")), (Some(400), to("web-01"))]);
    for record in &records {
        assert_eq!((record.who.as_deref(), record.operation.as_deref(), &*record.method), (Some("ada"), Some("node.uptime.get"), "GET"));
    }
    assert_eq!(serde_json::json!(records[0].job), job);
    drop(agent);
}
