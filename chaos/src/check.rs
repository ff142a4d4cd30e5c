//! The checker: compares what a client saw with what the jobs wrote down. Shares no rule with the product, and knows nothing of the cell.

use std::collections::BTreeSet;
use std::fmt;

use longshore_testkit::witness::Account;
use serde::Serialize;

use crate::history::{End, JobHistory, Policy};

/// What should not be, in nearly all cases a promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub(crate) enum Finding {
    /// Its submission was acknowledged, and there was no end of it when everything was at rest.
    Lost { label: String, last_error: Option<String> },
    /// It was started more often than its record says, or more often than once though it must not be.
    Hidden { label: String, starts: u32, attempts: u32 },
    /// Its end was read twice and differed.
    Changed { label: String, before: String, after: String },
    /// Another attempt was recorded after its end had been read. Told, and not counted as broken: its answer stands, the attempt is on
    /// record and within its policy. Another agent takes what it believes to be abandoned while the answer is on its way.
    AfterEnd { label: String, before: u32, after: u32 },
    /// One key gave several jobs.
    Doubled { label: String, ids: Vec<String> },
    /// Its record says that it completed, and it never ran.
    NeverRan { label: String },
    /// It was not accepted though everything was healed, with the last refusal.
    NotAccepted { label: String, last_error: Option<String> },
    /// A controller did not give it at the end.
    Unread { label: String, error: String },
    /// A list shows another status than the job itself, or does not have it.
    Listed { label: String, listed: String, read: String },
    /// Something ran that nobody had submitted, or a line that no job writes.
    Foreign { line: String },
}

impl Finding {
    /// Whether a promise is broken by it.
    pub(crate) fn breaks(&self) -> bool {
        !matches!(self, Self::AfterEnd { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = |error: &Option<String>| error.clone().map(|error| format!("; the last answer: {error}")).unwrap_or_default();
        match self {
            Self::Lost { label, last_error } => write!(f, "{label} was acknowledged and has no end{}", why(last_error)),
            Self::Hidden { label, starts, attempts } => write!(f, "{label} started {starts} times, and its record has {attempts} attempts"),
            Self::Changed { label, before, after } => write!(f, "{label} had ended {before} and later {after}"),
            Self::AfterEnd { label, before, after } => {
                write!(f, "{label} had ended after {before} attempts, and another was recorded later: {after}")
            }
            Self::Doubled { label, ids } => write!(f, "{label} became several jobs under one key: {}", ids.join(", ")),
            Self::NeverRan { label } => write!(f, "{label} is completed and never ran"),
            Self::NotAccepted { label, last_error } => write!(f, "{label} was never accepted{}", why(last_error)),
            Self::Unread { label, error } => write!(f, "{label} could not be read again: {error}"),
            Self::Listed { label, listed, read } => write!(f, "{label} is {read}, and a list says {listed:?}"),
            Self::Foreign { line } => write!(f, "the witness file has what nobody submitted: {line:?}"),
        }
    }
}

/// Compares. The account must have been read after the jobs were.
pub(crate) fn check(jobs: &[JobHistory], account: &Account) -> Vec<Finding> {
    let mut findings: Vec<Finding> = jobs.iter().flat_map(|job| of_job(job, account)).collect();
    let known: BTreeSet<&str> = jobs.iter().map(|job| job.label.as_str()).collect();
    let foreign = account.starts.keys().filter(|label| !known.contains(label.as_str()));
    findings.extend(foreign.chain(&account.torn).map(|line| Finding::Foreign { line: line.clone() }));
    findings
}

fn of_job(job: &JobHistory, account: &Account) -> Vec<Finding> {
    let label = || job.label.clone();
    let mut findings = Vec::new();
    if job.ids.len() > 1 {
        findings.push(Finding::Doubled { label: label(), ids: job.ids.iter().cloned().collect() });
    }
    if job.accepted.is_none() {
        findings.push(Finding::NotAccepted { label: label(), last_error: job.last_error.clone() });
    } else if job.ends.is_empty() {
        findings.push(Finding::Lost { label: label(), last_error: job.last_error.clone() });
    }
    if let Some(error) = &job.unread {
        findings.push(Finding::Unread { label: label(), error: error.clone() });
    }
    findings.extend(job.ends.windows(2).filter_map(|pair| change(job, &pair[0], &pair[1])));
    let starts = account.starts_of(&job.label);
    let Some(end) = job.ends.last() else { return findings };
    if starts > end.attempts || (job.policy == Policy::Once && starts > 1) {
        findings.push(Finding::Hidden { label: label(), starts, attempts: end.attempts });
    }
    if end.status == "completed" && starts == 0 {
        findings.push(Finding::NeverRan { label: label() });
    }
    if let Some(listed) = &job.listed {
        findings.push(Finding::Listed { label: label(), listed: listed.clone(), read: end.status.clone() });
    }
    findings
}

/// What is wrong with an end that was read as `before` and later as `after`, which differ.
fn change(job: &JobHistory, before: &End, after: &End) -> Option<Finding> {
    // An answer that comes after its job was given up replaces that, and is the only thing that may replace anything.
    if before.state == "lost" && after.state != "lost" {
        return None;
    }
    let label = job.label.clone();
    let is_one_more = after.attempts > before.attempts && job.policy == Policy::Again;
    if is_one_more && *before == (End { attempts: before.attempts, ..after.clone() }) {
        return Some(Finding::AfterEnd { label, before: before.attempts, after: after.attempts });
    }
    let [before, after] = [before, after].map(|end| serde_json::to_string(end).unwrap_or_default());
    Some(Finding::Changed { label, before, after })
}

#[cfg(test)]
mod tests {
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
        End { status: status.to_owned(), state: state.to_owned(), attempts, answer: json!({ "exit_code": 0 }) }
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
        finds(|job| job.ends[0].attempts = 2, BOTH_RAN, &[]);
        finds(|job| job.ends.insert(0, end("failed", "lost", 1)), BOTH_RAN, &[]);
        // Cancelled before it began.
        finds(|job| job.ends = vec![end("cancelled", "cancelled", 0)], "b - 2 start\n", &[]);
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
        finds(|_| (), &twice, &[Finding::Hidden { label: label(), starts: 2, attempts: 1 }]);
        finds(|job| job.ends[0].attempts = 2, &twice, &[]);
        finds(
            |job| job.ends = vec![end("cancelled", "cancelled", 0)],
            BOTH_RAN,
            &[Finding::Hidden { label: label(), starts: 1, attempts: 0 }],
        );
    }

    #[test]
    fn a_second_start_of_what_runs_once_is_found_whatever_the_record_says() {
        let twice = format!("{BOTH_RAN}a - 3 start\n");
        let spoil = |job: &mut JobHistory| (job.policy, job.ends[0].attempts) = (Policy::Once, 2);
        finds(spoil, &twice, &[Finding::Hidden { label: label(), starts: 2, attempts: 2 }]);
    }

    #[test]
    fn an_end_that_changed_is_found() {
        for (before, after) in [
            (end("completed", "completed", 1), end("failed", "failed", 1)),
            (end("cancelled", "cancelled", 1), end("completed", "completed", 1)),
            (end("completed", "completed", 1), end("failed", "lost", 1)),
            (end("completed", "completed", 1), End { answer: json!({ "exit_code": 1 }), ..end("completed", "completed", 1) }),
        ] {
            let [said_before, said_after] = [&before, &after].map(|end| serde_json::to_string(end).unwrap());
            let changed = Finding::Changed { label: label(), before: said_before, after: said_after };
            finds(|job| job.ends = vec![before, after], BOTH_RAN, &[changed]);
        }
        // What was given up may be answered late, but only once.
        let ends = vec![end("failed", "lost", 1), end("completed", "completed", 1), end("failed", "failed", 1)];
        let [before, after] = [&ends[1], &ends[2]].map(|end| serde_json::to_string(end).unwrap());
        finds(|job| job.ends = ends, BOTH_RAN, &[Finding::Changed { label: label(), before, after }]);
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
            let [before, after] = [&ends[0], &ends[1]].map(|end| serde_json::to_string(end).unwrap());
            finds(|job| (job.policy, job.ends) = (policy, ends), BOTH_RAN, &[Finding::Changed { label: label(), before, after }]);
        }
    }

    #[test]
    fn one_key_with_two_jobs_is_found() {
        let ids = vec!["id of a".to_owned(), "other".to_owned()];
        finds(|job| _ = job.ids.insert("other".to_owned()), BOTH_RAN, &[Finding::Doubled { label: label(), ids }]);
    }

    #[test]
    fn a_completion_without_a_start_is_found() {
        finds(|_| (), "b - 2 start\n", &[Finding::NeverRan { label: label() }]);
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
}
