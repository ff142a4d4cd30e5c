//! Secret variables: in the program's environment, and nowhere else.

use std::sync::Arc;

use longshore_model::wire::log::LogStream;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::Outcome;
use longshore_model::wire::secret::Secret;
use serde_json::json;

use crate::support::{Bench, Recorder, failure, task};

const SECRET: &str = "hunter2 'hunter2' \u{e9}\n\"$(id)\"";

#[tokio::test]
async fn a_secret_reaches_the_program_and_not_its_output_or_its_arguments() {
    let (bench, recorder) = (Bench::new(), Arc::new(Recorder::default()));
    // Word for word, in two pieces with a pause between them, beside the ordinary variable, and in the arguments of nobody.
    let script = r#"printf '%s' "$TOKEN" | sha256sum | cut -c1-8
        printf '[%s][%s]\n' "$TOKEN" "$PLAIN"
        printf '%s' "$TOKEN" | head -c 9 >&2; sleep 0.2; printf '%s' "$TOKEN" | tail -c +10 >&2; printf ' end' >&2
        cat /proc/*/cmdline 2>/dev/null | tr '\0' ' ' | grep -c '[h]unter2 .hunter2.'"#;
    let args = json!({"command": script, "env": {"PLAIN": "seen"}, "secrets": {"TOKEN": SECRET}});
    let finished = bench.run_into(task("command.shell", args), &recorder).await;
    let result = finished.result.unwrap();
    let digest =
        std::process::Command::new("sh").args(["-c", "printf '%s' \"$T\" | sha256sum | cut -c1-8"]).env("T", SECRET).output().unwrap();
    let digest = String::from_utf8(digest.stdout).unwrap();
    assert_eq!(result["stdout"], format!("{digest}[***][seen]\n0\n"));
    assert_eq!(result["stderr"], "*** end");
    assert_eq!(result["stderr_bytes"], SECRET.len() + 4, "what the program wrote is counted as it was");
    assert_eq!(recorder.text(LogStream::Stdout), format!("{digest}[***][seen]\n0\n"));
    assert_eq!(recorder.text(LogStream::Stderr), "*** end");
}

#[tokio::test]
async fn every_step_of_a_workspace_has_the_secrets_and_none_of_its_logs() {
    let (bench, recorder) = (Bench::new(), Arc::new(Recorder::default()));
    let args =
        json!({"steps": ["echo 1 $TOKEN", {"run": "echo 2 $TOKEN; exit 3", "env": {"A": "b"}}], "secrets": {"TOKEN": "hunter2hunter2"}});
    let finished = bench.run_into(task("workspace.run", args), &recorder).await;
    assert_eq!(finished.outcome, Outcome::Failed);
    assert_eq!(recorder.text(LogStream::Stdout), "1 ***\n2 ***\n");
    assert!(!serde_json::to_string(&finished.result).unwrap().contains("hunter2"));
    let archive = finished.archive.unwrap();
    let tar = std::process::Command::new("tar").args(["--zstd", "-xOf"]).arg(archive.path()).output();
    let content = tar.ok().filter(|tar| tar.status.success()).map_or_else(|| std::fs::read(archive.path()).unwrap(), |tar| tar.stdout);
    assert!(!content.windows(7).any(|window| window == b"hunter2"), "the logs in the archive have none of it");
}

#[tokio::test]
async fn a_secret_that_nobody_opened_starts_nothing() {
    let bench = Bench::new();
    let witness = bench.file("ran");
    for operation in ["command.shell", "workspace.run"] {
        let script = format!("touch {}", witness.display());
        let args = if operation == "workspace.run" { json!({"steps": [script]}) } else { json!({ "command": script }) };
        let mut task = task(operation, args);
        task.job.call.secrets_mut().unwrap().insert("TOKEN".to_owned(), Secret::Sealed("x.y".to_owned()));
        let finished = bench.run(task).await;
        assert_eq!((failure(&finished).0, finished.transient), (ErrorCode::SecretsSealed, false), "{operation}");
        assert!(!witness.exists());
    }
}
