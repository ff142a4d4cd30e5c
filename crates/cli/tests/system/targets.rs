//! Jobs for many hosts, and agents that take none, as a person meets them.

use serde_json::Value;

use crate::fleet::Fleet;
use crate::run::{User, text};

/// `host-0` is for web, `host-1` for the database.
async fn web_and_db() -> Fleet {
    let mut fleet = Fleet::start(0).await;
    fleet.add_agent(&["--label", "group:web.dev", "--label", "rack:a1"]).await;
    fleet.add_agent(&["--label", "group:db"]).await;
    fleet
}

/// The hosts that answered, sorted.
fn hosts(job: &Value) -> Vec<&str> {
    let executions = job["executions"].as_array().unwrap_or_else(|| panic!("{job}"));
    let mut hosts: Vec<_> = executions.iter().filter_map(|execution| execution["hostname"].as_str()).collect();
    hosts.sort_unstable();
    hosts
}

#[tokio::test]
async fn a_label_means_its_members_and_everybody_means_all() {
    let fleet = web_and_db().await;
    let user = User::of(&fleet);
    let listed = text(&user.types(&["agent", "list"]).await.stdout);
    assert!(listed.contains("group:web.dev rack:a1") && listed.contains("LABELS"), "{listed}");
    for (target, expected) in [
        ("group:web", &["host-0"][..]),
        ("group:web.dev", &["host-0"]),
        ("rack:a1", &["host-0"]),
        ("_any@group:db", &["host-1"]),
        ("_all", &["host-0", "host-1"]),
        ("host-1", &["host-1"]),
    ] {
        let job = user.data(&["job", "submit", "node.hostname.get", "--target", target, "--wait"]).await;
        assert_eq!((&job["status"], hosts(&job).as_slice()), (&"completed".into(), expected), "{target}");
    }
    let nobody = user.types(&["job", "submit", "node.hostname.get", "--target", "group:wbe", "--wait"]).await;
    assert_eq!(nobody.status.code(), Some(11), "{}", text(&nobody.stderr));
    assert!(text(&nobody.stderr).contains("group:web"), "the nearest group is offered: {}", text(&nobody.stderr));
    let odd = user.types(&["job", "submit", "node.hostname.get", "--target", "_everybody"]).await;
    assert_eq!(odd.status.code(), Some(2), "{}", text(&odd.stderr));
    assert!(text(&odd.stderr).contains("_any@KEY:VALUE"), "{}", text(&odd.stderr));
}

#[tokio::test]
async fn a_drained_agent_takes_nothing_until_it_is_undrained() {
    let fleet = web_and_db().await;
    let user = User::of(&fleet);
    let drained = user.types(&["agent", "drain", "host-1", "--reason", "new disks"]).await;
    assert_eq!(drained.status.code(), Some(0), "{}", text(&drained.stderr));
    assert!(text(&drained.stdout).contains("drained"), "{}", text(&drained.stdout));
    let refused = user.types(&["job", "submit", "node.hostname.get", "--target", "host-1"]).await;
    assert_eq!(refused.status.code(), Some(11), "{}", text(&refused.stderr));
    for part in ["drained", "--wait-for-agents", "longshore agent undrain host-1"] {
        assert!(text(&refused.stderr).contains(part), "{part:?} in {}", text(&refused.stderr));
    }
    let everybody = user.data(&["job", "submit", "node.hostname.get", "--target", "_all", "--wait"]).await;
    assert_eq!(hosts(&everybody), ["host-0"], "drained agents are no part of everybody");
    let waiting = ["job", "submit", "node.hostname.get", "--target", "host-1", "--wait-for-agents", "5m", "-o", "name"];
    let waiting = text(&user.types(&waiting).await.stdout).trim().to_owned();

    let undrained = user.types(&["agent", "undrain", "host-1"]).await;
    assert!(undrained.status.success() && text(&undrained.stdout).contains("ready"), "{undrained:?}");
    let waited = user.data(&["job", "wait", &waiting]).await;
    assert_eq!((&waited["status"], hosts(&waited)), (&"completed".into(), vec!["host-1"]));
    for command in ["drain", "show", "facts"] {
        let unknown = user.types(&["agent", command, "hots-1"]).await;
        let said = text(&unknown.stderr);
        assert!(unknown.status.code() == Some(3) && said.contains("hots-1") && said.contains("longshore agent list"), "{said}");
    }
}

#[tokio::test]
async fn many_hosts_are_told_apart_in_output_tables_and_exit_codes() {
    let fleet = web_and_db().await;
    let user = User::of(&fleet);
    let unconfirmed = user.types(&["run", "--target", "_all", "--", "true"]).await;
    assert_eq!(unconfirmed.status.code(), Some(125), "{}", text(&unconfirmed.stderr));
    assert!(text(&unconfirmed.stderr).contains("--yes"), "{}", text(&unconfirmed.stderr));
    let unconfirmed = user.types(&["job", "submit", "command.exec", "--arg", "command=[\"true\"]", "--target", "group:web"]).await;
    assert_eq!((unconfirmed.status.code(), unconfirmed.stdout.len()), (Some(2), 0), "{}", text(&unconfirmed.stderr));
    assert_eq!(user.data(&["job", "list"]).await["items"], serde_json::json!([]), "nothing was submitted");

    let script = "for n in 1 2 3; do printf \"out $n \"; sleep 0.05; printf \"of $n\\n\"; done; printf unended; echo wrong >&2";
    let ran = user.types(&["run", "--target", "_all", "--yes", "--", "sh", "-c", script]).await;
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    let (stdout, stderr) = (text(&ran.stdout), text(&ran.stderr));
    let mut lines: Vec<_> = stdout.lines().collect();
    lines.sort_unstable();
    let expected = |host: &str| ["out 1 of 1", "out 2 of 2", "out 3 of 3", "unended"].map(|line| format!("{host} | {line}"));
    assert_eq!(lines, [expected("host-0"), expected("host-1")].concat(), "whole lines, each with its host");
    for part in ["host-0 | wrong\n", "host-1 | wrong\n", "HOST ", "2 completed of 2"] {
        assert!(stderr.contains(part), "{part:?} in {stderr}");
    }
    let one = user.types(&["run", "--target", "group:db", "--yes", "--", "printf", "x"]).await;
    assert_eq!((one.status.code(), text(&one.stdout).as_str()), (Some(0), "x"), "one host's output is as it was");

    // One host succeeds, the other does not: the agents' own directories tell them apart.
    let script = "case \"$PWD\" in *agent-0*) exit 0;; *) exit 5;; esac";
    let partial = user.types(&["run", "--target", "_all", "--yes", "--", "sh", "-c", script]).await;
    let said = text(&partial.stderr);
    assert_eq!(partial.status.code(), Some(5), "{said}");
    assert!(said.contains("1 completed, 1 failed of 2"), "{said}");
    let args = serde_json::json!({ "command": script }).to_string();
    let submitted = user.types(&["job", "submit", "command.shell", "--args", &args, "--target", "_all", "--yes", "--wait"]).await;
    let said = text(&submitted.stdout);
    assert_eq!(submitted.status.code(), Some(9), "{said}");
    let row = |host: &str| said.lines().find(|line| line.starts_with(host)).unwrap_or_else(|| panic!("{said}")).to_owned();
    assert!(row("host-0").contains("completed") && row("host-1").contains("failed"), "{said}");
    assert!(said.contains("1 completed, 1 failed of 2"), "{said}");
    let listed = text(&user.types(&["job", "list", "--limit", "1"]).await.stdout);
    assert!(listed.contains("2 hosts"), "{listed}");
    let id = user.data(&["job", "list", "--limit", "1"]).await["items"][0]["id"].as_str().unwrap().to_owned();
    let shown = text(&user.types(&["job", "show", &id]).await.stdout);
    assert!(shown.contains("HOST ") && shown.contains("1 completed, 1 failed of 2"), "{shown}");
}
