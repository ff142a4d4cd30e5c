//! What ran: whether it was allowed to, as the witness saw it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use longshore_model::wire::record::EventKind;
use longshore_model::{AgentId, ExecutionId};

use super::{Line, Violation, lease};
use crate::agents::is_labelled;
use crate::clients::INTENT;
use crate::history::{Drain, History, Run, Seq};
use crate::host::task_text;
use crate::world::Actor;

pub(super) fn check(history: &History, found: &mut Vec<Violation>) {
    for run in &history.runs {
        one(history, run, found);
    }
    overlaps(history, found);
    drains(history, found);
}

fn one(history: &History, run: &Run, found: &mut Vec<Violation>) {
    let (job, execution) = run.key;
    let mut broken = |promise, what: String| found.push(Violation::new(promise, format!("{} {execution}: {what}", job.short())));
    let Some(defined) = history.defined.get(&job) else {
        return broken("INV-02 nothing runs that nobody submitted", format!("{run:?}"));
    };
    let definition = &defined.definition;
    let same = |other: &&Run| other.key == run.key && other.attempt == run.attempt;
    if history.runs.iter().filter(same).count() > 1 {
        broken("INV-15 one attempt is one run", format!("attempt {}", run.attempt));
    }
    let n = usize::try_from(run.agent.bits()).unwrap_or(1) - 1;
    let line = Line::of(history, run.key);
    let claim = line.events.iter().find(|(.., event)| match &event.kind {
        EventKind::Started { attempt, agent, .. } => (*attempt, *agent) == (run.attempt, run.agent),
        EventKind::Retrying { .. }
        | EventKind::CancelRequested { .. }
        | EventKind::Cancelled { .. }
        | EventKind::Expired
        | EventKind::Lost { .. } => false,
    });
    match claim {
        Some((_, written, _)) if written.seq < run.seq => {}
        Some(_) | None => broken("INV-15 nothing runs without a recorded start", format!("attempt {} by {}", run.attempt, run.agent)),
    }
    if definition.max_attempts == 1 && history.runs.iter().filter(|other| other.key == run.key).count() > 1 {
        broken("INV-16 what may run once runs once", format!("attempt {}", run.attempt));
    }
    // One that was decided on in time may be late by as long as its claim held.
    if run.attempt == 1 && claim.is_some_and(|(.., event)| event.at > definition.expires_at + SignedDuration::from_secs(1)) {
        broken("INV-19 nothing starts after its expiry", format!("{} > {}", run.began, definition.expires_at));
    }
    let by_its_clock = history.by_clock_of(Actor::Agent(n), run.began);
    // What came to its time by somebody's clock is gone on with by anybody's.
    if run.attempt == 1 && definition.not_before.is_some_and(|earliest| by_its_clock < earliest) {
        broken("INV-19 nothing starts before its time", format!("{by_its_clock} < {:?}", definition.not_before));
    }
    if !definition.executions.contains(&execution) || matches!(execution, ExecutionId::Agent(agent) if agent != run.agent) {
        broken("INV-21 nobody runs what is another's", format!("{}", run.agent));
    }
    if definition.target.contains("group:") && !is_labelled(n) {
        broken("INV-21 only members of a group run what is the group's", format!("{} for {}", run.agent, definition.target));
    }
    let intent =
        definition.annotations.get(INTENT).and_then(|number| number.parse().ok()).and_then(|number: u64| history.intents.get(&number));
    if let Some(intent) = intent
        && run.task != task_text(&intent.request.operation, &intent.request.args, &intent.request.annotations)
    {
        broken("INV-07 what runs is what was submitted", run.task.clone());
    }
    let is_over = |at: Option<Seq>| at.is_some_and(|at| at < run.seq);
    let cancelled = history.cancels.iter().filter(|cancel| cancel.job == job).map(|cancel| cancel.seq).min();
    if is_over(cancelled) && claim.is_none_or(|(_, written, _)| is_over(cancelled) && cancelled.is_some_and(|at| at < written.seq)) {
        broken("INV-25 nothing starts after a cancel was confirmed", format!("attempt {}", run.attempt));
    }
    let deleted = history.deletes.iter().filter(|delete| delete.job == job).map(|delete| delete.seq).min();
    if is_over(deleted) && claim.is_none_or(|(_, written, _)| deleted.is_some_and(|at| at < written.seq)) {
        broken("nothing starts after its delete was confirmed", format!("attempt {}", run.attempt));
    }
}

/// Two attempts overlap only where the earlier one's claim had lapsed.
fn overlaps(history: &History, found: &mut Vec<Violation>) {
    let mut by_key: BTreeMap<_, Vec<&Run>> = BTreeMap::new();
    for run in &history.runs {
        by_key.entry(run.key).or_default().push(run);
    }
    for (key, runs) in by_key {
        for (earlier, later) in runs.iter().flat_map(|one| runs.iter().map(move |other| (*one, *other))) {
            let still_ran = earlier.ended.is_none_or(|(at, _)| at > later.began);
            if earlier.seq >= later.seq || !still_ran {
                continue;
            }
            if history.calm_since.is_some_and(|calm| earlier.began >= calm) {
                let what = format!("{} {}: attempts {} and {}", key.0.short(), key.1, earlier.attempt, later.attempt);
                found.push(Violation::new("INV-17 whoever works and is cut off by nothing keeps its claim", what));
            }
            let claims = history.claims.get(&(key, earlier.agent));
            let known = claims.into_iter().flatten().filter(|at| **at <= later.began).max().copied().unwrap_or(earlier.began);
            if earlier.agent == later.agent || later.began < known + lease() {
                let what = format!("{} {}: attempts {} and {}", key.0.short(), key.1, earlier.attempt, later.attempt);
                found.push(Violation::new("INV-17 attempts overlap only if the earlier one's claim had lapsed", what));
            }
        }
    }
}

/// An agent that confirmed its drain, or began while it was drained, starts nothing.
fn drains(history: &History, found: &mut Vec<Violation>) {
    let agents: BTreeSet<AgentId> = history.drains.iter().map(|(agent, ..)| *agent).collect();
    for agent in agents {
        let told: Vec<(Seq, Drain)> = history.drains.iter().filter(|(of, ..)| *of == agent).map(|(_, seq, what)| (*seq, *what)).collect();
        for run in history.runs.iter().filter(|run| run.agent == agent) {
            let (mut is_wanted, mut is_bound) = (false, false);
            for (_, what) in told.iter().take_while(|(seq, _)| *seq < run.seq) {
                match what {
                    Drain::Wanted => is_wanted = true,
                    Drain::Confirmed => is_bound = is_wanted,
                    Drain::ProcessBegan => is_bound |= is_wanted,
                    Drain::Lifted => (is_wanted, is_bound) = (false, false),
                }
            }
            if is_bound {
                let what = format!("{} attempt {} by {agent}", run.key.0.short(), run.attempt);
                found.push(Violation::new("INV-34 a drained agent starts nothing, over its restarts", what));
            }
        }
    }
}
