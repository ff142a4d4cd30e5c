//! Live output on its way to the store: written to a [`spool`] without waiting for anybody, sent from there in order by a pump.
//!
//! ```text
//!   step ─► capture ─► Sink ─► spool (a file) ─► pump ─► JOB-LOGS
//!                        └── never waits ──┘      └── waits for the broker, for as long as the agent runs
//! ```
//!
//! What a killed agent leaves is sent when it starts again; its last record says that the end is missing.

mod frame;
mod spool;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore_exec::Output;
use longshore_model::limits::{LOG_RECORD_BYTES_MAX, SPOOL_BYTES_MAX, SPOOLS_BYTES_MAX};
use longshore_model::wire::log::{LogGap, LogRecord, LogStream};
use longshore_model::{AgentId, ExecutionId, JobId};
use longshore_store::{Clock, Store};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::dispatcher::Key;

use self::frame::{Frame, Missed};
use self::spool::{Batch, Bounds, Spool};

/// Records sent together.
const TOGETHER: usize = 64;
/// Between tries while the broker is away.
const PAUSE: Duration = Duration::from_millis(250);
/// How long the output of an ended attempt may make no progress before its answer is stored without it. It is sent nevertheless.
const STALLED_AFTER: Duration = Duration::from_secs(30);
/// How long a start waits for what was left behind, so that it comes before the output of another attempt.
const LEFT_BEHIND_FIRST: Duration = Duration::from_secs(5);
/// How long an agent that ends waits for output. What is left is sent when it starts again.
const LAST_CHANCE: Duration = Duration::from_secs(5);

/// Whose output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Source {
    pub(crate) job: JobId,
    pub(crate) execution: ExecutionId,
    pub(crate) agent: AgentId,
    pub(crate) attempt: u32,
}

impl Source {
    pub(crate) fn is_of(&self, key: Key, attempt: u32) -> bool {
        (self.job, self.execution) == key && self.attempt == attempt
    }
}

/// All output of an agent that is not stored yet.
pub(crate) struct Spools {
    dir: PathBuf,
    store: Store,
    bounds: Bounds,
    /// Files that an earlier process left: whoever opens another need not look.
    found: HashSet<PathBuf>,
    /// Those that have a pump.
    open: Arc<Mutex<BTreeSet<Source>>>,
    pumps: TaskTracker,
    /// Ends the pumps, also when this is dropped.
    stop: CancellationToken,
    _end: DropGuard,
}

/// The writing end.
pub(crate) struct Sink {
    spool: Arc<Spool>,
    clock: Clock,
    /// Until the first piece comes: most operations print nothing.
    pump: Mutex<Option<Waiting>>,
}

/// A pump that has nothing to send yet. Dropping it ends what waits for it.
struct Waiting {
    pump: Pump,
    is_found: bool,
    open: Arc<Mutex<BTreeSet<Source>>>,
    pumps: TaskTracker,
    stop: CancellationToken,
    runtime: Handle,
}

/// Tells how far the output has got.
pub(crate) struct Sending(watch::Receiver<u64>);

impl Spools {
    /// `dir` is made when something is put there, in a directory that must exist.
    pub(crate) fn new(dir: PathBuf, store: Store) -> Self {
        let bounds = Bounds { bytes: SPOOL_BYTES_MAX, all_bytes: SPOOLS_BYTES_MAX, waiting: Arc::default(), freed: Arc::default() };
        let stop = CancellationToken::new();
        let found = fs::read_dir(&dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
        Self { dir, store, bounds, found, open: Arc::default(), pumps: TaskTracker::new(), _end: stop.clone().drop_guard(), stop }
    }

    /// The output of an attempt: of a new one, or of one of which an earlier process left something. All of the latter may be written again:
    /// what is known of it is passed over.
    pub(crate) fn open(&self, source: Source) -> (Arc<Sink>, Sending) {
        let path = self.path(source);
        let found = if self.found.contains(&path) { Spool::found(path.clone(), self.bounds.clone()) } else { Ok(None) };
        let (spool, is_found) = match found {
            Ok(Some(spool)) => (spool, true),
            Ok(None) => (Spool::new(path, self.bounds.clone()), false),
            Err(error) => {
                tracing::warn!(%error, job.id = %source.job, "output that an earlier process left cannot be read");
                (Spool::new(path, self.bounds.clone()), true)
            }
        };
        let spool = Arc::new(spool);
        let (pump, sending) = self.pump(source, Arc::clone(&spool), is_found);
        let pump = if is_found {
            pump.start();
            None
        } else {
            Some(pump)
        };
        (Arc::new(Sink { spool, clock: self.store.clock.clone(), pump: Mutex::new(pump) }), sending)
    }

    /// Sends what an earlier process left, but for attempts that go on. Comes back soon in any case, and goes on in the background. May be
    /// repeated when more is known to have ended.
    pub(crate) async fn send_left_behind(&self, agent: AgentId, goes_on: impl Fn(Source) -> bool) {
        let mut sendings = Vec::new();
        for (path, source) in left_behind(&self.dir, agent) {
            if goes_on(source) || self.open.lock().expect("no holder of this lock panics").contains(&source) {
                continue;
            }
            match Spool::found(path.clone(), self.bounds.clone()) {
                Ok(Some(spool)) => {
                    tracing::info!(job.id = %source.job, attempt = source.attempt, "found output that an earlier process did not send");
                    if spool.is_cut_off() {
                        let text = "\n[longshore] the agent ended while this ran: what was printed after this is not known\n";
                        spool.cut_off(self.store.clock.now(), text);
                    }
                    spool.close(self.store.clock.now());
                    let (pump, sending) = self.pump(source, Arc::new(spool), true);
                    pump.start();
                    sendings.push(sending);
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, path = %path.display(), "output that an earlier process left cannot be read"),
            }
        }
        let all = async {
            for sending in sendings {
                sending.end().await;
            }
        };
        let _the_rest_goes_on = tokio::time::timeout(LEFT_BEHIND_FIRST, all).await;
    }

    /// Waits a little for what is still to be sent, and leaves the rest to the next start.
    pub(crate) async fn close(&self) {
        self.pumps.close();
        if tokio::time::timeout(LAST_CHANCE, self.pumps.wait()).await.is_err() {
            tracing::warn!("output that the broker does not take is sent when this agent starts again");
        }
        self.stop.cancel();
        self.pumps.wait().await;
    }

    fn path(&self, source: Source) -> PathBuf {
        self.dir.join(format!("{}.{}.{}", source.job, source.execution, source.attempt))
    }

    fn pump(&self, source: Source, spool: Arc<Spool>, is_found: bool) -> (Waiting, Sending) {
        let (progress, progressed) = watch::channel(0);
        let record_bytes_max = LOG_RECORD_BYTES_MAX.min(self.store.broker.record_bytes_max()).max(1);
        let pump = Pump { source, spool, store: self.store.clone(), record_bytes_max, lost: Missed::default(), progress };
        let (open, pumps, stop) = (Arc::clone(&self.open), self.pumps.clone(), self.stop.clone());
        (Waiting { pump, is_found, open, pumps, stop, runtime: Handle::current() }, Sending(progressed))
    }
}

impl Waiting {
    fn start(self) {
        let Self { pump, is_found, open, pumps, stop, runtime } = self;
        let source = pump.source;
        open.lock().expect("no holder of this lock panics").insert(source);
        let pumping = async move {
            if stop.run_until_cancelled(pump.run(is_found)).await.is_some() {
                open.lock().expect("no holder of this lock panics").remove(&source);
            }
        };
        pumps.spawn_on(pumping, &runtime);
    }
}

impl Sending {
    /// Waits until everything is stored, or nothing was for a while.
    pub(crate) async fn end_or_stall(mut self) {
        while let Ok(Ok(())) = tokio::time::timeout(STALLED_AFTER, self.0.changed()).await {}
    }

    async fn end(mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

impl Output for Sink {
    fn write(&self, step: u32, stream: LogStream, bytes: &[u8]) {
        if let Some(pump) = self.pump.lock().expect("no holder of this lock panics").take() {
            pump.start();
        }
        for bytes in bytes.chunks(LOG_RECORD_BYTES_MAX) {
            self.spool.write(step, stream, self.clock.now(), bytes);
        }
    }

    fn ready(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.spool.ready())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.spool.close(self.clock.now());
    }
}

struct Pump {
    source: Source,
    spool: Arc<Spool>,
    store: Store,
    record_bytes_max: usize,
    /// What the store refused for good, to be told by the next record.
    lost: Missed,
    progress: watch::Sender<u64>,
}

impl Pump {
    async fn run(mut self, is_found: bool) {
        // Of a job that was deleted nothing may come back.
        if is_found && self.is_unwanted().await {
            self.spool.discard();
        }
        let mut stored = if is_found { self.newest().await } else { None };
        loop {
            let batch = match self.spool.next().await {
                Ok(Some(batch)) => batch,
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, job.id = %self.source.job, "output is lost: its file cannot be read");
                    self.spool.discard();
                    self.lost = self.lost.and(Missed { records: 1, bytes: 0 });
                    continue;
                }
            };
            let (records, next) = self.records(&batch);
            let is_known = |record: &LogRecord| stored.is_some_and(|stored| record.seq <= stored);
            let n_known = records.iter().take_while(|record| is_known(record)).count();
            self.send(&records[n_known..]).await;
            self.spool.sent(&batch, next.max(stored.take().map_or(0, |stored| stored + 1)));
        }
        self.spool.remove();
    }

    /// Records of a batch, and the number of what follows. The same batch gives the same.
    fn records(&mut self, batch: &Batch) -> (Vec<LogRecord>, u64) {
        let Source { job, execution, agent, attempt } = self.source;
        let mut records: Vec<LogRecord> = Vec::new();
        let mut seq = batch.seq;
        for Frame { step, time, stream, offset: _, missed, bytes } in &batch.frames {
            seq += missed.records;
            // What is lost has had its numbers.
            let missed = missed.and(std::mem::take(&mut self.lost));
            let gap = (!missed.is_nothing()).then_some(LogGap { records: Some(missed.records), bytes: Some(missed.bytes) });
            // Fewer and larger records when output is quick.
            if let (None, Some(last)) = (gap, records.last_mut())
                && (last.step, last.stream) == (*step, *stream)
                && last.bytes.len() + bytes.len() <= self.record_bytes_max
            {
                last.bytes.extend_from_slice(bytes);
                continue;
            }
            let record = |seq, gap, bytes: &[u8]| LogRecord {
                job,
                execution,
                agent,
                attempt,
                step: *step,
                seq,
                time: *time,
                stream: *stream,
                gap,
                bytes: bytes.to_vec(),
            };
            let (first, rest) = bytes.split_at(bytes.len().min(self.record_bytes_max));
            records.push(record(seq, gap, first));
            seq += 1;
            for part in rest.chunks(self.record_bytes_max) {
                records.push(record(seq, None, part));
                seq += 1;
            }
        }
        (records, seq)
    }

    /// Stores records, however long the broker is away.
    async fn send(&mut self, records: &[LogRecord]) {
        for mut together in records.chunks(TOGETHER) {
            while let Err(error) = self.store.logs.append(together).await {
                if !error.is_retryable() {
                    tracing::warn!(%error, job.id = %self.source.job, "output could not be stored");
                    let bytes = together.iter().map(|record| record.bytes.len() as u64).sum();
                    self.lost = self.lost.and(Missed { records: together.len() as u64, bytes });
                    break;
                }
                tokio::time::sleep(PAUSE).await;
                // Some of it may have been stored, and a message id is not known for ever.
                if let Some(stored) = self.newest().await {
                    let n_stored = together.iter().take_while(|record| record.seq <= stored).count();
                    together = &together[n_stored..];
                }
                if together.is_empty() {
                    break;
                }
            }
            self.progress.send_modify(|n| *n += together.len() as u64);
        }
    }

    /// The number of this attempt's newest record in the store; `None` if it cannot be known.
    async fn newest(&self) -> Option<u64> {
        let newest = self.store.logs.newest(self.source.job, self.source.execution).await.ok().flatten();
        newest.filter(|(attempt, _)| *attempt == self.source.attempt).map(|(_, seq)| seq)
    }

    async fn is_unwanted(&self) -> bool {
        loop {
            match self.store.ledger.load_execution(self.source.job, self.source.execution).await {
                Ok(record) => return record.is_none(),
                Err(error) if error.is_retryable() => tokio::time::sleep(PAUSE).await,
                // It exists, in a form that this version does not read.
                Err(_) => return false,
            }
        }
    }
}

/// Files of an earlier process, and whose each is. Others are left alone.
fn left_behind(dir: &Path, agent: AgentId) -> Vec<(PathBuf, Source)> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name();
            let mut parts = name.to_str()?.split('.');
            let (job, execution, attempt) = (parts.next()?, parts.next()?, parts.next()?);
            let source = Source { job: job.parse().ok()?, execution: execution.parse().ok()?, agent, attempt: attempt.parse().ok()? };
            parts.next().is_none().then(|| (entry.path(), source))
        })
        .collect();
    found.sort_by_key(|(_, source)| *source);
    found
}
