//! Jobs for several: what a crash left out of one is made good.

use jiff::{SignedDuration, Timestamp};

use super::{Line, Violation};
use crate::history::History;

/// Until somebody looks, a pass or two, and the write.
const MADE_GOOD_WITHIN: SignedDuration = SignedDuration::from_secs(25);

pub(super) fn check(history: &History, healed: Timestamp, found: &mut Vec<Violation>) {
    for (definition, id) in super::executions(history).filter(|(definition, _)| definition.executions.len() > 1) {
        let since = history.defined[&definition.id].at.max(healed).max(definition.not_before.unwrap_or(healed));
        let due = since + MADE_GOOD_WITHIN;
        let has_ended = Line::of(history, (definition.id, id)).settled_at().is_some_and(|at| at <= due);
        let stored = history.shared.get(&(definition.id, id));
        if !has_ended && stored.is_none_or(|at| *at > due) {
            let what = format!("{} {id}: {stored:?}, due at {due}", definition.id.short());
            found.push(Violation::new("INV-31 what a crash left out of a job for several is made good", what));
        }
    }
}
