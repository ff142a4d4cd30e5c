//! Kills, torn records, bounds and versions of the journal.

use std::io::Write as _;

use serde_json::json;

use super::file::SLACK_BYTES;
use super::*;

fn key(n: usize) -> Key {
    Key { run: "r".to_owned(), task: format!("t-{n:06}"), seq: Some(1), dispatch: None }
}

fn kept(n: usize, fill: usize) -> Entry {
    let payload = json!({ "fill": "x".repeat(fill) }).as_object().unwrap().clone();
    let answer = Kept { id: format!("m-{n}"), kind: "biz.exec.result".to_owned(), payload, corr: Some("c".to_owned()), seq: Some(1) };
    Entry { node: "n".to_owned(), answer: Some(answer), is_settled: false }
}

fn running() -> Entry {
    Entry { node: "n".to_owned(), answer: None, is_settled: false }
}

#[test]
fn what_was_noted_is_there_after_a_kill_and_a_torn_record_spoils_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path()).unwrap();
    for n in 1..=4 {
        journal.note(key(n), running());
    }
    journal.note(key(2), kept(2, 10));
    journal.note(key(3), kept(3, 10));
    journal.settle(&key(3));
    journal.forget(&key(4));
    assert!(matches!(Journal::open(dir.path()), Err(JournalError::Busy(_))));
    drop(journal);
    let mut file = OpenOptions::new().append(true).open(dir.path().join("tasks")).unwrap();
    file.write_all(b"\n{\"v\":1,\"key\":{\"run\":\"to").unwrap();
    for _ in 0..2 {
        let mut journal = Journal::open(dir.path()).unwrap();
        assert_eq!(journal.unsettled(), [(key(1), running()), (key(2), kept(2, 10))]);
        assert!(journal.get(&key(3)).unwrap().is_settled && journal.get(&key(4)).is_none());
        journal.note(key(5), running());
        journal.forget(&key(5));
    }
}

#[test]
fn a_kill_at_any_byte_of_the_file_leaves_a_beginning_of_what_happened() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path()).unwrap();
    journal.note(key(1), running());
    journal.note(key(1), kept(1, 5));
    journal.settle(&key(1));
    drop(journal);
    let path = dir.path().join("tasks");
    let text = fs::read(&path).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for end in 0..=text.len() {
        fs::write(&path, &text[..end]).unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        seen.insert(journal.get(&key(1)).map(|entry| (entry.answer.is_some(), entry.is_settled)));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [None, Some((false, false)), Some((true, false)), Some((true, true))]);
}

#[test]
fn what_could_not_be_written_is_written_when_that_is_possible_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path()).unwrap();
    let good = std::mem::replace(&mut journal.file, File::open(dir.path().join("tasks")).unwrap());
    journal.note(key(1), running());
    journal.file = good;
    // A write that succeeds does not make good what an earlier one has missed.
    journal.note(key(2), running());
    assert!(!journal.is_whole);
    assert!(journal.check() && journal.check());
    journal.note(key(3), running());
    drop(journal);
    let journal = Journal::open(dir.path()).unwrap();
    assert_eq!(journal.unsettled(), [(key(1), running()), (key(2), running()), (key(3), running())]);
}

#[test]
fn a_rewrite_that_fails_leaves_the_file_and_nothing_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path()).unwrap();
    journal.note(key(1), running());
    fs::create_dir(dir.path().join("tasks.draft")).unwrap();
    assert!(journal.rewrite().is_err());
    journal.note(key(2), running());
    drop(journal);
    fs::remove_dir(dir.path().join("tasks.draft")).unwrap();
    assert_eq!(Journal::open(dir.path()).unwrap().unsettled().len(), 2);
}

#[test]
fn answers_are_remembered_up_to_a_bound_and_the_file_stays_small() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path()).unwrap();
    for n in 0..SETTLED_MAX + 50 {
        journal.note(key(n), kept(n, 10));
        journal.settle(&key(n));
    }
    assert!(journal.get(&key(49)).is_none() && journal.get(&key(50)).is_some());
    for n in 0..60 {
        journal.note(key(1_000_000 + n), kept(n, 1 << 20));
        journal.settle(&key(1_000_000 + n));
    }
    assert!(journal.settled_bytes <= SETTLED_BYTES_MAX);
    let size = fs::metadata(dir.path().join("tasks")).unwrap().len();
    assert!(size <= 2 * SETTLED_BYTES_MAX as u64 + 2 * SLACK_BYTES, "{size}");
}

#[test]
fn journals_of_the_first_version_stay_readable() {
    let golden = concat!(
        "\n",
        r#"{"v":1,"key":{"run":"r","task":"t","seq":3},"entry":{"node":"n","is_settled":false}}"#,
        "\n",
        r#"{"v":1,"key":{"run":"r","task":"u","dispatch":"d"},"entry":{"node":"n","answer":{"id":"m","kind":"biz.exec.result","payload":{"a":1},"corr":"c","seq":3},"is_settled":false}}"#,
        "\n",
        r#"{"v":1,"settled":{"run":"r","task":"u","dispatch":"d"}}"#,
    );
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tasks"), golden).unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let first = Key { run: "r".to_owned(), task: "t".to_owned(), seq: Some(3), dispatch: None };
    assert_eq!(journal.unsettled(), [(first, running())]);
    let second = Key { run: "r".to_owned(), task: "u".to_owned(), seq: None, dispatch: Some("d".to_owned()) };
    assert_eq!(journal.get(&second).unwrap().answer.as_ref().unwrap().payload["a"], 1);
}
