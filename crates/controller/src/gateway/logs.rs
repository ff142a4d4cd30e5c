//! What a worker tells of a task, on its way to the log: in order, bounded, and stored before the task's answer.

use std::sync::Arc;
use std::time::Duration;

use longshore_model::AgentId;
use longshore_model::limits::{LOG_BYTES_PER_STEP_MAX, LOG_RECORD_BYTES_MAX};
use longshore_model::wire::log::{LogGap, LogRecord, LogStream};
use longshore_store::{Clock, Logs};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::frames::Task;
use crate::app::App;

/// Records sent together.
const BATCH: usize = 64;
/// Records of one task that wait for the broker before new ones are dropped and shown as a gap; fewer than an agent keeps, since a controller has them of many workers.
const WAITING_MAX: usize = 512;
/// Between tries while the broker is away.
const PAUSE: Duration = Duration::from_millis(250);
/// How long an answer waits for the output before it.
const PATIENCE: Duration = Duration::from_secs(30);

/// The log of one task. Dropped, what was not stored yet is not.
pub(super) struct Log {
    task: Task,
    agent: AgentId,
    clock: Clock,
    queue: mpsc::Sender<LogRecord>,
    pump: AbortOnDropHandle<()>,
    seq: u64,
    bytes: u64,
    /// Records and bytes that were dropped since the last that was not.
    missed: (u64, u64),
}

impl Log {
    /// A log whose records are counted from `first` on: what an earlier controller has stored of the task is below it.
    pub(super) fn open(app: &App, task: Task, agent: AgentId, first: u64) -> Self {
        let (queue, records) = mpsc::channel(WAITING_MAX);
        #[expect(clippy::disallowed_methods, reason = "the handle below owns the task")]
        let pump: JoinHandle<()> = tokio::task::spawn(pump(app.store.logs.clone(), records));
        Self {
            task,
            agent,
            clock: app.store.clock.clone(),
            queue,
            pump: AbortOnDropHandle::new(pump),
            seq: first,
            bytes: 0,
            missed: (0, 0),
        }
    }

    /// Notes a piece. What the queue has no room for leaves a hole in the numbers, and the next that has says so; past the bound of a step nothing more is kept, and a
    /// remark says so.
    pub(super) fn write(&mut self, stream: LogStream, bytes: &[u8]) {
        if self.bytes > LOG_BYTES_PER_STEP_MAX {
            return;
        }
        self.bytes += bytes.len() as u64;
        if self.bytes > LOG_BYTES_PER_STEP_MAX {
            return self.put(LogStream::System, b"[truncated: the task told more than its log keeps]\n");
        }
        for piece in bytes.chunks(LOG_RECORD_BYTES_MAX) {
            self.put(stream, piece);
        }
    }

    fn put(&mut self, stream: LogStream, bytes: &[u8]) {
        let Task { job, execution, attempt } = self.task;
        let (seq, time) = (self.seq, self.clock.now());
        self.seq += 1;
        let (records, missed) = self.missed;
        let gap = (records > 0).then_some(LogGap { records: Some(records), bytes: Some(missed) });
        let record = LogRecord { job, execution, agent: self.agent, attempt, step: 0, seq, time, stream, gap, bytes: bytes.to_vec() };
        self.missed = match self.queue.try_send(record) {
            Ok(()) => (0, 0),
            Err(_) => (records + 1, missed + bytes.len() as u64),
        };
    }

    /// Returns when everything is stored, or has waited long enough.
    pub(super) async fn close(self) {
        let Self { queue, pump, .. } = self;
        drop(queue);
        let _ = tokio::time::timeout(PATIENCE, pump).await;
    }
}

async fn pump(logs: Arc<dyn Logs>, mut records: mpsc::Receiver<LogRecord>) {
    let mut waiting = Vec::new();
    while records.recv_many(&mut waiting, BATCH).await > 0 {
        while let Err(error) = logs.append(&waiting).await {
            if !error.is_retryable() {
                tracing::warn!(%error, "output of a worker could not be stored");
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        waiting.clear();
    }
}
