//! Dead letters: of nothing that succeeded, one entry for each target, saying what is needed to look after it.

use std::collections::BTreeSet;

use longshore_model::ExecutionId;
use longshore_model::wire::dead_letter::{DeadExecution, DeadLetter, DeadLetterState};
use longshore_model::wire::record::{Definition, EventKind, Outcome};

use super::{Line, Violation};
use crate::history::History;
use crate::world::World;

pub(super) fn check(history: &History, found: &mut Vec<Violation>) {
    for (seq, letter) in &history.letters {
        for dead in &letter.executions {
            // Decided on from what was on record a moment before: an answer may come in between, and then it is put right.
            let line = Line::of(history, (letter.job, dead.id));
            let succeeded = line.answers.iter().find(|(_, answer)| matches!(answer.outcome, Outcome::Completed | Outcome::Skipped));
            let is_known = succeeded.is_some_and(|(written, _)| written.seq < *seq);
            if is_known && line.attempts() == 0 {
                let what = format!("{} {}", letter.job.short(), dead.id);
                found.push(Violation::new("INV-37 no letter is of what never failed", what));
            }
        }
    }
}

/// The letters that are there in the end, once nothing changes any more.
pub(super) async fn stored(world: &World, found: &mut Vec<Violation>) {
    let jobs: Vec<Definition> = {
        let history = world.history();
        let kept = history.defined.iter().filter(|(job, _)| !history.removed.contains_key(*job));
        kept.map(|(_, defined)| defined.definition.clone()).collect()
    };
    for definition in jobs {
        if let Ok(Some(stored)) = world.raw.dead_letters.load(definition.id).await {
            one(&world.history(), &definition, &stored.letter, found);
        }
    }
}

fn one(history: &History, definition: &Definition, letter: &DeadLetter, found: &mut Vec<Violation>) {
    let mut broken = |promise, what: String| found.push(Violation::new(promise, format!("{}: {what}", letter.job.short())));
    if (letter.job, &letter.operation, &letter.target) != (definition.id, &definition.operation, &definition.target) {
        broken("INV-37 a letter says what was to be done", format!("{letter:?}"));
    }
    let entries: BTreeSet<ExecutionId> = letter.executions.iter().map(|dead| dead.id).collect();
    if entries.len() != letter.executions.len() || letter.unlisted != 0 {
        broken("INV-37 a target has one entry", format!("{:?}", letter.executions));
    }
    for dead in &letter.executions {
        let line = Line::of(history, (definition.id, dead.id));
        // One that somebody looked after stays as it was then.
        let is_open = matches!(letter.state, DeadLetterState::Open);
        if is_open && !line.is_dead(definition) {
            broken("INV-37 no letter is of what did not die", format!("{} is {:?}", dead.id, line.state()));
        } else if is_open && !says_all(&line, dead) {
            broken("INV-37 a letter says who had it, how often, and what went wrong", format!("{dead:?}"));
        }
    }
}

fn says_all(line: &Line<'_>, dead: &DeadExecution) -> bool {
    let holder = line.events.iter().rev().find_map(|(.., event)| match &event.kind {
        EventKind::Started { agent, hostname, .. } => Some((*agent, hostname.clone())),
        EventKind::Retrying { .. }
        | EventKind::CancelRequested { .. }
        | EventKind::Cancelled { .. }
        | EventKind::Expired
        | EventKind::Lost { .. } => None,
    });
    let error = line.answers.first().and_then(|(_, answer)| answer.error.as_ref());
    let is_that_error =
        error.is_none_or(|error| error.code == dead.error.code && error.message.starts_with(dead.error.message.trim_end_matches('…')));
    dead.attempts == line.attempts() && dead.agent.zip(dead.hostname.clone()) == holder && is_that_error && !dead.error.message.is_empty()
}
