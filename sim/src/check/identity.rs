//! Identities: at most one process is bound to one at a time, another is refused, and people are told.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use longshore_model::AgentId;
use longshore_store::StoredAudit;

use super::Violation;
use crate::history::{Binding, History};
use crate::world::{HEARTBEAT_LASTS, World};

/// More than there are.
const EVERYTHING: usize = 10_000;

pub(super) fn check(history: &History, found: &mut Vec<Violation>) {
    let agents: BTreeSet<AgentId> = history.bindings.iter().map(|bound| bound.agent).collect();
    for agent in agents {
        let mut bindings: Vec<&Binding> = history.bindings.iter().filter(|bound| bound.agent == agent).collect();
        bindings.sort_by_key(|bound| bound.revision);
        one(history, agent, &bindings, found);
    }
    for run in &history.runs {
        if !history.bindings.iter().any(|bound| bound.process == run.process && bound.seq < run.seq) {
            found.push(Violation::new("INV-35 nobody works under an identity that it is not bound to", format!("{run:?}")));
        }
    }
    for (agent, own, copy) in &history.meetings {
        if !history.refused.iter().any(|(_, process, _)| process == own || process == copy) {
            found.push(Violation::new("INV-35 of two one is refused", format!("{agent}: {own} and {copy}")));
        }
    }
}

/// The heartbeats of one identity, in the order of their revisions.
fn one(history: &History, agent: AgentId, bindings: &[&Binding], found: &mut Vec<Violation>) {
    let mut broken =
        |what: String| found.push(Violation::new("INV-35 at most one process is bound to an identity", format!("{agent}: {what}")));
    let lasts = SignedDuration::try_from(HEARTBEAT_LASTS).unwrap_or_default();
    let mut earlier: BTreeSet<&str> = BTreeSet::new();
    for pair in bindings.windows(2) {
        let (before, after) = (pair[0], pair[1]);
        if before.process == after.process {
            continue;
        }
        earlier.insert(&before.process);
        if earlier.contains(after.process.as_str()) {
            broken(format!("{} again, after {}", after.process, before.process));
        }
        let has_left = history.leaves.iter().any(|(of, seq)| *of == agent && before.seq < *seq && *seq < after.seq);
        if before.place != after.place && !has_left && after.at < before.at + lasts {
            broken(format!("{} at {} while {} is, since {}", after.process, after.at, before.process, before.at));
        }
    }
    for (_, process, seq) in history.refused.iter().filter(|(of, ..)| *of == agent) {
        if bindings.iter().any(|bound| bound.process == *process && bound.seq > *seq) {
            broken(format!("{process}, which was refused"));
        }
        if !bindings.iter().any(|bound| bound.process != *process && bound.seq < *seq) {
            broken(format!("{process} was refused because of nobody"));
        }
    }
}

/// Every refusal is in the audit trail, with its reason.
pub(super) async fn audited(world: &World, found: &mut Vec<Violation>) {
    let refused: Vec<_> = world.history().refused.iter().map(|(agent, process, _)| (*agent, process.clone())).collect();
    let trail = world.raw.audit.after(0, EVERYTHING).await.map(|page| page.items).unwrap_or_default();
    for (agent, process) in refused {
        let is_its = |stored: &&StoredAudit| stored.record.request_id == process && stored.record.path.ends_with(&agent.to_string());
        let record = trail.iter().find(is_its).map(|stored| &stored.record);
        let is_told = |reason: &Option<String>| reason.as_ref().is_some_and(|reason| !reason.is_empty());
        if !record.is_some_and(|record| record.status == Some(403) && is_told(&record.reason)) {
            found.push(Violation::new("INV-35 a refusal of an identity is in the audit trail", format!("{agent} {process}: {record:?}")));
        }
    }
}
