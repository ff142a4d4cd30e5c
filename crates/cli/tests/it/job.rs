//! What commands make of a controller's answers.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::cli::{Ran, longshore, run};
use crate::fake::{Fake, ID, Reply, job, page, problem};

const OTHER: &str = "j-01ktest0000000000000abcxyz";

fn asked(fake: &Fake, words: &[&str]) -> Ran {
    let home = tempfile::tempdir().unwrap();
    run(&mut longshore(home.path(), &[&["--url", &fake.url], words].concat()))
}

#[test]
fn a_list_goes_on_until_it_is_full_and_says_how_to_see_the_rest() {
    let fake = Fake::start(|request, _| match request {
        request if request.contains("cursor=c2") => page(&[OTHER], Some("c3")),
        request if request.contains("cursor=c1") => page(&[ID], Some("c2")),
        _first => page(&[], Some("c1")),
    });
    for form in ["name", "json", "table"] {
        let ran = asked(&fake, &["job", "list", "--status", "failed,expired", "--limit", "2", "-o", form]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(ran.stdout.contains(ID) && ran.stdout.contains(OTHER), "{}", ran.stdout);
        assert!(ran.stderr.contains("longshore job list --status failed,expired --limit 2 --cursor c3"), "{}", ran.stderr);
    }
    assert!(fake.seen().iter().all(|request| request.contains("status=failed%2Cexpired")), "{:?}", fake.seen());
    let fake = Fake::start(|request, _| if request.contains("cursor=") { page(&[], None) } else { page(&[], Some("c1")) });
    let ran = asked(&fake, &["job", "list"]);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str(), fake.seen().len()), ("", "No jobs match.\n", 2));
}

#[test]
fn a_short_id_is_refused_while_older_jobs_may_have_it_too() {
    let fake = Fake::start(|_, n| page(if n == 0 { &[ID] } else { &[] }, Some("more")));
    let ran = asked(&fake, &["job", "delete", "abcdef"]);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    assert!(ran.stderr.contains("give the whole id"), "{}", ran.stderr);
    assert!(fake.seen().iter().all(|request| request.starts_with("GET ")), "{:?}", fake.seen());
}

#[test]
fn an_unknown_id_does_not_keep_the_others_from_being_done() {
    let fake = Fake::start(|request, _| match request {
        request if request.starts_with("POST") => {
            Reply::Json(200, serde_json::json!({"job": job("cancelled"), "changed": true, "message": "cancelled"}))
        }
        request if request.contains(ID) => Reply::Json(200, job("completed")),
        _list => page(&[ID], None),
    });
    let ran = asked(&fake, &["job", "cancel", "zzzz", "abcdef", "-o", "name"]);
    assert_eq!((ran.code, ran.stdout.trim()), (Some(3), ID), "{}", ran.stderr);
    assert!(ran.stderr.contains("there is no job \"zzzz\""), "{}", ran.stderr);
    let ran = asked(&fake, &["job", "wait", "zzzz", "abcdef", "-o", "name"]);
    assert_eq!((ran.code, ran.stdout.trim()), (Some(3), ID), "{}", ran.stderr);
}

#[test]
fn a_time_for_waiting_that_no_clock_reaches_is_no_panic() {
    let fake = Fake::start(|_, _| Reply::Json(200, job("completed")));
    let ran = asked(&fake, &["job", "wait", ID, "--timeout", "2562047788015215h"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

#[test]
fn after_acceptance_every_failure_names_the_job() {
    let fake = Fake::start(|request, _| match request {
        request if request.starts_with("POST") => Reply::Json(201, job("running")),
        _later => problem(500, "internal"),
    });
    let goes_on = format!("longshore job wait {ID}");
    for words in [&["job", "submit", "command.exec", "--wait"][..], &["run", "--", "true"]] {
        let ran = asked(&fake, words);
        assert_eq!(ran.code, Some(if words[0] == "run" { 125 } else { 1 }), "{}", ran.stderr);
        assert!(ran.stderr.contains(&goes_on), "{words:?}: {}", ran.stderr);
    }
    let ran = asked(&fake, &["job", "submit", "command.exec", "--wait", "-o", "json"]);
    let document: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
    assert!(document["hint"].as_str().unwrap().contains(&goes_on), "{document}");
}

#[test]
fn a_submission_is_repeated_however_long_the_first_try_took() {
    // Longer than the whole budget of a command.
    let fake = Fake::start(|_, n| if n == 0 { Reply::Hang(Duration::from_millis(3500)) } else { Reply::Json(201, job("pending")) });
    let ran = asked(&fake, &["job", "submit", "command.exec"]);
    assert_eq!((ran.code, ran.stdout.trim(), fake.seen().len()), (Some(0), ID, 2), "{}", ran.stderr);
}

#[test]
fn an_upload_is_repeated_after_a_pause() {
    let fake = Fake::start(|request, _| if request.starts_with("HEAD") { problem(404, "not_found") } else { problem(503, "unavailable") });
    let dir = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let ran = asked(&fake, &["run", dir.path().to_str().unwrap(), "--", "true"]);
    assert_eq!(ran.code, Some(125), "{}", ran.stderr);
    assert_eq!(fake.seen().iter().filter(|request| request.starts_with("PUT")).count(), 3);
    assert!(began.elapsed() >= Duration::from_millis(700), "{:?}", began.elapsed());
}

#[test]
fn a_controller_that_is_lost_and_found_is_told_of() {
    let n_probes = AtomicUsize::new(0);
    let fake = Fake::start(move |request, _| match request {
        request if request.contains("readyz") => match n_probes.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::Hang(Duration::from_millis(10)),
            _later => Reply::Json(200, serde_json::json!({"status": "ok"})),
        },
        _job if n_probes.load(Ordering::Relaxed) > 2 => Reply::Json(200, job("completed")),
        _job => Reply::Hang(Duration::from_millis(200)),
    });
    let ran = asked(&fake, &["job", "wait", ID, "-o", "name"]);
    assert_eq!((ran.code, ran.stdout.trim()), (Some(0), ID), "{}", ran.stderr);
    assert!(ran.stderr.contains("does not answer; still trying\n") && ran.stderr.contains("answers again\n"), "{}", ran.stderr);
}

struct Following {
    child: Child,
    _home: tempfile::TempDir,
}

impl Following {
    fn start(fake: &Fake, words: &[&str]) -> Self {
        Self::command(fake, &[&["run"], words].concat())
    }

    fn command(fake: &Fake, words: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut command = longshore(home.path(), &[&["--url", &fake.url], words].concat());
        command.current_dir(home.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { child: command.spawn().unwrap(), _home: home }
    }

    fn end(mut self) -> (Option<i32>, String) {
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (self.child.wait().unwrap().code(), stderr)
    }
}

const OUTPUT: &str = "id: 1\ndata: {\"execution\":\"any\",\"agent\":\"a-01ktest0000000000000abcdef\",\"attempt\":1,\"step\":0,\"seq\":0,\
     \"time\":\"2026-07-27T10:00:00Z\",\"stream\":\"stdout\",\"text\":\"out\\n\"}\n\n";

#[test]
fn a_reader_that_leaves_ends_run_as_a_closed_pipe_and_the_job_is_named() {
    let fake = Fake::start(|request, _| match request {
        request if request.starts_with("POST") => Reply::Json(201, job("running")),
        // Each connection brings one more piece.
        _logs => Reply::Events(OUTPUT),
    });
    let mut following = Following::start(&fake, &["--", "yes"]);
    let mut line = String::new();
    BufReader::new(following.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let (code, stderr) = following.end();
    assert_eq!((line.as_str(), code), ("out\n", Some(141)), "{stderr}");
    assert!(stderr.contains(&format!("longshore job wait {ID}")) && !stderr.contains("error:"), "{stderr}");
}

#[test]
fn ctrl_c_is_heard_while_results_are_fetched_and_before_acceptance() {
    for (stuck, said) in [("/artifacts", ID), ("POST", "interrupted before it was accepted")] {
        let fake = Fake::start(move |request, _| match request {
            request if request.contains(stuck) => Reply::Hang(Duration::from_secs(60)),
            request if request.starts_with("HEAD") => Reply::Json(200, serde_json::Value::Null),
            request if request.starts_with("POST") => Reply::Json(201, job("running")),
            request if request.contains("/logs") => Reply::Events("event: end\n\n"),
            _job => Reply::Json(200, job("completed")),
        });
        let dir = tempfile::tempdir().unwrap();
        let following = Following::start(&fake, &[dir.path().to_str().unwrap(), "--", "true"]);
        let began = Instant::now();
        fake.wait_for(stuck);
        kill_process(Pid::from_raw(following.child.id().cast_signed()).unwrap(), Signal::INT).unwrap();
        let (code, stderr) = following.end();
        assert_eq!(code, Some(130), "{stderr}");
        assert!(stderr.contains(said) && began.elapsed() < Duration::from_secs(30), "{stderr}");
    }
}

#[test]
fn dead_letters_are_listed_shown_redriven_and_discarded() {
    let letter = |id: &str| {
        let died = serde_json::json!({
            "id": "any", "hostname": "quay-07", "attempts": 3, "at": "2026-07-27T10:00:00Z", "error": {"code": "lost", "message": "gone"},
        });
        serde_json::json!({
            "id": id, "state": "open", "operation": "command.exec", "target": "_any", "submitted_by": "x", "at": "2026-07-27T10:00:00Z",
            "dead": 1, "last": died, "executions": [died],
        })
    };
    let fake = Fake::start(move |request, _| match request {
        request if request.starts_with("POST") => Reply::Json(201, job("pending")),
        request if request.starts_with("DELETE") => Reply::Json(204, serde_json::Value::Null),
        request if request.contains(&format!("/dead-letters/{OTHER}")) => Reply::Json(200, letter(OTHER)),
        request if request.contains("cursor=c1") => Reply::Json(200, serde_json::json!({"items": [letter(ID)], "next_cursor": "c2"})),
        request if request.contains("/dead-letters") => {
            Reply::Json(200, serde_json::json!({"items": [letter(OTHER)], "next_cursor": "c1"}))
        }
        _jobs => page(&[OTHER, ID], None),
    });
    let ran = asked(&fake, &["dead-letter", "list", "--state", "open,redriven", "--limit", "2", "-o", "name"]);
    assert_eq!((ran.code, ran.stdout), (Some(0), format!("{OTHER}\n{ID}\n")), "{}", ran.stderr);
    let more = "longshore dead-letter list --state open --state redriven --limit 2 --cursor c2";
    assert!(ran.stderr.contains(more) && fake.seen()[0].contains("state=open%2Credriven"), "{} {:?}", ran.stderr, fake.seen());
    let ran = asked(&fake, &["dead-letter", "list", "--limit", "1"]);
    assert!(ran.stdout.contains("quay-07") && ran.stdout.contains("gone"), "{}", ran.stdout);
    let ran = asked(&fake, &["dead-letter", "show", OTHER]);
    assert!(ran.code == Some(0) && ran.stdout.contains("quay-07"), "{} {}", ran.stdout, ran.stderr);
    let ran = asked(&fake, &["dead-letter", "redrive", "abcxyz"]);
    assert!(ran.code == Some(0) && ran.stdout.starts_with(&format!("{ID} does j-abcxyz again")), "{} {}", ran.stdout, ran.stderr);
    let ran = asked(&fake, &["dead-letter", "discard", OTHER, "zzzz"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(3), "j-abcxyz discarded\n"), "{}", ran.stderr);
    assert_eq!(asked(&fake, &["dead-letter", "list", "--state", "dead"]).code, Some(2));
}

#[test]
fn how_many_hosts_have_answered_is_told_while_they_are_waited_for() {
    let view = |status: &str, states: [&str; 3]| {
        let mut view = job(status);
        let agents = ["a-01ktest0000000000000abcde0", "a-01ktest0000000000000abcde1", "a-01ktest0000000000000abcde2"];
        let executions = agents.iter().zip(states).map(|(id, state)| serde_json::json!({"id": id, "state": state, "attempts": 1}));
        view["executions"] = executions.collect();
        Reply::Json(200, view)
    };
    let fake = Fake::start(move |_, n| match n {
        0 => view("running", ["completed", "failed", "running"]),
        _later => view("partial_failure", ["completed", "failed", "completed"]),
    });
    let ran = asked(&fake, &["job", "wait", ID]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(9), "j-abcdef: 2/3 answered, 1 failed\n"));
    assert!(ran.stdout.contains("2 completed, 1 failed of 3"), "{}", ran.stdout);
}

#[test]
fn ctrl_c_ends_the_waiting_and_says_how_to_come_back() {
    for words in [&["job", "submit", "command.exec", "--wait"][..], &["node", "uptime"]] {
        let fake = Fake::start(|request, _| match request {
            request if request.starts_with("POST") => Reply::Json(201, job("running")),
            _job => Reply::Hang(Duration::from_secs(60)),
        });
        let following = Following::command(&fake, words);
        fake.wait_for(&format!("GET /api/v1/jobs/{ID}"));
        kill_process(Pid::from_raw(following.child.id().cast_signed()).unwrap(), Signal::INT).unwrap();
        let (code, stderr) = following.end();
        assert_eq!(code, Some(130), "{stderr}");
        assert!(stderr.contains(&format!("longshore job wait {ID}")), "{stderr}");
    }
}

/// A second Ctrl-C is only meant as one once the first was answered.
fn interrupt_twice(mut following: Following) -> (Option<i32>, String) {
    let pid = Pid::from_raw(following.child.id().cast_signed()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let mut stderr = BufReader::new(following.child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("Ctrl-C again") {
        assert!(stderr.read_line(&mut said).unwrap() > 0, "{said}");
    }
    kill_process(pid, Signal::INT).unwrap();
    stderr.read_to_string(&mut said).unwrap();
    (following.child.wait().unwrap().code(), said)
}

#[test]
fn whatever_follows_a_job_is_left_by_ctrl_c_and_a_second_one_cancels() {
    for (words, followed, back) in [
        (&["job", "submit", "command.exec", "--wait"][..], "GET", "longshore job wait j-01ktest0000000000000abcdef"),
        (&["node", "exec", "--", "true"], "GET", "longshore job wait j-01ktest0000000000000abcdef"),
        (&["job", "logs", "-f", ID], "/logs", "longshore job logs -f j-abcdef"),
        (&["job", "watch", ID], "/events", "longshore job watch j-abcdef"),
    ] {
        let fake = Fake::start(move |request, _| match request {
            request if request.contains("/cancel") => {
                Reply::Json(200, serde_json::json!({"job": job("cancelled"), "changed": true, "message": "the job was stopped"}))
            }
            request if request.starts_with("POST") => Reply::Json(201, job("running")),
            request if request.ends_with(ID) && followed == "/logs" => Reply::Json(200, job("running")),
            _followed => Reply::Hang(Duration::from_secs(60)),
        });
        let following = Following::command(&fake, words);
        fake.wait_for(followed);
        let (code, said) = interrupt_twice(following);
        assert_eq!(code, Some(130), "{words:?}: {said}");
        assert!(said.contains(back) && said.contains("j-abcdef: the job was stopped"), "{words:?}: {said}");
        assert!(fake.seen().iter().any(|request| request.starts_with("POST") && request.contains("/cancel")), "{words:?}");
    }
}

const SUBMITTED: &str = "id: 1.0\ndata: {\"job\":\"j-01ktest0000000000000abcdef\",\"at\":\"2026-07-27T10:00:00Z\",\"event\":\"submitted\",\
     \"status\":\"pending\"}\n\nevent: lagged\ndata: {\"missed\":7}\n\n";
const STARTED: &str = "event: gap\ndata: {\"first\":null}\n\nid: 9.0\ndata: {\"job\":\"j-01ktest0000000000000abcxyz\",\
     \"at\":\"2026-07-27T10:00:01Z\",\"event\":\"started\",\"attempt\":1,\"hostname\":\"quay-07\",\"status\":\"running\"}\n\n";
const ENDED: &str = "id: 1.0\ndata: {\"job\":\"j-01ktest0000000000000abcdef\",\"at\":\"2026-07-27T10:00:00Z\",\"event\":\"submitted\",\
     \"status\":\"pending\"}\n\nid: 1.1\ndata: {\"job\":\"j-01ktest0000000000000abcdef\",\"at\":\"2026-07-27T10:00:02Z\",\"event\":\"answered\",\
     \"hostname\":\"quay-07\",\"outcome\":\"failed\",\"detail\":\"exited with status 3\",\"status\":\"failed\"}\n\n\
     event: end\ndata: {\"status\":\"failed\"}\n\n";

#[test]
fn a_job_is_watched_to_its_end_which_is_the_exit_code() {
    let fake = Fake::start(|request, _| match request {
        request if request.contains("/events") => Reply::Events(ENDED),
        _job => Reply::Json(200, job("failed")),
    });
    let ran = asked(&fake, &["job", "watch", ID]);
    let lines = "2026-07-27T10:00:00.000Z  j-01ktest0000000000000abcdef  submitted  [pending]\n\
                 2026-07-27T10:00:02.000Z  j-01ktest0000000000000abcdef  answered on quay-07: exited with status 3  [failed]\n";
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (Some(6), lines, ""));
    let ran = asked(&fake, &["job", "watch", ID, "-o", "jsonl"]);
    let events: Vec<serde_json::Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((events.len(), &events[1]["outcome"]), (2, &"failed".into()));
    assert_eq!(asked(&fake, &["job", "watch", ID, "-o", "json"]).code, Some(2), "a stream is no document");
}

#[test]
fn all_jobs_are_watched_over_breaks_and_what_was_missed_is_said() {
    let fake = Fake::start(|_, n| match n {
        0 => Reply::Events(SUBMITTED),
        1 => Reply::Events(STARTED),
        _later => Reply::Hang(Duration::from_secs(60)),
    });
    let mut following = Following::command(&fake, &["job", "watch", "-o", "name"]);
    let mut lines = BufReader::new(following.child.stdout.take().unwrap()).lines();
    assert_eq!([lines.next().unwrap().unwrap(), lines.next().unwrap().unwrap()], [ID, OTHER]);
    kill_process(Pid::from_raw(following.child.id().cast_signed()).unwrap(), Signal::INT).unwrap();
    let (_, stderr) = following.end();
    assert!(stderr.contains("not known any more"), "{stderr}");
    // On a busy machine it has time to ask whether anybody is there, as it does every few seconds.
    let is_expected = |request: &String| request.starts_with("GET /api/v1/jobs/events") || request.starts_with("GET /readyz");
    assert!(fake.seen().iter().all(is_expected), "{:?}", fake.seen());
}

const ANSWERED: &str = "id: 1.1\ndata: {\"job\":\"j-01ktest0000000000000abcdef\",\"execution\":\"a-01ktest0000000000000abcde0\",\
     \"at\":\"2026-07-27T10:00:02Z\",\"event\":\"answered\",\"outcome\":\"completed\"}\n\nid: 1.2\ndata: {\"job\":\"j-01ktest0000000000000abcdef\",\
     \"execution\":\"a-01ktest0000000000000abcde1\",\"at\":\"2026-07-27T10:00:02Z\",\"event\":\"answered\",\"outcome\":\"failed\"}\n\n";

#[test]
fn on_a_terminal_those_who_have_answered_are_a_bar_that_goes_when_it_is_full() {
    let view = |status: &str, states: [&str; 3]| {
        let mut view = job(status);
        let agents = ["a-01ktest0000000000000abcde0", "a-01ktest0000000000000abcde1", "a-01ktest0000000000000abcde2"];
        view["executions"] =
            agents.iter().zip(states).map(|(id, state)| serde_json::json!({"id": id, "state": state, "attempts": 1})).collect();
        Reply::Json(200, view)
    };
    let fake = Fake::start(move |request, n| match request {
        request if request.contains("/events") => Reply::Events(ANSWERED),
        request if !request.contains("wait=") => view("running", ["running"; 3]),
        _first if n < 2 => Reply::Hang(Duration::from_secs(1)),
        _later => view("partial_failure", ["completed", "failed", "completed"]),
    });
    let home = tempfile::tempdir().unwrap();
    let line = format!("{} --url {} job wait {ID}", env!("CARGO_BIN_EXE_longshore"), fake.url);
    // A program that gives another one a terminal.
    let mut script = std::process::Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).env("HOME", home.path()).env("TERM", "xterm").env_remove("CI").stdin(Stdio::null());
    let Ok(output) = script.output() else {
        eprintln!("SKIPPED: there is no `script` to give the program a terminal");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("2/3 answered, 1 failed") && said.contains("[=="), "{said:?}");
    assert!(said.contains("2 completed, 1 failed of 3") && output.status.code() == Some(9), "{said:?}");
}
