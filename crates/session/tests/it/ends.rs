//! One end by itself: the test plays the other.

use longshore_session::codec::decode;
use longshore_session::{Binding, Envelope, Gateway, Greeting, Ignored, Output, Socket, Worker, WorkerConfig};
use serde_json::{Value, json};

use crate::world::{admission, gateway_config, ms, now, worker_config};

/// What an end did, in order.
pub(crate) fn drain(next: impl FnMut() -> Option<Output>) -> Vec<Output> {
    std::iter::from_fn(next).collect()
}

/// The frames among it.
pub(crate) fn frames(outputs: &[Output]) -> Vec<Envelope> {
    let text = |output: &Output| {
        let Output::Transmit { text, .. } = output else { return None };
        Some(decode(text.as_str().as_bytes(), usize::MAX).unwrap())
    };
    outputs.iter().filter_map(text).collect()
}

pub(crate) fn kinds(outputs: &[Output]) -> Vec<String> {
    frames(outputs).into_iter().map(|frame| frame.kind).collect()
}

/// A frame of the other end.
pub(crate) fn frame(role: &str, kind: &str, id: &str, payload: Value, more: Value) -> Vec<u8> {
    let sender = if role == "worker" { "w-1" } else { "scheduler-control" };
    let mut frame = json!({
        "type": kind, "id": id, "ts": "2025-12-24T10:00:00Z", "tenant": "default", "sender": {"role": role, "id": sender}, "payload": payload,
    });
    frame.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    frame.to_string().into_bytes()
}

pub(crate) fn from_scheduler(kind: &str, id: &str, payload: Value, more: Value) -> Vec<u8> {
    frame("scheduler", kind, id, payload, more)
}

pub(crate) fn from_worker(kind: &str, id: &str, payload: Value, more: Value) -> Vec<u8> {
    frame("worker", kind, id, payload, more)
}

pub(crate) fn ack_of(id: &str) -> Vec<u8> {
    from_scheduler("control.ack", "a", json!({"ok": true, "for": id}), json!({"ack": {"for": id}}))
}

pub(crate) fn accept(name: &str, resumed: bool) -> Vec<u8> {
    let payload = json!({"session_id": name, "session_token": "t", "worker_instance_id": "w-1", "resumed": resumed});
    from_scheduler("control.session.accept", "acc", payload, json!({}))
}

/// A worker whose dial was just asked for and succeeded; its first frame has been taken away.
pub(crate) fn dialled(config: WorkerConfig) -> (Worker, Binding, Envelope) {
    let start = now(ms(0));
    let mut worker = Worker::new(config, 7, start).unwrap();
    worker.tick(start);
    assert_eq!(drain(|| worker.next_output()), [Output::Connect]);
    let binding = worker.connected(start);
    let first = frames(&drain(|| worker.next_output())).remove(0);
    (worker, binding, first)
}

/// A worker with an open session at an existing scheduler.
pub(crate) fn open_worker(config: WorkerConfig) -> (Worker, Binding) {
    let start = now(ms(0));
    let (mut worker, binding, handshake) = dialled(config);
    worker.receive(binding, &ack_of(&handshake.id), start).unwrap();
    let register = frames(&drain(|| worker.next_output())).remove(0);
    assert_eq!(register.kind, "control.register");
    worker.receive(binding, &ack_of(&register.id), start).unwrap();
    worker.receive(binding, &accept("s-1", false), start).unwrap();
    assert_eq!(drain(|| worker.next_output()), [Output::Opened { resumed: false }]);
    (worker, binding)
}

pub(crate) fn default_worker() -> (Worker, Binding) {
    open_worker(worker_config())
}

pub(crate) fn handshake(id: &str) -> Vec<u8> {
    let about = json!({"worker_name": "w", "worker_instance_id": "w-1", "version": "0.1.0", "hostname": "h"});
    let payload = json!({"protocol": 1, "auth": {"mode": "token", "token": "t"}, "worker": about});
    from_worker("control.handshake", id, payload, json!({"ack": {"request": true}}))
}

pub(crate) fn register(id: &str, features: Value) -> Vec<u8> {
    let payload = json!({"capabilities": {"concurrency": {"max_parallel": 1}, "runtimes": ["python"], "features": features}});
    from_worker("control.register", id, payload, json!({"ack": {"request": true}}))
}

pub(crate) fn resume(id: &str, session: &str) -> Vec<u8> {
    from_worker("control.resume", id, json!({"session_id": session, "session_token": "t"}), json!({"ack": {"request": true}}))
}

pub(crate) fn greeting(bytes: &[u8]) -> Greeting {
    Greeting::read(bytes, &gateway_config().link).unwrap()
}

/// A gateway at which an existing worker has an open session.
pub(crate) fn open_gateway() -> (Gateway, Binding) {
    let start = now(ms(0));
    let mut gateway = Gateway::new(gateway_config(), 9, start);
    let binding = gateway.greet(&greeting(&handshake("h-1")), admission("s-1"), Socket::New, start).unwrap();
    gateway.receive(binding, &register("r-1", json!([])), start).unwrap();
    assert_eq!(kinds(&drain(|| gateway.next_output())), ["control.ack", "control.ack", "control.session.accept"]);
    (gateway, binding)
}

pub(crate) fn is_unexpected(result: &Result<(), Ignored>) -> bool {
    matches!(result, Err(Ignored::Unexpected { .. }))
}
