//! `longshore start`: everything on one host, in one command, and what becomes of it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use longshore_testkit::{NatsServer, Process, Signal, eventually};
use serde_json::Value;

use crate::fleet::{PATIENCE, free_address, longshore};

struct Host {
    home: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    fn data(&self) -> String {
        self.home.path().join("data").display().to_string()
    }

    async fn start(&self) -> (Process, Value) {
        let process =
            Process::spawn(longshore(self.home.path(), &["start", "-o", "json", "--listen", "127.0.0.1:0", "--data", &self.data()]));
        let line = process.wait_for_line(|line| line.starts_with('{'), PATIENCE).await;
        (process, serde_json::from_str(&line).unwrap())
    }

    async fn types(&self, words: &[&str]) -> (Option<i32>, String, String) {
        let mut command = longshore(self.home.path(), words);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into(), String::from_utf8_lossy(&output.stderr).into())
    }
}

fn is_alive(pid: u64) -> bool {
    // A zombie is not alive: somebody else's to reap, and it holds nothing.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

fn broker_pids(data: &str) -> Vec<u64> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    processes
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok())
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.split('\0').next().is_some_and(|program| program.ends_with("nats-server")) && line.contains(data) && is_alive(*pid)
        })
        .collect()
}

#[tokio::test]
async fn start_then_run_is_all_it_takes_and_secrets_are_private() {
    let host = Host::new();
    let (mut process, ready) = host.start().await;
    let (code, out, err) = host.types(&["run", "--", "echo", "hello"]).await;
    assert_eq!((code, out.as_str()), (Some(0), "hello\n"), "{err}");
    let (code, out, _) = host.types(&["status", "-o", "json"]).await;
    let status: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &status["healthy"], &status["broker"]["durability"]), (Some(0), &true.into(), &"always".into()));
    for file in walk(Path::new(&host.data())).into_iter().chain(walk(&host.home.path().join("config"))) {
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        let is_secret = ["key", "token", "contexts", "nats.conf"].iter().any(|word| file.to_string_lossy().contains(word));
        assert!(!is_secret || mode & 0o077 == 0, "{} is readable by others: {mode:o}", file.display());
    }
    assert_eq!(std::fs::metadata(host.data()).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(ready["url"].as_str().unwrap().starts_with("http://127.0.0.1:"), "loopback by default");
    process.signal(Signal::TERM);
    assert!(process.wait(PATIENCE).await.success(), "{}", process.output());
    assert_eq!(broker_pids(&host.data()), [0; 0], "the broker is stopped last, but it is stopped");
}

#[tokio::test]
async fn a_second_start_on_the_same_data_says_who_has_it() {
    let host = Host::new();
    let (process, _) = host.start().await;
    let (code, _, err) = host.types(&["start", "--listen", "127.0.0.1:0", "--data", &host.data()]).await;
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains(&process.pid().to_string()), "it names the process: {err}");
}

#[tokio::test]
async fn the_broker_is_never_orphaned_and_comes_back_when_it_dies() {
    let host = Host::new();
    let (mut process, _) = host.start().await;
    let [broker] = broker_pids(&host.data())[..] else { panic!("one broker, not {:?}", broker_pids(&host.data())) };
    let (_, before, _) = host.types(&["job", "submit", "node.hostname.get", "--wait", "-o", "name"]).await;
    longshore_kill(broker);
    eventually("the broker to come back", PATIENCE, async || broker_pids(&host.data()).first().filter(|pid| **pid != broker).copied())
        .await;
    eventually("work to go on", PATIENCE, async || (host.types(&["run", "--", "true"]).await.0 == Some(0)).then_some(())).await;
    process.kill9();
    eventually("the broker to follow its killed parent", Duration::from_secs(20), async || {
        broker_pids(&host.data()).is_empty().then_some(())
    })
    .await;
    let (_again, _) = host.start().await;
    let (code, out, err) = host.types(&["job", "show", before.trim(), "-o", "json"]).await;
    assert_eq!(code, Some(0), "{err}");
    let job: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(job["status"], "completed", "what was finished before is still there");
}

#[tokio::test]
async fn a_server_of_somebody_else_on_the_configured_port_is_never_taken_for_ours() {
    let host = Host::new();
    let foreign = NatsServer::start().await;
    let (port, data) = (foreign.port().to_string(), host.data());
    let start = || Process::spawn(longshore(host.home.path(), &["nats", "start", "-o", "json", "--port", &port, "--data", &data]));
    let mut refused = start();
    assert_eq!(refused.wait(PATIENCE).await.code(), Some(1), "{}", refused.output());
    let said = refused.output();
    assert!(said.contains(&format!("cannot listen on 127.0.0.1:{port}")) && said.contains("--nats-url"), "{said}");
    assert_eq!(broker_pids(&data), [0; 0]);
    drop(foreign);
    start().wait_for_line(|line| line.starts_with('{'), PATIENCE).await;
}

#[tokio::test]
async fn a_second_start_on_other_data_leaves_the_first_ones_context_alone() {
    let host = Host::new();
    let (_first, ready) = host.start().await;
    let other = host.home.path().join("other").display().to_string();
    let second = Process::spawn(longshore(host.home.path(), &["start", "--listen", "127.0.0.1:0", "--data", &other]));
    second.wait_for_line(|line| line.contains("Try:"), PATIENCE).await;
    for part in ["context \"local-2\"", "\"local\" stays current", "LONGSHORE_CONTEXT=local-2 longshore run"] {
        assert!(second.output().contains(part), "{part} in {}", second.output());
    }
    let (_, out, _) = host.types(&["context", "list", "-o", "json"]).await;
    let list: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&list["items"][0]["name"], &list["items"][0]["current"]), (&"local".into(), &true.into()));
    assert_eq!((&list["items"][0]["url"], &ready["context"]), (&ready["url"], &"local".into()));
    let mut command = longshore(host.home.path(), &["job", "list", "-o", "json"]);
    command.env("LONGSHORE_CONTEXT", "local-2");
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn a_password_in_the_brokers_address_is_not_announced() {
    let host = Host::new();
    let nats = NatsServer::start().await;
    let url = nats.url().replace("nats://", "nats://me:hunter2@");
    for form in ["json", "table"] {
        let words = ["start", "-o", form, "--nats-url", &url, "--listen", "127.0.0.1:0", "--data", &host.data()];
        let mut process = Process::spawn(longshore(host.home.path(), &words));
        process.wait_for_line(|line| line.contains(&nats.port().to_string()), PATIENCE).await;
        process.signal(Signal::TERM);
        process.wait(PATIENCE).await;
        assert!(!process.output().contains("hunter2"), "{}", process.output());
    }
}

#[tokio::test]
async fn a_managed_broker_and_its_controller_are_as_configured() {
    let host = Host::new();
    let file = |name: &str, content: &str| {
        let path = host.home.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let (key, token) = (file("key", &"k".repeat(40)), file("ops.token", "made below"));
    let store = host.home.path().join("streams").display().to_string();
    let binary = host.home.path().join("my-nats-server");
    std::os::unix::fs::symlink(longshore_testkit::nats_server_binary(), &binary).unwrap();
    let (api, port) = (free_address(), free_address().rsplit_once(':').unwrap().1.to_owned());
    let config = file(
        "all.yaml",
        &format!(
            "nats: {{server: {{host: 127.0.0.2, port: {port}, store_dir: {store}, binary: {}}}}}\n\
             controller:\n  api:\n    listen: {api}\n    job_timeout: 1s\n    security:\n      signing_key: {{file: {key}}}\n      \
             roles: {{ops: {{permissions: [node:read, job:read]}}}}\n  client: {{url: 'http://{api}', security: {{bearer_token: {{file: {token}}}}}}}\n",
            binary.display()
        ),
    );
    let mut command = longshore(host.home.path(), &["start", "-o", "json", "--data", &host.data(), "--config", &config]);
    // The test's own choice of the program would be one more way to name it.
    command.env_remove("NATS_SERVER_BIN");
    let process = Process::spawn(command);
    let said: Value = serde_json::from_str(&process.wait_for_line(|line| line.starts_with('{'), PATIENCE).await).unwrap();
    assert_eq!((&said["url"], &said["nats_url"]), (&format!("http://{api}").into(), &format!("nats://127.0.0.2:{port}").into()));
    assert!(Path::new(&store).join("jetstream").is_dir(), "nats.server.store_dir");
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", said["nats_pid"])).unwrap();
    assert!(line.starts_with(binary.to_str().unwrap()), "nats.server.binary: {line}");

    // The role, signed with the configured key, is what the controller knows, and what the client side sends.
    let (code, ops, error) = host.types(&["token", "generate", "ci", "--role", "ops", "--data", &host.data(), "--config", &config]).await;
    assert_eq!(code, Some(0), "{error}");
    std::fs::write(&token, ops).unwrap();
    let (code, _, error) = host.types(&["job", "list", "--config", &config]).await;
    assert_eq!(code, Some(0), "{error}");
    let (code, _, error) = host.types(&["node", "exec", "--config", &config, "--", "true"]).await;
    assert_eq!(code, Some(4), "the role does not grant it: {error}");
    assert!(!Path::new(&host.data()).join("signing.key").exists(), "the configured key is used, and none is made");
}

#[tokio::test]
async fn a_managed_broker_by_itself_follows_its_flags() {
    let host = Host::new();
    let port = free_address().rsplit_once(':').unwrap().1.to_owned();
    let process = Process::spawn(longshore(host.home.path(), &["nats", "start", "-o", "json", "--data", &host.data(), "--port", &port]));
    let said: Value = serde_json::from_str(&process.wait_for_line(|line| line.starts_with('{'), PATIENCE).await).unwrap();
    assert_eq!(said["nats_url"], format!("nats://127.0.0.1:{port}"));
}

fn longshore_kill(pid: u64) {
    let status = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files.extend(walk(&path))
        } else if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            files.push(path)
        }
    }
    files
}
