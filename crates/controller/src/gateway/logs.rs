//! What a worker tells of a task, on its way to the log: in order, bounded, and stored before the task's answer.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use longshore_model::AgentId;
use longshore_model::limits::LOG_RECORD_BYTES_MAX;
use longshore_model::wire::log::{LogGap, LogRecord, LogStream};
use longshore_store::{Clock, Logs};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::frames::{Piece, Task};
use crate::app::App;

/// Records sent together.
const BATCH: usize = 64;
/// Records of one task that wait for the broker before new ones are dropped and shown as a gap; fewer than an agent keeps, since a controller has them of many workers.
const WAITING_MAX: usize = 512;
/// Between tries while the broker is away.
const PAUSE: Duration = Duration::from_millis(250);
/// How long an answer waits for the output before it.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much output is missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Missed {
    records: u64,
    bytes: u64,
}

impl Missed {
    fn and(self, records: u64, bytes: u64) -> Self {
        Self { records: self.records + records, bytes: self.bytes + bytes }
    }

    fn gap(self) -> Option<LogGap> {
        (self != Self::default()).then_some(LogGap { records: Some(self.records), bytes: Some(self.bytes) })
    }
}

/// Whose output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    pub(super) task: Task,
    pub(super) agent: AgentId,
    /// Bytes of it that are kept.
    pub(super) bytes_max: u64,
}

/// The log of one task. Dropped, what was not stored yet is not.
pub(super) struct Log {
    source: Source,
    clock: Clock,
    queue: mpsc::Sender<LogRecord>,
    pump: AbortOnDropHandle<()>,
    /// The next number, unless a record brings its own.
    seq: u64,
    /// The step that was written last.
    step: u32,
    bytes: u64,
    /// Dropped since the last record that was not.
    missed: Missed,
}

impl Log {
    /// A log whose records are counted from `first` on: what an earlier controller has stored of the task is below it.
    pub(super) fn open(app: &App, source: Source, first: u64) -> Self {
        let (queue, records) = mpsc::channel(WAITING_MAX);
        let pump = Pump { logs: app.store.logs.clone(), lost: Missed::default() };
        #[expect(clippy::disallowed_methods, reason = "the handle below owns the task")]
        let pump: JoinHandle<()> = tokio::task::spawn(pump.run(records));
        let clock = app.store.clock.clone();
        Self { source, clock, queue, pump: AbortOnDropHandle::new(pump), seq: first, step: 0, bytes: 0, missed: Missed::default() }
    }

    /// Notes a piece. What the queue has no room for leaves a hole in the numbers, and the next that has says so; past the bound of the task nothing more is kept, and a
    /// remark says so.
    pub(super) fn write(&mut self, Piece { stream, bytes, place }: &Piece) {
        if self.bytes > self.source.bytes_max {
            return;
        }
        self.bytes += bytes.len() as u64;
        if self.bytes > self.source.bytes_max {
            return self.put(LogStream::System, b"[truncated: the task told more than its log keeps]\n", None);
        }
        match place {
            // Its numbers are its worker's, so that a piece that comes again, over another controller too, is the same record.
            Some((seq, place)) if bytes.len() <= LOG_RECORD_BYTES_MAX => {
                if let Some(gap) = place.gap {
                    self.missed = self.missed.and(gap.records.unwrap_or_default(), gap.bytes.unwrap_or_default());
                }
                (self.seq, self.step) = (*seq, place.step);
                self.put(*stream, bytes, Some(place.time));
            }
            Some(_) | None => bytes.chunks(LOG_RECORD_BYTES_MAX).for_each(|piece| self.put(*stream, piece, None)),
        }
    }

    fn put(&mut self, stream: LogStream, bytes: &[u8], time: Option<Timestamp>) {
        let record = self.record(stream, bytes, time);
        self.seq = self.seq.saturating_add(1);
        self.missed = match self.queue.try_send(record) {
            Ok(()) => Missed::default(),
            Err(_) => self.missed.and(1, bytes.len() as u64),
        };
    }

    fn record(&self, stream: LogStream, bytes: &[u8], time: Option<Timestamp>) -> LogRecord {
        let Source { task: Task { job, execution, attempt }, agent, .. } = self.source;
        let (time, gap) = (time.unwrap_or_else(|| self.clock.now()), self.missed.gap());
        LogRecord { job, execution, agent, attempt, step: self.step, seq: self.seq, time, stream, gap, bytes: bytes.to_vec() }
    }

    /// Returns when everything is stored, or has waited long enough. What was dropped last is told by a record without bytes.
    pub(super) async fn close(self) {
        let last = self.missed.gap().map(|_| self.record(LogStream::System, &[], None));
        let Self { queue, pump, .. } = self;
        let rest = async {
            if let Some(last) = last {
                // There is room when the broker has taken some; the pump lives as long as this does.
                let _told = queue.send(last).await;
            }
            drop(queue);
            let _ended = pump.await;
        };
        let _ = tokio::time::timeout(PATIENCE, rest).await;
    }
}

struct Pump {
    logs: Arc<dyn Logs>,
    /// What the store refused for good, to be told by the next record.
    lost: Missed,
}

impl Pump {
    async fn run(mut self, mut records: mpsc::Receiver<LogRecord>) {
        let (mut waiting, mut last) = (Vec::new(), None);
        while records.recv_many(&mut waiting, BATCH).await > 0 {
            if let (Some(first), Some(lost)) = (waiting.first_mut(), std::mem::take(&mut self.lost).gap()) {
                let more = |own: Option<u64>, lost: Option<u64>| Some(own.unwrap_or_default() + lost.unwrap_or_default());
                let own = first.gap.unwrap_or(LogGap { records: None, bytes: None });
                first.gap = Some(LogGap { records: more(own.records, lost.records), bytes: more(own.bytes, lost.bytes) });
            }
            self.send(&waiting).await;
            last = waiting.pop();
            waiting.clear();
        }
        if let (Some(gap), Some(last)) = (self.lost.gap(), last) {
            let end = LogRecord { seq: last.seq.saturating_add(1), stream: LogStream::System, gap: Some(gap), bytes: Vec::new(), ..last };
            self.send(&[end]).await;
        }
    }

    /// Stores records, however long the broker is away.
    async fn send(&mut self, records: &[LogRecord]) {
        while let Err(error) = self.logs.append(records).await {
            if !error.is_retryable() {
                tracing::warn!(%error, "output of a worker could not be stored");
                let bytes = records.iter().map(|record| record.bytes.len() as u64).sum();
                self.lost = self.lost.and(records.len() as u64, bytes);
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use longshore_model::{ExecutionId, JobId};
    use longshore_store::Error;

    use super::*;

    /// Refuses for good what it is told to, and keeps the rest.
    #[derive(Default)]
    struct Picky {
        refuses: std::sync::Mutex<u32>,
        kept: std::sync::Mutex<Vec<LogRecord>>,
    }

    #[async_trait::async_trait]
    impl Logs for Picky {
        async fn append(&self, records: &[LogRecord]) -> Result<(), Error> {
            let mut refuses = self.refuses.lock().unwrap();
            if *refuses > 0 {
                *refuses -= 1;
                return Err(Error::TooLarge { bytes: 2, max: 1 });
            }
            self.kept.lock().unwrap().extend_from_slice(records);
            Ok(())
        }

        async fn newest(&self, _: JobId, _: ExecutionId) -> Result<Option<(u32, u64)>, Error> {
            Ok(None)
        }

        async fn kept(&self) -> Result<std::ops::Range<longshore_store::Revision>, Error> {
            Ok(0..1)
        }

        async fn follow(&self, _: JobId, _: longshore_store::Revision) -> Result<longshore_store::LogStream, Error> {
            Ok(Box::pin(futures::stream::pending()))
        }

        async fn last(&self, _: JobId) -> Result<longshore_store::Revision, Error> {
            Ok(0)
        }

        async fn delete(&self, _: JobId) -> Result<(), Error> {
            Ok(())
        }
    }

    fn log(logs: Arc<dyn Logs>, room: usize) -> Log {
        let (queue, records) = mpsc::channel(room);
        let task = Task { job: JobId::from_bits(1), execution: ExecutionId::Any, attempt: 1 };
        let source = Source { task, agent: AgentId::from_bits(2), bytes_max: 1000 };
        #[expect(clippy::disallowed_methods, reason = "the handle owns the task")]
        let pump = tokio::task::spawn(Pump { logs, lost: Missed::default() }.run(records));
        let (clock, pump) = (Clock::default(), AbortOnDropHandle::new(pump));
        Log { source, clock, queue, pump, seq: 0, step: 0, bytes: 0, missed: Missed::default() }
    }

    fn text(text: &str) -> Piece {
        Piece { stream: LogStream::Stdout, bytes: text.as_bytes().to_vec(), place: None }
    }

    #[tokio::test]
    async fn what_was_dropped_last_is_told_when_the_log_is_closed() {
        let logs = Arc::new(Picky::default());
        let mut log = log(logs.clone(), 2);
        // Nobody takes anything in between: the test's thread is the only one.
        ["a", "b", "lost", "lost too"].iter().for_each(|piece| log.write(&text(piece)));
        log.close().await;
        let kept = logs.kept.lock().unwrap();
        let seqs: Vec<_> = kept.iter().map(|record| (record.seq, record.gap)).collect();
        assert_eq!(seqs, [(0, None), (1, None), (4, Some(LogGap { records: Some(2), bytes: Some(12) }))]);
    }

    #[tokio::test]
    async fn past_the_bound_of_a_task_nothing_more_of_it_is_kept_and_a_remark_says_so() {
        let logs = Arc::new(Picky::default());
        let mut log = log(logs.clone(), 8);
        for _ in 0..5 {
            log.write(&text(&"x".repeat(400)));
        }
        log.close().await;
        let kept = logs.kept.lock().unwrap();
        let sizes: Vec<_> = kept.iter().map(|record| if record.stream == LogStream::System { 0 } else { record.bytes.len() }).collect();
        assert_eq!(sizes, [400, 400, 0]);
        assert!(kept[2].bytes.starts_with(b"[truncated"));
    }

    #[tokio::test]
    async fn what_the_store_refuses_for_good_is_told_too() {
        let logs = Arc::new(Picky::default());
        *logs.refuses.lock().unwrap() = 1;
        let mut log = log(logs.clone(), 8);
        log.write(&text("refused"));
        log.close().await;
        let kept = logs.kept.lock().unwrap();
        assert_eq!(kept.iter().map(|record| record.gap).collect::<Vec<_>>(), [Some(LogGap { records: Some(1), bytes: Some(7) })]);
    }
}
