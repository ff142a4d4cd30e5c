//! A file in which jobs themselves write down that they ran, and a reader that shares nothing with the product.
//!
//! A job appends one short line with `>>`, which is one write to a file opened with `O_APPEND`: lines of parallel jobs do not mix, and
//! what was written survives any kill of agent, controller or broker. So the file is the ground truth: what the product says of a
//! job's attempts must agree with it.
//!
//! ```text
//! LABEL ATTEMPT PID start
//! LABEL ATTEMPT PID end
//! LABEL - 0 seen
//! ```
//! `ATTEMPT` is `$LONGSHORE_ATTEMPT`, or `-` where the job is not told. The last form is the observer's: the job's end was known to it
//! when it wrote that, so that what starts after it in the file started after the end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The file.
#[derive(Debug, Clone)]
pub struct Witness {
    path: PathBuf,
}

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Starts of each job, by label.
    pub starts: BTreeMap<String, u32>,
    /// Ends of each job, by label.
    pub ends: BTreeMap<String, u32>,
    /// Starts of each attempt that was told its number, by label.
    pub attempts: BTreeMap<String, BTreeMap<u32, u32>>,
    /// The highest attempt that started after the job's end was seen, by label.
    pub late: BTreeMap<String, u32>,
    /// Lines that are none of ours.
    pub torn: Vec<String>,
}

/// Where the file and what was expected differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discrepancy {
    /// The job was to run and never started.
    NeverStarted(String),
    /// It started more often than allowed.
    StartedTooOften(String, u32),
    /// It started and nobody had submitted it.
    NotSubmitted(String),
    /// A line that no job writes.
    Torn(String),
}

impl Witness {
    /// An empty file in `dir`.
    ///
    /// # Panics
    /// It cannot be written.
    #[must_use]
    pub fn new_in(dir: &Path) -> Self {
        let path = dir.join("witness.log");
        std::fs::write(&path, "").expect("the witness file can be made");
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A script for `command.shell` that notes its start, does `work`, notes its end if it gets there, and ends as `work` did.
    ///
    /// # Panics
    /// `label` is not one word of letters, digits, `-`, `_` and `.`.
    #[must_use]
    pub fn script(&self, label: &str, work: &str) -> String {
        format!("{}\n{{ {work}\n}}\nstatus=$?\n{}\nexit $status", self.note(label, "start"), self.note(label, "end"))
    }

    /// One shell command that notes that `label` did `what` (`start` or `end`).
    ///
    /// # Panics
    /// `label` is not one word of letters, digits, `-`, `_` and `.`.
    #[must_use]
    pub fn note(&self, label: &str, what: &str) -> String {
        let is_word = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        assert!(is_word(label) && is_word(what), "{label:?} and {what:?} must be words");
        let path = self.path.to_string_lossy().replace('\'', r"'\''");
        format!("echo \"{label} ${{LONGSHORE_ATTEMPT:--}} $$ {what}\" >> '{path}'")
    }

    /// Notes that the end of `label` is known from now on.
    ///
    /// # Panics
    /// The file cannot be written.
    pub fn note_seen(&self, label: &str) {
        use std::io::Write as _;
        let mut file = std::fs::File::options().append(true).open(&self.path).expect("the witness file is there");
        file.write_all(format!("{label} - 0 seen\n").as_bytes()).expect("the witness file can be written");
    }

    /// Reads what has been written so far.
    ///
    /// # Panics
    /// The file cannot be read.
    #[must_use]
    pub fn read(&self) -> Account {
        Account::parse(&std::fs::read_to_string(&self.path).expect("the witness file can be read"))
    }
}

impl Account {
    /// Reads the text of a witness file.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let (mut account, mut seen) = (Self::default(), BTreeSet::new());
        for line in text.lines() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                [label, attempt, pid, "start"] if is_number(pid) => {
                    *account.starts.entry(label.to_owned()).or_default() += 1;
                    let Ok(attempt) = attempt.parse() else { continue };
                    *account.attempts.entry(label.to_owned()).or_default().entry(attempt).or_default() += 1;
                    if seen.contains(label) {
                        let late = account.late.entry(label.to_owned()).or_default();
                        *late = attempt.max(*late);
                    }
                }
                [label, _, pid, "end"] if is_number(pid) => *account.ends.entry(label.to_owned()).or_default() += 1,
                [label, "-", "0", "seen"] => _ = seen.insert(label),
                _ => account.torn.push(line.to_owned()),
            }
        }
        account
    }

    /// How often the job started.
    #[must_use]
    pub fn starts_of(&self, label: &str) -> u32 {
        self.starts.get(label).copied().unwrap_or(0)
    }

    /// How often the job got to its end.
    #[must_use]
    pub fn ends_of(&self, label: &str) -> u32 {
        self.ends.get(label).copied().unwrap_or(0)
    }

    /// Starts of all jobs.
    #[must_use]
    pub fn n_starts(&self) -> u32 {
        self.starts.values().sum()
    }

    /// Starts beyond each job's first.
    #[must_use]
    pub fn n_second_starts(&self) -> u32 {
        self.starts.values().map(|starts| starts - 1).sum()
    }

    /// Compares with what was submitted: each label started at least once and at most `starts_max` times, nothing else started.
    #[must_use]
    pub fn discrepancies<'a>(&self, submitted: impl IntoIterator<Item = &'a str>, starts_max: u32) -> Vec<Discrepancy> {
        let submitted: BTreeSet<&str> = submitted.into_iter().collect();
        let each = submitted.iter().filter_map(|label| match self.starts_of(label) {
            0 => Some(Discrepancy::NeverStarted((*label).to_owned())),
            starts if starts > starts_max => Some(Discrepancy::StartedTooOften((*label).to_owned(), starts)),
            _ => None,
        });
        let foreign = self.starts.keys().filter(|label| !submitted.contains(label.as_str())).cloned().map(Discrepancy::NotSubmitted);
        each.chain(foreign).chain(self.torn.iter().cloned().map(Discrepancy::Torn)).collect()
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn jobs_write_what_the_reader_reads() {
        let dir = tempfile::Builder::new().prefix("it's a ").tempdir().unwrap();
        let witness = Witness::new_in(dir.path());
        let run = |label: &str, work: &str| Command::new("/bin/sh").arg("-c").arg(witness.script(label, work)).status().unwrap().code();
        assert_eq!(run("a", "true"), Some(0));
        assert_eq!(run("b", "false"), Some(1));
        assert_eq!(run("b", "kill -9 $$"), None);
        let account = witness.read();
        assert_eq!((account.starts_of("a"), account.starts_of("b"), account.starts_of("c")), (1, 2, 0));
        assert_eq!((account.ends["a"], account.ends["b"]), (1, 1));
        assert_eq!((account.n_starts(), account.n_second_starts()), (3, 1));
        assert_eq!(account.discrepancies(["a", "b"], 2), []);
    }

    #[test]
    fn attempts_are_counted_each_and_what_starts_after_its_end_was_seen_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let witness = Witness::new_in(dir.path());
        let run = |attempt: &str| {
            let mut command = Command::new("/bin/sh");
            command.arg("-c").arg(witness.script("a", "true")).env("LONGSHORE_ATTEMPT", attempt).status().unwrap()
        };
        run("1");
        run("1");
        witness.note_seen("b");
        run("2");
        witness.note_seen("a");
        assert_eq!((witness.read().late, witness.read().ends_of("b")), (BTreeMap::new(), 0));
        run("3");
        let account = witness.read();
        assert_eq!((account.starts_of("a"), account.ends_of("a")), (4, 4));
        assert_eq!(account.attempts["a"], BTreeMap::from([(1, 2), (2, 1), (3, 1)]));
        assert_eq!(account.late, BTreeMap::from([("a".to_owned(), 3)]));
        assert!(account.torn.is_empty(), "{account:?}");
    }

    #[test]
    fn every_kind_of_discrepancy_is_found() {
        let account = Account::parse("a - 1 start\na 2 3 start\nx - 5 start\nhalf a li\n");
        assert_eq!(
            account.discrepancies(["a", "b"], 1),
            [
                Discrepancy::StartedTooOften("a".to_owned(), 2),
                Discrepancy::NeverStarted("b".to_owned()),
                Discrepancy::NotSubmitted("x".to_owned()),
                Discrepancy::Torn("half a li".to_owned()),
            ]
        );
    }
}
