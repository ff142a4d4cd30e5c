//! The ledger: that every execution's records form a path of the documented graph, and that an end stays an end.

use std::time::Duration;

use jiff::SignedDuration;
use longshore_model::ExecutionId;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Definition, EventKind, Outcome};

use super::{Line, Violation, executions, lease};
use crate::history::{End, History, Run};
use crate::world::{Actor, agent_id};

/// What the controller allows for staging, collecting and killing before it calls a silent attempt lost.
const GRACE: SignedDuration = SignedDuration::from_secs(30);

pub(super) fn check(history: &History, found: &mut Vec<Violation>) {
    for (definition, id) in executions(history) {
        let line = Line::of(history, (definition.id, id));
        path(history, definition, id, &line, found);
        answer(history, definition, id, &line, found);
    }
}

/// Where a path stands, with as little as is needed to say what may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Waiting,
    Running,
    Ended,
}

fn path(history: &History, definition: &Definition, id: ExecutionId, line: &Line<'_>, found: &mut Vec<Violation>) {
    let mut broken = |promise, what: String| found.push(Violation::new(promise, format!("{} {id}: {what}", definition.id.short())));
    let (mut place, mut attempts, mut is_cancelled, mut not_before) = (Place::Waiting, 0, false, None);
    let mut holder = None;
    for (_, written, event) in &line.events {
        let kind = &event.kind;
        match kind {
            EventKind::Started { attempt, agent, .. } => {
                if *attempt != attempts + 1 {
                    broken("INV-08 attempts are counted from one, each once", format!("{attempt} after {attempts}"));
                }
                if place == Place::Ended || is_cancelled {
                    broken("INV-25 nothing starts after its end, or after the wish for it", format!("{kind:?}"));
                }
                if *attempt > definition.max_attempts {
                    broken("INV-49 no more attempts than the policy has", format!("{attempt} of {}", definition.max_attempts));
                }
                if not_before.is_some_and(|earliest| history.by_clock_of(written.by, written.at) < earliest) {
                    broken("INV-49 a retry waits for its time", format!("{kind:?} at {}", written.at));
                }
                if written.by != Actor::Agent(usize::try_from(agent.bits()).unwrap_or(0) - 1) {
                    broken("INV-10 nobody starts in another's name", format!("{kind:?} by {}", written.by));
                }
                (place, attempts, not_before, holder) = (Place::Running, *attempt, None, Some((*agent, written.at)));
            }
            EventKind::Retrying { attempt, not_before: earliest, .. } => {
                if place != Place::Running || *attempt != attempts {
                    broken("INV-08 a retry follows the attempt that failed", format!("{kind:?} while {place:?}"));
                }
                let wait = definition.backoff_ms.get(*attempt as usize - 1).or(definition.backoff_ms.last()).copied().unwrap_or_default();
                let is_stop = event_is_stop(history, definition, id, *attempt) || is_passed_over(history, definition, id, *attempt);
                if !is_stop && *earliest < event.at + SignedDuration::try_from(Duration::from_millis(wait)).unwrap_or_default() {
                    broken("INV-49 the distance between attempts is the policy's", format!("{kind:?}"));
                }
                (place, not_before) = (Place::Waiting, Some(*earliest));
            }
            EventKind::CancelRequested { .. } => {
                if place == Place::Ended {
                    broken("INV-27 a cancel changes nothing of what has ended", format!("{kind:?}"));
                }
                is_cancelled = true;
            }
            EventKind::Cancelled { .. } | EventKind::Expired => {
                if place != Place::Waiting {
                    broken("INV-08 only what waits is ended without its agent", format!("{kind:?} while {place:?}"));
                }
                place = Place::Ended;
            }
            EventKind::Lost { attempt } => {
                if place != Place::Running || *attempt != attempts {
                    broken("INV-08 only what runs is lost", format!("{kind:?} while {place:?}"));
                }
                if let (Some((_, since)), Some(calm)) = (holder, history.calm_since)
                    && since >= calm
                {
                    broken("INV-17 whoever works and is cut off by nothing keeps its claim", format!("{kind:?} {}", written.at));
                }
                if let Some((agent, since)) = holder {
                    let claims = history.claims.get(&((definition.id, id), agent));
                    let known = claims.into_iter().flatten().filter(|at| **at <= written.at).max().copied().unwrap_or(since);
                    let busy = since + SignedDuration::from_millis(i64::try_from(definition.timeout_ms).unwrap_or(0)) + GRACE + lease();
                    // A process that is known to be gone needs no time.
                    let is_gone = history.process_ends.iter().any(|(of, at)| *of == agent && (since..=written.at).contains(at));
                    let is_early = match written.by {
                        _ if is_gone => false,
                        Actor::Agent(_) => written.at < known + lease(),
                        Actor::Controller(_) | Actor::Client => written.at < busy,
                    };
                    if is_early {
                        broken("INV-17 nothing is lost before its agent had the time to answer", format!("{kind:?} {}", written.at));
                    }
                }
                place = Place::Ended;
            }
        }
    }
}

/// Whether the attempt was given back because its agent was told to end: then the next one need not wait.
fn event_is_stop(history: &History, definition: &Definition, id: ExecutionId, attempt: u32) -> bool {
    run_of(history, definition, id, attempt)
        .is_some_and(|run| matches!(run.ended, Some((_, End::Finished { outcome: Outcome::Cancelled, .. }))))
}

/// Whether the attempt did not run because its turn under a concurrency key was somebody else's by then.
fn is_passed_over(history: &History, definition: &Definition, id: ExecutionId, attempt: u32) -> bool {
    definition.concurrency_key.is_some() && run_of(history, definition, id, attempt).is_none()
}

fn run_of<'a>(history: &'a History, definition: &Definition, id: ExecutionId, attempt: u32) -> Option<&'a Run> {
    history.runs.iter().find(|run| run.key == (definition.id, id) && run.attempt == attempt)
}

fn answer(history: &History, definition: &Definition, id: ExecutionId, line: &Line<'_>, found: &mut Vec<Violation>) {
    let mut broken = |promise, what: String| found.push(Violation::new(promise, format!("{} {id}: {what}", definition.id.short())));
    if line.answers.len() > 1 {
        broken("INV-09 an execution is answered once", format!("{} answers", line.answers.len()));
    }
    let Some((written, answer)) = line.answers.first() else { return };
    let is_expired = line.events.iter().any(|(.., event)| event.kind == EventKind::Expired);
    let is_cancelled = line.events.iter().any(|(.., event)| matches!(event.kind, EventKind::Cancelled { .. }));
    if is_expired != (answer.outcome == Outcome::Expired) || (is_cancelled && answer.outcome != Outcome::Cancelled) {
        broken("INV-08 the answer says what the events say", format!("{:?}", answer.outcome));
    }
    let wants_end = line.events.iter().any(|(.., event)| matches!(event.kind, EventKind::CancelRequested { .. }));
    if answer.outcome == Outcome::Cancelled && !is_cancelled && !wants_end {
        broken("INV-27 nothing is cancelled that nobody wanted to end", format!("{answer:?}"));
    }
    if answer.attempts > line.attempts() {
        broken("INV-15 no answer counts more attempts than were started", format!("{} of {}", answer.attempts, line.attempts()));
    }
    let is_passed_over = answer.outcome == Outcome::Failed && is_passed_over(history, definition, id, answer.attempts);
    if (answer.duration_ms.is_some() && !is_passed_over) || matches!(answer.outcome, Outcome::Completed | Outcome::Skipped) {
        let run = run_of(history, definition, id, answer.attempts);
        let is_true = run.is_some_and(|run| {
            let told = answer.result.as_ref().and_then(|result| result["run"].as_u64());
            let is_same = told.is_none_or(|told| std::ptr::eq(run, &raw const history.runs[usize::try_from(told).unwrap_or(0)]));
            let took = run.ended.map(|(at, _)| at.duration_since(run.began).as_millis());
            let is_as_long = took.zip(answer.duration_ms).is_none_or(|(took, told)| took == i128::from(told));
            let ended = match run.ended {
                Some((_, End::Finished { outcome, transient })) => Some((outcome, transient)),
                Some((_, End::Killed)) | None => None,
            };
            let is_as_it_ended = match answer.outcome {
                // A stopped attempt that may not be repeated has failed.
                Outcome::Failed => ended.is_some_and(|(outcome, _)| matches!(outcome, Outcome::Failed | Outcome::Cancelled)),
                Outcome::Cancelled => ended.is_some_and(|(outcome, transient)| outcome == Outcome::Cancelled || transient),
                Outcome::Completed | Outcome::Skipped | Outcome::Expired => ended == Some((answer.outcome, false)),
            };
            is_same && is_as_long && is_as_it_ended && answer.agent == Some(run.agent)
        });
        if !is_true {
            broken("INV-32 an answer says what its agent did, and how long that took", format!("{answer:?} of {run:?}"));
        }
    }
    let is_interrupted = answer.error.as_ref().is_some_and(|error| error.code == ErrorCode::Interrupted);
    // One that runs from a copy has no notes of what its original did.
    let is_copied =
        |at: jiff::Timestamp| history.bindings.iter().any(|bound| bound.is_copy() && Some(bound.agent) == answer.agent && bound.at <= at);
    if is_interrupted
        && !is_copied(written.at)
        && definition.max_attempts == 1
        && let Some(run) = run_of(history, definition, id, answer.attempts)
        && let Some((ended, End::Finished { outcome, .. })) = run.ended
        && outcome != Outcome::Cancelled
        && let Some(process_end) =
            history.process_ends.iter().filter(|(agent, at)| *agent == run.agent && *at >= ended).map(|(_, at)| *at).min()
        && process_end > ended + SignedDuration::from_secs(if run.talks { 31 } else { 0 })
        && !matches!(written.by, Actor::Agent(n) if agent_id(n) != run.agent)
    {
        broken("the notes keep what was done", format!("{answer:?} although it had ended at {ended}"));
    }
}
