//! `longshore node …`: hosts asked from the command line.

use crate::fleet::Fleet;
use crate::run::{User, text};

#[tokio::test]
async fn hosts_are_asked_and_answer_in_a_table_with_a_row_each() {
    let fleet = Fleet::start(2).await;
    let user = User::of(&fleet);
    for (words, heading) in [
        (&["status"][..], "MEMORY USED"),
        (&["hostname"], "HOSTNAME"),
        (&["disk"], "MOUNT"),
        (&["memory"], "AVAILABLE"),
        (&["load"], "15 MIN"),
        (&["uptime"], "UP"),
        (&["os"], "KERNEL"),
        (&["dns", "get"], "SERVERS"),
    ] {
        let said = user.types(&[&["node"], words, &["--target", "_all"]].concat()).await;
        let (stdout, stderr) = (text(&said.stdout), text(&said.stderr));
        assert_eq!(said.status.code(), Some(0), "{words:?}: {stdout}{stderr}");
        assert!(stdout.starts_with("HOST  ") && stdout.contains(heading), "{words:?}: {stdout}");
        for host in ["host-0", "host-1"] {
            assert!(stdout.lines().any(|line| line.starts_with(host)), "{words:?}: {stdout}");
        }
        assert!(stderr.contains("2 completed of 2"), "{words:?}: {stderr}");
    }
    let job = user.data(&["node", "uptime"]).await;
    assert!(job["executions"][0]["result"]["uptime_seconds"].is_u64(), "{job}");
}

#[tokio::test]
async fn programs_and_scripts_answer_with_status_and_output() {
    let fleet = Fleet::start(2).await;
    let user = User::of(&fleet);
    let one = user.types(&["node", "exec", "--target", "host-1", "--", "printf", "a\\nb"]).await;
    let stdout = text(&one.stdout);
    assert_eq!((one.status.code(), text(&one.stderr).as_str()), (Some(0), ""), "one that is well needs no summary");
    assert!(stdout.contains("host-1") && stdout.contains("a (and 1 more)"), "{stdout}");
    let asked = user.types(&["node", "shell", "true", "--target", "_all"]).await;
    assert_eq!(asked.status.code(), Some(2), "{}", text(&asked.stderr));
    let failed = user.types(&["node", "shell", "echo no; exit 4", "--target", "_all", "--yes"]).await;
    let (stdout, stderr) = (text(&failed.stdout), text(&failed.stderr));
    assert_eq!(failed.status.code(), Some(6), "{stderr}");
    assert!(stdout.contains("ERROR") && stderr.contains("2 failed of 2"), "{stdout}{stderr}");
    let slow = user.types(&["node", "shell", "sleep 600", "--wait", "1s"]).await;
    assert_eq!(slow.status.code(), Some(8), "{}", text(&slow.stderr));
    assert!(text(&slow.stderr).contains("longshore job wait j-"), "{}", text(&slow.stderr));
    let odd = user.types(&["node", "hostname", "set", "not a name"]).await;
    assert_eq!(odd.status.code(), Some(10), "{}", text(&odd.stderr));
}

#[tokio::test]
async fn an_agent_starts_by_its_earlier_name_and_flags() {
    let mut fleet = Fleet::start(0).await;
    fleet.add_worker("old-name").await;
    let user = User::of(&fleet);
    let agent = &user.data(&["agent", "list"]).await["items"][0];
    assert_eq!((&agent["hostname"], &agent["max_jobs"]), (&"old-name".into(), &3.into()));
    let job = user.data(&["job", "submit", "node.hostname.get", "--wait"]).await;
    assert_eq!(job["status"], "completed");
}
