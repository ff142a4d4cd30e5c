//! Who may attach, under which words, and what the fleet sees of it.

use std::time::Duration;

use jiff::Timestamp;
use longshore_controller::token::{self, Grant};
use longshore_store::memory;
use serde_json::{Value, json};

use super::raw::{Closed, RawWorker};
use crate::support::House;

#[tokio::test]
async fn a_worker_attaches_in_the_sequence_of_the_existing_one_and_is_an_agent() {
    let house = House::start().await;
    let mut worker = RawWorker::dial(&house, "w-1").await;
    let id = worker.handshake(&house.attach_token(), "edge-01").await;
    let ack = worker.next().await;
    assert_eq!((&ack["type"], &ack["ack"]["for"], &ack["payload"]["for"]), (&json!("control.ack"), &json!(id), &json!(id)));
    let id = worker.register(&["group:web.dev", "no label"]).await;
    worker.acked(&id).await;
    let accept = worker.next().await;
    assert_eq!((&accept["type"], &accept["payload"]["resumed"]), (&json!("control.session.accept"), &json!(false)));
    assert_eq!(accept["payload"]["worker_instance_id"], "w-1");
    house.knows("edge-01", "ready").await;
    let agents = house.get("/api/v1/agents").await;
    let agent = &agents["items"][0];
    assert_eq!((&agent["labels"], &agent["max_jobs"], &agent["version"]), (&json!(["group:web.dev"]), &json!(4), &json!("0.1.0")));
    assert_eq!((&agent["worker"]["instance"], &agent["worker"]["name"]), (&json!("w-1"), &json!("worker-local")));
    let packages =
        json!([{"name": "example.pkg", "version": "1.0.0"}, {"name": "example.pkg", "version": "1.10.0", "nodes": ["example.echo"]}]);
    assert_eq!(agent["worker"]["packages"], packages);
}

async fn refusal(house: &House, greet: impl AsyncFnOnce(&mut RawWorker)) -> (String, Closed) {
    let mut worker = RawWorker::dial(house, "w-1").await;
    greet(&mut worker).await;
    let reset = worker.next().await;
    assert_eq!(reset["type"], "control.reset", "{reset}");
    (reset["payload"]["code"].as_str().unwrap().to_owned(), worker.closed().await)
}

fn handshake(auth: Value) -> Value {
    json!({"protocol": 1, "auth": auth, "worker": {"worker_name": "w", "worker_instance_id": "w-1", "version": "0.1.0", "hostname": "edge-01"}})
}

#[tokio::test]
async fn who_may_not_attach_is_told_why_by_a_reset_and_closed_with_1011() {
    let house = House::start().await;
    let sign = |grant: Grant, at: Timestamp| token::issue(&house.key, &grant, at);
    let attach = || Some(vec!["agent:attach".to_owned()]);
    let admin = || Grant { permissions: attach(), ..Grant::new("w", &["admin"]) };
    let expired = sign(Grant { lifetime: Some(Duration::from_secs(1)), ..admin() }, Timestamp::UNIX_EPOCH);
    let weak = sign(Grant::new("w", &["write"]), Timestamp::now());
    let elsewhere = sign(Grant { targets: Some(vec!["edge-02".to_owned()]), ..admin() }, Timestamp::now());
    let foreign = token::issue(&longshore_controller::SigningKey::new(vec![1; 32]), &admin(), Timestamp::now());
    let rows = [
        (json!({"mode": "token"}), "E.AUTH.MISSING_TOKEN"),
        (json!({"mode": "token", "token": ""}), "E.AUTH.MISSING_TOKEN"),
        (json!({"mode": "token", "token": "nonsense"}), "E.AUTH.INVALID_TOKEN"),
        (json!({"mode": "token", "token": expired}), "E.AUTH.INVALID_TOKEN"),
        (json!({"mode": "token", "token": weak}), "E.AUTH.INVALID_TOKEN"),
        (json!({"mode": "token", "token": elsewhere}), "E.AUTH.INVALID_TOKEN"),
        (json!({"mode": "token", "token": foreign}), "E.AUTH.INVALID_TOKEN"),
        (json!({"mode": "mtls"}), "E.AUTH.MTLS_REQUIRED"),
        (json!({"mode": "mtls", "fingerprint": "aa:bb"}), "E.AUTH.MODE_UNSUPPORTED"),
    ];
    for (auth, expected) in rows {
        let (code, closed) =
            refusal(&house, async |worker: &mut RawWorker| drop(worker.ask("control.handshake", handshake(auth.clone())).await)).await;
        assert_eq!((code.as_str(), closed.code), (expected, Some(1011)), "{auth}");
        assert!(!closed.reason.is_empty(), "{auth}");
    }
    let (code, _) = refusal(&house, async |worker: &mut RawWorker| drop(worker.register(&[]).await)).await;
    assert_eq!(code, "E.AUTH.HANDSHAKE_REQUIRED");
    let token = house.attach_token();
    let other_tenant = async |worker: &mut RawWorker| {
        worker.tenant = "other".to_owned();
        drop(worker.handshake(&token, "edge-01").await);
    };
    assert_eq!(refusal(&house, other_tenant).await.0, "E.SESSION.TENANT_MISMATCH");
    let other_instance = async |worker: &mut RawWorker| {
        worker.instance = "w-2".to_owned();
        drop(worker.ask("control.handshake", handshake(json!({"mode": "token", "token": token}))).await);
    };
    assert_eq!(refusal(&house, other_instance).await.0, "E.SESSION.MISMATCH");
    assert_eq!(house.get("/api/v1/agents").await["items"], json!([]), "nobody came in");
}

#[tokio::test]
async fn a_token_for_one_host_does_not_take_over_the_worker_of_another() {
    let house = House::start().await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let grant = Grant {
        permissions: Some(vec!["agent:attach".to_owned()]),
        targets: Some(vec!["edge-02".to_owned()]),
        ..Grant::new("w", &["admin"])
    };
    let token = token::issue(&house.key, &grant, Timestamp::now());
    let mut thief = RawWorker::dial(&house, "w-1").await;
    thief.handshake(&token, "edge-02").await;
    let reset = thief.next().await;
    assert_eq!(reset["payload"]["code"], "E.AUTH.INVALID_TOKEN", "{reset}");
    // Its own is its own.
    let mut own = RawWorker::dial(&house, "w-2").await;
    own.attach(&token, "edge-02").await;
    let id = house.run_package("edge-01", json!({})).await;
    let dispatch = worker.dispatched().await;
    worker.finish(&dispatch, "SUCCEEDED", json!({})).await;
    house.ends_as(id, "completed").await;
}

#[tokio::test]
async fn a_worker_belongs_to_no_group_that_its_token_does_not_name() {
    let house = House::start().await;
    let rows: [(&[&str], Value); 4] = [
        (&["edge-01"], json!([])),
        (&["edge-01", "group:web"], json!(["group:web.dev"])),
        (&["edge-01", "_any@group:prod", "group:web.dev.us"], json!(["group:prod"])),
        (&["_all"], json!(["group:prod", "group:web.dev"])),
    ];
    for (targets, expected) in rows {
        let grant = Grant {
            permissions: Some(vec!["agent:attach".to_owned()]),
            targets: Some(targets.iter().map(|target| (*target).to_owned()).collect()),
            ..Grant::new("w", &["admin"])
        };
        let token = token::issue(&house.key, &grant, Timestamp::now());
        let mut worker = RawWorker::dial(&house, "w-1").await;
        worker.attach_with(&token, "edge-01", &["group:web.dev", "group:prod"]).await;
        house
            .until(&format!("the groups of {targets:?}"), async || {
                let labels = &house.get("/api/v1/agents").await["items"][0]["labels"];
                *labels == expected || (labels.is_null() && expected == json!([]))
            })
            .await;
    }
}

#[tokio::test]
async fn the_workers_of_another_tenant_are_refused() {
    let house = House::on(memory::open(memory::MemoryOptions::default()), |config| config.gateway.tenant = "other".to_owned()).await;
    let token = house.attach_token();
    let mut worker = RawWorker::dial(&house, "w-1").await;
    worker.handshake(&token, "edge-01").await;
    assert_eq!(worker.next().await["payload"]["code"], "E.SESSION.TENANT_MISMATCH");
    let mut worker = RawWorker::dial(&house, "w-1").await;
    worker.tenant = "other".to_owned();
    worker.attach(&token, "edge-01").await;
    house.knows("edge-01", "ready").await;
}

fn resume(accept: &Value) -> Value {
    json!({"session_id": accept["session_id"], "session_token": accept["session_token"], "last_seen_seq": 0})
}

#[tokio::test]
async fn a_session_is_resumed_after_a_cut_with_its_token_and_by_nobody_else() {
    let house = House::start().await;
    let mut worker = RawWorker::dial(&house, "w-1").await;
    let accept = worker.attach(&house.attach_token(), "edge-01").await;
    worker.cut();
    let rows = [
        (json!({"session_id": accept["session_id"], "session_token": "x.y"}), "w-1", "E.SESSION.INVALID_TOKEN"),
        (json!({"session_id": "other", "session_token": accept["session_token"]}), "w-1", "E.SESSION.INVALID_TOKEN"),
        (resume(&accept), "w-2", "E.SESSION.INVALID_TOKEN"),
    ];
    for (payload, instance, expected) in rows {
        let greet = async |worker: &mut RawWorker| {
            worker.instance = instance.to_owned();
            drop(worker.ask("control.resume", payload.clone()).await);
        };
        assert_eq!(refusal(&house, greet).await.0, expected, "{payload}");
    }
    let mut again = RawWorker::dial(&house, "w-1").await;
    let id = again.ask("control.resume", resume(&accept)).await;
    again.acked(&id).await;
    let accepted = again.next().await["payload"].clone();
    assert_eq!((&accepted["resumed"], &accepted["session_id"]), (&json!(true), &accept["session_id"]));
    let id = house.run_package("edge-01", json!({})).await;
    let dispatch = again.dispatched().await;
    again.finish(&dispatch, "SUCCEEDED", json!({"n": 1})).await;
    house.ends_as(id, "completed").await;
}

#[tokio::test]
async fn a_session_that_a_controller_does_not_have_is_refused_so_that_its_worker_shakes_hands_anew() {
    let house = House::start().await;
    let mut worker = RawWorker::dial(&house, "w-1").await;
    let accept = worker.attach(&house.attach_token(), "edge-01").await;
    let house = House::on(house.kill(), |_| {}).await;
    let (code, closed) = refusal(&house, async |worker: &mut RawWorker| drop(worker.ask("control.resume", resume(&accept)).await)).await;
    assert_eq!((code.as_str(), closed.code), ("E.SESSION.UNKNOWN", Some(1011)));
    house.worker("w-1", "edge-01").await;
}

#[tokio::test]
async fn a_newer_connection_of_the_same_worker_closes_the_earlier_one() {
    let house = House::start().await;
    let mut first = house.worker("w-1", "edge-01").await;
    let mut second = house.worker("w-1", "edge-01").await;
    assert_eq!(first.closed().await, Closed { code: Some(1011), reason: "superseded session".to_owned() });
    let id = house.run_package("edge-01", json!({})).await;
    let dispatch = second.dispatched().await;
    second.finish(&dispatch, "SUCCEEDED", json!({})).await;
    house.ends_as(id, "completed").await;
}

#[tokio::test]
async fn workers_that_take_one_instance_from_each_other_are_told_of() {
    let house = House::start().await;
    let mut last = house.worker("w-1", "edge-01").await;
    let contested = async || !house.get("/api/v1/agents").await["items"][0]["worker"]["contested_since"].is_null();
    for _ in 0..3 {
        assert!(!contested().await);
        let next = house.worker("w-1", "edge-01").await;
        last.closed().await;
        last = next;
    }
    house.until("it is told", contested).await;
    // From here on it goes back and forth only so often.
    let mut next = RawWorker::dial(&house, "w-1").await;
    next.handshake(&house.attach_token(), "edge-01").await;
    let reset = next.next().await;
    assert_eq!(reset["payload"]["code"], "E.SESSION.DENIED", "{reset}");
    let wait = reset["payload"]["retry_after_ms"].as_u64().unwrap();
    assert!((1..=10_000).contains(&wait), "{reset}");
    let id = house.run_package("edge-01", json!({})).await;
    let dispatch = last.dispatched().await;
    last.finish(&dispatch, "SUCCEEDED", json!({})).await;
    house.ends_as(id, "completed").await;
}

#[tokio::test]
async fn a_worker_that_says_nothing_any_more_is_lost_and_back_when_it_attaches_again() {
    let options = memory::MemoryOptions { registry_ttl: Duration::from_millis(400), ..memory::MemoryOptions::default() };
    let house = House::on(memory::open(options), |config| {
        config.gateway.beat_every = Duration::from_millis(100);
        config.gateway.silence_max = Duration::from_millis(500);
    })
    .await;
    let mut worker = house.worker("w-1", "edge-01").await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        worker.heartbeat(0).await;
    }
    house.knows("edge-01", "ready").await;
    // Its socket stays open, and nothing is heard.
    house.knows("edge-01", "offline").await;
    assert_eq!(house.get("/api/v1/status").await["alarms"][0]["hostname"], "edge-01");
    house.worker("w-1", "edge-01").await;
    assert_eq!(house.get("/api/v1/status").await["alarms"], json!([]));
}

#[tokio::test]
async fn who_attached_a_worker_and_who_was_refused_is_in_the_audit_trail() {
    let house = House::start().await;
    let _worker = house.worker("w-1", "edge-01").await;
    let auth = json!({"mode": "token", "token": "nonsense"});
    refusal(&house, async |worker: &mut RawWorker| drop(worker.ask("control.handshake", handshake(auth)).await)).await;
    house
        .until("both are recorded", async || {
            let records = house.get("/api/v1/audit").await;
            let ends = records["items"].as_array().unwrap().iter().filter(|record| record["method"] == "ATTACH");
            let ends: Vec<_> = ends.map(|record| (record["who"].clone(), record["targets"].clone(), record["status"].clone())).collect();
            ends.contains(&(json!("workers"), json!(["edge-01"]), json!(101))) && ends.iter().any(|end| end.2 == 401)
        })
        .await;
}

#[tokio::test]
async fn a_gateway_that_is_off_takes_nobody() {
    let house = House::on(super::work::memory(), |config| config.gateway.is_on = false).await;
    let refused = RawWorker::try_dial(&house, "w-1").await.err().expect("nobody is let in");
    assert!(refused.to_string().contains("404"), "{refused}");
    let response = house.bare(reqwest::Method::GET, "/ws/worker").send().await.unwrap();
    assert!(response.text().await.unwrap().contains("controller.gateway.enabled"));
}

#[tokio::test]
async fn who_finds_no_room_is_told_when_to_come_back() {
    let house = House::on(super::work::memory(), |config| config.gateway.workers_max = 1).await;
    let _first = house.worker("w-1", "edge-01").await;
    let mut second = RawWorker::dial(&house, "w-2").await;
    second.handshake(&house.attach_token(), "edge-02").await;
    let reset = second.next().await;
    assert_eq!((&reset["payload"]["code"], &reset["payload"]["retry_after_ms"]), (&json!("E.SESSION.DENIED"), &json!(30_000)), "{reset}");
    // Who has a place may come again.
    house.worker("w-1", "edge-01").await;
}

#[tokio::test]
async fn the_session_of_a_worker_that_stays_away_is_forgotten() {
    let house = House::on(super::work::memory(), |config| config.gateway.detached_max = Duration::from_millis(100)).await;
    let mut worker = RawWorker::dial(&house, "w-1").await;
    let accept = worker.attach(&house.attach_token(), "edge-01").await;
    worker.cut();
    house
        .until("it is forgotten", async || {
            let shown = house.request(reqwest::Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
            shown.contains("longshore_attached_workers 0")
        })
        .await;
    let (code, _) = refusal(&house, async |worker: &mut RawWorker| drop(worker.ask("control.resume", resume(&accept)).await)).await;
    assert_eq!(code, "E.SESSION.UNKNOWN");
    house.worker("w-1", "edge-01").await;
}

#[tokio::test]
async fn a_session_that_is_too_old_begins_with_a_handshake() {
    let house = House::on(super::work::memory(), |config| config.gateway.session_lifetime = Duration::ZERO).await;
    let mut worker = RawWorker::dial(&house, "w-1").await;
    let accept = worker.attach(&house.attach_token(), "edge-01").await;
    let (code, _) = refusal(&house, async |worker: &mut RawWorker| drop(worker.ask("control.resume", resume(&accept)).await)).await;
    assert_eq!(code, "E.SESSION.INVALID_TOKEN");
    house.worker("w-1", "edge-01").await;
}

#[tokio::test]
async fn a_frame_larger_than_the_gateway_takes_ends_the_connection_alone() {
    let house = House::on(super::work::memory(), |config| config.gateway.frame_bytes_max = 128 << 10).await;
    let mut worker = RawWorker::dial(&house, "w-1").await;
    let accept = worker.attach(&house.attach_token(), "edge-01").await;
    let fits = worker.envelope("ext.vendor.words", json!({"text": "x".repeat(100 << 10)}));
    worker.send(&fits).await;
    house.knows("edge-01", "ready").await;
    let large = worker.envelope("ext.vendor.words", json!({"text": "x".repeat(200 << 10)}));
    worker.try_send(tokio_tungstenite::tungstenite::Message::text(large.to_string())).await;
    worker.closed().await;
    let mut again = RawWorker::dial(&house, "w-1").await;
    let id = again.ask("control.resume", resume(&accept)).await;
    again.acked(&id).await;
    assert_eq!(again.until("control.session.accept").await["payload"]["resumed"], true);
}
