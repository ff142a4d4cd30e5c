//! Reading one job, at once or when it has ended.

use std::time::Duration;

use longshore_model::access::Caller;
use longshore_model::limits::WAIT_MAX;
use longshore_model::wire::record::EventKind;
use longshore_model::{ExecutionId, JobId};
use longshore_store::JobRecord;

use super::results::{Shown, fill};
use super::{App, Error, fold, job_view, permit};
use crate::wait::{Ticket, Told};

/// How long after a job's end the feed may take to tell the rest of it, before it is read instead.
const REST_WITHIN: Duration = Duration::from_millis(50);

/// Reads a job; with `wait`, when it has ended or the time is up.
pub(crate) async fn get(app: &App, caller: &Caller, id: JobId, wait: Option<Duration>) -> Result<Shown, Error> {
    permit(caller, "job:read")?;
    match wait {
        Some(wait) => when_final(app, id, wait).await,
        None => load(app, id).await,
    }
}

/// Reads a job as the ledger has it.
pub(crate) async fn load(app: &App, id: JobId) -> Result<Shown, Error> {
    let record = app.load(id).await?.ok_or_else(|| Error::no_job(id))?;
    Ok(shown(app, &record).await)
}

async fn shown(app: &App, record: &JobRecord) -> Shown {
    let view = job_view(record, app.index().retries_of(record.definition.id), app.now());
    fill(app, record, view).await
}

/// Reads a job as soon as it is final, or as it is when the time is up or the controller ends.
pub(crate) async fn when_final(app: &App, id: JobId, wait: Duration) -> Result<Shown, Error> {
    // Registered before the look, so that an end in between is not missed.
    let mut ticket = app.waiters.register(id);
    // What the index knows as unfinished need not be read yet: if it ended just now, the feed is about to say so.
    let is_unfinished = app.index().get(id).is_some_and(|entry| !entry.status(app.now()).is_final());
    if !is_unfinished {
        let shown = load(app, id).await?;
        if shown.job.status.is_final() {
            return Ok(shown);
        }
    }
    wait_until_final(app, id, &mut ticket, wait).await;
    load(app, id).await
}

/// The same for a job that was just submitted, by what the feed told since before it was stored: in most cases nothing need be read. What
/// was told is added to the record.
pub(crate) async fn when_first_final(app: &App, mut ticket: Ticket, record: &mut JobRecord, wait: Duration) -> Result<Shown, Error> {
    let id = record.definition.id;
    if !wait_until_final(app, id, &mut ticket, wait).await {
        return load(app, id).await;
    }
    // Answers travel apart from events: the one may have been told before the other.
    let whole = async {
        while let Some(Told { events, answers }) = ticket.told() {
            record.events.extend(events);
            record.answers.extend(answers);
            if is_whole(record) {
                return true;
            }
            ticket.changed().await;
        }
        false
    };
    match tokio::time::timeout(REST_WITHIN, whole).await {
        Ok(true) => Ok(shown(app, record).await),
        Ok(false) | Err(_) => load(app, id).await,
    }
}

/// Whether a job has ended and its record has all of it.
fn is_whole(record: &JobRecord) -> bool {
    let started = |id: &ExecutionId| record.events_of(*id).filter(|event| matches!(event.kind, EventKind::Started { .. })).count();
    fold(record).0.iter().all(|(id, execution)| execution.is_answered() && started(id) == execution.attempts() as usize)
}

/// Gives whether the job has ended; if not, the time is up, or the controller ends.
async fn wait_until_final(app: &App, id: JobId, ticket: &mut Ticket, wait: Duration) -> bool {
    let is_over = |app: &App| app.index().get(id).is_none_or(|entry| entry.status(app.now()).is_final());
    let ended = async {
        loop {
            ticket.changed().await;
            if is_over(app) {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = ended => true,
        () = tokio::time::sleep(wait.min(WAIT_MAX)) => false,
        () = app.drain.cancelled() => false,
    }
}
