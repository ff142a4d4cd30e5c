//! What packages and their handlers do to a whole worker: less than to the existing one.

use std::path::Path;

use longshore_testkit::{Role, Scheduler, SchedulerOptions, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::fleet::PATIENCE;
use crate::worker::{Home, manifest};

/// A directory of a package below the packages directory.
fn put(home: &Home, manifest: &Value, files: &[(&str, &str)]) {
    let (name, version) = (manifest["name"].as_str().unwrap(), manifest["version"].as_str().unwrap());
    let dir = home.path().join("packages").join(name).join(version);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("manifest.json"), manifest.to_string()).unwrap();
    for (file, text) in files {
        std::fs::write(dir.join(file), text).unwrap();
    }
}

async fn result(home: &Home, task: &str) -> Value {
    let answer = home.scheduler.answer(task).await;
    assert_eq!(answer["type"], "biz.exec.result", "{answer}");
    answer["payload"]["result"].clone()
}

#[tokio::test]
async fn modules_of_one_name_and_nodes_that_cannot_be_resolved_harm_no_other() {
    let home = Home::new(SchedulerOptions::default()).await;
    for name in ["pkg.a", "pkg.b"] {
        let mut manifest = manifest(name, "1.0.0", &["nowhere", "which", "method"]);
        manifest["adapters"]
            .as_array_mut()
            .unwrap()
            .push(json!({"name": "class", "entrypoint": "handlers:Handlers", "capabilities": ["x"]}));
        manifest["nodes"][2]["adapter"] = json!("class");
        let handlers = "import helper\n\nasync def which(context):\n    return {\"who\": helper.WHO}\n\n\
            class Handlers:\n    def method(self, context):\n        return {\"who\": helper.WHO + \" by a method\"}\n";
        put(&home, &manifest, &[("handlers.py", handlers), ("helper.py", &format!("WHO = {name:?}\n"))]);
    }
    let _worker = home.start(&[]).await;
    for name in ["pkg.a", "pkg.b"] {
        for node in ["nowhere", "which", "method"] {
            home.dispatch_to(name, "1.0.0", &format!("{node} of {name}"), node, &json!({}));
        }
    }
    for name in ["pkg.a", "pkg.b"] {
        assert_eq!(home.scheduler.answer(&format!("nowhere of {name}")).await["payload"]["code"], "E.RUNNER.FAILURE");
        assert_eq!(result(&home, &format!("which of {name}")).await["who"], name);
        assert_eq!(result(&home, &format!("method of {name}")).await["who"], format!("{name} by a method"));
    }
}

/// Gives each of these to whoever asks for it, over HTTP and under a name that says nothing.
async fn serve(tasks: &mut JoinSet<()>, archives: Vec<Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let n_bytes = stream.read(&mut request).await.unwrap_or(0);
            let path = String::from_utf8_lossy(&request[..n_bytes]).split(' ').nth(1).unwrap_or_default().to_owned();
            let found = path.trim_start_matches('/').parse::<usize>().ok().and_then(|n| archives.get(n));
            let (status, body) = found.map_or(("404 Not Found", &[][..]), |archive| ("200 OK", archive));
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
        }
    });
    format!("http://{address}")
}

fn archive(manifest: &Value, files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let manifest = manifest.to_string();
    for (name, text) in files.iter().copied().chain([("manifest.json", manifest.as_str())]) {
        let mut header = tar::Header::new_gnu();
        // As it is: the library refuses names that lead out.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn versioned(version: &str) -> Vec<u8> {
    let handlers = format!("async def version(context):\n    return {{\"version\": {version:?}}}\n");
    archive(&manifest("web.pkg", version, &["version"]), &[("handlers.py", &handlers)])
}

#[tokio::test]
async fn packages_come_over_http_and_one_that_is_refused_changes_nothing() {
    let home = Home::new(SchedulerOptions::default()).await;
    let mut tasks = JoinSet::new();
    let hostile = archive(&manifest("web.pkg", "3.0.0", &["version"]), &[("../../../escaped", "x"), ("handlers.py", "")]);
    let mut needy = manifest("web.pkg", "4.0.0", &["version"]);
    needy["python"]["dependencies"] = json!(["nothing-has-this-name==1.0"]);
    let archives = vec![versioned("1.0.0"), versioned("2.0.0"), hostile, archive(&needy, &[("handlers.py", "")])];
    let url = serve(&mut tasks, archives).await;
    let victim = home.path().join("victim");
    std::fs::create_dir(&victim).unwrap();
    std::fs::write(victim.join("file"), "mine").unwrap();
    let _worker = home.start(&["--set", "package_reach=loopback"]).await;
    let command = async |kind: &str, command: Value| {
        let events = || home.scheduler.frames("biz.pkg.event");
        let n = events().len();
        home.scheduler.send(kind, &command, None);
        eventually("an event", PATIENCE, async || events().get(n).map(|frame| frame["payload"].clone())).await
    };
    let install = async |name: &str, version: &str, n: usize, sha256: Value| {
        let mut frame = json!({"name": name, "version": version, "url": format!("{url}/{n}")});
        if !sha256.is_null() {
            frame["sha256"] = sha256;
        }
        command("biz.pkg.install", frame).await
    };
    assert_eq!(install("web.pkg", "1.0.0", 0, Value::Null).await["status"], "installed");
    let versions = || -> Vec<Value> {
        let registered = home.scheduler.registered().unwrap()["packages"].as_array().unwrap().clone();
        registered.into_iter().filter(|package| package["name"] == "web.pkg").map(|package| package["version"].clone()).collect()
    };
    assert_eq!(versions(), ["1.0.0"]);
    let names = async |what: &str, event: Value, expected: &str| {
        let text = event["details"].to_string();
        assert!(event["status"] == "failed" && text.contains(expected), "{what}: {event}");
    };
    names("a digest of something else", install("web.pkg", "2.0.0", 1, json!("0".repeat(64))).await, "SHA-256").await;
    names("another version than was asked for", install("web.pkg", "9.0.0", 1, Value::Null).await, "2.0.0").await;
    names("a name that leads out of the archive", install("web.pkg", "3.0.0", 2, Value::Null).await, "escaped").await;
    names("a name that leads out of the packages", install("../victim", "1.0.0", 0, Value::Null).await, "../victim").await;
    names("nothing there", install("web.pkg", "5.0.0", 9, Value::Null).await, "404").await;
    names("a dependency from nowhere", install("web.pkg", "4.0.0", 3, Value::Null).await, "dependencies").await;
    assert_eq!(std::fs::read_to_string(victim.join("file")).unwrap(), "mine");
    let is_escaped = |dir: &Path| dir.ancestors().any(|dir| dir.join("escaped").exists());
    assert!(!is_escaped(&home.path().join("packages/web.pkg/3.0.0")));
    assert_eq!(versions(), ["1.0.0"]);
    // Side by side, and the other one goes alone.
    assert_eq!(install("web.pkg", "2.0.0", 1, Value::Null).await["status"], "installed");
    for version in ["1.0.0", "2.0.0"] {
        home.dispatch_to("web.pkg", version, version, "version", &json!({}));
        assert_eq!(result(&home, version).await["version"], version);
    }
    assert_eq!(command("biz.pkg.uninstall", json!({"name": "web.pkg", "version": "1.0.0"})).await["status"], "installed");
    assert_eq!(versions(), ["2.0.0"]);
    home.dispatch_to("web.pkg", "2.0.0", "still", "version", &json!({}));
    assert_eq!(result(&home, "still").await["version"], "2.0.0");
}

const OTHERS: &str = r#"
import os, pathlib, time

def block(context):
    pathlib.Path(context.params["pid_file"]).write_text(str(os.getpid()))
    while not os.path.exists(context.params["until"]):
        time.sleep(0.01)
    return {}

async def where(context):
    return {"data_dir": str(context.data_dir.resolve())}
"#;

#[tokio::test]
async fn a_handler_that_blocks_its_event_loop_holds_up_neither_acknowledgements_nor_heartbeats_nor_other_packages() {
    let home = Home::new(SchedulerOptions::default()).await;
    let mut manifest = manifest("other.pkg", "1.0.0", &["block", "where"]);
    manifest["nodes"][0]["config"] = json!({"exec_mode": "inline"});
    put(&home, &manifest, &[("handlers.py", OTHERS)]);
    let _worker = home.start(&["--set", "heartbeat_interval_seconds=1", "--set", "heartbeat_jitter_seconds=1"]).await;
    let other = |task: &str, node: &str, parameters: Value| home.dispatch_to("other.pkg", "1.0.0", task, node, &parameters);
    other("blocks", "block", json!({"pid_file": home.path().join("pid"), "until": home.path().join("gate")}));
    home.pid("pid").await;
    let n_beats = home.scheduler.frames("control.heartbeat").len();
    home.dispatch("echo", "echo", &json!({"a": 1}));
    assert_eq!(result(&home, "echo").await["a"], 1);
    // One for the blocked host is acknowledged now and done later.
    other("waits", "where", json!({}));
    let id = home.scheduler.dispatched().last().unwrap().id.clone();
    let is_acknowledged = || home.scheduler.received().iter().any(|text| text.contains("control.ack") && text.contains(&id));
    eventually("its acknowledgement", PATIENCE, async || is_acknowledged().then_some(())).await;
    eventually("a heartbeat", PATIENCE, async || (home.scheduler.frames("control.heartbeat").len() > n_beats).then_some(())).await;
    assert!(home.scheduler.answers("blocks").is_empty() && home.scheduler.answers("waits").is_empty());
    std::fs::write(home.path().join("gate"), "").unwrap();
    assert_eq!(home.scheduler.answer("blocks").await["payload"]["status"], "SUCCEEDED");
    result(&home, "waits").await;
    // Whatever a run or a task is called, its data is below the data directory.
    let below = home.path().join("var/data").canonicalize().unwrap();
    for (n, run) in ["../../..", "/", "..", "a/b", "a\\..\\..", "."].into_iter().enumerate() {
        let mut frame = Scheduler::task(run, &format!("../{n}"), &json!({}));
        (frame["package_name"], frame["package_version"], frame["node_type"]) = (json!("other.pkg"), json!("1.0.0"), json!("where"));
        home.scheduler.dispatch(&frame);
        let found = result(&home, &format!("../{n}")).await["data_dir"].as_str().unwrap().to_owned();
        assert!(Path::new(&found).starts_with(&below) && Path::new(&found) != below, "{run}: {found}");
    }
}

#[tokio::test]
async fn a_worker_without_an_interpreter_starts_and_says_what_is_missing_when_it_is_needed() {
    let home = Home::new(SchedulerOptions::default()).await;
    let _worker: Role = home.start(&["--set", "python_program=/nowhere/python"]).await;
    home.dispatch("t", "echo", &json!({}));
    let answer = home.scheduler.answer("t").await;
    let message = answer["payload"]["message"].as_str().unwrap();
    assert!(answer["payload"]["code"] == "E.RUNNER.FAILURE" && message.contains("/nowhere/python"), "{answer}");
}
