//! `longshore dead-letter …`: a job whose attempts are used up, as a person finds and repeats it.

use longshore_model::wire::rest::{JobRequest, RetryRequest};
use longshore_testkit::eventually;

use crate::fleet::{Fleet, PATIENCE, shell};
use crate::run::{User, text};

#[tokio::test]
async fn a_job_whose_attempts_are_used_up_is_found_and_done_again() {
    let mut fleet = Fleet::start(1).await;
    let flag = fleet.dir.path().join("mended");
    let script = shell(&format!("[ -e '{}' ] || sleep 600", flag.display()));
    let retry = Some(RetryRequest { max_attempts: 2, backoff: Some(vec!["100ms".into()]) });
    let id = fleet.client.submit(&JobRequest { retry, ..script }, None).await.unwrap().id;
    for attempt in 1..=2 {
        eventually("an attempt to run", PATIENCE, async || {
            let execution = fleet.client.job(id, None).await.ok()?.executions.pop()?;
            (execution.attempts == attempt && execution.state.as_str() == "running").then_some(())
        })
        .await;
        fleet.agents[0].kill_and_restart().await;
    }
    let ended = fleet.client.job(id, Some(PATIENCE)).await.unwrap();
    assert!(ended.status.is_final(), "{ended:?}");

    let user = User::of(&fleet);
    let id = id.to_string();
    let letters = eventually("the dead letter", PATIENCE, async || {
        let list = user.data(&["dead-letter", "list"]).await;
        (!list["items"].as_array()?.is_empty()).then_some(list)
    })
    .await;
    assert_eq!((&letters["items"][0]["id"], &letters["items"][0]["last"]["attempts"]), (&id.as_str().into(), &2.into()), "{letters}");
    let shown = text(&user.types(&["dead-letter", "show", &id]).await.stdout);
    assert!(shown.contains("host-0") && shown.contains("open"), "{shown}");
    std::fs::write(&flag, "").unwrap();
    let again = user.data(&["dead-letter", "redrive", &id]).await;
    assert_eq!(user.data(&["dead-letter", "redrive", &id]).await["id"], again["id"], "it is submitted once");
    let waited = user.data(&["job", "wait", again["id"].as_str().unwrap()]).await;
    assert_eq!(waited["status"], "completed", "{waited}");
    let redriven = user.data(&["dead-letter", "list", "--state", "redriven"]).await;
    assert_eq!(redriven["items"][0]["redriven_as"], again["id"], "{redriven}");
    let late = user.types(&["dead-letter", "discard", &id]).await;
    assert_eq!(late.status.code(), Some(1), "one that was redriven is not discarded: {}", text(&late.stderr));
}
