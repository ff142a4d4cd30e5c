//! Live output on its way to the store: written without blocking by whoever runs the work, sent in order by a pump.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use longshore_exec::Output;
use longshore_model::limits::{LOG_RECORD_BYTES_MAX, LOG_RECORDS_WAITING_MAX};
use longshore_model::wire::log::{LogRecord, LogStream};
use longshore_model::{AgentId, ExecutionId, JobId};
use longshore_store::{Clock, Logs, Store};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

/// Records sent together.
const BATCH: usize = 64;
/// Between tries while the broker is away.
const PAUSE: Duration = Duration::from_millis(250);

/// Whose output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    pub(crate) job: JobId,
    pub(crate) execution: ExecutionId,
    pub(crate) agent: AgentId,
    pub(crate) attempt: u32,
}

struct Piece {
    step: u32,
    time: Timestamp,
    stream: LogStream,
    bytes: Vec<u8>,
    /// Something was dropped before this piece.
    after_gap: bool,
}

/// The writing end. A full queue drops, and the hole shows in the numbering.
pub(crate) struct Sink {
    queue: mpsc::Sender<Piece>,
    clock: Clock,
    has_dropped: AtomicBool,
}

/// [`open`] for an attempt whose records before `seq` are stored.
pub(crate) fn open_at(source: Source, store: &Store, seq: u64) -> (Arc<Sink>, AbortOnDropHandle<()>) {
    let (queue, pieces) = mpsc::channel(LOG_RECORDS_WAITING_MAX);
    #[expect(clippy::disallowed_methods, reason = "the handle below owns the task")]
    let pump: JoinHandle<()> = tokio::task::spawn(pump(source, store.logs.clone(), pieces, seq));
    (Arc::new(Sink { queue, clock: store.clock.clone(), has_dropped: AtomicBool::new(false) }), AbortOnDropHandle::new(pump))
}

/// Starts a pump; it ends when the sink is dropped and everything is stored.
pub(crate) fn open(source: Source, store: &Store) -> (Arc<Sink>, AbortOnDropHandle<()>) {
    open_at(source, store, 0)
}

impl Output for Sink {
    fn write(&self, step: u32, stream: LogStream, bytes: &[u8]) {
        for bytes in bytes.chunks(LOG_RECORD_BYTES_MAX) {
            let after_gap = self.has_dropped.load(Ordering::Relaxed);
            let piece = Piece { step, time: self.clock.now(), stream, bytes: bytes.to_vec(), after_gap };
            self.has_dropped.store(self.queue.try_send(piece).is_err(), Ordering::Relaxed);
        }
    }

    fn ready(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            let _room_or_nobody_to_send_to = self.queue.reserve().await;
        })
    }
}

async fn pump(source: Source, logs: Arc<dyn Logs>, mut pieces: mpsc::Receiver<Piece>, mut seq: u64) {
    let mut waiting = Vec::new();
    while pieces.recv_many(&mut waiting, BATCH).await > 0 {
        let records = number(source, merge(waiting.drain(..)), &mut seq);
        while let Err(error) = logs.append(&records).await {
            if !error.is_retryable() {
                tracing::warn!(%error, job.id = %source.job, "output could not be stored");
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Joins neighbours of one kind: fewer and larger records when output is quick.
fn merge(pieces: impl Iterator<Item = Piece>) -> Vec<Piece> {
    let mut merged: Vec<Piece> = Vec::new();
    for piece in pieces {
        match merged.last_mut() {
            Some(last)
                if !piece.after_gap
                    && last.step == piece.step
                    && last.stream == piece.stream
                    && last.bytes.len() + piece.bytes.len() <= LOG_RECORD_BYTES_MAX =>
            {
                last.bytes.extend_from_slice(&piece.bytes);
            }
            Some(_) | None => merged.push(piece),
        }
    }
    merged
}

fn number(source: Source, pieces: Vec<Piece>, seq: &mut u64) -> Vec<LogRecord> {
    let Source { job, execution, agent, attempt } = source;
    pieces
        .into_iter()
        .map(|Piece { step, time, stream, bytes, after_gap }| {
            *seq += u64::from(after_gap);
            let record = LogRecord { job, execution, agent, attempt, step, seq: *seq, time, stream, bytes };
            *seq += 1;
            record
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_arrives_in_order_and_dropped_pieces_leave_a_hole() {
        let (queue, mut pieces) = mpsc::channel(2);
        let sink = Sink { queue, clock: Clock::default(), has_dropped: AtomicBool::new(false) };
        for text in ["one", "two", "dropped"] {
            sink.write(0, LogStream::Stdout, text.as_bytes());
        }
        let mut waiting = Vec::new();
        pieces.recv_many(&mut waiting, BATCH).await;
        sink.write(0, LogStream::Stdout, b"three");
        pieces.recv_many(&mut waiting, BATCH).await;
        let source = Source { job: JobId::from_bits(1), execution: ExecutionId::Any, agent: AgentId::from_bits(1), attempt: 1 };
        let records = number(source, merge(waiting.into_iter()), &mut 0);
        let seen: Vec<_> = records.iter().map(|record| (record.seq, String::from_utf8_lossy(&record.bytes).into_owned())).collect();
        assert_eq!(seen, [(0, "onetwo".to_owned()), (2, "three".to_owned())]);
    }
}
