//! A job's output: what is stored, then what comes, until the job has ended and its last piece was told.

use std::time::Duration;

use futures::StreamExt as _;
use longshore_model::JobId;
use longshore_model::access::Caller;
use longshore_store::{LogStream, Revision, StoredLog};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::stream::{Gone, Sink, produce};
use super::{App, Error, fold, permit};
use crate::wait::Ticket;

/// How long the end waits for a piece that the store counts but does not tell: its age or its bounds may have removed it.
const STRAGGLERS_WITHIN: Duration = Duration::from_secs(2);

/// Where to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// When the job has ended and everything was told.
    JobEnded,
    /// When everything that is stored now was told.
    Now,
}

/// What a reader is told.
pub(crate) enum Piece {
    Log(Box<StoredLog>),
    /// Everything was told. A stream that breaks off instead may be resumed.
    End,
}

/// A job's output after a place.
pub(crate) async fn logs(app: &App, caller: &Caller, id: JobId, after: Revision, until: Until) -> Result<mpsc::Receiver<Piece>, Error> {
    permit(caller, "job:read")?;
    let ticket = app.waiters.register(id);
    let record = app.load(id).await?.ok_or_else(|| Error::no_job(id))?;
    let output = app.store.logs.follow(id, after).await?;
    let is_over = until == Until::Now || fold(&record).is_settled();
    Ok(produce(app, |app, sink| tell(app, sink, Reading { id, ticket, output, place: after, is_over })))
}

struct Reading {
    id: JobId,
    ticket: Ticket,
    output: LogStream,
    place: Revision,
    /// Whether what is stored now is all there will be.
    is_over: bool,
}

async fn tell(app: App, sink: Sink<Piece>, mut reading: Reading) -> Result<(), Gone> {
    let is_settled = |app: &App, id| app.index().get(id).is_none_or(crate::index::Entry::is_settled);
    while !reading.is_over {
        tokio::select! {
            piece = reading.output.next() => match piece {
                Some(Ok(log)) => forward(&sink, &mut reading.place, log).await?,
                Some(Err(error)) => return broke_off(reading.id, &error),
                None => return Ok(()),
            },
            () = reading.ticket.changed() => reading.is_over = is_settled(&app, reading.id),
        }
    }
    let last = match app.store.logs.last(reading.id).await {
        Ok(last) => last,
        Err(error) => return broke_off(reading.id, &error),
    };
    let mut deadline = Instant::now() + STRAGGLERS_WITHIN;
    while reading.place < last {
        tokio::select! {
            piece = reading.output.next() => match piece {
                Some(Ok(log)) => forward(&sink, &mut reading.place, log).await?,
                Some(Err(error)) => return broke_off(reading.id, &error),
                None => return Ok(()),
            },
            () = sleep_until(deadline) => break,
        }
        deadline = Instant::now() + STRAGGLERS_WITHIN;
    }
    sink.send(Piece::End).await
}

async fn forward(sink: &Sink<Piece>, place: &mut Revision, log: StoredLog) -> Result<(), Gone> {
    *place = log.place;
    sink.send(Piece::Log(Box::new(log))).await
}

/// Ends the stream without [`Piece::End`], so that the reader comes back and resumes.
fn broke_off(id: JobId, error: &longshore_store::Error) -> Result<(), Gone> {
    tracing::warn!(job.id = %id, error = %super::chain(error), "a log stream was cut short");
    Ok(())
}
