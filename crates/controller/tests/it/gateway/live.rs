//! A Longshore worker: the worker's end of the session over real sockets, with an executor that does each task once and remembers it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use jiff::Timestamp;
use longshore_session::code::Failure;
use longshore_session::control::{AuthMode, Handshake};
use longshore_session::{Binding, LinkConfig, Message, Now, Output, Payload, Reconnect, Worker, WorkerConfig};
use serde_json::{Value, json};
use sha2::Digest as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Frame;

use super::raw::{NODE, PACKAGE, RawWorker};
use super::work::memory;
use crate::support::House;

/// What the worker did, and where it finds its controller.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) address: Mutex<String>,
    /// How often each task was begun.
    begun: Mutex<BTreeMap<String, u32>>,
    n_connections: Mutex<u32>,
}

/// A worker that is cut off again and again, if `cut_every` says so.
struct Live {
    seen: Arc<Seen>,
    began: Instant,
    worker: Worker,
    socket: Option<(Binding, WebSocketStream<TcpStream>)>,
    /// By run, task and seq: what came of it.
    done: BTreeMap<String, Option<Value>>,
    due: Vec<(Instant, Value)>,
    takes: Duration,
    cut_every: Option<Duration>,
    n_cuts: u32,
}

pub(super) fn spawn(house: &House, takes: Duration, cut_every: Option<Duration>) -> (Arc<Seen>, JoinSet<()>) {
    let seen = Arc::new(Seen { address: Mutex::new(house.address().to_owned()), ..Seen::default() });
    let handshake: Handshake = serde_json::from_value(json!({
        "protocol": 1, "auth": {"mode": "token", "token": house.attach_token()},
        "worker": {"worker_name": "live", "worker_instance_id": "w-live", "version": "1", "hostname": "edge-live"},
    }))
    .unwrap();
    assert_eq!(handshake.auth.mode, AuthMode::Token);
    let register = serde_json::from_value(json!({
        "capabilities": {"concurrency": {"max_parallel": 8}, "runtimes": ["python"], "features": []},
        "packages": [{"name": PACKAGE, "version": "1.0.0", "status": "installed"}],
        "manifests": [{"name": PACKAGE, "version": "1.0.0", "manifest": {"nodes": [{"type": NODE}]}}],
    }))
    .unwrap();
    let mut config = WorkerConfig::new(LinkConfig::of_worker("default", "w-live"), handshake, register);
    config.reconnect = Reconnect { base: Duration::from_millis(10), max: Duration::from_millis(50), ..Reconnect::default() };
    let began = Instant::now();
    let now = Now { at: Duration::ZERO, wall: Timestamp::now() };
    let worker = Worker::new(config, 7, now).unwrap();
    let live =
        Live { seen: seen.clone(), began, worker, socket: None, done: BTreeMap::new(), due: Vec::new(), takes, cut_every, n_cuts: 0 };
    let mut tasks = JoinSet::new();
    tasks.spawn(live.run());
    (seen, tasks)
}

impl Live {
    fn now(&self) -> Now {
        Now { at: self.began.elapsed(), wall: Timestamp::now() }
    }

    async fn run(mut self) {
        let mut cut_at = self.next_cut();
        loop {
            self.worker.tick(self.now());
            self.perform().await;
            let far = Instant::now() + Duration::from_secs(3600);
            let due = self.worker.next_deadline().map_or(far, |at| self.began + at);
            let due = self.due.iter().map(|(at, _)| *at).chain([due, cut_at.unwrap_or(far)]).min().unwrap();
            let heard = async {
                match &mut self.socket {
                    Some((binding, socket)) => (*binding, socket.next().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep_until(due) => {}
                (binding, heard) = heard => match heard {
                    Some(Ok(Frame::Text(text))) => _ = self.worker.receive(binding, text.as_bytes(), self.now()),
                    Some(Ok(Frame::Ping(_) | Frame::Pong(_) | Frame::Binary(_) | Frame::Frame(_))) => {}
                    Some(Ok(Frame::Close(_)) | Err(_)) | None => self.cut(binding),
                },
            }
            while let Some(envelope) = self.worker.next_delivery(self.now()) {
                self.take(&envelope.kind, &Value::Object(envelope.payload), envelope.seq);
            }
            self.finish_due();
            if cut_at.is_some_and(|at| at <= Instant::now()) {
                cut_at = self.next_cut();
                if let Some((binding, _)) = &self.socket {
                    let binding = *binding;
                    self.cut(binding);
                }
            }
        }
    }

    fn next_cut(&mut self) -> Option<Instant> {
        self.n_cuts += 1;
        // Not in step with anything.
        let spread = Duration::from_millis(u64::from(self.n_cuts * 7919 % 41));
        self.cut_every.map(|every| Instant::now() + every + spread)
    }

    /// The connection is gone, with everything that was on its way.
    fn cut(&mut self, binding: Binding) {
        self.socket = None;
        self.worker.disconnected(binding, None, "cut", self.now());
    }

    fn take(&mut self, kind: &str, task: &Value, seq: Option<u64>) {
        let key = format!("{}|{}", task["run_id"], task["task_id"]);
        match (kind, self.done.get(&key)) {
            ("biz.exec.dispatch", None) => {
                assert_eq!(seq.unwrap().to_string(), task["task_id"].as_str().unwrap().rsplit_once('/').unwrap().1);
                *self.seen.begun.lock().unwrap().entry(key.clone()).or_default() += 1;
                self.done.insert(key, None);
                self.due.push((Instant::now() + self.takes, task.clone()));
            }
            // It runs; or it has ended, and its end is said again.
            ("biz.exec.dispatch", Some(None)) => {}
            ("biz.exec.dispatch", Some(Some(end))) => self.say(end.clone()),
            ("ext.longshore.cancel", Some(None)) => {
                self.due.retain(|(_, due)| due["task_id"] != task["task_id"]);
                let details = json!({"run_id": task["run_id"], "task_id": task["task_id"]});
                let payload = json!({"code": "E.RUNNER.CANCELLED", "message": "ended", "context": {"details": details}});
                let end = json!({"kind": "biz.exec.error", "payload": payload});
                self.done.insert(key, Some(end.clone()));
                self.say(end);
            }
            _ => {}
        }
    }

    fn finish_due(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.due).into_iter().partition::<Vec<_>, _>(|(at, _)| *at <= now);
        self.due = later;
        for (_, task) in due {
            let payload =
                json!({"run_id": task["run_id"], "task_id": task["task_id"], "status": "SUCCEEDED", "result": task["parameters"]});
            let end = json!({"kind": "biz.exec.result", "payload": payload});
            self.done.insert(format!("{}|{}", task["run_id"], task["task_id"]), Some(end.clone()));
            self.say(end);
        }
    }

    fn say(&mut self, end: Value) {
        let payload: Payload = end["payload"].as_object().unwrap().clone();
        let message = Message { wants_ack: true, ..Message::new(end["kind"].as_str().unwrap(), payload) };
        self.worker.send(message, self.now()).unwrap();
    }

    async fn perform(&mut self) {
        while let Some(output) = self.worker.next_output() {
            match output {
                Output::Connect => self.dial().await,
                Output::Transmit { to, text } => {
                    if let Some((binding, socket)) = &mut self.socket
                        && *binding == to
                        && socket.send(Frame::text(text.into_string())).await.is_err()
                    {
                        self.cut(to);
                    }
                }
                Output::Close { binding, .. } => self.socket = self.socket.take().filter(|(current, _)| *current != binding),
                Output::HeartbeatDue => {
                    let metrics = Payload::from_iter([("inflight".to_owned(), self.due.len().into())]);
                    self.worker.heartbeat(true, metrics, None, self.now());
                }
                Output::Opened { .. }
                | Output::Detached { .. }
                | Output::Acknowledged { .. }
                | Output::Dropped(_)
                | Output::Skipped { .. }
                | Output::Drain(_)
                | Output::Stopped(_)
                | Output::Registered(_)
                | Output::Heartbeat(_)
                | Output::Authenticate(_)
                | Output::Uncertain { .. }
                | Output::Expired => {}
            }
        }
    }

    async fn dial(&mut self) {
        let address = self.seen.address.lock().unwrap().clone();
        let dialled = async {
            let stream = TcpStream::connect(&address).await.ok()?;
            tokio_tungstenite::client_async(format!("ws://{address}/ws/worker"), stream).await.ok()
        };
        match dialled.await {
            Some((socket, _)) => {
                *self.seen.n_connections.lock().unwrap() += 1;
                let binding = self.worker.connected(self.now());
                self.socket = Some((binding, socket));
            }
            None => self.worker.dial_failed(Failure::Network, "refused", self.now()),
        }
    }
}

pub(super) fn each_once(seen: &Seen, n_jobs: usize) {
    let begun = seen.begun.lock().unwrap();
    assert_eq!((begun.len(), begun.values().filter(|n| **n != 1).count()), (n_jobs, 0), "{begun:?}");
}

#[tokio::test]
async fn under_cuts_each_job_runs_exactly_once_and_every_result_arrives() {
    survive(10, Duration::from_millis(100)).await;
}

async fn survive(cuts: u32, cut_every: Duration) {
    let house = House::start().await;
    let (seen, _live) = spawn(&house, Duration::from_millis(20), Some(cut_every));
    house.until("it was attached once", async || !house.get("/api/v1/agents").await["items"].as_array().unwrap().is_empty()).await;
    let mut jobs = Vec::new();
    while jobs.len() < 40 || *seen.n_connections.lock().unwrap() <= cuts {
        // No more than the worker gets done between two cuts.
        if let Some(earlier) = jobs.len().checked_sub(20) {
            house.ends_as(jobs[earlier], "completed").await;
        }
        let n = jobs.len().to_string();
        jobs.push(house.run_package("edge-live", json!({"wait_for_agents": "5m", "annotations": {"n": n}})).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for id in &jobs {
        let job = house.ends_as(*id, "completed").await;
        assert_eq!(job["executions"][0]["attempts"], 1);
    }
    each_once(&seen, jobs.len());
}

#[tokio::test]
async fn jobs_survive_controllers_that_are_killed_one_after_the_other() {
    let mut house = House::start().await;
    let (seen, _live) = spawn(&house, Duration::from_millis(30), None);
    house.knows("edge-live", "ready").await;
    let mut jobs = Vec::new();
    for _ in 0..6 {
        for _ in 0..10 {
            jobs.push(house.run_package("edge-live", json!({"wait_for_agents": "5m"})).await);
        }
        tokio::time::sleep(Duration::from_millis(45)).await;
        house = House::on(house.kill(), |_| {}).await;
        *seen.address.lock().unwrap() = house.address().to_owned();
        house.until("it is known", async || !house.get("/api/v1/agents").await["items"].as_array().unwrap().is_empty()).await;
    }
    for id in &jobs {
        let job = house.ends_as(*id, "completed").await;
        assert_eq!(job["executions"][0]["attempts"], 1);
    }
    each_once(&seen, jobs.len());
}

#[tokio::test]
async fn a_cancel_ends_the_task_on_a_longshore_worker_and_is_verified() {
    let house = House::on(memory(), |_| {}).await;
    let (seen, _live) = spawn(&house, Duration::from_secs(600), None);
    house.knows("edge-live", "ready").await;
    let id = house.run_package("edge-live", json!({})).await;
    house.until("it runs", async || seen.begun.lock().unwrap().len() == 1).await;
    house.post(&format!("/api/v1/jobs/{id}/cancel"), &json!({})).await;
    let job = house.ends_as(id, "cancelled").await;
    assert_eq!(job["executions"][0]["cancel_verified"], true);
}

/// A Longshore whose frames are in the test's hands, as the fleet knows it.
async fn raw_longshore(house: &House, operations: &[&str]) -> RawWorker {
    let mut worker = RawWorker::dial(house, "w-1").await;
    let id = worker.handshake(&house.attach_token(), "edge-01").await;
    worker.acked(&id).await;
    worker.register_as_longshore(operations).await;
    house.knows("edge-01", "ready").await;
    worker
}

#[tokio::test]
async fn a_cancel_that_comes_while_its_worker_shakes_hands_anew_reaches_it() {
    let house = House::on(memory(), |_| {}).await;
    let mut worker = raw_longshore(&house, &[]).await;
    let id = house.run_package("edge-01", json!({})).await;
    let dispatch = worker.dispatched().await;
    let mut again = RawWorker::dial(&house, "w-1").await;
    let handshake = again.handshake(&house.attach_token(), "edge-01").await;
    again.acked(&handshake).await;
    house.post(&format!("/api/v1/jobs/{id}/cancel"), &json!({})).await;
    again.register_as_longshore(&[]).await;
    let cancel = again.until("ext.longshore.cancel").await;
    assert_eq!(cancel["payload"], json!({"run_id": id.to_string(), "task_id": dispatch["payload"]["task_id"]}));
    let frame = again.error(&dispatch, "E.RUNNER.CANCELLED");
    again.say(&frame).await;
    assert_eq!(house.ends_as(id, "cancelled").await["executions"][0]["cancel_verified"], true);
}

#[tokio::test]
async fn an_operation_goes_to_a_longshore_that_performs_it_and_its_end_is_the_answer() {
    let house = House::on(memory(), |_| {}).await;
    let mut worker = raw_longshore(&house, &["node.hostname.get", "command.shell"]).await;
    let submit = async |body: Value| -> Value { house.post("/api/v1/jobs", &body).await.json().await.unwrap() };
    // Nobody else is there, so it is the one for anybody.
    let job = submit(json!({"operation": "node.hostname.get", "target": "_any"})).await;
    let id = job["id"].as_str().unwrap().parse().unwrap();
    let task = worker.until("ext.longshore.operation").await;
    let payload = &task["payload"];
    assert_eq!((&payload["operation"], &payload["definition"]["id"]), (&json!("node.hostname.get"), &job["id"]));
    let (run, name) = (payload["run_id"].clone(), payload["task_id"].clone());
    let place = |step: u32| json!({"step": step, "time": "2026-01-01T00:00:00Z", "gap": {"records": 2, "bytes": 10}});
    let chunk = json!({"channel": "log", "index": 2, "data_base64": "aGVsbG8K", "metadata": place(3)});
    let said = worker.numbered("biz.exec.feedback", json!({"run_id": run, "task_id": name, "chunks": [chunk]}), &task);
    worker.send(&said).await;
    let end = json!({"outcome": "completed", "changed": false, "result": {"hostname": "edge-01"}});
    worker.finish(&task, "SUCCEEDED", end).await;
    let done = house.ends_as(id, "completed").await;
    assert_eq!((&done["executions"][0]["result"], &done["executions"][0]["changed"]), (&json!({"hostname": "edge-01"}), &json!(false)));
    let logs = house.request(reqwest::Method::GET, &format!("/api/v1/jobs/{id}/logs")).send().await.unwrap().text().await.unwrap();
    assert!(logs.contains("hello") && logs.contains("\"step\":3") && logs.contains("10"), "{logs}");
    // A fault of the host is tried again, what cannot be read is not.
    let job = submit(json!({"operation": "command.shell", "args": {"command": "x"}, "target": "edge-01", "retry": {"max_attempts": 2, "backoff": ["1ms"]}})).await;
    let id = job["id"].as_str().unwrap().parse().unwrap();
    let task = worker.until("ext.longshore.operation").await;
    worker
        .finish(&task, "SUCCEEDED", json!({"outcome": "failed", "transient": true, "error": {"code": "host_fault", "message": "full"}}))
        .await;
    let task = worker.until("ext.longshore.operation").await;
    worker.finish(&task, "SUCCEEDED", json!({"outcome": "nonsense"})).await;
    let done = house.ends_as(id, "failed").await;
    assert_eq!((&done["executions"][0]["attempts"], &done["executions"][0]["error"]["code"]), (&json!(2), &json!("handler_failed")));
    // More output than a frame holds is refused, and nothing is run.
    let args = json!({"command": "x", "max_output": "3MiB"});
    let job = submit(json!({"operation": "command.shell", "args": args, "target": "edge-01"})).await;
    let refused = house.ends_as(job["id"].as_str().unwrap().parse().unwrap(), "skipped").await;
    assert!(refused["executions"][0]["error"]["message"].as_str().unwrap().contains("at most 2MiB"), "{refused}");
    // What it does not perform is refused when it is asked for.
    let problem = submit(json!({"operation": "node.load.get", "target": "edge-01"})).await;
    assert_eq!(problem["code"], "no_agent", "{problem}");
}

#[tokio::test]
async fn a_pass_is_good_for_the_bundle_and_the_archive_of_an_attempt_that_runs() {
    let house = House::on(memory(), |_| {}).await;
    let mut worker = raw_longshore(&house, &["workspace.run"]).await;
    let content = b"not a bundle that anybody unpacks here".to_vec();
    let sha256 = |content: &[u8]| data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(content));
    let stored = house.request(reqwest::Method::PUT, &format!("/api/v1/bundles/{}", sha256(&content))).body(content.clone()).send().await;
    assert_eq!(stored.unwrap().status(), 201);
    let body = json!({"operation": "workspace.run", "args": {"bundle": sha256(&content), "steps": ["true"]}, "target": "edge-01"});
    let job: Value = house.post("/api/v1/jobs", &body).await.json().await.unwrap();
    let id = job["id"].as_str().unwrap().parse().unwrap();
    let task = worker.until("ext.longshore.operation").await;
    let pass = task["payload"]["pass"].as_str().unwrap().to_owned();
    let get = async |pass: &str| house.bare(reqwest::Method::GET, "/ws/worker/bundle").bearer_auth(pass).send().await.unwrap();
    assert_eq!(get(&pass).await.bytes().await.unwrap(), content);
    let put = async |digest: &str, body: &'static [u8]| {
        let request = house.bare(reqwest::Method::PUT, "/ws/worker/archive").bearer_auth(&pass).header("longshore-sha256", digest);
        request.body(body).send().await.unwrap().status().as_u16()
    };
    assert_eq!(put("nonsense", b"archive").await, 400);
    assert_eq!(put(&sha256(b"other"), b"archive").await, 422);
    assert_eq!(put(&sha256(b"archive"), b"archive").await, 204);
    let altered = pass.replace('.', "x.");
    for wrong in ["", "x.y", altered.as_str(), &house.token(&["admin"])] {
        assert_eq!(get(wrong).await.status(), 401, "{wrong}");
    }
    assert_eq!(house.bare(reqwest::Method::POST, "/ws/worker/bundle").bearer_auth(&pass).send().await.unwrap().status(), 405);
    worker.finish(&task, "SUCCEEDED", json!({"outcome": "completed", "result": {}})).await;
    house.ends_as(id, "completed").await;
    assert_eq!(get(&pass).await.status(), 404, "the attempt is over");
    assert_eq!(put(&sha256(b"late"), b"late").await, 404);
}

#[tokio::test]
async fn a_cancel_that_its_worker_does_not_answer_is_unverified_after_a_while() {
    let house = House::on(memory(), |config| config.gateway.cancel_within = Duration::from_millis(100)).await;
    let mut worker = raw_longshore(&house, &[]).await;
    let id = house.run_package("edge-01", json!({})).await;
    worker.dispatched().await;
    house.post(&format!("/api/v1/jobs/{id}/cancel"), &json!({})).await;
    worker.until("ext.longshore.cancel").await;
    assert_eq!(house.ends_as(id, "cancelled").await["executions"][0]["cancel_verified"], false);
    let text = house.request(reqwest::Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    for expected in ["longshore_attached_workers 1", "longshore_handed_out_total 1"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}
