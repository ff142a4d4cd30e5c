//! When a host is overdue, and what becomes of it then: the only place that decides to end one for lateness.

use std::time::Duration;

use longshore_model::unit::Span;
use tokio::time::Instant;

use super::{Phase, Slot, State, Warm};
use crate::package::host::frame::ToHost;

/// How long what a host wrote is read on after the grace of a call is over.
const LAST_LOOK: Duration = Duration::from_millis(50);
/// How long a host that has closed its input may take to end by itself, which would be the better explanation.
const CLOSED_PATIENCE: Duration = Duration::from_secs(1);

impl Warm {
    /// Looks at what is overdue, and gives when to look again.
    pub(in crate::package::host) fn judge(&self, now: Instant) -> Option<Instant> {
        let mut state = self.state();
        let State { phase, calls, idle_since, closed, let_go, .. } = &mut *state;
        let mut again: Option<Instant> = None;
        let mut at = |moment: Instant| {
            if moment > now {
                again = Some(again.map_or(moment, |sooner| sooner.min(moment)));
            }
        };
        for stop in calls.values_mut().filter_map(|slot| slot.stop.as_mut()) {
            if stop.since + self.bounds.stop_grace > now {
                at(stop.since + self.bounds.stop_grace);
            } else {
                at(*stop.late.get_or_insert(now) + LAST_LOOK);
            }
        }
        let overdue = |slot: &Slot| slot.stop.filter(|stop| stop.late.is_some_and(|late| late + LAST_LOOK <= now));
        let deaf = calls.values().filter_map(overdue).any(|stop| !stop.seen);
        let stuck = calls.values().filter_map(overdue).count();
        let others = calls.len() - stuck;
        if stuck > 0
            && let Phase::Ready | Phase::Leaving { .. } = *phase
        {
            *phase = Phase::Condemned { since: now };
        }
        let mut verdict: Option<String> = None;
        match *phase {
            Phase::Ended => {}
            Phase::Starting { since } => {
                if since + self.bounds.start_max <= now {
                    verdict = Some(format!("was not ready within {}", Span(self.bounds.start_max)))
                } else {
                    at(since + self.bounds.start_max)
                }
            }
            Phase::Ready => {
                if calls.is_empty() {
                    if *idle_since + self.bounds.idle <= now {
                        (*phase, *let_go) = (Phase::Leaving { since: now }, true);
                        at(now + self.bounds.stop_grace);
                        self.write(&mut state, ToHost::Quit, 0, b"");
                    } else {
                        at(*idle_since + self.bounds.idle);
                    }
                }
            }
            Phase::Leaving { since } => {
                if calls.is_empty() {
                    let leave = since.max(*idle_since) + self.bounds.stop_grace;
                    if leave <= now { verdict = Some("had nothing to do and did not leave".to_owned()) } else { at(leave) }
                }
            }
            Phase::Condemned { .. } if let Some(closed) = *closed => {
                let end = closed + CLOSED_PATIENCE;
                if end <= now { verdict = Some("had to be ended: it has closed its input and lives on".to_owned()) } else { at(end) }
            }
            Phase::Condemned { since } => {
                if deaf {
                    verdict =
                        Some("had to be ended: a task did not stop when it was asked to, and its event loop does not answer".to_owned());
                } else if others == 0 || since + self.bounds.patience <= now {
                    verdict = Some("had to be ended: a task did not stop when it was asked to".to_owned());
                } else {
                    at(since + self.bounds.patience);
                }
            }
        }
        if let Some(verdict) = verdict {
            state.verdict.get_or_insert(verdict);
            self.kill.cancel();
        }
        again
    }
}
