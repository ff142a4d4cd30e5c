//! A worker that attaches to the controller over a WebSocket, on a real broker: the program on one side, frames on the other.

use futures::{SinkExt as _, StreamExt as _};
use longshore_testkit::{Process, eventually};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::fleet::{PATIENCE, longshore};

struct Worker(WebSocketStream<TcpStream>);

impl Worker {
    async fn attach(url: &str, token: &str) -> Self {
        let address = url.strip_prefix("http://").unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let (socket, _) = tokio_tungstenite::client_async(format!("ws://{address}/ws/worker"), stream).await.unwrap();
        let mut worker = Self(socket);
        let who = json!({"worker_name": "edge", "worker_instance_id": "w-1", "version": "0.1.0", "hostname": "edge-01"});
        worker.say("control.handshake", json!({"protocol": 1, "auth": {"mode": "token", "token": token}, "worker": who}), json!({})).await;
        worker.hear("control.ack").await;
        let packages = json!([{"name": "example.pkg", "version": "1.0.0", "status": "installed"}]);
        let can = json!({"concurrency": {"max_parallel": 2}, "runtimes": ["python"], "features": []});
        worker.say("control.register", json!({"capabilities": can, "packages": packages}), json!({})).await;
        worker.hear("control.session.accept").await;
        worker
    }

    async fn say(&mut self, kind: &str, payload: Value, more: Value) {
        let mut frame = json!({
            "type": kind, "id": format!("{kind}-1"), "ts": "2026-01-01T00:00:00Z", "tenant": "default", "sender": {"role": "worker", "id": "w-1"},
            "payload": payload, "ack": {"request": true},
        });
        frame.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.0.send(Message::text(frame.to_string())).await.unwrap();
    }

    async fn hear(&mut self, kind: &str) -> Value {
        let heard = async {
            loop {
                if let Message::Text(text) = self.0.next().await.unwrap().unwrap() {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    if frame["type"] == kind {
                        return frame;
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, heard).await.expect("the frame comes")
    }
}

#[tokio::test]
async fn a_package_runs_on_an_attached_worker_from_the_command_line() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data").display().to_string();
    let process = Process::spawn(longshore(home.path(), &["start", "-o", "json", "--listen", "127.0.0.1:0", "--data", &data]));
    let ready: Value = serde_json::from_str(&process.wait_for_line(|line| line.starts_with('{'), PATIENCE).await).unwrap();
    let types = async |words: &[&str]| {
        let mut command = longshore(home.path(), words);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, token, err) =
        types(&["token", "generate", "edge", "--role", "admin", "--permission", "agent:attach", "--data", &data]).await;
    assert_eq!(code, Some(0), "{err}");
    let mut worker = Worker::attach(ready["url"].as_str().unwrap(), token.trim()).await;
    eventually("the worker is listed", PATIENCE, async || types(&["agent", "list"]).await.1.contains("edge-01").then_some(())).await;
    let (_, shown, _) = types(&["agent", "show", "edge-01"]).await;
    assert!(shown.contains("example.pkg 1.0.0"), "{shown}");
    let args = r#"{"package": "example.pkg", "node": "example.echo", "parameters": {"text": "hello"}}"#;
    let (code, out, err) = types(&["job", "submit", "package.run", "--target", "edge-01", "--args", args, "-o", "json"]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    let job: Value = serde_json::from_str(&out).unwrap();
    let dispatch = worker.hear("biz.exec.dispatch").await;
    let task = &dispatch["payload"];
    let result = json!({"run_id": task["run_id"], "task_id": task["task_id"], "status": "SUCCEEDED", "result": task["parameters"]});
    worker.say("biz.exec.result", result, json!({"corr": dispatch["id"], "seq": dispatch["seq"], "session_seq": 1})).await;
    let (code, out, err) = types(&["job", "wait", job["id"].as_str().unwrap(), "-o", "json"]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("hello"), "{out}");
}
