//! Whether a server is ready.

use std::time::Duration;

use super::wire::{Wire, ask};

/// How long one question may take. A server that recovers its store answers late, and is asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Whether the server at `port` is the one called `name` and its JetStream answers.
pub(super) async fn jetstream_answers(port: u16, name: &str) -> bool {
    tokio::time::timeout(ANSWER_WITHIN, probe(port, name)).await.ok().flatten().unwrap_or(false)
}

async fn probe(port: u16, name: &str) -> Option<bool> {
    let mut wire = Wire::connect(port).await?;
    if wire.info["server_name"] != name {
        return Some(false);
    }
    // Without JetStream nobody listens there, and the server says so in headers (`HMSG`) only to clients that asked for them.
    let answer = ask(&mut wire, "$JS.API.INFO", "").await?;
    Some(answer.get("error").is_none() && answer.get("limits").is_some())
}
