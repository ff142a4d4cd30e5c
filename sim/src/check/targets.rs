//! Targets: each attempt is one agent's, what is finished is done with, and each target comes to an end of its own.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use longshore_model::wire::record::EventKind;
use longshore_model::{AgentId, ExecutionId, ExecutionState};

use super::{Line, Violation};
use crate::history::{History, Key, Offer, Run, Seq};
use crate::world::{Actor, World};

/// A record that was on its way when its agent went may still arrive.
const ON_ITS_WAY: SignedDuration = SignedDuration::from_secs(5);

pub(super) fn check(history: &History, found: &mut Vec<Violation>) {
    attempts(history, found);
    offers(history, found);
    ends(history, found);
}

/// Of work for anybody: an attempt is recorded by one agent, begun by that one alone, and answered for by it.
fn attempts(history: &History, found: &mut Vec<Violation>) {
    for (job, execution) in history.defined.keys().map(|job| (*job, ExecutionId::Any)) {
        let Some(written) = history.written.get(&(job, execution)) else { continue };
        let line = Line::of(history, (job, execution));
        let mut who: BTreeMap<u32, BTreeSet<AgentId>> = BTreeMap::new();
        for (.., event) in &line.events {
            if let EventKind::Started { attempt, agent, .. } = &event.kind {
                who.entry(*attempt).or_default().insert(*agent);
            }
        }
        for run in history.runs.iter().filter(|run| run.key == (job, execution)) {
            who.entry(run.attempt).or_default().insert(run.agent);
        }
        if let Some((_, answer)) = line.answers.first()
            && answer.duration_ms.is_some()
            && let Some(agent) = answer.agent
        {
            who.entry(answer.attempts).or_default().insert(agent);
        }
        if let Some((attempt, agents)) = who.iter().find(|(_, agents)| agents.len() > 1) {
            let what = format!("{} attempt {attempt} of {agents:?}, {} records", job.short(), written.len());
            found.push(Violation::new("INV-18 one attempt of work for anybody is one agent's", what));
        }
    }
}

/// The place of an execution's answer in what was noted, if it has one.
fn answered(history: &History, key: Key) -> Option<Seq> {
    Line::of(history, key).answers.first().map(|(written, _)| written.seq)
}

/// Whoever is offered what was answered starts nothing, and lets the offer go.
fn offers(history: &History, found: &mut Vec<Violation>) {
    let mut first: BTreeMap<(Key, AgentId), (Seq, Timestamp)> = BTreeMap::new();
    let mut answers: BTreeMap<Key, Option<Seq>> = BTreeMap::new();
    for offer in &history.offers {
        let answered = *answers.entry(offer.key).or_insert_with(|| answered(history, offer.key));
        if answered.is_some_and(|answered| answered < offer.seq) && !is_put_off(history, offer) {
            first.entry((offer.key, offer.agent)).or_insert((offer.seq, offer.at));
        }
    }
    for ((key, agent), (offered, at)) in first {
        let mut broken = |promise, what: String| found.push(Violation::new(promise, format!("{} {}: {what}", key.0.short(), key.1)));
        // One that was recorded before may begin just then.
        let is_new = |run: &&Run| run.key == key && run.agent == agent && started(history, run).is_none_or(|started| started > offered);
        if let Some(run) = history.runs.iter().filter(is_new).find(|run| run.seq > offered) {
            broken("INV-24 no start follows an offer of what was answered", format!("attempt {} by {agent}", run.attempt));
        }
        let lets_go =
            history.let_go.iter().any(|(of, by, seq)| (*of, *by) == (key, agent) && Some(Some(*seq)) > answers.get(&key).copied());
        let is_ended = history.process_ends.iter().any(|(of, ended)| *of == agent && *ended >= at);
        let is_removed = history.removed.contains_key(&key.0);
        if !lets_go && !is_ended && !is_removed {
            broken("INV-24 an offer of what was answered is confirmed", format!("offered to {agent} at {at}"));
        }
    }
}

/// Whether the agent may have put the work off when it had been offered it before: it looks again at its time, by its own clock.
fn is_put_off(history: &History, offer: &Offer) -> bool {
    let (job, _) = offer.key;
    let Some(defined) = history.defined.get(&job) else { return true };
    let retries = Line::of(history, offer.key).events.into_iter().filter_map(|(.., event)| match event.kind {
        EventKind::Retrying { not_before, .. } => Some(not_before),
        EventKind::Started { .. }
        | EventKind::CancelRequested { .. }
        | EventKind::Cancelled { .. }
        | EventKind::Expired
        | EventKind::Lost { .. } => None,
    });
    let due = retries.chain(defined.definition.not_before).max();
    let now = history.by_clock_of(Actor::Agent(number(offer.agent)), offer.at);
    // A turn is asked for again after a while that is not noted, and so is what the agent believes to be late.
    defined.definition.concurrency_key.is_some() || now > defined.definition.expires_at || due.is_some_and(|due| now < due)
}

fn number(agent: AgentId) -> usize {
    usize::try_from(agent.bits()).unwrap_or(1) - 1
}

fn started(history: &History, run: &Run) -> Option<Seq> {
    let is_its =
        |kind: &EventKind| matches!(kind, EventKind::Started { attempt, agent, .. } if (*attempt, *agent) == (run.attempt, run.agent));
    let line = Line::of(history, run.key);
    line.events.iter().find(|(.., event)| is_its(&event.kind)).map(|(_, written, _)| written.seq)
}

/// Each target has an end of its own, also one whose agent is gone.
fn ends(history: &History, found: &mut Vec<Violation>) {
    for (definition, id) in super::executions(history) {
        let mut broken = |promise, what: String| found.push(Violation::new(promise, format!("{} {id}: {what}", definition.id.short())));
        let line = Line::of(history, (definition.id, id));
        let state = line.state();
        if !state.is_final() {
            broken("INV-30 each target ends in a state of its own", format!("{state:?}"));
            continue;
        }
        let Some(agent) = id.agent() else { continue };
        if let Some((_, answer)) = line.answers.iter().find(|(_, answer)| answer.agent.is_some_and(|by| by != agent)) {
            broken("INV-30 each target is answered for by its own agent", format!("{:?}", answer.agent));
        }
        let Some(gone) = history.gone.get(&agent) else { continue };
        let told = match state {
            ExecutionState::Lost | ExecutionState::Expired | ExecutionState::Cancelled => true,
            ExecutionState::Completed
            | ExecutionState::Failed
            | ExecutionState::Skipped
            | ExecutionState::Pending
            | ExecutionState::Running
            | ExecutionState::Retryable => line.answers.first().is_some_and(|(written, _)| written.at <= *gone + ON_ITS_WAY),
        };
        if !told {
            broken("INV-30 what was an agent's that is gone is lost or expired", format!("{state:?}"));
        }
    }
}

/// The answer that the store has is the one that was written first, also where the work was offered again.
pub(super) async fn responses(world: &World, found: &mut Vec<Violation>) {
    let first: Vec<_> = {
        let history = world.history();
        let keys: BTreeSet<Key> = history.offers.iter().map(|offer| offer.key).collect();
        let kept = keys.into_iter().filter(|key| !history.removed.contains_key(&key.0));
        kept.filter_map(|key| Some((key, (*Line::of(&history, key).answers.first()?.1).clone()))).collect()
    };
    for ((job, execution), answer) in first {
        let stored = world.raw.ledger.load_answer(job, execution).await;
        if !matches!(&stored, Ok(Some(stored)) if *stored == answer) {
            let what = format!("{} {execution}: {stored:?}, not {answer:?}", job.short());
            found.push(Violation::new("INV-24 the response stays as it was published", what));
        }
    }
}
