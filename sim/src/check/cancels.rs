//! Cancels: what runs ends soon after its agent learns of one, and revisions say what came first.

use std::time::Duration;

use jiff::SignedDuration;
use longshore_model::wire::record::{EventKind, Outcome};

use super::{Line, Violation};
use crate::history::{Cancelled, End, History, Run};
use crate::host::DIES_WITHIN_MAX;

/// Beyond the time that the work itself takes to end.
const SLACK: SignedDuration = SignedDuration::from_secs(2);
/// Between a request and the agent's learning of it while nothing goes wrong: it looks at least as often as it extends its claim.
const LEARNS_WITHIN: SignedDuration = SignedDuration::from_secs(7);

pub(super) fn check(history: &History, found: &mut Vec<Violation>) {
    for run in &history.runs {
        running(history, run, found);
    }
    for cancel in &history.cancels {
        named(history, cancel, found);
    }
}

/// Work whose end was asked for while it ran.
fn running(history: &History, run: &Run, found: &mut Vec<Violation>) {
    let (job, id) = run.key;
    let mut broken = |promise, what: String| found.push(Violation::new(promise, format!("{} {id}: {what}", job.short())));
    let line = Line::of(history, run.key);
    let is_request = |kind: &EventKind| matches!(kind, EventKind::CancelRequested { .. });
    let Some((revision, request, _)) = line.events.iter().find(|(.., event)| is_request(&event.kind)) else { return };
    let (ended, end) = run.ended.unzip();
    let took = SignedDuration::try_from(Duration::from_millis(DIES_WITHIN_MAX)).unwrap_or_default() + SLACK;
    let learned = history.learned.get(&(run.key, run.agent)).filter(|learned| ended.is_none_or(|ended| ended >= **learned));
    if let Some(learned) = learned
        && run.began <= *learned
        && ended.is_none_or(|ended| ended > *learned + took)
    {
        broken("INV-26 work ends soon after its agent learns of a cancel", format!("learned at {learned}, ended at {ended:?}"));
    }
    let is_calm = history.calm_since.is_some_and(|calm| calm <= request.at);
    if is_calm && run.began <= request.at && ended.is_none_or(|ended| ended > request.at + LEARNS_WITHIN + took) {
        broken("INV-26 an agent learns of a cancel soon", format!("asked for at {}, ended at {ended:?}", request.at));
    }
    // What had ended by itself before its agent knew is told as it was, and so is what a newer attempt or an earlier record ended.
    let is_ended_by_it = learned.is_some() && matches!(end, Some(End::Finished { outcome: Outcome::Cancelled, .. }));
    if let Some((answer, told)) = line.answers.first()
        && is_ended_by_it
        && told.attempts == run.attempt
        && told.outcome != Outcome::Cancelled
        && answer.seq > request.seq
    {
        broken("INV-26 what is ended by a cancel is cancelled", format!("{:?}, after revision {revision}", told.outcome));
    }
}

/// A cancel's answer names where it took effect, and nothing starts after that place.
fn named(history: &History, cancel: &Cancelled, found: &mut Vec<Violation>) {
    let mut broken = |promise, what: String| found.push(Violation::new(promise, format!("{}: {what}", cancel.job.short())));
    let Some(defined) = history.defined.get(&cancel.job) else { return };
    let (mut cancels, mut starts) = (Vec::new(), Vec::new());
    for id in &defined.definition.executions {
        for (revision, written, event) in Line::of(history, (cancel.job, *id)).events {
            match event.kind {
                EventKind::Cancelled { .. } | EventKind::CancelRequested { .. } => cancels.push((revision, written.seq)),
                EventKind::Started { .. } => starts.push(revision),
                EventKind::Retrying { .. } | EventKind::Expired | EventKind::Lost { .. } => {}
            }
        }
    }
    let known: Vec<u64> = cancels.iter().filter(|(_, seq)| *seq < cancel.seq).map(|(revision, _)| *revision).collect();
    match cancel.revision {
        // Or a start that came later in an execution that ended before the cancel reached it: from there on nothing starts.
        Some(named) if !(known.contains(&named) || known.iter().any(|own| *own < named) && starts.contains(&named)) => {
            broken("INV-28 a cancel names the revision of its own record", format!("{named}, not one of {known:?}"));
        }
        Some(named) => {
            if let Some(start) = starts.iter().find(|start| **start > named) {
                broken("INV-28 no start is recorded after the revision of a cancel", format!("{start} after {named}"));
            }
        }
        None if cancels.iter().any(|(_, seq)| *seq < cancel.asked) => {
            broken("INV-28 a cancel that took effect names its revision", format!("none of {known:?}"));
        }
        None => {}
    }
}
