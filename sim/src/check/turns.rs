//! Concurrency keys: one at a time, each with a higher fence, in the order of submission.

use std::collections::BTreeMap;

use longshore_model::wire::record::{Definition, EventKind};

use super::{Line, Violation};
use crate::history::{History, Record, Run, Seq};

pub(super) fn check(history: &History, found: &mut Vec<Violation>) {
    let mut by_key: BTreeMap<&str, Vec<&Run>> = BTreeMap::new();
    for run in &history.runs {
        let defined = history.defined.get(&run.key.0);
        if let Some(key) = defined.and_then(|defined| defined.definition.concurrency_key.as_deref()) {
            by_key.entry(key).or_default().push(run);
        }
    }
    for (key, runs) in by_key {
        for (earlier, later) in runs.iter().flat_map(|one| runs.iter().map(move |other| (*one, *other))) {
            if earlier.seq < later.seq {
                pair(history, key, earlier, later, found);
            }
        }
    }
    order(history, found);
}

fn pair(history: &History, key: &str, earlier: &Run, later: &Run, found: &mut Vec<Violation>) {
    let name = |run: &Run| format!("{} {} attempt {} with fence {:?}", run.key.0.short(), run.key.1, run.attempt, run.fence);
    let what = || format!("{key}: {}, then {}", name(earlier), name(later));
    let still_ran = earlier.ended.is_none_or(|(at, _)| at > later.began);
    if still_ran && !was_over(history, earlier, later) {
        found.push(Violation::new("INV-46 attempts under one key run one at a time", what()));
    }
    // One that was over before it began comes late with an old fence: that is what it is for.
    let is_higher = earlier.fence.zip(later.fence).is_some_and(|(earlier, later)| earlier < later);
    if !is_higher && !was_over(history, later, later) {
        found.push(Violation::new("INV-46 a fence is higher than every earlier one", what()));
    }
}

/// Whether the ledger had given an attempt up before another began.
fn was_over(history: &History, run: &Run, other: &Run) -> bool {
    let is_removed = history.removed.get(&run.key.0).is_some_and(|at| *at <= other.began);
    let ends = |record: &Record| match record {
        Record::Answer(_) => true,
        Record::Event(_, event) => match event.kind {
            EventKind::Started { attempt, .. } => attempt > run.attempt,
            EventKind::Retrying { attempt, .. } | EventKind::Lost { attempt } => attempt >= run.attempt,
            EventKind::CancelRequested { .. } | EventKind::Cancelled { .. } | EventKind::Expired => false,
        },
    };
    let written = history.written.get(&run.key).into_iter().flatten();
    is_removed || written.filter(|written| written.seq < other.seq).any(|written| ends(&written.record))
}

/// Whoever was stored before another was even submitted goes first, unless it had its own time to wait for.
fn order(history: &History, found: &mut Vec<Violation>) {
    for (job, queued) in &history.queued {
        let Some((began, began_at)) = first_start(history, *job) else { continue };
        for (other, _) in history.queued.iter().filter(|(_, ahead)| ahead.key == queued.key && ahead.seq < queued.seq) {
            let Some(defined) = history.defined.get(other).filter(|defined| defined.at <= queued.at) else { continue };
            let definition = &defined.definition;
            let is_gone = history.removed.get(other).is_some_and(|at| *at <= began_at);
            if definition.not_before.is_none() && !is_gone && !has_ended(history, definition, began) {
                let what = format!("{}: {} before {}", queued.key, job.short(), other.short());
                found.push(Violation::new("INV-50 jobs with one key come in the order of submission", what));
            }
        }
    }
}

fn first_start(history: &History, job: longshore_model::JobId) -> Option<(Seq, jiff::Timestamp)> {
    let definition = &history.defined.get(&job)?.definition;
    let starts = definition.executions.iter().flat_map(|id| {
        let events = Line::of(history, (job, *id)).events;
        let starts = events.into_iter().filter(|(.., event)| matches!(event.kind, EventKind::Started { .. }));
        starts.map(|(_, written, _)| (written.seq, written.at))
    });
    starts.min()
}

/// Whether every execution had ended, or was given up. An event may end it before its answer is there.
fn has_ended(history: &History, definition: &Definition, before: Seq) -> bool {
    definition.executions.iter().all(|id| {
        let line = Line::of(history, (definition.id, *id));
        let is_end = |kind: &EventKind| matches!(kind, EventKind::Lost { .. } | EventKind::Cancelled { .. } | EventKind::Expired);
        let ends = line.events.iter().filter(|(.., event)| is_end(&event.kind)).map(|(_, written, _)| written.seq);
        line.answers.iter().map(|(written, _)| written.seq).chain(ends).any(|seq| seq < before)
    })
}
