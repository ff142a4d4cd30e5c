//! The session at a hostile peer: any lines are the frames of one connection, for both ends. None panics, what is read is written and read alike, and what is held is
//! bounded.
//!
//! `cargo xtask fuzz 600` runs it for ten minutes and keeps what it finds in `fuzz/corpus/session`, which the tests of the session replay.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use longshore_session::codec::{decode, encode};
use longshore_session::control::{Auth, AuthMode, Capabilities, Concurrency, Control, Handshake, Register, Token, Worker as About};
use longshore_session::{
    Admission, Binding, Gateway, GatewayConfig, Greeting, LinkConfig, Message, Now, Output, Payload, Socket, Stats, Worker, WorkerConfig,
};
use serde_json::{Value, json};

const FRAME_BYTES_MAX: usize = 1 << 16;
const QUEUED_MAX: usize = 8;

fuzz_target!(|bytes: &[u8]| {
    for line in bytes.split(|byte| *byte == b'\n') {
        codec(line);
    }
    at_worker(bytes);
    at_gateway(bytes);
});

fn codec(bytes: &[u8]) {
    let _ = Greeting::read(bytes, &LinkConfig::of_gateway("default"));
    let Ok(envelope) = decode(bytes, FRAME_BYTES_MAX) else { return };
    let _ = Control::read(&envelope);
    let text = encode(&envelope, usize::MAX).expect("what was read can be written");
    let again = decode(text.as_bytes(), usize::MAX).expect("what was written can be read");
    // The JSON library may read the shortest form of a float one bit beside it; once it was written, it stays.
    let second = encode(&again, usize::MAX).expect("what was read can be written");
    let third = encode(&decode(second.as_bytes(), usize::MAX).expect("what was written can be read"), usize::MAX);
    assert_eq!(second, third.expect("what was read can be written"));
    assert_eq!(
        (again.id, again.corr, again.seq, again.session_seq, again.ack),
        (envelope.id, envelope.corr, envelope.seq, envelope.session_seq, envelope.ack)
    );
}

fn now(ms: u64) -> Now {
    Now { at: Duration::from_millis(ms), wall: jiff::Timestamp::UNIX_EPOCH }
}

fn link(usual: LinkConfig) -> LinkConfig {
    LinkConfig { frame_bytes_in_max: FRAME_BYTES_MAX, app_frames_max: QUEUED_MAX, window_frames: 8, ..usual }
}

fn check(stats: Stats) {
    assert!(stats.under_way <= 8 && stats.held <= 8 + QUEUED_MAX && stats.app_queue <= 2 * QUEUED_MAX + 8, "{stats:?}");
}

fn control(kind: &str, id: &str, payload: Value, of: Option<&str>) -> Vec<u8> {
    let mut frame = json!({"type": kind, "id": id, "ts": "2025-12-24T10:00:00Z", "tenant": "default",
        "sender": {"role": "scheduler", "id": "s"}, "payload": payload});
    if let Some(of) = of {
        frame["ack"] = json!({"for": of});
    }
    frame.to_string().into_bytes()
}

fn worker_config() -> WorkerConfig {
    let auth = Auth { mode: AuthMode::Token, token: Some(Token("t".to_owned())), fingerprint: None };
    let worker = About {
        worker_name: "w".to_owned(),
        worker_instance_id: Some("w-1".to_owned()),
        version: "1".to_owned(),
        hostname: "h".to_owned(),
    };
    let concurrency = Concurrency { max_parallel: 1, per_node_limits: None };
    let capabilities = Capabilities { concurrency, runtimes: vec!["python".to_owned()], features: Vec::new() };
    let register = Register { capabilities, payload_types: None, packages: None, manifests: None, channels: None };
    WorkerConfig::new(link(LinkConfig::of_worker("default", "w-1")), Handshake { protocol: 1, auth, worker }, register)
}

/// The id of the last frame that an end has said.
fn said(mut next: impl FnMut() -> Option<Output>) -> Option<String> {
    let mut last = None;
    while let Some(output) = next() {
        if let Output::Transmit { text, .. } = output {
            last = decode(text.as_str().as_bytes(), usize::MAX).ok().map(|envelope| envelope.id);
        }
    }
    last
}

fn open_worker() -> Option<(Worker, Binding)> {
    let mut worker = Worker::new(worker_config(), 7, now(0)).ok()?;
    worker.tick(now(0));
    let binding = worker.connected(now(0));
    for _ in ["handshake", "register"] {
        let id = said(|| worker.next_output())?;
        worker.receive(binding, &control("control.ack", "a", json!({"ok": true, "for": id}), Some(&id)), now(0)).ok()?;
    }
    let accept = json!({"session_id": "s-1", "session_token": "t", "worker_instance_id": "w-1", "resumed": false});
    worker.receive(binding, &control("control.session.accept", "acc", accept, None), now(0)).ok()?;
    while worker.next_output().is_some() {}
    Some((worker, binding))
}

fn at_worker(bytes: &[u8]) {
    let (mut worker, mut binding) = open_worker().expect("a session opens");
    for n in 0..12 {
        let message = Message { id: Some(format!("m-{n}")), ..Message::new("biz.x", Payload::new()) };
        worker.send(message, now(1)).expect("there is room");
    }
    for (line, n) in bytes.split(|byte| *byte == b'\n').zip(1_u64..) {
        let at = now(n * 100);
        let _ = worker.receive(binding, line, at);
        while let Some(output) = worker.next_output() {
            if matches!(output, Output::Connect) {
                binding = worker.connected(at);
            }
        }
        check(worker.stats());
        worker.tick(at);
        if n % 3 == 0 {
            let _ = worker.next_delivery(at);
        }
        if n % 7 == 0 {
            worker.hold_back(n % 2 == 0, at);
        }
    }
}

fn at_gateway(bytes: &[u8]) {
    let config = GatewayConfig { link: link(LinkConfig::of_gateway("default")), ..GatewayConfig::new("default", "w-1") };
    let mut gateway = Gateway::new(config, 9, now(0));
    let handshake = json!({"type": "control.handshake", "id": "h", "ts": "2025-12-24T10:00:00Z", "tenant": "default",
        "sender": {"role": "worker", "id": "w-1"}, "payload": Control::Handshake(worker_config().handshake).payload()});
    let greeting = Greeting::read(handshake.to_string().as_bytes(), &LinkConfig::of_gateway("default")).expect("it is a greeting");
    let admission = |n: u64| Admission { session_id: format!("s-{n}"), session_token: Token("t".to_owned()), expires_at: None };
    let mut binding = gateway.greet(&greeting, admission(0), Socket::New, now(0)).expect("it is let in");
    for (line, n) in bytes.split(|byte| *byte == b'\n').zip(1_u64..) {
        let at = now(n * 100);
        let _ = gateway.receive(binding, line, at);
        let mut asked = None;
        while let Some(output) = gateway.next_output() {
            if let Output::Authenticate(greeting) = output {
                asked = Some(greeting);
            }
        }
        if let Some(greeting) = asked {
            let _ = gateway.greet(&greeting, admission(n), Socket::Same(binding), at);
        }
        if gateway.phase() == longshore_session::Phase::Detached {
            binding = gateway.greet(&greeting, admission(n), Socket::New, at).unwrap_or(binding);
        }
        let _ = gateway.send(Message::new("biz.y", Payload::new()), at);
        check(gateway.stats());
        gateway.tick(at);
        if n % 3 == 0 {
            let _ = gateway.next_delivery(at);
        }
    }
}
