//! The checker: compares what a client saw with what the jobs wrote down. Shares no rule with the product, and knows nothing of the cell.

use std::collections::BTreeSet;
use std::fmt;

use longshore_testkit::witness::Account;
use serde::Serialize;

use crate::history::{End, JobHistory, Policy, Share, label_at};

/// What should not be, in nearly all cases a promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub(crate) enum Finding {
    /// Its submission was acknowledged, and there was no end of it when everything was at rest.
    Lost { label: String, last_error: Option<String> },
    /// It was started more often than its record says, or more often than once though it must not be.
    Hidden { label: String, starts: u32, attempts: u32 },
    /// One of its attempts started more than once.
    Repeated { label: String, attempt: u32, starts: u32 },
    /// An attempt started that its record does not have.
    Unrecorded { label: String, attempt: u32, attempts: u32 },
    /// An attempt started that was not on record when its end was read: its end was none.
    RanAfterEnd { label: String, attempt: u32, attempts: u32 },
    /// Its end was read twice and differed.
    Changed { label: String, before: String, after: String },
    /// Another attempt was recorded after its end had been read. Told, and not counted as broken: its answer stands, the attempt is on
    /// record and within its policy. Another agent takes what it believes to be abandoned while the answer is on its way, and sees that
    /// before it starts: if it did not, that is [`Self::RanAfterEnd`].
    AfterEnd { label: String, before: u32, after: u32 },
    /// One key gave several jobs.
    Doubled { label: String, ids: Vec<String> },
    /// Its record says that it completed, and it never ran.
    NeverRan { label: String },
    /// Its record says that it completed, and it never got to its end.
    NeverDone { label: String },
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

    /// Whether something ran of which the record does not know.
    pub(crate) fn is_hidden_execution(&self) -> bool {
        matches!(self, Self::Hidden { .. } | Self::Repeated { .. } | Self::Unrecorded { .. } | Self::RanAfterEnd { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = |error: &Option<String>| error.clone().map(|error| format!("; the last answer: {error}")).unwrap_or_default();
        match self {
            Self::Lost { label, last_error } => write!(f, "{label} was acknowledged and has no end{}", why(last_error)),
            Self::Hidden { label, starts, attempts } => write!(f, "{label} started {starts} times, and its record has {attempts} attempts"),
            Self::Repeated { label, attempt, starts } => write!(f, "attempt {attempt} of {label} started {starts} times"),
            Self::Unrecorded { label, attempt, attempts } => {
                write!(f, "attempt {attempt} of {label} started, and its record has {attempts} attempts")
            }
            Self::RanAfterEnd { label, attempt, attempts } => {
                write!(f, "attempt {attempt} of {label} started after its end had been read, with {attempts} attempts")
            }
            Self::Changed { label, before, after } => write!(f, "{label} had ended {before} and later {after}"),
            Self::AfterEnd { label, before, after } => {
                write!(f, "{label} had ended after {before} attempts, and another was recorded later: {after}")
            }
            Self::Doubled { label, ids } => write!(f, "{label} became several jobs under one key: {}", ids.join(", ")),
            Self::NeverRan { label } => write!(f, "{label} is completed and never ran"),
            Self::NeverDone { label } => write!(f, "{label} is completed and never got to its end"),
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
    let (mut known, mut open) = (BTreeSet::new(), BTreeSet::new());
    for job in jobs {
        match job.ends.last() {
            Some(end) => known.extend(end.shares.iter().filter_map(|share| label_of(job, share))),
            // Of what has no end nobody said by whom it was done.
            None if job.is_for_several => _ = open.insert(job.label.as_str()),
            None => _ = known.insert(job.label.clone()),
        }
    }
    let is_open = |label: &str| label.rsplit_once('.').is_some_and(|(job, _)| open.contains(job));
    let foreign = account.starts.keys().filter(|label| !known.contains(label.as_str()) && !is_open(label));
    findings.extend(foreign.chain(&account.torn).map(|line| Finding::Foreign { line: line.clone() }));
    findings
}

/// What an execution writes down. Of several, nothing is known of those that nobody ever had.
fn label_of(job: &JobHistory, share: &Share) -> Option<String> {
    if job.is_for_several { share.hostname.as_ref().map(|hostname| label_at(&job.label, hostname)) } else { Some(job.label.clone()) }
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
    findings.extend(job.ends.windows(2).flat_map(|pair| changes(job, &pair[0], &pair[1])));
    let (Some(first), Some(end)) = (job.ends.first(), job.ends.last()) else { return findings };
    for share in &end.shares {
        let attempts_at_first = first.shares.iter().find(|then| then.id == share.id).map_or(share.attempts, |then| then.attempts);
        match label_of(job, share) {
            Some(label) => findings.extend(of_share(&label, job.policy, (attempts_at_first, share), account)),
            None if share.state == "completed" => findings.push(Finding::NeverRan { label: format!("{} of {}", share.id, job.label) }),
            None => {}
        }
    }
    if let Some(listed) = &job.listed {
        findings.push(Finding::Listed { label: label(), listed: listed.clone(), read: end.status.clone() });
    }
    findings
}

/// Compares one execution with what was written down under its label.
fn of_share(label: &str, policy: Policy, (attempts_at_first, share): (u32, &Share), account: &Account) -> Vec<Finding> {
    let (starts, attempts) = (account.starts_of(label), share.attempts);
    let label = || label.to_owned();
    let mut findings = Vec::new();
    if starts > attempts || (policy == Policy::Once && starts > 1) {
        findings.push(Finding::Hidden { label: label(), starts, attempts });
    }
    for (&attempt, &starts) in account.attempts.get(&label()).into_iter().flatten() {
        if attempt > attempts {
            findings.push(Finding::Unrecorded { label: label(), attempt, attempts });
        }
        if starts > 1 {
            findings.push(Finding::Repeated { label: label(), attempt, starts });
        }
    }
    if let Some(&attempt) = account.late.get(&label()).filter(|attempt| **attempt > attempts_at_first) {
        findings.push(Finding::RanAfterEnd { label: label(), attempt, attempts: attempts_at_first });
    }
    match (share.state.as_str(), starts, account.ends_of(&label())) {
        ("completed", 0, _) => findings.push(Finding::NeverRan { label: label() }),
        ("completed", _, 0) => findings.push(Finding::NeverDone { label: label() }),
        _ => {}
    }
    findings
}

/// What is wrong with an end that was read as `before` and later as `after`, which differ.
fn changes(job: &JobHistory, before: &End, after: &End) -> Vec<Finding> {
    let ids = |end: &End| end.shares.iter().map(|share| share.id.clone()).collect::<Vec<_>>();
    if ids(before) != ids(after) || before.shares == after.shares {
        return vec![changed(&job.label, before, after)];
    }
    before.shares.iter().zip(&after.shares).filter_map(|(before, after)| change(job, before, after)).collect()
}

/// The same of an execution.
fn change(job: &JobHistory, before: &Share, after: &Share) -> Option<Finding> {
    // Whether the name of a host is known is no part of the end.
    let named = Share { hostname: after.hostname.clone(), ..before.clone() };
    // An answer that comes after its job was given up replaces that, and is the only thing that may replace anything.
    if named == *after || (before.state == "lost" && after.state != "lost") {
        return None;
    }
    let is_one_more = after.attempts > before.attempts && job.policy == Policy::Again;
    if is_one_more && named == (Share { attempts: before.attempts, ..after.clone() }) {
        return Some(Finding::AfterEnd { label: job.label.clone(), before: before.attempts, after: after.attempts });
    }
    Some(changed(&job.label, before, after))
}

fn changed<T: Serialize>(label: &str, before: &T, after: &T) -> Finding {
    let [before, after] = [before, after].map(|read| serde_json::to_string(read).unwrap_or_default());
    Finding::Changed { label: label.to_owned(), before, after }
}

#[cfg(test)]
mod tests;
