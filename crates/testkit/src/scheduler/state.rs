//! What the stand-in knows: its one session at a time, its windows, and what it has dispatched.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use serde_json::{Value, json};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{Order, Orders, SchedulerOptions};

/// One dispatch that was sent.
#[derive(Debug, Clone)]
pub struct Dispatched {
    /// Its task.
    pub task: String,
    /// The id of its frame.
    pub id: String,
    /// Its counter.
    pub seq: u64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) dialled: Vec<Instant>,
    pub(super) n_sessions: usize,
    pub(super) n_resumed: usize,
    pub(super) closes_at_once: bool,
    pub(super) refuses_with: Option<u16>,
    pub(super) frames: Vec<Value>,
    pub(super) received: Vec<String>,
    pub(super) n_received: BTreeMap<String, usize>,
    pub(super) complaints: Vec<String>,
    pub(super) registered: Vec<Value>,
    pub(super) dispatched: Vec<Dispatched>,
    /// Who waits for the first answer to a task.
    pub(super) asked: BTreeMap<String, oneshot::Sender<Value>>,
    session: Option<Session>,
    current: Option<(usize, Orders)>,
    pending: Vec<Pending>,
    /// Dispatches that wait for a session or for the window.
    waiting: VecDeque<Value>,
    n_dispatches: u64,
}

#[derive(Debug)]
struct Session {
    id: String,
    token: String,
    instance: String,
    is_registered: bool,
    /// Received.
    base: u64,
    held: BTreeMap<u64, Value>,
    /// Sent.
    next: u64,
    acked: u64,
}

/// A dispatch whose acknowledgement is not there.
#[derive(Debug)]
struct Pending {
    frame: Value,
    sent_at: Instant,
}

impl State {
    pub(super) fn is_open(&self) -> bool {
        self.current.is_some() && self.session.as_ref().is_some_and(|session| session.is_registered)
    }

    pub(super) fn order(&self, order: Order) {
        if let Some((_, orders)) = &self.current {
            let _ = orders.send(order);
        }
    }

    pub(super) fn forget(&mut self) {
        self.session = None;
        self.order(Order::Close(1012, "service restart".to_owned()));
        self.current = None;
    }

    pub(super) fn gone(&mut self, connection: usize) {
        if self.current.as_ref().is_some_and(|(current, _)| *current == connection) {
            self.current = None;
        }
    }

    pub(super) fn is_current(&self, connection: usize) -> bool {
        self.current.as_ref().is_some_and(|(current, _)| *current == connection)
    }

    /// A handshake that was let in: windows begin anew, an older socket is closed.
    pub(super) fn begin(&mut self, connection: usize, orders: &Orders, instance: &str) {
        self.supersede(connection, orders);
        self.n_sessions += 1;
        self.session = Some(Session {
            id: Uuid::now_v7().to_string(),
            token: Uuid::now_v7().to_string(),
            instance: instance.to_owned(),
            is_registered: false,
            base: 0,
            held: BTreeMap::new(),
            next: 1,
            acked: 0,
        });
    }

    fn supersede(&mut self, connection: usize, orders: &Orders) {
        if !self.is_current(connection) {
            self.order(Order::Close(1011, "superseded session".to_owned()));
        }
        self.current = Some((connection, orders.clone()));
    }

    /// The acceptance, if this is the first registration after a handshake.
    pub(super) fn register(&mut self, payload: &Value) -> Option<Value> {
        self.registered.push(payload.clone());
        let session = self.session.as_mut()?;
        let is_first = !std::mem::replace(&mut session.is_registered, true);
        is_first.then(|| acceptance(session, false))
    }

    /// The acceptance of a resume, or the code of its refusal.
    pub(super) fn resume(&mut self, connection: usize, orders: &Orders, instance: &str, payload: &Value) -> Result<Value, &'static str> {
        let Some(session) = self.session.as_mut().filter(|session| session.instance == instance) else { return Err("E.SESSION.UNKNOWN") };
        if !session.is_registered {
            return Err("E.SESSION.NOT_REGISTERED");
        }
        if payload["session_id"] != session.id.as_str() {
            return Err("E.SESSION.MISMATCH");
        }
        if payload["session_token"] != session.token.as_str() {
            return Err("E.SESSION.INVALID_TOKEN");
        }
        session.token = Uuid::now_v7().to_string();
        let accept = acceptance(session, true);
        self.n_resumed += 1;
        self.supersede(connection, orders);
        Ok(accept)
    }

    /// A numbered frame: held or dropped, passed on in order, and acknowledged in any case.
    pub(super) fn numbered(&mut self, frame: Value, options: &SchedulerOptions) {
        let window = options.window;
        let Some(session) = self.session.as_mut() else { return };
        let number = frame["session_seq"].as_u64().unwrap_or(0);
        let (id, asks) = (frame["id"].clone(), frame["ack"]["request"] == true);
        let (corr, seq) = (frame["corr"].clone(), frame["seq"].clone());
        if number > session.base && number <= session.base + window {
            session.held.entry(number).or_insert(frame);
        }
        while let Some(frame) = session.held.remove(&(session.base + 1)) {
            session.base += 1;
            if let Some(asked) = answered(&frame).and_then(|task| self.asked.remove(task)) {
                let _ = asked.send(frame.clone());
            }
            self.frames.extend(Some(frame).filter(|_| options.keeps));
        }
        let bits = session.held.keys().map(|held| held - session.base - 1).filter(|bit| *bit < 64).fold(0_u64, |bits, bit| bits | 1 << bit);
        let mut payload = json!({"ok": true, "ack_seq": session.base, "ack_bitmap": bits, "recv_window": window});
        let mut more = json!({"corr": corr, "seq": seq});
        if asks {
            payload["for"] = id.clone();
            more["ack"] = json!({"for": id});
        }
        self.say("control.ack", &payload, more);
    }

    /// What the worker acknowledges: by number for the window, by id for dispatches that are listened for.
    pub(super) fn acknowledged(&mut self, frame: &Value, options: &SchedulerOptions) {
        if let (Some(session), Some(upto)) = (self.session.as_mut(), frame["payload"]["ack_seq"].as_u64())
            && upto < session.next
        {
            session.acked = session.acked.max(upto);
        }
        if let Some(id) = frame["ack"]["for"].as_str() {
            self.pending.retain(|pending| pending.frame["id"] != id || pending.sent_at.elapsed() < options.race);
        }
        self.send_waiting(options.window);
    }

    pub(super) fn dispatch(&mut self, task: &Value, options: &SchedulerOptions) -> u64 {
        self.n_dispatches += 1;
        let seq = self.n_dispatches;
        self.queue_dispatch(task.clone(), seq);
        self.send_waiting(options.window);
        seq
    }

    fn queue_dispatch(&mut self, task: Value, seq: u64) {
        let id = format!("biz.exec.dispatch-{}", Uuid::now_v7());
        let frame = json!({"id": id, "corr": task["task_id"], "seq": seq, "payload": task});
        self.waiting.push_back(frame);
    }

    /// Sends what fits into the window.
    pub(super) fn send_waiting(&mut self, window: u64) {
        while self.is_open()
            && self.session.as_ref().is_some_and(|session| session.next <= session.acked + window)
            && let Some(frame) = self.waiting.pop_front()
        {
            let text = |name: &str| frame[name].as_str().unwrap_or_default().to_owned();
            let task = frame["payload"]["task_id"].as_str().unwrap_or_default().to_owned();
            self.dispatched.push(Dispatched { task, id: text("id"), seq: frame["seq"].as_u64().unwrap_or(0) });
            self.send_frame("biz.exec.dispatch", &frame["payload"], frame["corr"].as_str(), frame["seq"].as_u64(), true, &text("id"));
            self.pending.push(Pending { frame, sent_at: Instant::now() });
        }
    }

    pub(super) fn dispatch_again(&mut self, options: &SchedulerOptions) {
        let (late, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|pending| pending.sent_at.elapsed() >= options.ack_within + options.redispatch_after);
        self.pending = rest;
        for pending in late {
            let seq = pending.frame["seq"].as_u64().unwrap_or(0);
            self.queue_dispatch(pending.frame["payload"].clone(), seq);
        }
        self.send_waiting(options.window);
    }

    pub(super) fn send(&mut self, kind: &str, payload: &Value, corr: Option<&str>, seq: Option<u64>, asks: bool) {
        self.send_frame(kind, payload, corr, seq, asks, &Uuid::now_v7().to_string());
    }

    fn send_frame(&mut self, kind: &str, payload: &Value, corr: Option<&str>, seq: Option<u64>, asks: bool, id: &str) {
        let Some(session) = self.session.as_mut() else { return };
        let mut more = json!({"id": id, "session_seq": session.next, "corr": corr, "seq": seq});
        session.next += 1;
        if asks {
            more["ack"] = json!({"request": true});
        }
        self.say(kind, payload, more);
    }

    pub(super) fn control(&mut self, kind: &str, payload: &Value) {
        self.say(kind, payload, json!({}));
    }

    fn say(&self, kind: &str, payload: &Value, more: Value) {
        self.order(Order::Send(frame(kind, payload, more)));
    }
}

/// The task that a frame is the result or the error of.
pub(super) fn answered(frame: &Value) -> Option<&str> {
    match frame["type"].as_str()? {
        "biz.exec.result" => frame["payload"]["task_id"].as_str(),
        "biz.exec.error" => frame["payload"]["context"]["details"]["task_id"].as_str().or_else(|| frame["corr"].as_str()),
        _ => None,
    }
}

/// A frame of the stand-in's.
pub(super) fn frame(kind: &str, payload: &Value, more: Value) -> String {
    let mut frame = json!({
        "type": kind, "id": Uuid::now_v7().to_string(), "ts": jiff::Timestamp::now().to_string(), "tenant": "default",
        "sender": {"role": "scheduler", "id": "scheduler-control"}, "payload": payload,
    });
    if let (Value::Object(frame), Value::Object(more)) = (&mut frame, more) {
        frame.extend(more.into_iter().filter(|(_, value)| !value.is_null()));
    }
    frame.to_string()
}

fn acceptance(session: &Session, resumed: bool) -> Value {
    json!({
        "session_id": session.id, "session_token": session.token, "worker_instance_id": session.instance,
        "expires_at": "2099-01-01T00:00:00Z", "resumed": resumed,
    })
}
