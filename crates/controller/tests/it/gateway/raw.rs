//! A worker in the form of the existing one, frame by frame, in the test's hands.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use jiff::Timestamp;
use longshore_controller::token::{self, Grant};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::House;

const PATIENCE: Duration = Duration::from_secs(20);

/// The package that test workers have.
pub(crate) const PACKAGE: &str = "example.pkg";
/// Its node.
pub(crate) const NODE: &str = "example.echo";

/// A connection, whatever it runs over.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

pub(crate) struct RawWorker {
    socket: WebSocketStream<Box<dyn Duplex>>,
    pub(crate) instance: String,
    pub(crate) tenant: String,
    n_frames: u64,
    /// The last number that was used.
    pub(crate) number: u64,
    /// The highest that was received.
    received: u64,
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Closed {
    pub(crate) code: Option<u16>,
    pub(crate) reason: String,
}

impl House {
    /// A token that attaches workers and does nothing else.
    pub(crate) fn attach_token(&self) -> String {
        let permissions = Some(vec!["agent:attach".to_owned()]);
        token::issue(&self.key, &Grant { permissions, ..Grant::new("workers", &["admin"]) }, Timestamp::now())
    }

    /// An attached worker, as host `hostname`, that the fleet knows.
    pub(crate) async fn worker(&self, instance: &str, hostname: &str) -> RawWorker {
        let mut worker = RawWorker::dial(self, instance).await;
        worker.attach(&self.attach_token(), hostname).await;
        self.knows(hostname, "ready").await;
        worker
    }

    /// Waits until the host's agent is in this state.
    pub(crate) async fn knows(&self, hostname: &str, state: &str) {
        self.until(&format!("{hostname} is {state}"), async || {
            let agents = self.get("/api/v1/agents").await;
            agents["items"].as_array().unwrap().iter().any(|agent| agent["hostname"] == hostname && agent["state"] == state)
        })
        .await;
    }

    /// Submits a node of the test workers' package.
    pub(crate) async fn run_package(&self, target: &str, more: Value) -> longshore_model::JobId {
        let mut body = json!({
            "operation": "package.run",
            "target": target,
            "args": {"package": PACKAGE, "node": NODE, "parameters": {"text": "hello"}},
        });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let response = self.post("/api/v1/jobs", &body).await;
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert_eq!(status, 201, "{text}");
        serde_json::from_str::<Value>(&text).unwrap()["id"].as_str().unwrap().parse().unwrap()
    }

    /// Waits until a job has this status, and gives it.
    pub(crate) async fn ends_as(&self, id: longshore_model::JobId, status: &str) -> Value {
        let mut last = Value::Null;
        self.until(&format!("{id} is {status}"), async || {
            last = self.get(&format!("/api/v1/jobs/{id}")).await;
            last["status"] == status
        })
        .await;
        last
    }
}

impl RawWorker {
    pub(crate) async fn dial(house: &House, instance: &str) -> Self {
        Self::try_dial(house, instance).await.unwrap()
    }

    pub(crate) async fn try_dial(house: &House, instance: &str) -> Result<Self, Error> {
        let stream = TcpStream::connect(house.address()).await.unwrap();
        Self::over(Box::new(stream), instance).await
    }

    /// Over a connection that is there.
    pub(crate) async fn over(stream: Box<dyn Duplex>, instance: &str) -> Result<Self, Error> {
        let (socket, _) = tokio_tungstenite::client_async("ws://controller/ws/worker", stream).await?;
        let (instance, tenant) = (instance.to_owned(), "default".to_owned());
        Ok(Self { socket, instance, tenant, n_frames: 0, number: 0, received: 0 })
    }

    /// Frames have the fields and ids of the existing worker.
    pub(crate) fn envelope(&mut self, kind: &str, payload: Value) -> Value {
        let id = format!("{kind}-{}-{}", self.n_frames, self.instance);
        self.n_frames += 1;
        json!({
            "type": kind, "id": id, "ts": Timestamp::now().to_string(), "tenant": self.tenant,
            "sender": {"role": "worker", "id": self.instance}, "payload": payload,
        })
    }

    pub(crate) async fn send(&mut self, frame: &Value) {
        self.send_text(frame.to_string()).await;
    }

    pub(crate) async fn send_text(&mut self, text: String) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// Whether it could still be sent.
    pub(crate) async fn try_send(&mut self, message: Message) -> bool {
        self.socket.send(message).await.is_ok()
    }

    pub(crate) async fn ask(&mut self, kind: &str, payload: Value) -> String {
        let mut frame = self.envelope(kind, payload);
        frame["ack"] = json!({"request": true});
        self.send(&frame).await;
        frame["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn handshake(&mut self, token: &str, hostname: &str) -> String {
        let worker = json!({"worker_name": "worker-local", "worker_instance_id": self.instance, "version": "0.1.0", "hostname": hostname});
        let auth = json!({"mode": "token", "token": token});
        self.ask("control.handshake", json!({"protocol": 1, "auth": auth, "worker": worker})).await
    }

    pub(crate) async fn register(&mut self, features: &[&str]) -> String {
        let payload = json!({
            "capabilities": {"concurrency": {"max_parallel": 4}, "runtimes": ["python"], "features": features},
            "payload_types": ["biz.exec.dispatch", "biz.pkg.install", "biz.pkg.uninstall"],
            "packages": [{"name": PACKAGE, "version": "1.0.0", "status": "installed"}, {"name": PACKAGE, "version": "1.10.0", "status": "installed"}],
            "manifests": [{"name": PACKAGE, "version": "1.10.0", "manifest": {"nodes": [{"type": NODE}]}}],
        });
        self.ask("control.register", payload).await
    }

    /// The whole of a first connection; gives what the session goes on with.
    pub(crate) async fn attach(&mut self, token: &str, hostname: &str) -> Value {
        self.attach_with(token, hostname, &["group:web.dev"]).await
    }

    pub(crate) async fn attach_with(&mut self, token: &str, hostname: &str, features: &[&str]) -> Value {
        let id = self.handshake(token, hostname).await;
        self.acked(&id).await;
        let id = self.register(features).await;
        self.acked(&id).await;
        (self.number, self.received) = (0, 0);
        self.until("control.session.accept").await["payload"].clone()
    }

    /// The second half of a connection as a Longshore makes it: what it registers, and who it hears that it talks to.
    pub(crate) async fn register_as_longshore(&mut self, operations: &[&str]) {
        let features: Vec<String> = operations.iter().map(|name| format!("longshore.operation.{name}")).collect();
        let features: Vec<&str> = features.iter().map(String::as_str).chain(["longshore.session.1"]).collect();
        let id = self.register(&features).await;
        self.acked(&id).await;
        (self.number, self.received) = (0, 0);
        let hello = self.until("ext.longshore.hello").await;
        self.ack(&hello).await;
    }

    pub(crate) async fn acked(&mut self, id: &str) -> Value {
        let ack = self.next().await;
        assert_eq!((ack["type"].as_str(), ack["ack"]["for"].as_str()), (Some("control.ack"), Some(id)), "{ack}");
        assert_eq!(ack["sender"], json!({"role": "scheduler", "id": "scheduler-control"}));
        ack
    }

    /// The next frame.
    pub(crate) async fn next(&mut self) -> Value {
        match self.next_or_closed().await {
            Ok(frame) => frame,
            Err(closed) => panic!("the connection was closed: {closed:?}"),
        }
    }

    pub(crate) async fn next_or_closed(&mut self) -> Result<Value, Closed> {
        let next = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                    Some(Ok(Message::Close(frame))) => {
                        let (code, reason) = frame.map(|frame| (frame.code.into(), frame.reason.to_string())).unzip();
                        return Err(Closed { code, reason: reason.unwrap_or_default() });
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(Closed { code: None, reason: error.to_string() }),
                    None => return Err(Closed { code: None, reason: "the end".to_owned() }),
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("something is heard")
    }

    /// The next frame of a kind; those before it are passed over, and numbered ones acknowledged.
    pub(crate) async fn until(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.next().await;
            if let Some(number) = frame["session_seq"].as_u64() {
                self.received = self.received.max(number);
                self.ack(&frame).await;
            }
            if frame["type"] == kind {
                return frame;
            }
        }
    }

    async fn ack(&mut self, of: &Value) {
        let mut ack = self
            .envelope("control.ack", json!({"ok": true, "for": of["id"], "ack_seq": self.received, "ack_bitmap": 0, "recv_window": 64}));
        ack["ack"] = json!({"for": of["id"]});
        (ack["corr"], ack["seq"]) = (of["corr"].clone(), of["seq"].clone());
        self.send(&ack).await;
    }

    pub(crate) async fn dispatched(&mut self) -> Value {
        self.until("biz.exec.dispatch").await
    }

    /// The frame that ends a dispatch, as the existing worker writes it: with the dispatch's id for a correlation.
    pub(crate) fn result(&mut self, dispatch: &Value, status: &str, result: Value) -> Value {
        let task = &dispatch["payload"];
        let payload = json!({
            "run_id": task["run_id"], "task_id": task["task_id"], "status": status, "result": result, "duration_ms": 12, "metadata": {"host": "x"},
        });
        self.numbered("biz.exec.result", payload, dispatch)
    }

    pub(crate) fn error(&mut self, dispatch: &Value, code: &str) -> Value {
        let task = &dispatch["payload"];
        let details = json!({"run_id": task["run_id"], "task_id": task["task_id"], "node_id": task["node_id"]});
        let payload = json!({"code": code, "message": "in its own words", "context": {"where": "runner", "details": details}});
        self.numbered("biz.exec.error", payload, dispatch)
    }

    pub(crate) fn numbered(&mut self, kind: &str, payload: Value, dispatch: &Value) -> Value {
        let mut frame = self.envelope(kind, payload);
        self.number += 1;
        (frame["corr"], frame["seq"], frame["session_seq"]) = (dispatch["id"].clone(), dispatch["seq"].clone(), self.number.into());
        frame["ack"] = json!({"request": true});
        frame
    }

    /// Says the end of a dispatch, and waits until it is acknowledged.
    pub(crate) async fn finish(&mut self, dispatch: &Value, status: &str, result: Value) {
        let frame = self.result(dispatch, status, result);
        self.say(&frame).await;
    }

    pub(crate) async fn say(&mut self, frame: &Value) {
        self.send(frame).await;
        while self.until("control.ack").await["ack"]["for"] != frame["id"] {}
    }

    pub(crate) async fn heartbeat(&mut self, inflight: u64) {
        let frame = self.envelope("control.heartbeat", json!({"healthy": true, "metrics": {"inflight": inflight, "cpu_pct": 1.5}}));
        self.send(&frame).await;
    }

    /// How the connection ends; what comes before is passed over.
    pub(crate) async fn closed(&mut self) -> Closed {
        loop {
            if let Err(closed) = self.next_or_closed().await {
                return closed;
            }
        }
    }

    /// Says goodbye.
    pub(crate) async fn close(&mut self, code: u16) {
        let frame = CloseFrame { code: code.into(), reason: "".into() };
        self.socket.send(Message::Close(Some(frame))).await.unwrap();
    }

    /// Goes away without a word.
    pub(crate) fn cut(self) {
        drop(self);
    }
}
