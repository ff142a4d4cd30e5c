//! What people were told: that it was true, and stayed so.

use std::collections::{BTreeMap, BTreeSet};

use longshore_model::wire::problem::ErrorCode;
use longshore_model::{AgentId, ExecutionState, JobId};

use super::Violation;
use crate::clients::INTENT;
use crate::history::{History, Intent, Repeat};

pub(super) fn check(history: &History, found: &mut Vec<Violation>) {
    submissions(history, found);
    definitions(history, found);
    repeats(history, found);
    views(history, found);
}

fn submissions(history: &History, found: &mut Vec<Violation>) {
    for (number, intent) in &history.intents {
        let mut broken = |promise, what: String| found.push(Violation::new(promise, format!("submission {number}: {what}")));
        let accepted: BTreeSet<JobId> = intent.accepted.iter().copied().collect();
        if accepted.len() > 1 {
            broken("INV-03 one key is one job", format!("{accepted:?}"));
        }
        if let Some(missing) = accepted.iter().find(|job| !history.defined.contains_key(job)) {
            broken("INV-01 what was accepted is on record", missing.short());
        }
        let has_its_key = |other: &&Intent| other.request.idempotency_key == intent.request.idempotency_key;
        let other = intent.clashes_with.and_then(|other| history.intents.get(&other)).filter(has_its_key);
        if let Some(other) = other
            && !other.accepted.is_empty()
            && !accepted.is_empty()
        {
            broken("INV-03 one key takes one body", format!("{accepted:?}"));
        }
        if intent.request.idempotency_key.is_some() && intent.is_unknown && accepted.is_empty() && intent.refused.is_none() {
            broken("INV-04 who has a key learns what became of the submission", "no answer".to_owned());
        }
    }
}

fn definitions(history: &History, found: &mut Vec<Violation>) {
    let mut by_intent: BTreeMap<u64, Vec<JobId>> = BTreeMap::new();
    for (job, defined) in &history.defined {
        let mut broken = |promise, what: String| found.push(Violation::new(promise, format!("{}: {what}", job.short())));
        if defined.times > 1 {
            broken("a job is made once, also if it is removed", format!("made {} times", defined.times));
        }
        let number = defined.definition.annotations.get(INTENT).and_then(|number| number.parse().ok()).unwrap_or(u64::MAX);
        let Some(intent) = history.intents.get(&number) else {
            broken("INV-02 every job is somebody's submission", format!("{:?}", defined.definition));
            continue;
        };
        let is_heard = |agent: AgentId| history.beats.get(&agent).is_some_and(|beats| beats.iter().any(|at| *at <= defined.at));
        if let Some(agent) = defined.definition.executions.iter().filter_map(|id| id.agent()).find(|agent| !is_heard(*agent)) {
            broken("INV-20 nobody is told to do what was submitted before it was there", agent.to_string());
        }
        match defined.definition.retry_of {
            Some(of) if !history.repeats.iter().any(|(job, ..)| *job == of) => {
                broken("INV-02 nothing is repeated that nobody repeated", format!("of {}", of.short()));
            }
            Some(_) => {}
            None => by_intent.entry(number).or_default().push(*job),
        }
        if defined.definition.retry_of.is_none() && intent.accepted.is_empty() && !intent.is_unknown {
            broken("INV-06 a refused submission leaves nothing", format!("{:?}", intent.refused));
        }
    }
    for (number, jobs) in by_intent {
        if jobs.len() > 1 {
            found.push(Violation::new("INV-03 one submission is one job", format!("submission {number}: {jobs:?}")));
        }
    }
}

fn repeats(history: &History, found: &mut Vec<Violation>) {
    let mut redriven: BTreeMap<JobId, BTreeSet<JobId>> = BTreeMap::new();
    for (of, repeat, made) in &history.repeats {
        if *repeat == Repeat::Redrive {
            redriven.entry(*of).or_default().extend(*made);
        }
    }
    for (of, mut made) in redriven {
        let by_hand: BTreeSet<JobId> = history
            .repeats
            .iter()
            .filter(|(job, repeat, _)| *job == of && *repeat == Repeat::Retry)
            .filter_map(|(.., made)| *made)
            .collect();
        let is_of = |defined: &&crate::history::Defined| defined.definition.retry_of == Some(of);
        made.extend(history.defined.values().filter(is_of).map(|defined| defined.definition.id));
        let is_retried_unseen = history.repeats.iter().any(|(job, repeat, made)| *job == of && *repeat == Repeat::Retry && made.is_none());
        made.retain(|job| !by_hand.contains(job));
        if made.len() > 1 + usize::from(is_retried_unseen) {
            found.push(Violation::new("INV-38 a letter is redriven once", format!("{} as {made:?}", of.short())));
        }
    }
}

/// What somebody has seen to be final stays as it was; only what was lost may be answered yet.
fn views(history: &History, found: &mut Vec<Violation>) {
    let mut seen: BTreeMap<_, ExecutionState> = BTreeMap::new();
    for view in &history.views {
        for (id, share) in &view.shares {
            let state = share.state;
            let before = seen.insert((view.job, *id), state);
            if let Some(before) = before
                && before.is_final()
                && before != ExecutionState::Lost
                && before != state
            {
                let what = format!("{} {id}: {before:?}, then {state:?} (view {})", view.job.short(), view.seq);
                found.push(Violation::new("INV-09 what is final stays as it is", what));
            }
        }
    }
    let unknown = history.intents.values().filter(|intent| intent.refused == Some(ErrorCode::Internal)).count();
    if unknown > 0 {
        found.push(Violation::new("nothing is an error of ours", format!("{unknown} submissions")));
    }
}
