//! Frames and connections that nobody sends in good faith.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use super::raw::RawWorker;
use super::work::memory;
use crate::support::House;

#[tokio::test]
async fn who_was_not_let_in_has_little_time_and_says_little() {
    let house = House::on(memory(), |config| config.gateway.greeting_within = Duration::from_millis(300)).await;
    // Nothing at all.
    let mut silent = RawWorker::dial(&house, "w-1").await;
    assert_eq!(silent.closed().await.code, Some(1011));
    // More than a greeting has, in one frame or in many.
    for size in [100 << 10, 15 << 20] {
        let mut large = RawWorker::dial(&house, "w-1").await;
        large.try_send(Message::text("x".repeat(size))).await;
        large.closed().await;
    }
    let mut pings = RawWorker::dial(&house, "w-1").await;
    while pings.try_send(Message::Ping(vec![0; 100].into())).await {}
    // What is no text, and what is no greeting.
    let mut binary = RawWorker::dial(&house, "w-1").await;
    binary.try_send(Message::Binary(vec![0; 10].into())).await;
    assert_eq!(binary.closed().await.code, Some(1011));
    for text in ["", "{}", "[", &"[".repeat(20_000), "null", r#"{"type":"control.handshake"}"#] {
        let mut worker = RawWorker::dial(&house, "w-1").await;
        worker.send_text((*text).to_owned()).await;
        let reset = worker.next().await;
        assert_eq!(reset["payload"]["code"], "E.SESSION.PROTOCOL", "{reset}");
        assert_eq!(worker.closed().await.code, Some(1011));
    }
    house.worker("w-1", "edge-01").await;
}

#[tokio::test]
async fn connections_that_wait_to_be_let_in_are_few_and_keep_no_attached_worker_from_its_work() {
    let house = House::on(memory(), |config| config.gateway.greeting_within = Duration::from_secs(3)).await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let mut waiting = Vec::new();
    let refused = loop {
        match RawWorker::try_dial(&house, "w-2").await {
            Ok(stranger) => waiting.push(stranger),
            Err(error) => break error,
        }
    };
    assert!(refused.to_string().contains("503"), "{refused}");
    assert_eq!(waiting.len(), 64);
    let id = house.run_package("edge-01", json!({})).await;
    let dispatch = worker.dispatched().await;
    worker.finish(&dispatch, "SUCCEEDED", json!({})).await;
    house.ends_as(id, "completed").await;
    drop(waiting);
    house.until("there is room again", async || RawWorker::try_dial(&house, "w-2").await.is_ok()).await;
}

#[tokio::test]
async fn a_request_that_asks_for_no_websocket_is_told_so() {
    let house = House::start().await;
    let response = house.bare(reqwest::Method::GET, "/ws/worker").send().await.unwrap();
    assert_eq!(response.status(), 400);
    assert_eq!(response.json::<Value>().await.unwrap()["code"], "bad_request");
    assert_eq!(house.bare(reqwest::Method::POST, "/ws/worker").send().await.unwrap().status(), 405);
    // An upgrade that is asked for and then not used.
    let mut stream = TcpStream::connect(house.address()).await.unwrap();
    let head = "GET /ws/worker HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await.expect("it is cut off").unwrap();
}

/// A connection that asked for an upgrade with these headers beside the usual ones, and the head of the answer.
async fn upgraded(house: &House, more: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(house.address()).await.unwrap();
    let head = format!(
        "GET /ws/worker HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    );
    // A refusal may come before everything was said.
    let _not_all_is_read = stream.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match tokio::time::timeout(Duration::from_secs(20), stream.read(&mut byte)).await.expect("it answers") {
            Ok(1) => answer.push(byte[0]),
            _ => break,
        }
    }
    (stream, String::from_utf8(answer).unwrap())
}

#[tokio::test]
async fn nothing_is_compressed_and_frames_with_what_was_not_agreed_end_the_connection() {
    let house = House::on(memory(), |config| config.gateway.greeting_within = Duration::from_secs(60)).await;
    let masked = |first: u8| [&[first, 0x80 | 2, 0, 0, 0, 0][..], b"{}"].concat();
    // Text with each of the reserved bits, an opcode that is none, a frame that is not masked, and the continuation of nothing.
    for frame in [masked(0xc1), masked(0xa1), masked(0x91), masked(0x83), [&[0x81, 2][..], b"{}"].concat(), masked(0x80)] {
        let (mut stream, answer) = upgraded(&house, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        assert!(!answer.to_lowercase().contains("sec-websocket-extensions"), "{answer}");
        stream.write_all(&frame).await.unwrap();
        let mut rest = Vec::new();
        let _reset_is_an_end_too =
            tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await.expect("it is cut off");
    }
    house.worker("w-1", "edge-01").await;
}

#[tokio::test]
async fn a_flood_of_headers_at_the_upgrade_is_refused() {
    let house = House::start().await;
    for more in [(0..5_000).map(|n| format!("X-{n}: x\r\n")).collect::<String>(), format!("X: {}\r\n", "x".repeat(1 << 20))] {
        let (_stream, answer) = upgraded(&house, &more).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    house.worker("w-1", "edge-01").await;
}

#[tokio::test]
async fn a_worker_tells_nothing_of_tasks_that_it_was_not_handed() {
    let house = House::start().await;
    let mut own = house.worker("w-1", "edge-01").await;
    let mut other = house.worker("w-2", "edge-02").await;
    let id = house.run_package("edge-01", json!({})).await;
    let dispatch = own.dispatched().await;
    let task = &dispatch["payload"];
    let tell = async |worker: &mut RawWorker, text: &str| {
        let chunks = json!([{"channel": "stdout", "index": 0, "text": text}]);
        let payload = json!({"run_id": task["run_id"], "task_id": task["task_id"], "chunks": chunks});
        let frame = worker.numbered("biz.exec.feedback", payload, &dispatch);
        worker.say(&frame).await;
    };
    tell(&mut other, "of another\n").await;
    tell(&mut own, "its own\n").await;
    own.finish(&dispatch, "SUCCEEDED", json!({})).await;
    house.ends_as(id, "completed").await;
    let log = house.request(reqwest::Method::GET, &format!("/api/v1/jobs/{id}/logs")).send().await.unwrap().text().await.unwrap();
    assert!(log.contains("its own") && !log.contains("of another"), "{log}");
}

#[tokio::test]
async fn a_frame_that_is_none_ends_the_connection_and_the_session_goes_on() {
    let house = House::start().await;
    let mut worker = RawWorker::dial(&house, "w-1").await;
    let mut accept = worker.attach(&house.attach_token(), "edge-01").await;
    house.knows("edge-01", "ready").await;
    let heartbeat = |worker: &mut RawWorker| worker.envelope("control.heartbeat", json!({"healthy": true, "metrics": {"inflight": 0}}));
    let with = |mut frame: Value, field: &str, value: Value| {
        frame[field] = value;
        frame.to_string()
    };
    let deep = (0..200).fold(json!({}), |inner, _| json!({"in": inner}));
    for n in 0..9 {
        let frame = heartbeat(&mut worker);
        let text = match n {
            0 => "not JSON".to_owned(),
            1 => with(frame, "more", json!(1)),
            2 => with(frame, "session_seq", json!("1")),
            3 => with(frame, "tenant", json!("other")),
            4 => with(frame, "sender", json!({"role": "worker", "id": "w-2"})),
            5 => with(frame, "payload", json!({"healthy": "yes", "metrics": {}})),
            6 => with(frame, "payload", deep.clone()),
            7 => with(frame, "type", json!("")),
            _ => "x".repeat((16 << 20) + 1),
        };
        worker.try_send(Message::text(text)).await;
        worker.closed().await;
        let mut again = RawWorker::dial(&house, "w-1").await;
        let resume = json!({"session_id": accept["session_id"], "session_token": accept["session_token"]});
        let id = again.ask("control.resume", resume).await;
        again.acked(&id).await;
        accept = again.until("control.session.accept").await["payload"].clone();
        assert_eq!(accept["resumed"], true, "row {n}");
        worker = again;
    }
    let id = house.run_package("edge-01", json!({})).await;
    let dispatch = worker.dispatched().await;
    worker.finish(&dispatch, "SUCCEEDED", json!({})).await;
    house.ends_as(id, "completed").await;
}

#[tokio::test]
async fn a_flood_of_one_worker_costs_the_others_nothing() {
    let house = House::start().await;
    let mut loud = house.worker("w-1", "edge-01").await;
    let mut quiet = house.worker("w-2", "edge-02").await;
    let mut flood = tokio::task::JoinSet::new();
    flood.spawn(async move {
        // Heartbeats, updates, unknown kinds, numbers beyond the window, results of nobody; until it is told that it does not read.
        for n in 0_u64.. {
            let mut frame = match n % 4 {
                0 => loud.envelope("control.heartbeat", json!({"healthy": true, "metrics": {"inflight": n}})),
                1 => loud.envelope("ext.vendor.flood", json!({"n": n})),
                2 => loud.envelope("biz.exec.result", json!({"run_id": "x", "task_id": "y", "status": "SUCCEEDED", "result": {}})),
                _ => loud.envelope("biz.exec.feedback", json!({"run_id": "x", "task_id": "y"})),
            };
            if n % 4 > 0 {
                frame["session_seq"] = json!(n * 1000);
                frame["ack"] = json!({"request": true});
            }
            if !loud.try_send(Message::text(frame.to_string())).await {
                return;
            }
        }
    });
    for _ in 0..20 {
        let id = house.run_package("edge-02", json!({})).await;
        let dispatch = quiet.dispatched().await;
        quiet.finish(&dispatch, "SUCCEEDED", json!({})).await;
        house.ends_as(id, "completed").await;
    }
    assert!(flood.try_join_next().is_none_or(|ended| ended.is_ok()));
}
