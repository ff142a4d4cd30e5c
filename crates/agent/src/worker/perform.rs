//! One task, from its beginning to its end: its handler, its time, its stop, and what it says meanwhile.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use longshore_session::Payload;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::frames::OWN_PACKAGE;
use super::handlers::{Door, Fault, FaultKind, Handlers, NextCall, Outcome, Prints, Task};
use super::journal::Key;

/// How long a handler that was asked to stop may take to do so.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// The same for an operation, which ends its processes by itself and then brings back what they made.
const STOP_GRACE_OF_OPERATIONS: Duration = Duration::from_secs(60);

/// What a running task wants said.
#[derive(Debug)]
pub(crate) enum FromTask {
    Feedback(Key, Payload),
    Next(Key, NextCall),
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) result: Result<Outcome, Fault>,
    /// What it had said and nobody had taken yet.
    pub(crate) last_words: Vec<Payload>,
}

pub(crate) async fn perform(
    handlers: Arc<dyn Handlers>,
    key: Key,
    task: Task,
    prints: Prints,
    stop: CancellationToken,
    out: mpsc::Sender<FromTask>,
) -> End {
    let limit = task.timeout;
    let grace = if task.package_name == OWN_PACKAGE { STOP_GRACE_OF_OPERATIONS } else { STOP_GRACE };
    // Two: a place for what comes, and one for the last words.
    let (feedback, mut feedback_rx) = mpsc::channel(2);
    let (next, mut next_rx) = mpsc::channel(4);
    let asked = stop.clone();
    let running = async move { AssertUnwindSafe(handlers.run(task, Door { feedback, next, prints }, asked)).catch_unwind().await };
    let mut held = None;
    let result = {
        let mut work = std::pin::pin!(running);
        let mut forward = std::pin::pin!(forward(&key, &mut feedback_rx, &mut next_rx, &mut held, out));
        let mut has_timed_out = false;
        let early = tokio::select! {
            done = &mut work => Some(done),
            () = &mut forward => Some(work.as_mut().await),
            () = limited(limit) => {
                has_timed_out = true;
                stop.cancel();
                None
            }
            () = stop.cancelled() => None,
        };
        match early {
            Some(done) => settled(done),
            None => {
                let late = tokio::select! {
                    done = &mut work => Some(settled(done)),
                    () = &mut forward => None,
                    () = tokio::time::sleep(grace) => None,
                };
                stopped(late, has_timed_out, limit)
            }
        }
    };
    let held = held.and_then(|word| match word {
        FromTask::Feedback(_, payload) => Some(payload),
        FromTask::Next(..) => None,
    });
    let last_words = held.into_iter().chain(std::iter::from_fn(|| feedback_rx.try_recv().ok())).collect();
    End { result, last_words }
}

/// Ends after that time, if there is one.
pub(super) async fn limited(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Hands on what the handler says, for as long as anybody listens; ends only if nobody does. What was taken and not handed on stays in `held`.
async fn forward(
    key: &Key,
    feedback: &mut mpsc::Receiver<Payload>,
    next: &mut mpsc::Receiver<NextCall>,
    held: &mut Option<FromTask>,
    out: mpsc::Sender<FromTask>,
) {
    loop {
        if held.is_some() {
            let Ok(place) = out.reserve().await else { return };
            if let Some(word) = held.take() {
                place.send(word);
            }
        }
        tokio::select! {
            Some(payload) = feedback.recv() => *held = Some(FromTask::Feedback(key.clone(), payload)),
            Some(call) = next.recv() => *held = Some(FromTask::Next(key.clone(), call)),
            else => std::future::pending().await,
        }
    }
}

fn settled(done: Result<Result<Outcome, Fault>, Box<dyn std::any::Any + Send>>) -> Result<Outcome, Fault> {
    done.unwrap_or_else(|_| {
        Err(Fault { kind: FaultKind::Failed, message: "the worker met a fault of its own while it ran this".to_owned() })
    })
}

/// What counts of a task that was asked to stop: a result that was there in time, and nothing else.
fn stopped(late: Option<Result<Outcome, Fault>>, has_timed_out: bool, limit: Option<Duration>) -> Result<Outcome, Fault> {
    if has_timed_out {
        let message = format!("it ran longer than the {} ms that it may", limit.unwrap_or_default().as_millis());
        return Err(Fault { kind: FaultKind::TimedOut, message });
    }
    match late {
        Some(Ok(outcome)) => Ok(outcome),
        Some(Err(_)) | None => Err(Fault { kind: FaultKind::Cancelled, message: "the worker stopped while it ran".to_owned() }),
    }
}
