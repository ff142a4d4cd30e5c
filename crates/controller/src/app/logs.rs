//! A job's output: what is stored, then what comes, until the job has ended and its last piece was told.

use std::time::Duration;

use futures::StreamExt as _;
use longshore_model::JobId;
use longshore_model::access::Caller;
use longshore_store::{Error as StoreError, LogStream, Revision, StoredLog};
use tokio::sync::mpsc;

use super::stream::{Gone, Sink, produce};
use super::{App, Error, fold, permit};
use crate::wait::Ticket;

/// How long the end waits for a piece that the store counts but does not tell, before it is asked whether it still counts it: its age or its
/// bounds may have removed it.
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
    while !reading.is_over {
        tokio::select! {
            piece = reading.output.next() => match piece {
                Some(Ok(log)) => forward(&sink, &mut reading.place, log).await?,
                Some(Err(error)) => return broke_off(reading.id, &error),
                None => return Ok(()),
            },
            () = reading.ticket.changed() => reading.is_over = match is_over(&app, reading.id).await {
                Ok(is_over) => is_over,
                Err(error) => return broke_off(reading.id, &error),
            },
        }
    }
    let mut last = match app.store.logs.last(reading.id).await {
        Ok(last) => last,
        Err(error) => return broke_off(reading.id, &error),
    };
    while reading.place < last {
        match tokio::time::timeout(STRAGGLERS_WITHIN, reading.output.next()).await {
            Ok(Some(Ok(log))) => forward(&sink, &mut reading.place, log).await?,
            Ok(Some(Err(error))) => return broke_off(reading.id, &error),
            Ok(None) => return Ok(()),
            Err(_) => {
                last = match app.store.logs.last(reading.id).await {
                    Ok(last) => last,
                    Err(error) => return broke_off(reading.id, &error),
                };
                if reading.place < last {
                    tracing::warn!(job.id = %reading.id, "a log stream was cut short: the store holds a piece back");
                    return Ok(());
                }
            }
        }
    }
    sink.send(Piece::End).await
}

/// Whether the job has ended and its output with it. What the index does not have may be gone, or not be there yet.
async fn is_over(app: &App, id: JobId) -> Result<bool, StoreError> {
    let indexed = app.index().get(id).map(crate::index::Entry::is_settled);
    match indexed {
        Some(is_settled) => Ok(is_settled),
        None => Ok(app.load(id).await?.is_none_or(|record| fold(&record).is_settled())),
    }
}

async fn forward(sink: &Sink<Piece>, place: &mut Revision, log: StoredLog) -> Result<(), Gone> {
    *place = log.place;
    sink.send(Piece::Log(Box::new(log))).await
}

/// Ends the stream without [`Piece::End`], so that the reader comes back and resumes.
fn broke_off(id: JobId, error: &StoreError) -> Result<(), Gone> {
    tracing::warn!(job.id = %id, error = %super::chain(error), "a log stream was cut short");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use async_trait::async_trait;
    use longshore_model::wire::log::LogRecord;
    use longshore_store::{Logs, RegistryEvent, Store, memory};
    use serde_json::json;

    use super::*;
    use crate::{Config, SigningKey};

    /// A store that counts a piece at place 1 and never tells it.
    struct Withholding {
        looks: AtomicU64,
        /// Whether the piece is gone by the second look.
        forgets: bool,
    }

    #[async_trait]
    impl Logs for Withholding {
        async fn append(&self, _: &[LogRecord]) -> Result<(), StoreError> {
            Ok(())
        }

        async fn follow(&self, _: JobId, _: Revision) -> Result<LogStream, StoreError> {
            Ok(futures::stream::pending().boxed())
        }

        async fn last(&self, _: JobId) -> Result<Revision, StoreError> {
            let is_first = self.looks.fetch_add(1, Ordering::Relaxed) == 0;
            Ok(if is_first || !self.forgets { 1 } else { 0 })
        }

        async fn delete(&self, _: JobId) -> Result<(), StoreError> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn output_that_is_held_back_is_not_the_end_and_output_that_is_gone_is() {
        for forgets in [true, false] {
            let logs = Arc::new(Withholding { looks: AtomicU64::new(0), forgets });
            let app = App::new(Config::new(SigningKey::new(Vec::new())), Store { logs, ..memory::open(memory::MemoryOptions::default()) });
            app.fleet_mut().take(RegistryEvent::Beat(crate::fleet::tests::heartbeat(1, "web-01")));
            app.fleet_mut().take(RegistryEvent::Current);
            let caller = Caller::new("ada", &longshore_model::access::Roles::default(), &["admin".to_owned()], None, None).unwrap();
            let request = serde_json::from_value(json!({"operation": "node.hostname.get"})).unwrap();
            let id = super::super::submit::submit(&app, &caller, request).await.unwrap().record.definition.id;
            let mut pieces = super::logs(&app, &caller, id, 0, Until::Now).await.unwrap();
            assert_eq!(matches!(pieces.recv().await, Some(Piece::End)), forgets);
            assert!(pieces.recv().await.is_none());
        }
    }
}
