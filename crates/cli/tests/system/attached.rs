//! Longshore's own worker at a controller: everything that an agent does, over a connection that is cut, with a worker that is killed.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, Mutex};

use longshore_testkit::credentials::Authority;
use longshore_testkit::{Role, eventually};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use crate::fleet::{PATIENCE, longshore};
use crate::run::text;
use crate::secrets::telling_package;

const SECRET: &str = "hunter2-of-the-worker";

/// What lies between worker and controller.
struct Wire {
    address: String,
    open: Arc<Mutex<Vec<AbortHandle>>>,
    _tasks: JoinSet<()>,
}

impl Wire {
    async fn to(address: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().to_string();
        let open: Arc<Mutex<Vec<AbortHandle>>> = Arc::default();
        let (mut tasks, handles) = (JoinSet::new(), Arc::clone(&open));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let address = address.clone();
                let handle = connections.spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(address).await {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
                handles.lock().unwrap().push(handle);
            }
        });
        Self { address: own, open, _tasks: tasks }
    }

    /// Everything that is on its way is lost.
    fn cut(&self) {
        self.open.lock().unwrap().drain(..).for_each(|connection| connection.abort());
    }
}

struct Site {
    dir: tempfile::TempDir,
    wire: Wire,
    worker: Role,
    _controller: Role,
}

/// How workers prove who they are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Proof {
    Token,
    /// Over TLS.
    Certificate,
}

impl Site {
    async fn start() -> Self {
        Self::with(Proof::Token).await
    }

    async fn with(proof: Proof) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (home, data) = (dir.path().to_owned(), dir.path().join("data").display().to_string());
        let (at, of) = (home.clone(), data.clone());
        let words = ["start", "-o", "json", "--listen", "127.0.0.1:0", "--data"];
        let authority = Authority::new_in(&home, "ca");
        let (own, ca) = (authority.certify("localhost"), authority.ca());
        let controller = Role::start(PATIENCE, move || {
            let mut command = longshore(&at, &[&words[..], &[&of]].concat());
            if proof == Proof::Certificate {
                command.env("LONGSHORE_CONTROLLER__GATEWAY__TLS__LISTEN", "127.0.0.1:0");
                for (name, path) in [("CERT", &own.cert), ("KEY", &own.key), ("CLIENT_CA", &ca)] {
                    command.env(format!("LONGSHORE_CONTROLLER__GATEWAY__TLS__{name}"), path);
                }
            }
            command
        })
        .await;
        let address = match proof {
            Proof::Token => controller.said("url").strip_prefix("http://").unwrap().to_owned(),
            Proof::Certificate => controller.said("tls_address"),
        };
        let wire = Wire::to(address).await;
        let host = text(&std::process::Command::new("uname").arg("-n").output().unwrap().stdout).trim().to_owned();
        let certificate = authority.certify_as("worker", &[&host], &["longshore:group:edge"]);
        let token = types(&home, &["token", "generate", "edge", "--role", "admin", "--permission", "agent:attach", "--data", &data]).await;
        std::fs::write(dir.path().join("token"), token.stdout).unwrap();
        let worker_home = dir.path().join("worker");
        std::fs::create_dir(&worker_home).unwrap();
        telling_package(&worker_home.join("packages"));
        let keys = PathBuf::from(&data);
        let scheduler = match proof {
            Proof::Token => format!("ws://{}/ws/worker", wire.address),
            Proof::Certificate => format!("wss://localhost:{}/ws/worker", wire.address.rsplit_once(':').unwrap().1),
        };
        let at = home.clone();
        let make = move || {
            let mut command = longshore(&at, &["-o", "json", "worker", "start"]);
            let variables = [
                ("SCHEDULER_WS_URL", scheduler.clone()),
                ("WORKER_NAME", "edge".to_owned()),
                ("PACKAGES_DIR", at.join("worker/packages").display().to_string()),
                ("CONCURRENCY_MAX_PARALLEL", "4".to_owned()),
                ("RECONNECT_BASE_DELAY_SECONDS", "0.1".to_owned()),
                ("HEARTBEAT_INTERVAL_SECONDS", "1".to_owned()),
                ("JOB_OPENING_KEYS_FILE", keys.join("secrets.key").display().to_string()),
                ("JOB_TRUSTED_KEYS_FILE", keys.join("jobs.pub").display().to_string()),
                ("FEATURE_FLAGS", r#"["group:edge.one"]"#.to_owned()),
            ];
            let proves = match proof {
                Proof::Token => vec![("AUTH_TOKEN_FILE", at.join("token").display().to_string())],
                Proof::Certificate => vec![
                    ("AUTH_MODE", "mtls".to_owned()),
                    ("TLS_CA_FILE", authority.ca().display().to_string()),
                    ("TLS_CERT_FILE", certificate.cert.display().to_string()),
                    ("TLS_KEY_FILE", certificate.key.display().to_string()),
                ],
            };
            for (name, value) in variables.into_iter().chain(proves) {
                command.env(format!("ASTRA_WORKER_{name}"), value);
            }
            command.current_dir(at.join("worker"));
            command
        };
        let worker = Role::start(PATIENCE, make).await;
        let site = Self { dir, wire, worker, _controller: controller };
        eventually("the worker is listed", PATIENCE, async || {
            text(&site.types(&["agent", "list"]).await.stdout).contains("edge.one").then_some(())
        })
        .await;
        site
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    async fn types(&self, words: &[&str]) -> Output {
        types(self.path(), words).await
    }

    async fn submits(&self, operation: &str, args: &Value, more: &[&str]) -> String {
        let args = args.to_string();
        let words = ["job", "submit", operation, "--target", "edge", "--args", &args, "-o", "name"];
        let output = self.types(&[&words[..], more].concat()).await;
        assert_eq!(output.status.code(), Some(0), "{operation}: {}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    }

    async fn ended(&self, id: &str) -> Value {
        self.types(&["job", "wait", id]).await;
        let shown = self.types(&["job", "show", id, "-o", "json"]).await;
        serde_json::from_slice(&shown.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&shown.stderr)))
    }

    async fn performs(&self, operation: &str, args: Value) -> Value {
        let id = self.submits(operation, &args, &[]).await;
        self.ended(&id).await
    }

    async fn logs(&self, id: &str) -> String {
        text(&self.types(&["job", "logs", id]).await.stdout)
    }

    /// The number in a file that a job writes.
    async fn number(&self, name: &str) -> u32 {
        let path = self.path().join(name);
        eventually("a number in a file", PATIENCE, async || std::fs::read_to_string(&path).ok()?.trim().parse().ok()).await
    }
}

async fn types(home: &Path, words: &[&str]) -> Output {
    let mut command = longshore(home, words);
    command.current_dir(home);
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

fn is_alive(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| !words.is_empty())
}

#[tokio::test]
async fn an_attached_worker_performs_every_operation_of_the_catalogue() {
    let site = Site::start().await;
    let shown = text(&site.types(&["agent", "show", "edge", "-o", "json"]).await.stdout);
    assert!(shown.contains("workspace.run"), "{shown}");
    for operation in
        ["node.disk.get", "node.hostname.get", "node.load.get", "node.memory.get", "node.os.get", "node.status.get", "node.uptime.get"]
    {
        let job = site.performs(operation, json!({})).await;
        assert_eq!(job["status"], "completed", "{operation}: {job}");
        assert!(job["executions"][0]["result"].is_object(), "{operation}: {job}");
    }
    // These depend on the host: what counts is that the worker's own provider says how it went.
    let host = text(&std::process::Command::new("uname").arg("-n").output().unwrap().stdout).trim().to_owned();
    for (operation, args) in [
        ("network.dns.get", json!({})),
        ("network.dns.set", json!({"servers": ["192.0.2.1"], "interface": "nosuch0"})),
        ("network.ping.run", json!({"address": "127.0.0.1", "count": 1})),
        ("node.hostname.set", json!({"hostname": host})),
    ] {
        let id = site.submits(operation, &args, &[]).await;
        let execution = &site.ended(&id).await["executions"][0];
        let status = execution["status"].as_str().or(execution["state"].as_str()).unwrap_or_default();
        assert!(["completed", "failed", "skipped"].contains(&status), "{operation}: {execution}");
        assert!(
            !["no_agent", "internal", "handler_failed"].contains(&execution["error"]["code"].as_str().unwrap_or_default()),
            "{execution}"
        );
    }
    let job = site.performs("command.exec", json!({"command": ["sh", "-c", "echo out; echo err >&2; exit 3"]})).await;
    let execution = &job["executions"][0];
    assert_eq!((job["status"].as_str(), execution["error"]["code"].as_str()), (Some("failed"), Some("exit_status")), "{job}");
    assert_eq!((execution["result"]["stdout"].as_str(), execution["result"]["exit_code"].as_i64()), (Some("out\n"), Some(3)), "{job}");
    // A secret is opened at the worker, and shown nowhere.
    let script = format!("test \"$(printf %s \"$TOKEN\" | wc -c)\" = {} && echo $TOKEN", SECRET.len());
    let file = site.path().join("secret.txt");
    std::fs::write(&file, SECRET).unwrap();
    let secret = format!("TOKEN=@{}", file.display());
    let id = site.submits("command.shell", &json!({"command": script}), &["--secret", &secret]).await;
    let job = site.ended(&id).await;
    assert_eq!(job["status"], "completed", "{job}");
    assert!(!job.to_string().contains(SECRET), "{job}");
    // A package's node too: as a task of the session, and with a secret, which no such task may hold, as an operation. What it prints is the job's log.
    let node = json!({"package": "telling.pkg", "node": "show", "parameters": {"plain": "to be seen", "lines": 3000}});
    let plain = site.submits("package.run", &node, &[]).await;
    let job = site.ended(&plain).await;
    assert_eq!(job["executions"][0]["result"]["output"]["echo"], json!(["nothing"]), "{job}");
    let sealed = site.submits("package.run", &node, &["--secret", &format!("DEPLOY_{secret}")]).await;
    let job = site.ended(&sealed).await;
    let result = &job["executions"][0]["result"];
    assert_eq!((&result["output"]["echo"], &result["version"]), (&json!(["***"]), &json!("1.0.0")), "{job}");
    for (id, printed) in [(plain, "printed nothing to be seen"), (sealed, "printed *** to be seen")] {
        let output = site.types(&["job", "logs", &id]).await;
        let heard = text(&output.stdout) + &text(&output.stderr);
        assert!(heard.contains(printed) && heard.contains("told ") && !heard.contains(SECRET), "{printed:?} in {heard}");
        // All of it, though it was printed right before the end.
        assert_eq!((0..3000).find(|n| !heard.contains(&format!("line {n} x"))), None, "{id}");
    }
    let fact = site.performs("command.exec", json!({"command": ["echo", "@fact.hostname"]})).await;
    assert_eq!(fact["executions"][0]["result"]["stdout"], format!("{host}\n"), "{fact}");
    // By group, and with all others.
    let grouped = site.types(&["job", "submit", "node.os.get", "--target", "group:edge", "-o", "name"]).await;
    assert_eq!(site.ended(text(&grouped.stdout).trim()).await["status"], "completed");
}

#[tokio::test]
async fn a_workspace_goes_to_an_attached_worker_and_its_artifacts_come_back_over_cuts() {
    let site = Site::start().await;
    let source = site.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("note.txt"), "from here\n").unwrap();
    // Not small, and not to be packed into little.
    let noise: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(source.join("noise"), &noise).unwrap();
    let (go, up) = (site.path().join("go"), site.path().join("up"));
    let first =
        format!("cat note.txt; cp noise copy; touch {}; until test -e {}; do sleep 0.05; done; echo went on", up.display(), go.display());
    let (home, from) = (site.path().to_owned(), source.display().to_string());
    let mut running = JoinSet::new();
    running.spawn(async move { types(&home, &["run", &from, "--target", "edge", "--", &first, "echo second > made.txt"]).await });
    eventually("the first step to run", PATIENCE, async || up.exists().then_some(())).await;
    let id = eventually("its output, live", PATIENCE, async || {
        let listed = site.types(&["job", "list", "-o", "json"]).await;
        let list: Value = serde_json::from_slice(&listed.stdout).ok()?;
        let id = list["items"][0]["id"].as_str()?.to_owned();
        site.logs(&id).await.contains("from here").then_some(id)
    })
    .await;
    for _ in 0..3 {
        site.wire.cut();
        eventually("another connection", PATIENCE, async || (!site.wire.open.lock().unwrap().is_empty()).then_some(())).await;
    }
    std::fs::write(&go, "").unwrap();
    let output = running.join_next().await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}{}{}", text(&output.stdout), text(&output.stderr), site.worker.log());
    let results = site.path().join("results");
    assert_eq!(std::fs::read(results.join("copy")).unwrap(), noise);
    assert_eq!(std::fs::read_to_string(results.join("made.txt")).unwrap(), "second\n");
    let job = site.ended(&id).await;
    assert_eq!((&job["executions"][0]["attempts"], &job["status"]), (&json!(1), &json!("completed")));
    assert!(site.logs(&id).await.contains("went on"));
}

#[tokio::test]
async fn a_worker_attaches_over_tls_with_its_certificate_alone_and_fetches_bundles_so() {
    let site = Site::with(Proof::Certificate).await;
    let source = site.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("note.txt"), "from here\n").unwrap();
    let ran = site.types(&["run", source.to_str().unwrap(), "--target", "group:edge", "--yes", "--", "cat note.txt > made.txt"]).await;
    assert_eq!(ran.status.code(), Some(0), "{}{}", text(&ran.stderr), site.worker.log());
    let made = site.path().join("results");
    let found = walk(&made).into_iter().find(|path| path.ends_with("made.txt")).expect("it came back");
    assert_eq!(std::fs::read_to_string(found).unwrap(), "from here\n");
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn packages_are_installed_on_agents_and_workers_by_one_command() {
    let site = Site::start().await;
    let source = site.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let node =
        json!({"type": "echo", "status": "published", "category": "c", "label": "e", "adapter": "main", "handler": "echo", "schema": {}});
    let manifest = json!({
        "schemaVersion": "1.0.0", "name": "test.pkg", "version": "1.0.0", "description": "Of a test.", "python": {"requires": ">=3.8"},
        "adapters": [{"name": "main", "entrypoint": "handlers", "capabilities": ["x"]}], "nodes": [node],
    });
    std::fs::write(source.join("manifest.json"), manifest.to_string()).unwrap();
    std::fs::write(source.join("handlers.py"), "async def echo(context):\n    return {\"outputs\": context.params}\n").unwrap();
    let archive = site.path().join("package.zip");
    let built = site.types(&["package", "build", source.to_str().unwrap(), "--out", archive.to_str().unwrap(), "-o", "json"]).await;
    let built: Value = serde_json::from_slice(&built.stdout).unwrap();
    let url = format!("file://{}", archive.display());
    let install = async |sha256: &str| {
        site.types(&[
            "node",
            "package",
            "install",
            "test.pkg@1.0.0",
            &url,
            "--sha256",
            sha256,
            "--target",
            "_all",
            "--yes",
            "--wait",
            "60s",
        ])
        .await
    };
    let refused = install(&"0".repeat(64)).await;
    assert_ne!(refused.status.code(), Some(0), "{}", text(&refused.stdout));
    let said = text(&refused.stdout);
    assert_eq!(said.matches("was asked for").count(), 2, "{said}{}", text(&refused.stderr));
    for change in ["new", "unchanged"] {
        let installed = install(built["sha256"].as_str().unwrap()).await;
        let shown = text(&installed.stdout);
        assert_eq!((installed.status.code(), shown.matches(change).count()), (Some(0), 2), "{shown}{}", text(&installed.stderr));
    }
    let listed = async || text(&site.types(&["node", "package", "list", "--target", "_all", "--yes"]).await.stdout);
    let shown = listed().await;
    assert_eq!((shown.matches("test.pkg").count(), shown.matches("echo").count()), (2, 2), "{shown}");
    // It runs at once.
    let ran = site.performs("package.run", json!({"package": "test.pkg", "node": "echo", "parameters": {"n": 1}})).await;
    assert_eq!(ran["executions"][0]["result"]["output"], json!({"n": 1}), "{ran}");
    let removed = site.types(&["node", "package", "uninstall", "test.pkg", "--target", "_all", "--yes", "--wait", "60s"]).await;
    assert_eq!((removed.status.code(), text(&removed.stdout).matches("1.0.0").count()), (Some(0), 2), "{}", text(&removed.stdout));
    assert!(!listed().await.contains("test.pkg"));
    let audit = text(&site.types(&["audit", "list", "-o", "json"]).await.stdout);
    assert!(audit.contains("package.install"), "{audit}");
}

#[tokio::test]
async fn a_cancel_ends_what_runs_at_an_attached_worker_and_is_verified() {
    let site = Site::start().await;
    let pid_file = site.path().join("pid");
    let id = site.submits("command.shell", &json!({"command": format!("echo $$ > {}; sleep 600", pid_file.display())}), &[]).await;
    let pid = site.number("pid").await;
    let cancelled = site.types(&["job", "cancel", &id]).await;
    assert_eq!(cancelled.status.code(), Some(0), "{}", text(&cancelled.stderr));
    let job = site.ended(&id).await;
    assert_eq!((&job["status"], &job["executions"][0]["cancel_verified"]), (&json!("cancelled"), &json!(true)), "{job}");
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn a_kill_of_the_worker_ends_what_ran_and_only_what_may_be_is_run_again() {
    let mut site = Site::start().await;
    let script = |name: &str| {
        let (pid, n) = (site.path().join(name), site.path().join(format!("{name}.n")));
        json!({"command": format!("echo x >> {n}; test $(wc -l < {n}) -gt 1 && exit 0; echo $$ > {p}; sleep 600", n = n.display(), p = pid.display())})
    };
    let once = site.submits("command.shell", &script("once"), &[]).await;
    let twice = site.submits("command.shell", &script("twice"), &["--retry", "2"]).await;
    let pids = [site.number("once").await, site.number("twice").await];
    site.worker.kill_and_restart().await;
    let job = site.ended(&once).await;
    assert_eq!((&job["status"], &job["executions"][0]["error"]["code"]), (&json!("failed"), &json!("interrupted")), "{job}");
    let job = site.ended(&twice).await;
    assert_eq!((&job["status"], &job["executions"][0]["attempts"]), (&json!("completed"), &json!(2)), "{job}");
    for pid in pids {
        eventually("its end", PATIENCE, async || (!is_alive(pid)).then_some(())).await;
    }
    assert_eq!(std::fs::read_to_string(site.path().join("once.n")).unwrap(), "x\n");
}
