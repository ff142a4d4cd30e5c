//! Whether a server is ready, asked in the few words of the NATS protocol that takes. No client library: the kit must not share code
//! with what it tests.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// How long one question may take. A server that recovers its store answers late, and is asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Whether the server at `port` is the one called `name` and its JetStream answers.
pub(super) async fn jetstream_answers(port: u16, name: &str) -> bool {
    tokio::time::timeout(ANSWER_WITHIN, ask(port, name)).await.ok().flatten().unwrap_or(false)
}

async fn ask(port: u16, name: &str) -> Option<bool> {
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await.ok()?);
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let info: serde_json::Value = serde_json::from_str(line.strip_prefix("INFO ")?).ok()?;
    if info["server_name"] != name {
        return Some(false);
    }
    let words = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\nPING\r\nSUB testkit.probe 1\r\nPUB $JS.API.INFO testkit.probe 0\r\n\r\n";
    stream.write_all(words.as_bytes()).await.ok()?;
    loop {
        line.clear();
        if stream.read_line(&mut line).await.ok()? == 0 || line.starts_with("-ERR") {
            return None;
        }
        // `MSG subject sid size`; the other words (PONG, PING, INFO) need no answer from a probe that lives this short.
        if let Some(size) = line.strip_prefix("MSG ").and_then(|rest| rest.split_whitespace().last()) {
            let mut payload = vec![0; size.parse().ok()?];
            stream.read_exact(&mut payload).await.ok()?;
            let answer: serde_json::Value = serde_json::from_slice(&payload).ok()?;
            return Some(answer.get("error").is_none() && answer.get("limits").is_some());
        }
        // Without JetStream nobody listens there, and the server says so in headers (`HMSG`) only to clients that asked for them.
    }
}
