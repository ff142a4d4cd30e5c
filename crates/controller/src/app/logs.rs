//! A job's output: what is stored, then what comes, until the job has ended and its last piece was told.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use longshore_model::access::Caller;
use longshore_model::wire::log::{LogGap, LogRecord};
use longshore_model::{ExecutionId, JobId};
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

/// What of a job's output is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// What comes after this place; 0 is the beginning.
    pub(crate) after: Revision,
    /// Records with this number or a higher one, of each attempt.
    pub(crate) from: u64,
    pub(crate) until: Until,
}

/// A job's output, with a gap wherever some of it is missing.
pub(crate) async fn logs(app: &App, caller: &Caller, id: JobId, wanted: Wanted) -> Result<mpsc::Receiver<Piece>, Error> {
    let Wanted { after, from, until } = wanted;
    permit(caller, "job:read")?;
    let ticket = app.waiters.register(id);
    let record = app.load(id).await?.ok_or_else(|| Error::no_job(id))?;
    let kept = if after > 0 { app.store.logs.kept().await? } else { 0..1 };
    // A place that the store has not come to is one of an earlier store, or of no store at all.
    let after = if after < kept.end { after } else { 0 };
    let output = app.store.logs.follow(id, after).await?;
    let is_over = until == Until::Now || fold(&record).is_settled();
    let has_lost = after > 0 && kept.start > after + 1;
    let numbers = Numbers { next: BTreeMap::new(), is_resumed: after > 0, has_lost };
    Ok(produce(app, move |app, sink| tell(app, sink, Reading { id, ticket, output, place: after, from, numbers, is_over })))
}

/// Numbers of records as they are told, which say what is missing between them.
struct Numbers {
    next: BTreeMap<(ExecutionId, u32), u64>,
    /// Some came before, to another reader.
    is_resumed: bool,
    /// The store has dropped something that this reader was not told.
    has_lost: bool,
}

impl Numbers {
    /// What is missing before `record`: dropped by its agent, which says so itself, or by the store.
    fn gap_before(&mut self, record: &LogRecord) -> Option<LogGap> {
        let dropped = record.gap.and_then(|gap| gap.records).unwrap_or(0);
        let expected = self.next.insert((record.execution, record.attempt), record.seq + 1);
        let hole = match expected {
            Some(expected) => record.seq.saturating_sub(expected),
            None if !self.is_resumed => record.seq,
            // Whether what came before was told is not known; but that something was not, is.
            None if self.has_lost && record.seq > dropped => return Some(LogGap { records: None, bytes: None }),
            None => return record.gap,
        };
        if hole > dropped { Some(LogGap { records: Some(hole), bytes: None }) } else { record.gap }
    }
}

struct Reading {
    id: JobId,
    ticket: Ticket,
    output: LogStream,
    place: Revision,
    from: u64,
    numbers: Numbers,
    /// Whether what is stored now is all there will be.
    is_over: bool,
}

async fn tell(app: App, sink: Sink<Piece>, mut reading: Reading) -> Result<(), Gone> {
    while !reading.is_over {
        tokio::select! {
            piece = reading.output.next() => match piece {
                Some(Ok(log)) => forward(&sink, &mut reading, log).await?,
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
            Ok(Some(Ok(log))) => forward(&sink, &mut reading, log).await?,
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

async fn forward(sink: &Sink<Piece>, reading: &mut Reading, mut log: StoredLog) -> Result<(), Gone> {
    reading.place = log.place;
    let gap = reading.numbers.gap_before(&log.record);
    if log.record.seq < reading.from {
        return Ok(());
    }
    log.record.gap = gap;
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
    use longshore_model::AgentId;
    use longshore_model::wire::log::LogStream as Output;
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

        async fn newest(&self, _: JobId, _: ExecutionId) -> Result<Option<(u32, u64)>, StoreError> {
            Ok(None)
        }

        async fn kept(&self) -> Result<std::ops::Range<Revision>, StoreError> {
            Ok(0..2)
        }

        async fn last(&self, _: JobId) -> Result<Revision, StoreError> {
            let is_first = self.looks.fetch_add(1, Ordering::Relaxed) == 0;
            Ok(if is_first || !self.forgets { 1 } else { 0 })
        }

        async fn delete(&self, _: JobId) -> Result<(), StoreError> {
            Ok(())
        }
    }

    #[test]
    fn what_is_missing_is_told_once_and_nothing_else_is() {
        const fn gap(records: Option<u64>, bytes: Option<u64>) -> Option<LogGap> {
            Some(LogGap { records, bytes })
        }
        let record = |attempt, seq, gap| LogRecord {
            job: JobId::from_bits(1),
            execution: ExecutionId::Any,
            agent: AgentId::from_bits(1),
            attempt,
            step: 0,
            seq,
            time: jiff::Timestamp::UNIX_EPOCH,
            stream: Output::Stdout,
            gap,
            bytes: Vec::new(),
        };
        let agents = gap(Some(3), Some(700));
        let unknown = gap(None, None);
        for (is_resumed, has_lost, of_first, of_sixth) in
            [(false, false, gap(Some(5), None), None), (true, false, None, None), (true, true, unknown, None)]
        {
            let mut numbers = Numbers { next: BTreeMap::new(), is_resumed, has_lost };
            let mut told = |attempt, seq, gap| numbers.gap_before(&record(attempt, seq, gap));
            assert_eq!(told(1, 5, None), of_first);
            assert_eq!(told(1, 6, None), of_sixth);
            assert_eq!(told(1, 10, agents), agents, "as the agent says");
            assert_eq!(told(1, 15, agents), gap(Some(4), None), "more than the agent says");
            assert_eq!(told(2, 0, None), None, "another attempt begins");
            assert_eq!(told(3, 3, agents), agents, "one that began with a gap");
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
            let mut pieces = super::logs(&app, &caller, id, Wanted { after: 0, from: 0, until: Until::Now }).await.unwrap();
            assert_eq!(matches!(pieces.recv().await, Some(Piece::End)), forgets);
            assert!(pieces.recv().await.is_none());
        }
    }
}
