//! What a server tells of itself over HTTP: whoever may connect to it, this door is open.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The lines that open the door, on any free port, which the server notes in a file below `dir`.
pub(super) fn config(dir: &Path) -> String {
    let dir = Value::from(dir.to_string_lossy());
    format!("http: \"127.0.0.1:-1\"\nports_file_dir: {dir}\n")
}

/// The port of the server with this process id, once it has taken all it listens on.
pub(super) fn port(dir: &Path, pid: u32) -> Option<u16> {
    let file = std::fs::read_dir(dir).ok()?.filter_map(Result::ok).map(|entry| entry.path()).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(&format!("_{pid}.ports"))
    })?;
    let ports: Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    ports["monitoring"][0].as_str()?.rsplit_once(':')?.1.parse().ok()
}

/// Whether clients are let in and JetStream answers.
pub(super) async fn is_ready(dir: &Path, pid: u32) -> bool {
    let Some(port) = port(dir, pid) else { return false };
    get(port, "/healthz").await.is_some_and(|health| health["status"] == "ok")
}

/// Asks for a document.
pub(super) async fn get(port: u16, path: &str) -> Option<Value> {
    let asked = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        // The older HTTP: the answer comes in one piece, and its end is the connection's.
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        let body = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        serde_json::from_slice(&answer[body..]).ok()
    };
    tokio::time::timeout(ANSWER_WITHIN, asked).await.ok().flatten()
}
