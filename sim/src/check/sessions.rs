//! What one person was shown, one look after the other: it never goes back, and shows what that person did.

use std::collections::{BTreeMap, BTreeSet};

use longshore_model::{ExecutionState, JobId};

use super::Violation;
use crate::history::{Acknowledged, History, Seen, Share};

pub(super) fn check(history: &History, found: &mut Vec<Violation>) {
    let mut sessions: BTreeMap<(u64, JobId), Vec<&Seen>> = BTreeMap::new();
    for view in &history.views {
        sessions.entry((view.client, view.job)).or_default().push(view);
    }
    for ((client, job), views) in sessions {
        let mut broken = |promise, what: String| found.push(Violation::new(promise, format!("client {client}, {}: {what}", job.short())));
        for pair in views.windows(2) {
            if let Some(what) = back(pair[0], pair[1]) {
                broken("INV-11 what one client is shown never goes back", what);
            }
        }
        for view in &views {
            if let Some(what) = unseen(history, view) {
                broken("INV-11 a client sees its own writes", what);
            }
        }
    }
}

/// How far an execution has come: it only ever goes on.
fn place(share: &Share) -> (u32, u8) {
    let phase = match share.state {
        ExecutionState::Pending => 0,
        ExecutionState::Running => 1,
        ExecutionState::Retryable => 2,
        ExecutionState::Lost => 3,
        ExecutionState::Completed
        | ExecutionState::Failed
        | ExecutionState::Skipped
        | ExecutionState::Cancelled
        | ExecutionState::Expired => 4,
    };
    (share.attempts, phase)
}

fn back(earlier: &Seen, later: &Seen) -> Option<String> {
    // One that is gone shows nothing any more; whether it may be gone is looked at by itself.
    for (id, after) in &later.shares {
        let Some(before) = earlier.shares.get(id) else { continue };
        if place(after) < place(before) || (before.is_ending && !after.is_ending) {
            return Some(format!("{id}: {after:?} after {before:?}"));
        }
    }
    let told: BTreeSet<_> = later.timeline.iter().collect();
    let forgotten = earlier.timeline.iter().find(|entry| !told.contains(entry)).filter(|_| !later.shares.is_empty());
    forgotten.map(|entry| format!("{entry:?} is not told any more"))
}

fn unseen(history: &History, view: &Seen) -> Option<String> {
    let is_before = |deed: &&Acknowledged| deed.job == view.job && deed.seq < view.asked;
    let is_there = !view.shares.is_empty();
    // It is one client that looks at a job, and removes it: whoever made it.
    if !is_there && !history.delete_wishes.iter().any(|deed| is_before(&deed)) {
        return Some("it is not there, and nobody removed it".to_owned());
    }
    if is_there && history.deletes.iter().any(|deed| is_before(&deed)) {
        return Some("it is there although it was removed".to_owned());
    }
    let is_cancelled = history.cancels.iter().any(|cancel| cancel.job == view.job && cancel.seq < view.asked);
    let going_on = view.shares.iter().find(|(_, share)| is_cancelled && !share.is_ending);
    going_on.map(|(id, share)| format!("{id} was cancelled, and is {share:?}"))
}
