//! What readers of event streams were told, over all their resumptions: everything, once, in its order; or that something is missing.

use longshore_model::JobId;
use longshore_model::wire::record::{Event, EventKind};

use super::{Line, Violation};
use crate::history::{History, Reading, Seq, Told};

pub(super) fn check(history: &History, found: &mut Vec<Violation>) {
    for (idx, reading) in history.readings.iter().enumerate() {
        for job in history.defined.keys().filter(|job| reading.of.is_none_or(|of| of == **job)) {
            one(history, idx, reading, *job, found);
        }
    }
}

fn one(history: &History, idx: usize, reading: &Reading, job: JobId, found: &mut Vec<Violation>) {
    let mut broken = |promise, what: String| found.push(Violation::new(promise, format!("reader {idx}, {}: {what}", job.short())));
    let is_event = |told: &&Told| told.event != "deleted" && told.event != "answered";
    let told: Vec<&Told> = reading.told.iter().filter(|told| told.job == job && told.event != "deleted").collect();
    let (events, answers) = expected(history, job, reading.of.is_some());
    let is_twice = |idx: usize, one: &&Told| told[..idx].contains(one) && events.iter().filter(|event| *event == *one).count() < 2;
    if let Some((_, again)) = told.iter().enumerate().find(|(idx, told)| is_event(told) && is_twice(*idx, told)) {
        return broken("INV-14 nothing is told twice", format!("{again:?}"));
    }
    // A stream of one job may tell an answer again: it reads answers from the ledger, which does not know their places. And a job that was
    // removed may get a late one, that is removed as well.
    if reading.of.is_none()
        && !history.removed.contains_key(&job)
        && let Some((_, again)) = told.iter().enumerate().find(|(idx, one)| one.event == "answered" && told[..*idx].contains(one))
    {
        return broken("INV-14 nothing is told twice", format!("{again:?}"));
    }
    let is_to_know_all = reading.of.is_none() || reading.has_ended;
    if !is_to_know_all || reading.has_gap || history.removed.contains_key(&job) {
        return;
    }
    if let Some(missing) = events.iter().chain(&answers).find(|expected| !told.contains(expected)) {
        return broken("INV-14 everything is told", format!("{missing:?} is missing"));
    }
    let in_order: Vec<&Told> = told.iter().filter(|told| is_event(told) && events.contains(told)).copied().collect();
    if !in_order.iter().copied().eq(events.iter()) {
        broken("INV-14 things are told in their order", format!("{in_order:?}, not {events:?}"));
    }
}

/// What there is to tell of a job: its events, in their order, and its answers. The stream of one job ends when nothing more is expected,
/// so that a late answer to what was lost may not be in it, nor what somebody wrote who had not seen the answer.
fn expected(history: &History, job: JobId, is_of_one: bool) -> (Vec<Told>, Vec<Told>) {
    let submitted = Told { job, execution: None, event: "submitted".to_owned(), attempt: None };
    let (mut events, mut answers) = (Vec::new(), Vec::new());
    let executions = &history.defined[&job].definition.executions;
    let settled = executions.iter().map(|id| Line::of(history, (job, *id)).settled_seq().unwrap_or(Seq::MAX)).max().unwrap_or(Seq::MAX);
    for id in executions {
        let line = Line::of(history, (job, *id));
        let told = |event: &str, attempt| Told { job, execution: Some(*id), event: event.to_owned(), attempt };
        let is_lost = line.events.iter().any(|(.., event)| matches!(event.kind, EventKind::Lost { .. }));
        let in_time = line.events.iter().filter(|(_, written, _)| !is_of_one || written.seq <= settled);
        events.extend(in_time.map(|(revision, _, event)| {
            let (word, attempt) = word(event);
            (*revision, told(word, attempt))
        }));
        let in_time = line.answers.iter().filter(|_| !(is_of_one && is_lost));
        answers.extend(in_time.map(|(_, answer)| told("answered", (answer.attempts > 0).then_some(answer.attempts))));
    }
    events.sort_by_key(|(revision, _)| *revision);
    (std::iter::once(submitted).chain(events.into_iter().map(|(_, told)| told)).collect(), answers)
}

/// The word for an event, and its attempt.
fn word(event: &Event) -> (&'static str, Option<u32>) {
    match &event.kind {
        EventKind::Started { attempt, .. } => ("started", Some(*attempt)),
        EventKind::Retrying { attempt, .. } => ("retrying", Some(*attempt)),
        EventKind::CancelRequested { .. } => ("cancel_requested", None),
        EventKind::Cancelled { .. } => ("cancelled", None),
        EventKind::Expired => ("expired", None),
        EventKind::Lost { attempt } => ("lost", Some(*attempt)),
    }
}
