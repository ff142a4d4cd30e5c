//! `longshore audit`: the trail of a real controller, as a person reads it and takes it away.

use longshore_testkit::eventually;
use serde_json::Value;

use crate::fleet::{Fleet, PATIENCE};
use crate::run::{User, text};

#[tokio::test]
async fn the_trail_is_listed_newest_first_and_exported_in_order() {
    let fleet = Fleet::start(1).await;
    let user = User::of(&fleet);
    for word in ["one", "two"] {
        assert_eq!(user.types(&["run", "--", "echo", word]).await.status.code(), Some(0));
    }
    let id = user.data(&["job", "list", "--limit", "1"]).await["items"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(user.types(&["job", "delete", &id]).await.status.code(), Some(0));
    let listed = eventually("the delete is on record", PATIENCE, async || {
        let list = user.data(&["audit", "list", "--actor", "admin"]).await;
        (list["items"].as_array()?.len() == 3).then_some(list)
    })
    .await;
    let actions = |list: &Value| {
        let items = list["items"].as_array().unwrap();
        items.iter().map(|item| format!("{} {}", item["method"].as_str().unwrap(), item["operation"].as_str().unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(actions(&listed), ["DELETE command.exec", "POST command.exec", "POST command.exec"]);
    let deleted = user.data(&["audit", "list", "--action", "DELETE", "--outcome", "done", "--since", "1h"]).await;
    assert_eq!((deleted["items"].as_array().unwrap().len(), &deleted["items"][0]["job"]), (1, &id.as_str().into()));
    assert!(user.data(&["audit", "list", "--outcome", "refused"]).await["items"].as_array().unwrap().is_empty());
    let table = text(&user.types(&["audit", "list"]).await.stdout);
    assert!(table.starts_with("WHEN") && table.contains("done 201") && !table.contains("echo"), "{table}");

    let order = |lines: &str| {
        let line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
        lines.lines().map(line).collect::<Vec<_>>()
    };
    let mut newest_first: Vec<String> =
        listed["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect();
    newest_first.reverse();
    let printed = user.types(&["audit", "export"]).await;
    assert_eq!(order(&text(&printed.stdout)), newest_first);
    let file = fleet.dir.path().join("audit.jsonl");
    let written = user.types(&["audit", "export", "--out", file.to_str().unwrap(), "--action", "DELETE"]).await;
    assert!(text(&written.stderr).starts_with("1 records in "), "{}", text(&written.stderr));
    assert_eq!(order(&std::fs::read_to_string(&file).unwrap()), newest_first[2..]);
}

#[tokio::test]
async fn a_trail_is_whole_until_somebody_alters_removes_or_puts_in_a_record() {
    let fleet = Fleet::start(1).await;
    let user = User::of(&fleet);
    for word in ["one", "two", "three", "four"] {
        assert_eq!(user.types(&["run", "--", "echo", word]).await.status.code(), Some(0));
    }
    let file = fleet.dir.path().join("audit.jsonl");
    let path = file.to_str().unwrap();
    let trail = eventually("all is on record", PATIENCE, async || {
        user.types(&["audit", "export", "--out", path]).await;
        let lines: Vec<String> = std::fs::read_to_string(&file).unwrap().lines().map(str::to_owned).collect();
        (lines.len() >= 4).then_some(lines)
    })
    .await;
    for words in [&["audit", "verify"][..], &["audit", "verify", path]] {
        let verdict = user.data(words).await;
        assert_eq!((&verdict["is_whole"], &verdict["breaks"]), (&true.into(), &serde_json::json!([])), "{verdict}");
    }
    let said = async |lines: Vec<String>| {
        std::fs::write(&file, lines.join("\n")).unwrap();
        let ran = user.types(&["audit", "verify", path]).await;
        (ran.status.code(), text(&ran.stdout))
    };
    let mut altered = trail.clone();
    altered[1] = altered[1].replace("\"who\":\"admin\"", "\"who\":\"nobody\"");
    let (code, text) = said(altered).await;
    assert!(code == Some(1) && text.contains("was altered") && text.contains("The trail is broken: 4 records"), "{text}");
    let mut shorter = trail.clone();
    shorter.remove(2);
    let (code, text) = said(shorter).await;
    assert!(code == Some(1) && text.contains("1 records of"), "{text}");
    let (code, _) = said(vec!["no record".to_owned()]).await;
    assert_eq!(code, Some(1));
}
