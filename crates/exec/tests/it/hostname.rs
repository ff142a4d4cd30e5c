//! `node.hostname.set`, on a machine that is a directory.

use std::fs;

use longshore_exec::Finished;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::Outcome;
use serde_json::json;

use crate::support::{Bench, failure, task, write};

const KERNEL: &str = "proc/sys/kernel/hostname";

fn machine(name: &str) -> Bench {
    let bench = Bench::of_machine();
    write(&bench.root(), &[(KERNEL, &format!("{name}\n")), ("etc/hostname", &format!("{name}\n"))]);
    bench
}

async fn set(bench: &Bench, name: &str) -> Finished {
    bench.run(task("node.hostname.set", json!({ "hostname": name }))).await
}

#[tokio::test]
async fn without_systemd_the_kernel_and_the_file_get_the_name() {
    let bench = machine("old");
    // There, but nobody runs that it could ask.
    bench.program("hostnamectl", "exit 1");
    let finished = set(&bench, "web-01.example").await;
    assert_eq!((finished.outcome, finished.changed), (Outcome::Completed, Some(true)), "{finished:?}");
    assert_eq!(finished.result.unwrap(), json!({"hostname": "web-01.example", "previous": "old"}));
    assert_eq!((bench.read(KERNEL).trim(), bench.read("etc/hostname").as_str()), ("web-01.example", "web-01.example\n"));
    assert_eq!(bench.calls(), [""; 0]);
    let got = bench.run(task("node.hostname.get", json!({}))).await;
    assert_eq!(got.result.unwrap()["hostname"], "web-01.example");
}

#[tokio::test]
async fn a_name_that_is_set_already_changes_nothing() {
    let bench = machine("web-01");
    let before = fs::metadata(bench.root().join("etc/hostname")).unwrap().modified().unwrap();
    let finished = set(&bench, "web-01").await;
    assert_eq!((finished.outcome, finished.changed), (Outcome::Completed, Some(false)));
    assert_eq!(fs::metadata(bench.root().join("etc/hostname")).unwrap().modified().unwrap(), before);

    // Until the next boot only is not yet what was asked for.
    write(&bench.root(), &[("etc/hostname", "other\n")]);
    assert_eq!(set(&bench, "web-01").await.changed, Some(true));
    assert_eq!(bench.read("etc/hostname"), "web-01\n");
}

#[tokio::test]
async fn with_systemd_hostnamectl_does_it() {
    let bench = machine("old");
    fs::create_dir_all(bench.root().join("run/systemd/system")).unwrap();
    bench.program("hostnamectl", &format!("echo \"$4\" >$ROOT/{KERNEL}; echo \"$4\" >$ROOT/etc/hostname"));
    assert_eq!(set(&bench, "new").await.changed, Some(true));
    assert_eq!(bench.calls(), ["hostnamectl [--no-ask-password] [--] [set-hostname] [new]"]);
    assert_eq!(set(&bench, "new").await.changed, Some(false));
    assert_eq!(bench.calls(), [""; 0]);
}

#[tokio::test]
async fn what_hostnamectl_says_when_it_fails_is_the_message() {
    let bench = machine("old");
    fs::create_dir_all(bench.root().join("run/systemd/system")).unwrap();
    bench.program("hostnamectl", "printf 'Could not set property:\\nAccess \\033[31mdenied' >&2; exit 1");
    let finished = set(&bench, "new").await;
    let (code, message) = failure(&finished);
    assert_eq!((finished.outcome, code), (Outcome::Failed, ErrorCode::ExitStatus));
    assert!(message.contains("exited with status 1: Could not set property: Access  [31mdenied"), "{message:?}");

    bench.program("hostnamectl", "exit 0");
    let finished = set(&bench, "new").await;
    assert!(failure(&finished).1.contains("but the host's name is \"old\""), "{finished:?}");
    assert_eq!(bench.read("etc/hostname"), "old\n");
}

#[tokio::test]
async fn a_hostnamectl_that_hangs_ends_with_the_jobs_time() {
    let bench = machine("old");
    fs::create_dir_all(bench.root().join("run/systemd/system")).unwrap();
    bench.program("hostnamectl", "sleep 600");
    let finished = bench
        .run(crate::support::within(std::time::Duration::from_millis(300), task("node.hostname.set", json!({"hostname": "new"}))))
        .await;
    assert_eq!(failure(&finished).0, ErrorCode::TimedOut);
}

#[tokio::test]
async fn what_the_host_does_not_let_us_write_is_named() {
    let bench = Bench::of_machine();
    // A directory where a file should be: refused to root, too.
    fs::create_dir_all(bench.root().join(KERNEL)).unwrap();
    let finished = set(&bench, "new").await;
    assert!(failure(&finished).1.starts_with("could not set the host's name: "), "{finished:?}");
    assert!(!bench.root().join("etc/hostname").exists());
}
