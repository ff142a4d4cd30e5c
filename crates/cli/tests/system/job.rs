//! `longshore job …`: the life of a job from the command line.

use longshore_testkit::eventually;
use serde_json::Value;

use crate::fleet::{Fleet, PATIENCE};
use crate::run::{User, text};

impl User<'_> {
    /// Types a command that is to succeed, and gives its data.
    pub(crate) async fn data(&self, words: &[&str]) -> Value {
        let output = self.types(&[words, &["-o", "json"]].concat()).await;
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{words:?}: {error}: {}", text(&output.stderr)))
    }

    async fn submits(&self, script: &str) -> String {
        let args = serde_json::json!({ "command": script }).to_string();
        let output = self.types(&["job", "submit", "command.shell", "--args", &args, "-o", "name"]).await;
        text(&output.stdout).trim().to_owned()
    }
}

#[tokio::test]
async fn a_job_is_submitted_waited_for_read_retried_and_deleted() {
    let fleet = Fleet::start(1).await;
    let user = User::of(&fleet);
    let id = user.submits("echo out; echo err >&2; exit 4").await;
    let waited = user.types(&["job", "wait", &id]).await;
    assert_eq!(waited.status.code(), Some(6), "it failed for good: {}", text(&waited.stderr));
    let logs = user.types(&["job", "logs", &id]).await;
    assert!(text(&logs.stdout).contains("out\n"), "{}", text(&logs.stdout));
    // Short forms: the beginning or the end, as long as nothing else has it.
    let tail = &id[id.len() - 6..];
    assert_eq!(user.data(&["job", "show", tail]).await["id"], id.as_str());

    let again = text(&user.types(&["job", "retry", &id, "-o", "name"]).await.stdout).trim().to_owned();
    user.types(&["job", "wait", &again]).await;
    let (old, new) = (user.data(&["job", "show", &id]).await, user.data(&["job", "show", &again]).await);
    assert_eq!((&old["retried_by"][0], &new["retry_of"]), (&Value::from(again.as_str()), &Value::from(id.as_str())), "linked both ways");
    assert_eq!((&old["args"], &old["target"]), (&new["args"], &new["target"]));

    let listed = user.data(&["job", "list", "--status", "failed"]).await;
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(2));
    for id in [&id, &again] {
        assert_eq!(user.types(&["job", "delete", id]).await.status.code(), Some(0));
    }
    assert_eq!(user.types(&["job", "show", &id]).await.status.code(), Some(3));
    assert_eq!(user.data(&["job", "list"]).await["items"], serde_json::json!([]));
}

#[tokio::test]
async fn a_running_job_is_followed_and_cancelled() {
    let fleet = Fleet::start(1).await;
    let user = User::of(&fleet);
    let id = user.submits("echo begun; sleep 600").await;
    eventually("its output", PATIENCE, async || {
        let logs = user.types(&["job", "logs", &id]).await;
        text(&logs.stdout).contains("begun").then_some(())
    })
    .await;
    assert_eq!(user.types(&["job", "delete", &id]).await.status.code(), Some(1), "a running job is not deleted");
    let timed_out = user.types(&["job", "wait", &id, "--timeout", "1s"]).await;
    assert_eq!(timed_out.status.code(), Some(8), "{}", text(&timed_out.stderr));
    let cancelled = user.types(&["job", "cancel", &id]).await;
    assert_eq!(cancelled.status.code(), Some(0), "{}", text(&cancelled.stderr));
    let waited = user.types(&["job", "wait", &id]).await;
    assert_eq!(waited.status.code(), Some(7), "{}", text(&waited.stderr));
    assert_eq!(user.data(&["job", "show", &id]).await["executions"][0]["cancel_verified"], true);
    let again = user.types(&["job", "cancel", &id]).await;
    assert_eq!(again.status.code(), Some(0), "cancelling twice is harmless: {}", text(&again.stderr));
}
