//! Handlers that are WebAssembly modules: what they can do, and what they cannot do to their neighbours, their host and the worker.
//! A stage of its own, with the feature `wasm`.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected may panic, also in its helpers")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use longshore_exec::package::host::{
    Call, Door, ErrorKind, HandlerError, HostSettings, Hosts, NextCall, NextError, NextRequest, Outcome, feedback_channel,
};
use longshore_exec::package::{ArchiveLimits, Installed, Manifest, build};
use longshore_exec::{Output, SupervisorCommand};
use longshore_model::wire::log::LogStream;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_millis(300);

/// Hosts in a temporary directory, and the package they run.
struct Stand {
    dir: TempDir,
    hosts: Hosts,
    package: Installed,
}

impl Stand {
    fn new() -> Self {
        Self::with(include_bytes!("guest.wat"), |_| ())
    }

    fn with(module: &[u8], change: impl FnOnce(&mut HostSettings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let package = package(&dir.path().join("package"), module);
        let supervisor = SupervisorCommand { program: env!("CARGO_BIN_EXE_longshore-supervise").into(), args: Vec::new() };
        let mut settings = HostSettings::new(supervisor, dir.path().join("state"), dir.path().join("data"), "worker-1".to_owned());
        settings.restart_base = Duration::from_millis(1);
        change(&mut settings);
        Self { hosts: Hosts::new(settings).unwrap(), dir, package }
    }

    async fn run(&self, handler: &str, timeout: Option<Duration>, door: Door) -> Result<Outcome, HandlerError> {
        let call = Call { timeout, ..call(handler, json!({})) };
        let running = self.hosts.run(&self.package, call, door, CancellationToken::new());
        tokio::time::timeout(PATIENCE, running).await.unwrap_or_else(|_| panic!("{handler} ends"))
    }

    async fn does(&self, handler: &str) {
        let outcome = self.run(handler, None, Door::default()).await.unwrap_or_else(|error| panic!("{handler}: {error}"));
        assert_eq!(Value::Object(outcome.result), json!({ "done": true }), "{handler}");
    }

    async fn fault(&self, handler: &str) -> HandlerError {
        let error = self.run(handler, None, Door::default()).await.expect_err(handler);
        assert!(error.verified, "{error}");
        error
    }

    fn data(&self, handler: &str, file: &str) -> PathBuf {
        self.dir.path().join("data/run").join(handler).join(file)
    }

    /// A task of the same host that goes on until it is told.
    async fn bystander(&self) -> JoinSet<Result<Outcome, HandlerError>> {
        let (hosts, package, mut running) = (self.hosts.clone(), self.package.clone(), JoinSet::new());
        running.spawn(async move { hosts.run(&package, call("waits", json!({})), Door::default(), CancellationToken::new()).await });
        eventually("the bystander runs", || self.data("waits", "begun").exists()).await;
        running
    }

    async fn ends_well(&self, mut bystander: JoinSet<Result<Outcome, HandlerError>>) {
        std::fs::write(self.data("waits", "until"), "").unwrap();
        let ended = tokio::time::timeout(PATIENCE, bystander.join_next()).await.unwrap().unwrap().unwrap();
        assert_eq!(ended.unwrap().result["done"], true);
        assert_eq!(self.hosts.warm_hosts(), 1, "its host is the one it had from the beginning");
    }
}

const HANDLERS: &[&str] = &[
    "answers",
    "waits",
    "uses_files",
    "opens_many",
    "calls_next",
    "dawdles",
    "x_asks_amiss",
    "loops",
    "sleeps",
    "grows",
    "traps",
    "recurses",
    "misses",
    "exits",
    "babbles",
    "floods",
    "prints",
    "nothing",
];

fn package(dir: &Path, module: &[u8]) -> Installed {
    let node = |name: &&str| json!({ "type": name, "status": "published", "category": "c", "label": name, "adapter": "guest", "handler": name, "schema": {} });
    let manifest = json!({
        "schemaVersion": "1.0.0", "name": "guest", "version": "1.0.0", "description": "", "python": { "requires": ">=3.9" },
        "adapters": [{ "name": "guest", "entrypoint": "guest", "capabilities": ["x"], "metadata": { "runtime": "wasm", "module": "guest.wasm" } }],
        "nodes": HANDLERS.iter().map(node).collect::<Vec<_>>(),
    });
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("manifest.json"), manifest.to_string()).unwrap();
    std::fs::write(dir.join("guest.wasm"), module).unwrap();
    at(dir)
}

fn at(directory: &Path) -> Installed {
    let (manifest, raw) = Manifest::parse(&std::fs::read(directory.join("manifest.json")).unwrap()).unwrap();
    let (name, version) = (manifest.name.clone(), manifest.version.clone());
    Installed { name, version, directory: directory.canonicalize().unwrap(), manifest, raw, python: None }
}

fn call(handler: &str, parameters: Value) -> Call {
    Call {
        run_id: "run".to_owned(),
        task_id: handler.to_owned(),
        node_id: "node".to_owned(),
        node_type: handler.to_owned(),
        parameters: parameters.as_object().unwrap().clone(),
        tenant: "tenant".to_owned(),
        ..Call::default()
    }
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<u8>>);

impl Output for Recorder {
    fn write(&self, _step: u32, stream: LogStream, bytes: &[u8]) {
        assert_eq!(stream, LogStream::Stderr);
        self.0.lock().unwrap().extend_from_slice(bytes);
    }
}

#[tokio::test]
async fn the_example_takes_one_object_gives_one_and_says_something_meanwhile() {
    let stand = Stand::new();
    let example = at(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/wasm-echo"));
    let (sender, mut receiver) = feedback_channel();
    let recorder = Arc::new(Recorder::default());
    let output: Arc<dyn Output> = recorder.clone();
    let door = Door { feedback: Some(sender), output: Some(output), ..Door::default() };
    // More than the pages it begins with.
    let given = json!({ "text": "ü".repeat(200_000), "n": 7 });
    let asked = call("wasm.echo", given.clone());
    let outcome = stand.hosts.run(&example, asked, door, CancellationToken::new()).await.unwrap();
    let request = &outcome.result["request"];
    assert_eq!((&request["context"]["params"], &request["target"]["handler"]), (&given, &json!("echo")));
    let said = receiver.recv().await.unwrap();
    assert_eq!((said.progress, said.message.as_deref()), (Some(0.5), Some("half way")));
    assert_eq!(recorder.0.lock().unwrap().as_slice(), b"echo of a task\n");
    let written = std::fs::read(stand.data("wasm.echo", "answered.txt")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&written).unwrap(), *request);

    let archive = tempfile::tempfile().unwrap();
    let built = build(&example.directory, &archive, ArchiveLimits::default()).unwrap();
    assert_eq!(built.examined.remarks, Vec::<String>::new());
}

#[tokio::test]
async fn a_module_has_the_files_of_its_task_and_nothing_else_of_the_host() {
    let stand = Stand::new();
    std::fs::create_dir_all(stand.data("uses_files", "")).unwrap();
    std::os::unix::fs::symlink("/etc", stand.data("uses_files", "link")).unwrap();
    let fifo = std::process::Command::new("mkfifo").arg(stand.data("uses_files", "pipe")).status().unwrap();
    assert!(fifo.success());
    stand.does("uses_files").await;
    assert_eq!(std::fs::read_to_string(stand.data("uses_files", "moved")).unwrap(), "it went wrong");
    assert!(!stand.dir.path().join("data/run/escape").exists());
    stand.does("opens_many").await;
}

#[tokio::test]
async fn modules_that_loop_sleep_and_flood_are_stopped_and_harm_nobody() {
    let stand = Stand::with(include_bytes!("guest.wat"), |settings| settings.stop_grace = PATIENCE);
    let others = stand.bystander().await;
    for handler in ["loops", "sleeps", "prints"] {
        let error = stand.run(handler, Some(LIMIT), Door::default()).await.unwrap_err();
        assert_eq!((error.kind, error.verified), (ErrorKind::TimedOut, true), "{handler}: {error}");
    }
    let cancel = CancellationToken::new();
    let running = stand.hosts.run(&stand.package, call("loops", json!({})), Door::default(), cancel.clone());
    let (ended, ()) = tokio::join!(running, async {
        eventually("it loops", || stand.data("loops", "begun").exists()).await;
        cancel.cancel();
    });
    assert_eq!(ended.unwrap_err().kind, ErrorKind::Cancelled);
    stand.ends_well(others).await;
}

#[tokio::test]
async fn modules_that_trap_grow_leave_or_babble_fail_their_own_task() {
    let stand = Stand::with(include_bytes!("guest.wat"), |settings| settings.frame_bytes_max = 4 << 20);
    let others = stand.bystander().await;
    let rows = [
        ("traps", ErrorKind::Raised, "unreachable"),
        ("traps", ErrorKind::Raised, "its last words: it went wrong"),
        ("recurses", ErrorKind::Raised, "stack"),
        ("misses", ErrorKind::Raised, "out of bounds"),
        ("exits", ErrorKind::Raised, "exited with status 7; its last words: it went wrong"),
        ("babbles", ErrorKind::Raised, "one JSON object to stdout: expected"),
        ("nothing", ErrorKind::Raised, "it wrote nothing"),
        ("floods", ErrorKind::Raised, "wrote more than 4194240 bytes"),
    ];
    for (handler, kind, words) in rows {
        let error = stand.fault(handler).await;
        assert_eq!(error.kind, kind, "{handler}: {error}");
        assert!(error.message.contains(words), "{handler}: {error}");
    }
    // Memory ends where it is bounded, which the module is told, and is there again for the next one.
    for _ in 0..3 {
        stand.does("grows").await;
    }
    stand.does("answers").await;
    stand.ends_well(others).await;
}

fn fields(value: Value) -> serde_json::Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[tokio::test]
async fn a_module_calls_the_next_element_of_its_chain_and_waits_for_its_answer() {
    let stand = Stand::new();
    let (sender, mut calls) = mpsc::channel::<NextCall>(1);
    let door = Door { next: Some(sender), ..Door::default() };
    let answered = async {
        let call = calls.recv().await.unwrap();
        let NextRequest { payload, host_ctx, middleware_ctx, timeout_ms } = call.request;
        assert_eq!((payload, middleware_ctx), (fields(json!({ "k": 1 })), fields(json!({ "m": 2 }))));
        assert!(host_ctx.is_empty() && timeout_ms.is_none());
        call.reply.send(Ok(fields(json!({ "text": "ü".repeat(10_000) })))).unwrap();
    };
    let (outcome, ()) = tokio::join!(stand.run("calls_next", None, door), answered);
    assert_eq!(outcome.unwrap().result["result"]["text"], "ü".repeat(10_000));

    // Refused, late, or where nobody can run it.
    let (sender, mut calls) = mpsc::channel::<NextCall>(1);
    let refusing = async {
        let error = NextError { code: "next_no_chain".to_owned(), message: "none".to_owned(), trace: None };
        calls.recv().await.unwrap().reply.send(Err(error)).unwrap();
    };
    let (refused, ()) = tokio::join!(stand.run("calls_next", None, Door { next: Some(sender), ..Door::default() }), refusing);
    assert_eq!(refused.unwrap().result["error"]["code"], "next_no_chain");
    let (sender, _calls) = mpsc::channel(1);
    let late = stand.run("dawdles", None, Door { next: Some(sender), ..Door::default() }).await.unwrap();
    assert_eq!(late.result["error"]["code"], "next_timeout");
    let nobody = stand.run("calls_next", None, Door::default()).await.unwrap();
    assert_eq!(nobody.result["error"]["code"], "next_unavailable");
    stand.does("x_asks_amiss").await;
}

#[tokio::test]
async fn a_module_that_waits_for_the_next_element_is_stopped_and_keeps_nobody_from_running() {
    let stand = Stand::new();
    let (sender, mut calls) = mpsc::channel::<NextCall>(1);
    let cancel = CancellationToken::new();
    let running =
        stand.hosts.run(&stand.package, call("calls_next", json!({})), Door { next: Some(sender), ..Door::default() }, cancel.clone());
    // Held to the end: to give it up would be an answer.
    let (ended, _unanswered) = tokio::join!(running, async {
        let unanswered = calls.recv().await.unwrap();
        cancel.cancel();
        unanswered
    });
    assert_eq!(ended.unwrap_err().kind, ErrorKind::Cancelled);
    // More than there are places: each is answered by another task of the same host.
    let mut running = JoinSet::new();
    for n in 0..80 {
        let (hosts, package) = (stand.hosts.clone(), stand.package.clone());
        running.spawn(async move {
            let (sender, mut calls) = mpsc::channel::<NextCall>(1);
            let door = Door { next: Some(sender), ..Door::default() };
            let asked = Call { task_id: format!("middleware-{n}"), ..call("calls_next", json!({})) };
            let answering = async {
                let next = calls.recv().await.unwrap();
                let inner = Call { task_id: format!("next-{n}"), ..call("answers", json!({})) };
                let answer = hosts.run(&package, inner, Door::default(), CancellationToken::new()).await.unwrap();
                next.reply.send(Ok(answer.result)).unwrap();
            };
            let (outcome, ()) = tokio::join!(hosts.run(&package, asked, door, CancellationToken::new()), answering);
            outcome.unwrap().result["result"]["done"] == true
        });
    }
    let all = async {
        while let Some(ended) = running.join_next().await {
            assert!(ended.unwrap());
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("nobody waits for a place");
    assert_eq!(stand.hosts.warm_hosts(), 1);
}

#[tokio::test]
async fn many_modules_at_once_are_all_answered_and_share_what_there_is() {
    let stand = Stand::with(include_bytes!("guest.wat"), |settings| settings.memory_bytes_max = Some(600 << 20));
    let mut running = JoinSet::new();
    for n in 0..60 {
        let (hosts, package) = (stand.hosts.clone(), stand.package.clone());
        let asked = call(if n % 20 == 0 { "grows" } else { "answers" }, json!({}));
        running.spawn(async move { hosts.run(&package, asked, Door::default(), CancellationToken::new()).await });
    }
    while let Some(ended) = running.join_next().await {
        match ended.unwrap() {
            Ok(outcome) => assert_eq!(outcome.result["done"], true),
            // While the others have it all, there is no memory to begin with; that is said.
            Err(error) => assert!(error.kind == ErrorKind::Raised && error.message.contains("memory"), "{error}"),
        }
    }
    stand.does("answers").await;
    assert_eq!(stand.hosts.warm_hosts(), 1);
}

#[tokio::test]
async fn what_is_no_module_for_this_host_is_said_when_it_is_run_and_when_it_is_built() {
    let rows: &[(&[u8], &str)] = &[
        (b"\0asm\x01\0\0\0nonsense", "is none: "),
        (b"(module (memory (export \"memory\") 1))", "has no entry"),
        (b"(module (memory (export \"memory\") 1) (func (export \"_start\") (param i32)))", "has no entry"),
        (b"(module (func (export \"_start\")))", "has no memory"),
        (b"(module (import \"env\" \"system\" (func)) (memory (export \"memory\") 1) (func (export \"_start\")))", "wants env.system"),
    ];
    for (module, words) in rows {
        let stand = Stand::with(module, |_| ());
        let error = stand.fault("answers").await;
        assert_eq!(error.kind, ErrorKind::NotLoaded, "{error}");
        assert!(error.message.starts_with("Handler not registered: the module ") && error.message.contains(words), "{error}");
        let archive = tempfile::tempfile().unwrap();
        let remarks = build(&stand.package.directory, &archive, ArchiveLimits::default()).unwrap().examined.remarks;
        assert!(remarks.concat().contains(words), "{remarks:?}");
    }
    let too_large = Stand::with(b"(module (memory (export \"memory\") 5000) (func (export \"_start\")))", |_| ());
    let error = too_large.fault("answers").await;
    assert!(error.kind == ErrorKind::Raised && error.message.contains("memory"), "{error}");
    let endless =
        b"(module (memory (export \"memory\") 1) (func $start (loop $ever (br $ever))) (start $start) (func (export \"_start\")))";
    let error = Stand::with(endless, |_| ()).fault("answers").await;
    assert!(error.message.contains("fuel"), "{error}");
}

/// Figures, on request: `cargo test -p longshore-exec --features wasm --test wasm -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement, for a quiet machine"]
async fn round_trips() {
    let stand = Stand::new();
    let began = Instant::now();
    stand.does("answers").await;
    println!("first call, host started for it: {:?}", began.elapsed());
    let mut times = Vec::new();
    for _ in 0..1000 {
        let began = Instant::now();
        stand.does("answers").await;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    println!("min {:?}, median {:?}, p99 {:?}", times[0], times[500], times[990]);
}
