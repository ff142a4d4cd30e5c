//! What came of it, for people and for programs.

use std::process::ExitCode;

use longshore_testkit::witness::Account;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cell::Kind;
use crate::check::Finding;
use crate::history::JobHistory;
use crate::options::Options;
use crate::run::{Times, rate};

/// Findings that are shown of each cell; all are in the JSON report.
const SHOWN: usize = 10;
/// The part of the rate before that is to be back soon after the heal. Less is told and breaks nothing: a shared machine's speed drifts.
const RATIO_AIM: f64 = 0.98;

/// How a cell ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Every promise held.
    Held,
    Broken(Vec<String>),
    /// It ran and says nothing, and why.
    NotCounted(String),
    /// It cannot be made here, and why.
    NotRun(String),
}

/// What was measured in a cell.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    jobs: usize,
    accepted: usize,
    cancels: usize,
    repeated_calls: u32,
    second_starts: u32,
    /// How often the misfortune struck.
    blows: u32,
    lost: usize,
    hidden_executions: usize,
    changed_terminals: usize,
    other_findings: usize,
    /// Attempts that were recorded after their job had ended: told, and not broken.
    after_end: usize,
    rate_before: f64,
    rate_after: f64,
    recovery_ratio: f64,
    worst_delay_s: f64,
    fault_s: f64,
}

impl Figures {
    pub(crate) fn new(jobs: &[JobHistory], account: &Account, findings: &[Finding], times: Times, blows: u32) -> Self {
        let count = |is_it: fn(&Finding) -> bool| findings.iter().filter(|finding| is_it(finding)).count();
        let lost = count(|finding| matches!(finding, Finding::Lost { .. }));
        let hidden_executions = count(Finding::is_hidden_execution);
        let changed_terminals = count(|finding| matches!(finding, Finding::Changed { .. }));
        let after_end = count(|finding| !finding.breaks());
        let (rate_before, rate_after) = (rate(jobs, times.warm, times.struck), rate(jobs, times.settled, times.over));
        let delays = jobs.iter().filter_map(|job| job.ended?.checked_sub(job.submitted));
        Self {
            jobs: jobs.len(),
            accepted: jobs.iter().filter(|job| job.accepted.is_some()).count(),
            cancels: jobs.iter().filter(|job| job.cancelled).count(),
            repeated_calls: jobs.iter().map(|job| job.n_repeats).sum(),
            second_starts: account.n_second_starts(),
            blows,
            lost,
            hidden_executions,
            changed_terminals,
            other_findings: findings.len() - lost - hidden_executions - changed_terminals - after_end,
            after_end,
            rate_before,
            rate_after,
            recovery_ratio: if rate_before > 0.0 { rate_after / rate_before } else { 0.0 },
            worst_delay_s: delays.max().unwrap_or_default().as_secs_f64(),
            fault_s: (times.healed - times.struck).as_secs_f64(),
        }
    }

    /// What they say of a cell in which nothing was found.
    pub(crate) fn outcome(&self, rate_min: f64, recovery_min: f64) -> Outcome {
        if self.rate_before < rate_min {
            return Outcome::NotCounted(format!(
                "{:.0} jobs/s before the misfortune, and fewer than {rate_min:.0} say nothing",
                self.rate_before
            ));
        }
        if self.recovery_ratio < recovery_min {
            return Outcome::Broken(vec![format!(
                "it did not recover: {:.0} jobs/s before, {:.0} after",
                self.rate_before, self.rate_after
            )]);
        }
        Outcome::Held
    }
}

/// A cell and its end.
pub(crate) struct Row {
    pub(crate) kind: &'static Kind,
    pub(crate) outcome: Outcome,
    pub(crate) figures: Option<Figures>,
}

impl Row {
    fn word(&self) -> &'static str {
        match &self.outcome {
            Outcome::Held => "held",
            Outcome::Broken(_) => "BROKEN",
            Outcome::NotCounted(_) => "not counted",
            Outcome::NotRun(_) => "not run",
        }
    }

    fn why(&self) -> &[String] {
        match &self.outcome {
            Outcome::Held => &[],
            Outcome::Broken(why) => why,
            Outcome::NotCounted(why) | Outcome::NotRun(why) => std::slice::from_ref(why),
        }
    }

    /// In one line.
    pub(crate) fn line(&self) -> String {
        let head = format!("{:<16} {:<12}", self.kind.name, self.word());
        let Some(figures) = &self.figures else { return head };
        format!(
            "{head} {:>6} {:>5} {:>6} {:>7} {:>5} {:>7} {:>6.1} s {:>8.1} {:>8.1} {:>8.1} % {:>8.1} s",
            figures.jobs,
            figures.lost,
            figures.hidden_executions,
            figures.changed_terminals,
            figures.second_starts,
            figures.blows,
            figures.fault_s,
            figures.rate_before,
            figures.rate_after,
            figures.recovery_ratio * 100.0,
            figures.worst_delay_s,
        )
    }

    fn json(&self) -> Value {
        json!({ "cell": self.kind.name, "outcome": self.word().to_lowercase().replace(' ', "_"), "why": self.why(), "figures": self.figures })
    }
}

/// Prints the report.
pub(crate) fn print(rows: &[Row], options: &Options) -> anyhow::Result<()> {
    if options.as_json {
        let cells: Vec<_> = rows.iter().map(Row::json).collect();
        let report = json!({ "seconds": options.length.as_secs(), "in_flight": options.in_flight, "seed": options.seed, "cells": cells });
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    println!(
        "\nchaos: {} s a cell, {} jobs in flight, seed {}; {} processors, shared with whoever else is on this machine",
        options.length.as_secs(),
        options.in_flight,
        options.seed,
        std::thread::available_parallelism()?
    );
    println!(
        "{:<16} {:<12} {:>6} {:>5} {:>6} {:>7} {:>5} {:>7} {:>8} {:>8} {:>8} {:>10} {:>10}",
        "cell", "", "jobs", "lost", "hidden", "changed", "again", "strikes", "lasting", "before/s", "after/s", "recovery", "worst"
    );
    for row in rows {
        println!("{}", row.line());
        for why in row.why().iter().take(SHOWN) {
            println!("    {why}");
        }
        if let Some(more) = row.why().len().checked_sub(SHOWN).filter(|more| *more > 0) {
            println!("    and {more} more");
        }
        if let Some(figures) = row.figures.as_ref().filter(|figures| row.outcome == Outcome::Held && figures.recovery_ratio < RATIO_AIM) {
            println!("    below the aim: {:.1} % of the rate before", figures.recovery_ratio * 100.0);
        }
    }
    let n_after_end: usize = rows.iter().filter_map(|row| Some(row.figures.as_ref()?.after_end)).sum();
    if n_after_end > 0 {
        println!("{n_after_end} attempts were recorded after their jobs had ended; their answers stand");
    }
    let count = |word: &str| rows.iter().filter(|row| row.word() == word).count();
    println!("\n{} held, {} broken, {} not counted, {} not run", count("held"), count("BROKEN"), count("not counted"), count("not run"));
    Ok(())
}

/// How the program ends.
pub(crate) fn verdict(rows: &[Row], is_chosen: bool) -> ExitCode {
    let any = |is_it: fn(&Outcome) -> bool| rows.iter().any(|row| is_it(&row.outcome));
    if any(|outcome| matches!(outcome, Outcome::Broken(_))) {
        return ExitCode::from(1);
    }
    let says_nothing = any(|outcome| matches!(outcome, Outcome::NotCounted(_)));
    let is_missing = any(|outcome| matches!(outcome, Outcome::NotRun(_))) && (is_chosen || !any(|outcome| *outcome == Outcome::Held));
    ExitCode::from(if says_nothing || is_missing { 2 } else { 0 })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cell::CELLS;

    fn row(outcome: Outcome) -> Row {
        Row { kind: &CELLS[0], outcome, figures: None }
    }

    #[test]
    fn what_did_not_run_never_passes_for_what_held() {
        let not_run = || row(Outcome::NotRun("no root".to_owned()));
        let broken = || row(Outcome::Broken(vec!["lost".to_owned()]));
        let not_counted = || row(Outcome::NotCounted("slow".to_owned()));
        let held = || row(Outcome::Held);
        for (rows, is_chosen, expected) in [
            (vec![held(), held()], true, 0),
            (vec![held(), not_run()], false, 0),
            (vec![held(), not_run()], true, 2),
            (vec![not_run()], false, 2),
            (vec![held(), not_counted()], false, 2),
            (vec![held(), not_counted(), broken()], false, 1),
        ] {
            assert_eq!(verdict(&rows, is_chosen), ExitCode::from(expected));
        }
        assert_eq!(not_run().json()["outcome"], "not_run");
    }

    #[test]
    fn a_slow_cell_does_not_count_and_one_that_does_not_recover_is_broken() {
        let figures = |before: u64, after: u64| {
            let ended = |at_ms: u64| {
                let mut job = JobHistory::new("a".to_owned(), crate::history::Policy::Again, "_any".to_owned(), Duration::ZERO);
                job.ended = Some(Duration::from_millis(at_ms));
                job
            };
            let jobs: Vec<_> = (0..before).map(|_| ended(1500)).chain((0..after).map(|_| ended(4500))).collect();
            let at = Duration::from_secs;
            let times = Times { warm: at(1), struck: at(2), healed: at(3), settled: at(4), over: at(5) };
            Figures::new(&jobs, &Account::default(), &[], times, 1)
        };
        assert_eq!(figures(60, 60).outcome(50.0, 0.5), Outcome::Held);
        assert!((figures(60, 30).recovery_ratio - 0.5).abs() < 1e-9);
        assert!(matches!(figures(40, 60).outcome(50.0, 0.5), Outcome::NotCounted(_)));
        assert!(matches!(figures(60, 10).outcome(50.0, 0.5), Outcome::Broken(_)));
    }
}
