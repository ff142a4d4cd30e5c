//! Every frame of the session as the existing worker and scheduler write it: read, and written again without a difference.

use longshore_session::codec::{decode, encode};
use longshore_session::control::{Control, ControlError};
use longshore_session::{Envelope, Role};
use serde_json::{Value, json};

const MAX: usize = 1 << 20;

fn frame(kind: &str, role: &str, payload: Value) -> Value {
    json!({
        "type": kind, "id": format!("{kind}-0"), "ts": "2025-12-24T10:00:00.123456Z", "tenant": "default",
        "sender": {"role": role, "id": if role == "worker" { "4f0c" } else { "scheduler-control" }}, "payload": payload,
    })
}

fn read(frame: &Value) -> Envelope {
    decode(frame.to_string().as_bytes(), MAX).unwrap_or_else(|error| panic!("{frame}: {error:?}"))
}

/// The frames, as the notes on the existing programs have them.
fn golden() -> Vec<Value> {
    let capabilities = json!({
        "concurrency": {"max_parallel": 1, "per_node_limits": {"echo": 2}}, "runtimes": ["python"], "features": [],
    });
    let mut register = frame(
        "control.register",
        "worker",
        json!({
            "capabilities": capabilities,
            "payload_types": ["biz.exec.dispatch", "biz.exec.result"],
            "packages": [{"name": "example.pkg", "version": "1.0.0", "status": "installed"}],
            "manifests": [{"name": "example.pkg", "version": "1.0.0", "manifest": {"schemaVersion": "1.0.0", "nodes": []}}],
            "channels": [],
        }),
    );
    let mut handshake = frame(
        "control.handshake",
        "worker",
        json!({
            "protocol": 1, "auth": {"mode": "token", "token": "t"},
            "worker": {"worker_name": "worker-local", "worker_instance_id": "4f0c", "version": "0.1.0", "hostname": "h"},
        }),
    );
    let mut resume = frame("control.resume", "worker", json!({"session_id": "s", "session_token": "a.b", "last_seen_seq": 71}));
    for asking in [&mut register, &mut handshake, &mut resume] {
        asking["ack"] = json!({"request": true});
    }
    let mut ack = frame(
        "control.ack",
        "worker",
        json!({"ok": true, "for": "biz.exec.dispatch-17", "ack_seq": 0, "ack_bitmap": 138, "recv_window": 64}),
    );
    (ack["ack"], ack["corr"], ack["seq"]) = (json!({"for": "biz.exec.dispatch-17"}), json!("node"), json!(3));
    vec![
        handshake,
        frame(
            "control.handshake",
            "worker",
            json!({
                "protocol": 1, "auth": {"mode": "mtls", "fingerprint": "ab:cd"},
                "worker": {"worker_name": "w", "version": "0.1.0", "hostname": "h"},
            }),
        ),
        register,
        frame(
            "control.register",
            "worker",
            json!({
                "capabilities": {"concurrency": {"max_parallel": 1}, "runtimes": ["python"], "features": ["x"]},
            }),
        ),
        resume,
        frame(
            "control.session.accept",
            "scheduler",
            json!({
                "session_id": "s", "session_token": "a.b", "worker_instance_id": "4f0c", "expires_at": "2025-12-24T11:00:00Z", "resumed": false,
            }),
        ),
        frame("control.session.accept", "scheduler", json!({"session_id": "s", "session_token": "a.b", "worker_instance_id": "4f0c"})),
        ack,
        frame("control.ack", "scheduler", json!({})),
        frame(
            "control.heartbeat",
            "worker",
            json!({
                "healthy": true, "metrics": {"inflight": 0, "cpu_pct": 1.5, "conn_state": "connected", "last_recv_ms": null}, "packages": {"drift": false},
            }),
        ),
        frame("control.heartbeat", "worker", json!({"healthy": false, "metrics": {"inflight": 3}})),
        frame("control.reset", "scheduler", json!({"code": "E.SESSION.UNKNOWN", "reason": "Unknown session"})),
        frame("control.reset", "scheduler", json!({"code": "x", "reason": "", "retry_after_ms": 5})),
        frame("control.drain", "scheduler", json!({})),
        frame("control.drain", "scheduler", json!({"reason": "update", "deadline_ms": 0})),
    ]
}

#[test]
fn every_frame_of_the_existing_programs_is_read_and_written_alike() {
    for frame in golden() {
        let envelope = read(&frame);
        let control = Control::read(&envelope).unwrap_or_else(|error| panic!("{frame}: {error:?}"));
        assert_eq!((control.kind(), Value::Object(control.payload())), (frame["type"].as_str().unwrap(), frame["payload"].clone()));
        assert_eq!(serde_json::from_str::<Value>(&encode(&envelope, MAX).unwrap()).unwrap(), frame);
    }
}

#[test]
fn what_a_frame_must_not_have_is_refused() {
    for frame in golden() {
        let kind = frame["type"].as_str().unwrap().to_owned();
        let mut more = frame.clone();
        more["payload"]["surprise"] = json!(1);
        assert!(matches!(Control::read(&read(&more)), Err(ControlError::Malformed { .. })), "{kind} takes an unknown field");
        for place in ["", "sender"] {
            let mut more = frame.clone();
            let object = if place.is_empty() { &mut more } else { &mut more[place] };
            object["surprise"] = json!(1);
            assert!(decode(more.to_string().as_bytes(), MAX).is_err(), "an envelope takes an unknown field in {place:?}");
        }
    }
}

#[test]
fn what_a_frame_must_have_is_asked_for() {
    let required = [
        ("control.handshake", vec!["protocol", "auth", "worker"]),
        ("control.register", vec!["capabilities"]),
        ("control.resume", vec!["session_id", "session_token"]),
        ("control.session.accept", vec!["session_id", "session_token", "worker_instance_id"]),
        ("control.heartbeat", vec!["healthy", "metrics"]),
        ("control.reset", vec!["code", "reason"]),
    ];
    for frame in golden() {
        let fields = required.iter().find(|(kind, _)| frame["type"] == *kind).map(|(_, fields)| fields.clone()).unwrap_or_default();
        for field in fields {
            let mut less = frame.clone();
            less["payload"].as_object_mut().unwrap().remove(field);
            assert!(Control::read(&read(&less)).is_err(), "{} without {field}", frame["type"]);
        }
        for field in ["type", "id", "ts", "tenant", "sender", "payload"] {
            let mut less = frame.clone();
            less.as_object_mut().unwrap().remove(field);
            assert!(decode(less.to_string().as_bytes(), MAX).is_err(), "an envelope without {field}");
        }
    }
}

#[test]
fn values_out_of_bounds_are_refused_by_name() {
    let rows = [
        ("control.handshake", "/protocol", json!(0)),
        ("control.register", "/capabilities/concurrency/max_parallel", json!(0)),
        ("control.register", "/capabilities/runtimes", json!([])),
        ("control.ack", "/recv_window", json!(0)),
        ("control.ack", "/ack_seq", json!(-1)),
        ("control.ack", "/ack_bitmap", json!(-1)),
        ("control.ack", "/ack_bitmap", json!("7")),
        ("control.heartbeat", "/metrics/inflight", json!(-1)),
        ("control.drain", "/deadline_ms", json!(-1)),
        ("control.handshake", "/auth/mode", json!("none")),
        ("control.register", "/packages/0/status", json!("gone")),
    ];
    for (kind, place, value) in rows {
        let found = golden().into_iter().find(|frame| frame["type"] == kind && frame["payload"].pointer(place).is_some());
        let mut frame = found.unwrap_or_else(|| panic!("no {kind} with {place}"));
        *frame["payload"].pointer_mut(place).unwrap() = value.clone();
        assert!(Control::read(&read(&frame)).is_err(), "{kind} {place} {value}");
    }
}

#[test]
fn envelopes_are_strict_where_the_existing_ones_are() {
    let good = frame("biz.exec.result", "worker", json!({}));
    let with = |field: &str, value: Value| {
        let mut frame = good.clone();
        frame[field] = value;
        decode(frame.to_string().as_bytes(), MAX)
    };
    for (field, value) in [
        ("ts", json!("2025-12-24T10:00:00+00:00")),
        ("ts", json!("2025-12-24T12:00:00.5+02:00")),
        ("corr", json!(null)),
        ("seq", json!(null)),
        ("session_seq", json!(0)),
        ("ack", json!(null)),
        ("ack", json!({"for": null, "request": null})),
        ("flags", json!(["x"])),
        ("flags", json!(null)),
    ] {
        assert!(with(field, value.clone()).is_ok(), "{field}: {value}");
    }
    for (field, value) in [
        ("ts", json!("2025-12-24T10:00:00")),
        ("ts", json!(1)),
        ("type", json!("")),
        ("id", json!("")),
        ("tenant", json!("")),
        ("sender", json!({"role": "worker", "id": ""})),
        ("sender", json!({"role": "boss", "id": "x"})),
        ("payload", json!([])),
        ("payload", json!(null)),
        ("seq", json!(-1)),
        ("session_seq", json!(1.5)),
        ("session_seq", json!("1")),
        ("ack", json!({"request": 1})),
        ("flags", json!([""])),
        ("flags", json!("x")),
    ] {
        assert!(with(field, value.clone()).is_err(), "{field}: {value}");
    }
    assert_eq!(with("seq", json!(7)).unwrap().sender.role, Role::Worker);
}

#[test]
fn a_bitmap_of_a_larger_window_says_nothing_instead_of_failing() {
    let mut frame = frame("control.ack", "scheduler", json!({"ack_seq": 3, "ack_bitmap": 0, "recv_window": 256}));
    let text = frame.to_string().replace(r#""ack_bitmap":0"#, r#""ack_bitmap":340282366920938463463374607431768211455"#);
    let Control::Ack(ack) = Control::read(&decode(text.as_bytes(), MAX).unwrap()).unwrap() else { panic!("it is an ack") };
    assert_eq!((ack.ack_seq, ack.ack_bitmap), (Some(3), Some(0)));
    frame["payload"]["ack_bitmap"] = json!(u64::MAX);
    let Control::Ack(ack) = Control::read(&read(&frame)).unwrap() else { panic!("it is an ack") };
    assert_eq!(ack.ack_bitmap, Some(u64::MAX));
}

#[test]
fn tokens_and_payloads_are_not_in_debug_output() {
    let frame = &golden()[0];
    let mut secret = frame.clone();
    secret["payload"]["auth"]["token"] = json!("hunter2");
    let envelope = read(&secret);
    let shown = format!("{envelope:?} {:?}", Control::read(&envelope).unwrap());
    assert!(!shown.contains("hunter2"), "{shown}");
}
