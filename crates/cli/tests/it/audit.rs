//! `longshore audit`: what it asks for, and what it makes of the answer.

use serde_json::{Value, json};

use crate::cli::{Ran, longshore, run};
use crate::fake::{Fake, Reply, problem};

fn record(id: &str, status: u16) -> Value {
    json!({"schema": 1, "id": id, "at": "2026-11-22T10:00:00Z", "request_id": "r", "who": "ada", "method": "POST", "path": "/api/v1/jobs",
        "operation": "command.exec", "targets": ["web-01"], "status": status})
}

fn asked(fake: &Fake, words: &[&str]) -> (Ran, tempfile::TempDir) {
    let home = tempfile::tempdir().unwrap();
    let mut command = longshore(home.path(), &[&["--url", &fake.url], words].concat());
    (run(command.current_dir(home.path())), home)
}

#[test]
fn a_list_takes_every_filter_and_goes_on_until_it_is_full() {
    let fake = Fake::start(|request, _| match request {
        request if request.contains("cursor=c1") => Reply::Json(200, json!({"items": [record("b", 403)], "next_cursor": "c2"})),
        _first => Reply::Json(200, json!({"items": [record("a", 201)], "next_cursor": "c1"})),
    });
    let filters =
        ["--actor", "ada", "--action", "command.exec", "--outcome", "done,refused", "--since", "1h", "--until", "1m", "--limit", "2"];
    for (form, expected) in [("name", "a\nb\n"), ("table", "refused 403"), ("jsonl", "\"id\":\"b\""), ("json", "\"next_cursor\": \"c2\"")] {
        let (ran, _home) = asked(&fake, &[&["audit", "list", "-o", form][..], &filters].concat());
        assert!(ran.code == Some(0) && ran.stdout.contains(expected), "{form}: {}{}", ran.stdout, ran.stderr);
        let rest =
            "longshore audit list --actor ada --action command.exec --outcome done,refused --since 1h --until 1m --limit 2 --cursor c2";
        assert!(ran.stderr.contains(rest), "{}", ran.stderr);
    }
    let first = "GET /api/v1/audit?who=ada&since=1h&until=1m&action=command.exec&outcome=done%2Crefused&limit=2";
    assert_eq!(fake.seen()[0], first);
    assert_eq!(asked(&fake, &["audit", "list", "--outcome", "odd"]).0.code, Some(2));
}

#[test]
fn who_may_not_read_the_trail_is_told_so() {
    let fake = Fake::start(|_, _| problem(403, "forbidden"));
    for words in [&["audit", "list"][..], &["audit", "export"]] {
        assert_eq!(asked(&fake, words).0.code, Some(4), "{words:?}");
    }
}

#[test]
fn an_export_that_cannot_be_written_or_breaks_off_leaves_the_old_file() {
    let fake = Fake::start(|_, _| Reply::Json(200, record("a", 201)));
    let (ran, _home) = asked(&fake, &["audit", "export", "--out", "no/such/dir/x"]);
    assert!(ran.code == Some(1) && ran.stderr.contains("no/such/dir/x"), "{}", ran.stderr);
    let gone = Fake::start(|_, _| Reply::Hang(std::time::Duration::from_millis(10)));
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("audit.jsonl");
    std::fs::write(&file, "old\n").unwrap();
    let ran = run(&mut longshore(home.path(), &["--url", &gone.url, "audit", "export", "--out", file.to_str().unwrap()]));
    assert_eq!((ran.code, std::fs::read_to_string(&file).unwrap().as_str()), (Some(5), "old\n"), "{}", ran.stderr);
    let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["audit.jsonl"]);
}
