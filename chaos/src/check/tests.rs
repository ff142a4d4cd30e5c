//! The checker finds what is planted, and nothing in what is well.

use std::time::Duration;

use serde_json::json;

use super::*;

/// A job that was accepted, ran once and completed.
fn good(label: &str, policy: Policy) -> JobHistory {
    let mut job = JobHistory::new(label.to_owned(), policy, "_any".to_owned(), Duration::ZERO);
    job.accepted = Some(Duration::from_millis(1));
    job.ended = Some(Duration::from_millis(2));
    job.ids.insert(format!("id of {label}"));
    job.ends.push(end("completed", "completed", 1));
    job
}

fn end(status: &str, state: &str, attempts: u32) -> End {
    End { status: status.to_owned(), shares: vec![share("any", state, attempts)] }
}

fn share(id: &str, state: &str, attempts: u32) -> Share {
    let hostname = Some("h-".to_owned() + id);
    Share { id: id.to_owned(), hostname, state: state.to_owned(), attempts, answer: json!({ "exit_code": 0 }) }
}

/// What is found when the first of two good jobs is spoilt, and the witness file says this.
#[track_caller]
fn finds(spoil: impl FnOnce(&mut JobHistory), witness: &str, expected: &[Finding]) {
    let mut jobs = [good("a", Policy::Again), good("b", Policy::Once)];
    spoil(&mut jobs[0]);
    assert_eq!(check(&jobs, &Account::parse(witness)), expected);
}

const BOTH_RAN: &str = "a 1 1 start\na 1 1 end\nb - 2 start\nb - 2 end\n";

fn label() -> String {
    "a".to_owned()
}

#[test]
fn a_good_history_has_no_finding() {
    finds(|_| (), BOTH_RAN, &[]);
    // Two attempts of which one died before it could start, and a late answer to what was given up.
    finds(|job| job.ends[0].shares[0].attempts = 2, BOTH_RAN, &[]);
    finds(|job| job.ends.insert(0, end("failed", "lost", 1)), BOTH_RAN, &[]);
    // Cancelled before it began.
    finds(|job| job.ends = vec![end("cancelled", "cancelled", 0)], "b - 2 start\nb - 2 end\n", &[]);
}

#[test]
fn a_lost_job_is_found() {
    let lost = Finding::Lost { label: label(), last_error: Some("no answer".to_owned()) };
    finds(|job| (job.ends, job.last_error) = (Vec::new(), Some("no answer".to_owned())), BOTH_RAN, &[lost]);
    let not_accepted = Finding::NotAccepted { label: label(), last_error: None };
    finds(|job| (job.accepted, job.ends) = (None, Vec::new()), BOTH_RAN, &[not_accepted]);
}

#[test]
fn a_start_that_the_record_does_not_have_is_found() {
    let twice = format!("{BOTH_RAN}a 2 3 start\n");
    let unrecorded = |attempt: u32, attempts: u32| Finding::Unrecorded { label: label(), attempt, attempts };
    finds(|_| (), &twice, &[Finding::Hidden { label: label(), starts: 2, attempts: 1 }, unrecorded(2, 1)]);
    finds(|job| job.ends[0].shares[0].attempts = 2, &twice, &[]);
    finds(
        |job| job.ends = vec![end("cancelled", "cancelled", 0)],
        BOTH_RAN,
        &[Finding::Hidden { label: label(), starts: 1, attempts: 0 }, unrecorded(1, 0)],
    );
}

#[test]
fn an_attempt_that_starts_twice_or_is_not_on_record_is_found_though_the_number_of_starts_fits() {
    let repeated = Finding::Repeated { label: label(), attempt: 1, starts: 2 };
    finds(|job| job.ends[0].shares[0].attempts = 2, &format!("{BOTH_RAN}a 1 3 start\n"), &[repeated]);
    let unrecorded = Finding::Unrecorded { label: label(), attempt: 2, attempts: 1 };
    finds(|_| (), "a 2 1 start\na 2 1 end\nb - 2 start\nb - 2 end\n", &[unrecorded]);
}

#[test]
fn what_starts_after_its_end_was_read_is_found_unless_it_was_on_record_by_then() {
    let late = format!("{BOTH_RAN}a - 0 seen\na 2 3 start\n");
    finds(|job| job.ends = vec![end("completed", "completed", 2)], &late, &[]);
    let ran = Finding::RanAfterEnd { label: label(), attempt: 2, attempts: 1 };
    let told = Finding::AfterEnd { label: label(), before: 1, after: 2 };
    finds(|job| job.ends = vec![end("completed", "completed", 1), end("completed", "completed", 2)], &late, &[told, ran]);
}

#[test]
fn each_of_several_is_looked_at_by_itself() {
    let both = |first: Share, second: Share| {
        move |job: &mut JobHistory| {
            (job.is_for_several, job.ends[0].shares) = (true, vec![first, second]);
        }
    };
    let once = |host: &str| format!("a.{host} 1 1 start\na.{host} 1 1 end\n");
    let (one, two, b) = (once("h-one"), once("h-two"), "b - 2 start\nb - 2 end\n");
    let ended = |id: &str| share(id, "completed", 1);
    finds(both(ended("one"), ended("two")), &format!("{one}{two}{b}"), &[]);
    let never = |host: &str| Finding::NeverRan { label: format!("a.{host}") };
    finds(both(ended("one"), ended("two")), &format!("{one}{b}"), &[never("h-two")]);
    let nobody = Share { hostname: None, ..share("two", "expired", 0) };
    finds(both(ended("one"), nobody.clone()), &format!("{one}{b}"), &[]);
    finds(both(ended("one"), nobody), &format!("{one}{two}{b}"), &[Finding::Foreign { line: "a.h-two".to_owned() }]);
    let hidden = Finding::Hidden { label: "a.h-two".to_owned(), starts: 2, attempts: 1 };
    let again = format!("{one}{two}{two}{b}").replacen("a.h-two 1 1 start", "a.h-two - 1 start", 1);
    finds(both(ended("one"), ended("two")), &again, &[hidden]);
    // Who did it is not known of what has no end.
    let open = |job: &mut JobHistory| (job.is_for_several, job.ends) = (true, Vec::new());
    finds(open, &format!("{one}{b}"), &[Finding::Lost { label: label(), last_error: None }]);
}

#[test]
fn a_second_start_of_what_runs_once_is_found_whatever_the_record_says() {
    let twice = format!("{BOTH_RAN}a - 3 start\n");
    let spoil = |job: &mut JobHistory| (job.policy, job.ends[0].shares[0].attempts) = (Policy::Once, 2);
    finds(spoil, &twice, &[Finding::Hidden { label: label(), starts: 2, attempts: 2 }]);
}

#[test]
fn an_end_that_changed_is_found() {
    for (before, after) in [
        (end("completed", "completed", 1), end("failed", "failed", 1)),
        (end("cancelled", "cancelled", 1), end("completed", "completed", 1)),
        (end("completed", "completed", 1), end("failed", "lost", 1)),
        (end("completed", "completed", 1), {
            let mut other = end("completed", "completed", 1);
            other.shares[0].answer = json!({ "exit_code": 1 });
            other
        }),
    ] {
        let changed = changed("a", &before.shares[0], &after.shares[0]);
        finds(|job| job.ends = vec![before, after], BOTH_RAN, &[changed]);
    }
    // What was given up may be answered late, but only once.
    let ends = vec![end("failed", "lost", 1), end("completed", "completed", 1), end("failed", "failed", 1)];
    let changed = changed("a", &ends[1].shares[0], &ends[2].shares[0]);
    finds(|job| job.ends = ends, BOTH_RAN, &[changed]);
    // Or in the word for the whole alone.
    let ends = vec![end("completed", "completed", 1), end("failed", "completed", 1)];
    let changed = super::changed("a", &ends[0], &ends[1]);
    finds(|job| job.ends = ends, BOTH_RAN, &[changed]);
}

#[test]
fn an_attempt_after_the_end_is_found() {
    for state in ["completed", "lost"] {
        let ends = vec![end("completed", state, 1), end("completed", state, 2)];
        finds(|job| job.ends = ends, BOTH_RAN, &[Finding::AfterEnd { label: label(), before: 1, after: 2 }]);
    }
}

#[test]
fn attempts_after_the_end_that_no_policy_allows_or_that_vanish_are_a_changed_end() {
    for (policy, before, after) in [(Policy::Once, 1, 2), (Policy::Again, 2, 1)] {
        let ends = vec![end("completed", "completed", before), end("completed", "completed", after)];
        let changed = changed("a", &ends[0].shares[0], &ends[1].shares[0]);
        finds(|job| (job.policy, job.ends) = (policy, ends), BOTH_RAN, &[changed]);
    }
}

#[test]
fn one_key_with_two_jobs_is_found() {
    let ids = vec!["id of a".to_owned(), "other".to_owned()];
    finds(|job| _ = job.ids.insert("other".to_owned()), BOTH_RAN, &[Finding::Doubled { label: label(), ids }]);
}

#[test]
fn a_completion_without_a_start_is_found() {
    finds(|_| (), "b - 2 start\nb - 2 end\n", &[Finding::NeverRan { label: label() }]);
    finds(|_| (), "a 1 1 start\nb - 2 start\nb - 2 end\n", &[Finding::NeverDone { label: label() }]);
}

#[test]
fn a_controller_that_does_not_give_or_list_a_job_is_found() {
    let error = "refused".to_owned();
    finds(|job| job.unread = Some("refused".to_owned()), BOTH_RAN, &[Finding::Unread { label: label(), error }]);
    let listed = Finding::Listed { label: label(), listed: "running".to_owned(), read: "completed".to_owned() };
    finds(|job| job.listed = Some("running".to_owned()), BOTH_RAN, &[listed]);
}

#[test]
fn what_nobody_submitted_is_found() {
    let foreign = |line: &str| Finding::Foreign { line: line.to_owned() };
    finds(|_| (), &format!("{BOTH_RAN}x - 3 start\nhalf a li"), &[foreign("x"), foreign("half a li")]);
}
