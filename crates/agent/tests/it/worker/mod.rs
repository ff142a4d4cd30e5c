//! The worker at a stand-in of the existing scheduler, over a real WebSocket. Handlers are the tests' own: what they do is said in their parameters.

mod commands;
mod connection;
mod ending;
mod flood;
mod flow;
mod guide;
mod limits;
mod refusals;
mod settings;
mod tls;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use longshore_agent::worker::settings::{Settings, Sources};
use longshore_agent::worker::{Door, Error, Fault, FaultKind, Handlers, Install, Inventory, NextCall, Outcome, Status, Task, View, Worker};
use longshore_session::Payload;
use longshore_session::control::{Manifest, Package, PackageStatus};
use longshore_testkit::{Scheduler, SchedulerOptions, eventually};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

/// What the handlers did.
#[derive(Debug, Default)]
struct Seen {
    started: Vec<String>,
    now: usize,
    most: usize,
    now_of: BTreeMap<String, usize>,
    most_of: BTreeMap<String, usize>,
    stopped: Vec<String>,
    tasks: Vec<Task>,
    installed: Vec<(String, String)>,
    installs: Vec<Install>,
    /// Packages cannot be looked at.
    is_unreadable: bool,
}

#[derive(Debug, Default)]
struct TestHandlers {
    seen: Mutex<Seen>,
    /// Tasks with `"gate": true` wait for it.
    gate: CancellationToken,
    /// Whoever holds it holds up every look at the packages.
    disk: Mutex<()>,
}

fn object(value: Value) -> Payload {
    value.as_object().unwrap().clone()
}

impl TestHandlers {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    fn started(&self, task: &str) -> usize {
        self.seen().started.iter().filter(|started| *started == task).count()
    }

    async fn act(&self, task: &Task, door: &Door, stop: &CancellationToken) -> Result<Payload, Fault> {
        let failed = |message: &str| Err(Fault { kind: FaultKind::Failed, message: message.to_owned() });
        let number = |name: &str| task.parameters.get(name).and_then(Value::as_u64);
        for n in 0..number("feedback").unwrap_or(0) {
            let chunk = json!({"channel": "log", "index": n, "text": format!("piece {n}")});
            let payload = object(json!({"progress": 0.5, "chunks": [chunk]}));
            let _ = door.feedback.send(payload).await;
        }
        if let Some(ms) = number("sleep_ms") {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(ms)) => {}
                () = stop.cancelled() => {
                    self.seen().stopped.push(task.task_id.clone());
                    return Err(Fault { kind: FaultKind::Cancelled, message: "stopped".to_owned() });
                }
            }
        }
        if task.parameters.contains_key("gate") {
            tokio::select! {
                () = self.gate.cancelled() => {}
                () = stop.cancelled() => {
                    self.seen().stopped.push(task.task_id.clone());
                    return Err(Fault { kind: FaultKind::Cancelled, message: "stopped".to_owned() });
                }
            }
        }
        if task.parameters.contains_key("deaf") {
            std::future::pending::<()>().await;
        }
        if let Some(message) = task.parameters.get("fail").and_then(Value::as_str) {
            return failed(message);
        }
        assert!(!task.parameters.contains_key("panic"), "as asked");
        if let Some(bytes) = number("result_bytes") {
            return Ok(object(json!({"fill": "x".repeat(usize::try_from(bytes).unwrap())})));
        }
        if let Some(timeout_ms) = task.parameters.get("next") {
            let (reply, answer) = oneshot::channel();
            let call = NextCall {
                payload: Payload::new(),
                host_ctx: Payload::new(),
                middleware_ctx: object(json!({"k": 1})),
                timeout_ms: timeout_ms.as_u64(),
                reply,
            };
            door.next.send(call).await.unwrap();
            return match answer.await {
                Ok(Ok(result)) => Ok(object(json!({"next": result}))),
                Ok(Err(error)) => failed(&error.to_string()),
                Err(_) => failed("next_cancelled"),
            };
        }
        Ok(object(json!({"echo": task.parameters})))
    }
}

#[async_trait]
impl Handlers for TestHandlers {
    async fn run(&self, task: Task, door: Door, stop: CancellationToken) -> Result<Outcome, Fault> {
        {
            let mut seen = self.seen();
            seen.started.push(task.task_id.clone());
            seen.tasks.push(task.clone());
            seen.now += 1;
            seen.most = seen.most.max(seen.now);
            let now = seen.now_of.entry(task.node_type.clone()).or_default();
            *now += 1;
            let now = *now;
            let most = seen.most_of.entry(task.node_type.clone()).or_default();
            *most = (*most).max(now);
        }
        let result = self.act(&task, &door, &stop).await;
        let mut seen = self.seen();
        seen.now -= 1;
        *seen.now_of.get_mut(&task.node_type).unwrap() -= 1;
        drop(seen);
        let metadata = task.metadata;
        result.map(|result| Outcome {
            status: Status::Succeeded,
            result,
            metadata,
            artifacts: Vec::new(),
            duration: Duration::from_millis(1),
        })
    }

    async fn install(&self, install: Install) -> Result<Payload, Payload> {
        self.seen().installs.push(install.clone());
        assert!(!install.url.ends_with("panic"), "as asked");
        if install.url.ends_with("gate") {
            self.gate.cancelled().await;
        }
        let mut seen = self.seen();
        if install.sha256.as_deref() == Some("wrong") {
            return Err(object(json!({"error": "its sha256 is another one"})));
        }
        seen.installed.push((install.name, install.version));
        Ok(Payload::new())
    }

    async fn uninstall(&self, name: String, version: Option<String>) -> Result<Payload, Payload> {
        let mut seen = self.seen();
        let before = seen.installed.len();
        seen.installed.retain(|(other, has)| *other != name || version.as_ref().is_some_and(|version| version != has));
        if seen.installed.len() == before { Err(object(json!({"error": "not installed"}))) } else { Ok(Payload::new()) }
    }

    fn inventory(&self) -> Option<Inventory> {
        let _held_up = self.disk.lock().unwrap();
        let seen = self.seen();
        if seen.is_unreadable {
            return None;
        }
        let installed = seen.installed.iter().cloned();
        let (packages, manifests) = installed
            .map(|(name, version)| {
                let package = Package { name: name.clone(), version: version.clone(), status: PackageStatus::Installed };
                (package, Manifest { name, version, manifest: object(json!({"nodes": []})) })
            })
            .unzip();
        Some(Inventory { packages, manifests })
    }
}

/// A worker as its own task; dropping it is what a kill leaves behind.
struct Running {
    handlers: Arc<TestHandlers>,
    drain: CancellationToken,
    stop: CancellationToken,
    view: watch::Receiver<View>,
    tasks: JoinSet<Result<(), Error>>,
}

impl Running {
    async fn ended(&mut self) -> Result<(), Error> {
        tokio::time::timeout(PATIENCE, self.tasks.join_next()).await.expect("it ends in time").unwrap().unwrap()
    }

    fn view(&self) -> View {
        *self.view.borrow()
    }

    /// All that a kill does to it.
    async fn kill(mut self) {
        self.tasks.shutdown().await;
    }
}

struct Bench {
    scheduler: Scheduler,
    dir: tempfile::TempDir,
    settings: Value,
}

impl Bench {
    async fn new(options: SchedulerOptions) -> Self {
        let scheduler = Scheduler::start(options).await;
        Self { scheduler, dir: tempfile::tempdir().unwrap(), settings: json!({}) }
    }

    fn set(mut self, name: &str, value: Value) -> Self {
        self.settings[name] = value;
        self
    }

    fn settings(&self) -> Settings {
        let mut fields = object(json!({
            "scheduler_ws_url": self.scheduler.url(), "auth_token": "let-me-in", "data_dir": self.dir.path().join("data"),
            "reconnect_base_delay_seconds": 0.02, "reconnect_max_delay_seconds": 0.1,
        }));
        fields.extend(object(self.settings.clone()));
        Settings::load(&Sources { file: Some(("test".into(), fields)), ..Sources::default() }).unwrap().settings
    }

    fn start(&self) -> Running {
        self.start_with(Arc::default())
    }

    fn start_with(&self, handlers: Arc<TestHandlers>) -> Running {
        let worker = self.worker(Arc::clone(&handlers)).unwrap();
        let (drain, stop, view) = (CancellationToken::new(), CancellationToken::new(), worker.view());
        let mut tasks = JoinSet::new();
        tasks.spawn(worker.run(drain.clone(), stop.clone()));
        Running { handlers, drain, stop, view, tasks }
    }

    fn worker(&self, handlers: Arc<TestHandlers>) -> Result<Worker, Error> {
        Worker::new(self.settings(), "w-1".to_owned(), "host".to_owned(), handlers)
    }

    /// A worker that is registered.
    async fn ready(&self) -> Running {
        let mut running = self.start();
        self.open(&mut running).await;
        running
    }

    /// Waits until its session is open at both ends.
    async fn open(&self, running: &mut Running) {
        tokio::time::timeout(PATIENCE, running.view.wait_for(|view| view.is_open)).await.expect("it opens in time").unwrap();
        self.scheduler.worker().await;
    }

    fn dispatch(&self, task: &str, parameters: Value) -> u64 {
        self.scheduler.dispatch(&Scheduler::task("r", task, &parameters))
    }

    /// One that waits for the gate, under the one concurrency key that there is here.
    fn dispatch_keyed(&self, task: &str) -> u64 {
        let mut task = Scheduler::task("r", task, &json!({"gate": true}));
        task["concurrency_key"] = json!("r:n");
        self.scheduler.dispatch(&task)
    }

    async fn answer(&self, task: &str) -> Value {
        self.scheduler.answer(task).await
    }

    /// The code of the error that a task is answered with.
    async fn code(&self, task: &str) -> String {
        let answer = self.answer(task).await;
        answer["payload"]["code"].as_str().unwrap_or_else(|| panic!("{answer} is no error")).to_owned()
    }

    /// A dispatch as it is sent again, without a number.
    fn again(&self, task: &str, id: &str, seq: u64, parameters: &Value) {
        let frame = json!({"type": "biz.exec.dispatch", "id": id, "ts": "2025-12-24T10:00:00Z", "tenant": "default",
            "sender": {"role": "scheduler", "id": "s"}, "payload": Scheduler::task("r", task, parameters), "corr": task, "seq": seq, "ack": {"request": true}});
        self.scheduler.send_text(&frame.to_string());
    }

    async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        eventually(what, PATIENCE, async || holds().then_some(())).await;
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(
                self.scheduler.complaints(),
                Vec::<String>::new(),
                "the scheduler closed a connection because of what the worker said"
            );
        }
    }
}
