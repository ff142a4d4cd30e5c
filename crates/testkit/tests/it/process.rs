use std::path::Path;
use std::process::Command;
use std::time::Duration;

use longshore_testkit::{Process, Signal, Stream, eventually};

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn lines_and_status_are_captured() {
    let mut process = shell("echo one; echo two >&2; echo three; exit 7");
    assert_eq!(process.wait_for_line(|line| line.starts_with("thr"), SOON).await, "three");
    assert_eq!(process.wait(SOON).await.code(), Some(7));
    assert_eq!(process.lines(Stream::Stdout), ["one", "three"]);
    assert_eq!(process.lines(Stream::Stderr), ["two"]);
}

#[tokio::test]
async fn signals_arrive() {
    let mut process = shell("trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.01; done");
    process.wait_for_line(|line| line == "ready", SOON).await;
    process.signal(Signal::TERM);
    assert_eq!(process.wait(SOON).await.code(), Some(3));
    assert_eq!(process.lines(Stream::Stdout), ["ready", "caught"]);
}

#[tokio::test]
async fn a_crash_spares_the_descendants_and_drop_does_not() {
    let mut process = shell("sleep 1000 & echo $!; wait");
    let descendant: u32 = process.wait_for_line(|_| true, SOON).await.parse().unwrap();
    process.kill9();
    assert!(!process.is_running());
    assert!(is_alive(descendant));
    drop(process);
    eventually("the descendant's end", SOON, async || (!is_alive(descendant)).then_some(())).await;
}

#[tokio::test]
#[should_panic(expected = "the awaited line did not come")]
async fn a_line_that_cannot_come_any_more_is_not_waited_for() {
    let process = shell("echo something else");
    process.wait_for_line(|line| line == "this", Duration::from_secs(1000)).await;
}

#[tokio::test]
async fn children_end_with_a_test_that_was_killed() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "process::holds_a_child_until_it_is_killed", "--ignored", "--nocapture"]);
    let mut other_test = Process::spawn(command);
    let line = other_test.wait_for_line(|line| line.contains("child="), SOON).await;
    let child: u32 = line.split_once("child=").unwrap().1.parse().unwrap();
    assert!(is_alive(child));
    other_test.kill9();
    eventually("the child's end", SOON, async || (!is_alive(child)).then_some(())).await;
}

#[tokio::test]
#[ignore = "the test above runs it, to kill it"]
async fn holds_a_child_until_it_is_killed() {
    let mut process = shell("exec sleep 1000");
    println!("child={}", process.pid());
    process.wait(Duration::from_secs(60)).await;
}

#[tokio::test]
#[should_panic(expected = "waited 1ms in vain for the impossible")]
async fn eventually_names_what_it_waited_for() {
    eventually("the impossible", Duration::from_millis(1), async || None::<()>).await;
}

fn shell(script: &str) -> Process {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(script);
    Process::spawn(command)
}

/// A zombie counts as gone: whoever adopted it has not come round to reaping it.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.is_ok_and(|stat| !stat.rsplit(") ").next().unwrap_or_default().starts_with('Z'))
}
