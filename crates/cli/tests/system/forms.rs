//! What programs read: every command's data as JSON on standard output, whoever listens to standard error.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::fleet::{Fleet, longshore};
use crate::run::{User, text};

#[tokio::test]
async fn every_command_gives_its_data_as_json_to_who_hears_nothing_else() {
    let fleet = Fleet::start(1).await;
    let user = User::of(&fleet);
    let job = async || {
        let ended = user.data(&["job", "submit", "node.hostname.get", "--wait"]).await;
        ended["id"].as_str().unwrap().to_owned()
    };
    let (one, two) = (job().await, job().await);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (keys, out, token, data) = (path("keys"), path("out"), fleet.controller.said("token_file"), path("data"));
    let url = fleet.controller.said("url");
    let controller = Path::new(&token).parent().unwrap().display().to_string();
    let mut wrong = Vec::new();
    for words in [
        &["status"][..],
        &["job", "submit", "node.uptime.get"],
        &["job", "list"],
        &["job", "show", &one],
        &["job", "logs", &one],
        &["job", "result", &one],
        &["job", "wait", &one],
        &["job", "cancel", &one],
        &["job", "retry", &one],
        &["job", "delete", &two],
        &["node", "status"],
        &["node", "hostname"],
        &["node", "disk"],
        &["node", "memory"],
        &["node", "load"],
        &["node", "uptime"],
        &["node", "os"],
        &["node", "dns", "get"],
        &["node", "exec", "--", "true"],
        &["node", "shell", "true"],
        &["dead-letter", "list"],
        &["operation", "list"],
        &["operation", "show", "command.exec"],
        &["agent", "list"],
        &["agent", "show", "host-0"],
        &["agent", "facts", "host-0"],
        &["agent", "doctor"],
        &["agent", "drain", "host-0"],
        &["agent", "undrain", "host-0"],
        &["audit", "list"],
        &["audit", "verify"],
        &["package", "list", "--packages-dir", &out],
        &["token", "generate", "ci", "--data", &controller],
        &["token", "validate", &token, "--data", &controller],
        &["key", "generate", "--out", &keys],
        &["key", "rotate", "--out", &keys],
        &["context", "add", "here", "--url", &url],
        &["context", "use", "here"],
        &["context", "list"],
        &["config", "show"],
        &["config", "show", "--origin"],
        &["config", "show", "--worker"],
        &["config", "explain", "agent.max_jobs"],
        &["config", "check"],
        &["config", "schema"],
        &["explain", "no_agent"],
        &["version"],
    ] {
        let flags = ["--url", &url, "--token-file", &token, "-o", "json"];
        let mut command = longshore(fleet.dir.path(), &[&flags[..], words].concat());
        command.current_dir(dir.path()).env("XDG_STATE_HOME", &data).stderr(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let said = text(&output.stdout);
        let parsed: Result<Value, _> = serde_json::from_str(&said);
        if output.status.code() != Some(0) || !parsed.is_ok_and(|data| data.is_object() || data.is_array()) {
            wrong.push(format!("{words:?}: {:?}: {said}", output.status.code()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // What goes on is no document, and says which form it has.
    for words in [&["job", "watch"][..], &["job", "logs", "-f", &one]] {
        let refused = user.types(&[words, &["-o", "json"]].concat()).await;
        assert!(refused.status.code() == Some(2) && text(&refused.stderr).contains("-o jsonl"), "{words:?}: {}", text(&refused.stderr));
    }
    let watched = user.types(&["job", "watch", &one, "-o", "jsonl"]).await;
    let lines = text(&watched.stdout);
    assert!(lines.lines().count() > 1 && lines.lines().all(|line| serde_json::from_str::<Value>(line).is_ok_and(|line| line.is_object())));
}
