//! The floor: the least that any worker with Python handlers must do. One connection, one interpreter behind a pipe, a frame in, a line
//! there and back, two frames out. Nothing is checked, kept, resumed or sent again.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;
use futures::{SinkExt, StreamExt};
use longshore_testkit::Scheduler;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::unix::pipe;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

const PROGRAM: &str = include_str!("../../handlers/bare.py");

/// A worker that does no more than it must; ends when dropped.
pub(super) struct Bare {
    _tasks: JoinSet<anyhow::Result<()>>,
    python: Child,
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.python.kill();
        let _ = self.python.wait();
    }
}

impl Bare {
    pub(super) async fn start(scheduler: &Scheduler, dir: &Path) -> anyhow::Result<Self> {
        let program = dir.join("bare.py");
        std::fs::write(&program, PROGRAM)?;
        let mut python = Command::new("python3").arg(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let to = pipe::Sender::from_owned_fd(python.stdin.take().context("it has an input")?.into())?;
        let from = pipe::Receiver::from_owned_fd(python.stdout.take().context("it has an output")?.into())?;
        let stream = TcpStream::connect(scheduler.address()).await?;
        stream.set_nodelay(true)?;
        let (mut socket, _) = tokio_tungstenite::client_async(scheduler.url(), stream).await?;
        let handshake = json!({
            "protocol": 1, "auth": {"mode": "token", "token": "bench"},
            "worker": {"worker_name": "bare", "worker_instance_id": "bare", "version": "0", "hostname": "bare"},
        });
        let register = json!({
            "capabilities": {"concurrency": {"max_parallel": 1}, "runtimes": ["python"], "features": []},
            "packages": [{"name": "bench.pkg", "version": "1.0.0", "status": "installed"}],
        });
        for (n, (kind, payload)) in [("control.handshake", handshake), ("control.register", register)].into_iter().enumerate() {
            send(&mut socket, kind, &format!("first-{n}"), &payload, json!({"ack": {"request": true}})).await?;
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(socket, to, from));
        scheduler.worker().await;
        Ok(Self { _tasks: tasks, python })
    }
}

type Socket = WebSocketStream<TcpStream>;

async fn serve(mut socket: Socket, mut to: pipe::Sender, from: pipe::Receiver) -> anyhow::Result<()> {
    let mut lines = BufReader::new(from).lines();
    let (mut dispatches, mut n_taken, mut n_answered) = (HashMap::<u64, Value>::new(), 0, 0);
    loop {
        tokio::select! {
            line = lines.next_line() => {
                let answer: Value = serde_json::from_str(&line?.context("the interpreter has ended")?)?;
                let n = answer["n"].as_u64().context("an answer has a number")?;
                let dispatch = dispatches.remove(&n).context("what is answered was asked")?;
                let payload = json!({
                    "run_id": dispatch["payload"]["run_id"], "task_id": dispatch["payload"]["task_id"], "status": "SUCCEEDED",
                    "result": answer["result"], "duration_ms": 0,
                });
                n_answered += 1;
                let more = json!({"corr": dispatch["id"], "seq": dispatch["seq"], "session_seq": n_answered, "ack": {"request": true}});
                send(&mut socket, "biz.exec.result", &format!("result-{n_answered}"), &payload, more).await?;
            }
            message = socket.next() => {
                let Message::Text(text) = message.context("the scheduler has closed")?? else { continue };
                let frame: Value = serde_json::from_str(text.as_str())?;
                if frame["type"] != "biz.exec.dispatch" {
                    continue;
                }
                n_taken += 1;
                let acknowledged = json!({"ok": true, "for": frame["id"], "ack_seq": frame["session_seq"], "ack_bitmap": 0, "recv_window": 64});
                send(&mut socket, "control.ack", &format!("ack-{n_taken}"), &acknowledged, json!({"ack": {"for": frame["id"]}})).await?;
                let mut line = json!({"n": n_taken, "params": frame["payload"]["parameters"]}).to_string();
                line.push('\n');
                to.write_all(line.as_bytes()).await?;
                dispatches.insert(n_taken, frame);
            }
        }
    }
}

async fn send(socket: &mut Socket, kind: &str, id: &str, payload: &Value, more: Value) -> anyhow::Result<()> {
    let mut frame = json!({
        "type": kind, "id": id, "ts": jiff::Timestamp::now().to_string(), "tenant": "default",
        "sender": {"role": "worker", "id": "bare"}, "payload": payload,
    });
    if let (Value::Object(frame), Value::Object(more)) = (&mut frame, more) {
        frame.extend(more);
    }
    Ok(socket.send(Message::text(frame.to_string())).await?)
}
