//! One attempt's output between whoever writes it and the broker: a file that is appended to at one end and sent from the other.
//!
//! ```text
//!   ┌ head ┬ sent, given back ┬ the batch under way ┬ waiting ──►
//!   0      128                position              end of batch    written
//! ```
//!
//! - What was written is in the file before [`Spool::write`] returns, so a kill of the agent loses none of it. A write costs what a write to
//!   a file costs, whatever the broker does.
//! - Before a batch is sent, its bounds and its first number are in the head. Whoever finds the file makes the same records of it, with the
//!   same numbers, so that nothing is stored twice.
//! - At the bound new output is dropped, and counted: the next frame says how much. What the disk does not take waits in memory, within a
//!   much smaller bound.
//! - What is read again into a file that was found, by whoever goes on with the attempt, is passed over for as long as it is known.

mod file;
mod state;

use std::fs::{self, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use longshore_model::limits::{LOG_RECORD_BYTES_MAX, SPOOL_MEMORY_BYTES_MAX};
use longshore_model::wire::log::LogStream;
use tokio::sync::Notify;

use super::frame::{Frame, HEAD_BYTES, Missed};

use self::file::{BATCH_BYTES, BEGIN, Mark, read, repair};
pub(super) use self::state::Batch;
use self::state::{Plan, State};

/// How much may wait.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    /// In this spool.
    pub(super) bytes: u64,
    /// In all spools of the agent.
    pub(super) all_bytes: u64,
    /// What waits in all of them now.
    pub(super) waiting: Arc<AtomicU64>,
    /// Told whenever less waits in one of them.
    pub(super) freed: Arc<Notify>,
}

pub(super) struct Spool {
    path: PathBuf,
    bounds: Bounds,
    state: Mutex<State>,
    changed: Notify,
}

impl Spool {
    pub(super) fn new(path: PathBuf, bounds: Bounds) -> Self {
        Self::on(path, bounds, State::new(None, Mark::default(), BEGIN))
    }

    /// Opens a file that another process left, if there is one. Its output is sent, and what comes again of it is passed over.
    pub(super) fn found(path: PathBuf, bounds: Bounds) -> io::Result<Option<Self>> {
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut mark = Mark::read(&file).unwrap_or_default();
        let (written, taken) = repair(&file, &mut mark)?;
        bounds.waiting.fetch_add(written - mark.position, Ordering::Relaxed);
        let mut state = State::new(Some(Arc::new(file)), mark, written);
        (state.taken, state.known) = (taken, taken);
        Ok(Some(Self::on(path, bounds, state)))
    }

    fn on(path: PathBuf, bounds: Bounds, state: State) -> Self {
        Self { path, bounds, state: Mutex::new(state), changed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Takes a piece of at most [`LOG_RECORD_BYTES_MAX`]. Never waits for the broker.
    pub(super) fn write(&self, step: u32, stream: LogStream, time: Timestamp, bytes: &[u8]) {
        let mut state = self.state();
        let bytes = state.unknown(step, stream, bytes);
        if bytes.is_empty() {
            return;
        }
        let offset = state.taken.of(step, stream);
        state.taken.set(step, stream, offset + bytes.len() as u64);
        let frame = Frame { step, time, stream, offset, missed: state.missed, bytes: bytes.to_vec() };
        if self.put(&mut state, frame) {
            state.missed = Missed::default();
            drop(state);
            self.changed.notify_one();
        } else {
            state.missed = state.missed.and(Missed { records: 1, bytes: bytes.len() as u64 });
        }
    }

    /// Waits until a piece would be taken rather than dropped. Cancel-safe.
    pub(super) async fn ready(&self) {
        loop {
            let freed = self.bounds.freed.notified();
            if self.state().has_room(&self.bounds, (HEAD_BYTES + LOG_RECORD_BYTES_MAX) as u64) {
                return;
            }
            freed.await;
        }
    }

    /// Nothing follows. What was dropped last is told by a frame without bytes.
    pub(super) fn close(&self, time: Timestamp) {
        let mut state = self.state();
        if !state.missed.is_nothing() {
            let (step, stream) = (state.taken.step, LogStream::System);
            let offset = state.taken.of(step, stream);
            let frame = Frame { step, time, stream, offset, missed: state.missed, bytes: Vec::new() };
            // Neither bound is for so little.
            if !state.memory.is_empty() || state.append(&self.path, &self.bounds, &frame).is_err() {
                state.memory.push_back(frame);
            }
        }
        state.is_closed = true;
        state.mark.is_closed = true;
        state.write_mark();
        drop(state);
        self.changed.notify_one();
    }

    /// Says at the end of what an earlier process left that there may have been more.
    pub(super) fn cut_off(&self, time: Timestamp, text: &str) {
        let mut state = self.state();
        let (step, stream) = (state.taken.step, LogStream::System);
        let offset = state.taken.of(step, stream);
        let frame = Frame { step, time, stream, offset, missed: Missed::default(), bytes: text.as_bytes().to_vec() };
        let _ = self.put(&mut state, frame);
    }

    /// Whether an earlier process ended before its attempt did.
    pub(super) fn is_cut_off(&self) -> bool {
        !self.state().mark.is_closed
    }

    /// What is to be sent next, and the same again until it is [`Self::sent`]; `None` if nothing follows.
    pub(super) async fn next(&self) -> io::Result<Option<Batch>> {
        loop {
            let changed = self.changed.notified();
            let plan = self.state().plan();
            match plan {
                Plan::Frames(batch) => return Ok(Some(batch)),
                // Outside of the lock, so that nobody who writes waits for it.
                Plan::Read { file, from, to, is_repeat } => {
                    let frames = read(&file, from, to, if is_repeat { usize::MAX } else { BATCH_BYTES })?;
                    return Ok(Some(self.state().under_way(frames, from, is_repeat)));
                }
                Plan::End => return Ok(None),
                Plan::Wait => changed.await,
            }
        }
    }

    /// The batch is stored, and its records had the numbers before `seq`.
    pub(super) fn sent(&self, batch: &Batch, seq: u64) {
        let mut state = self.state();
        state.mark.seq = seq;
        for frame in &batch.frames {
            state.mark.taken.set(frame.step, frame.stream, frame.offset + frame.bytes.len() as u64);
        }
        match batch.end {
            None => {
                let sent: Vec<_> = state.memory.drain(..batch.frames.len()).collect();
                state.memory_bytes -= sent.iter().map(|frame| frame.bytes.len()).sum::<usize>();
            }
            Some(end) => {
                self.bounds.waiting.fetch_sub(end - state.mark.position, Ordering::Relaxed);
                state.mark.position = end;
            }
        }
        state.write_mark();
        state.give_back();
        self.bounds.freed.notify_waiters();
    }

    /// Drops all that waits; what follows has a hole of one before it.
    pub(super) fn discard(&self) {
        let mut state = self.state();
        self.bounds.waiting.fetch_sub(state.written - state.mark.position, Ordering::Relaxed);
        (state.mark.position, state.mark.batch_end) = (state.written, state.written);
        state.mark.seq += 1;
        state.memory.clear();
        state.memory_bytes = 0;
        state.missed = Missed::default();
        self.bounds.freed.notify_waiters();
    }

    /// Removes the file, once all of it is sent and nothing follows.
    pub(super) fn remove(&self) {
        let mut state = self.state();
        if state.file.take().is_some()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "sent output's file stays until the next start");
        }
    }

    /// Whether there was room.
    fn put(&self, state: &mut State, frame: Frame) -> bool {
        if !state.has_room_on_disk(&self.bounds, (HEAD_BYTES + frame.bytes.len()) as u64) {
            if !state.is_dropping {
                let waiting = state.written - state.mark.position;
                tracing::warn!(path = %self.path.display(), waiting_bytes = waiting, "output is dropped: the broker does not take it");
            }
            state.is_dropping = true;
            return false;
        }
        state.is_dropping = false;
        // What came after it must not overtake what is in memory.
        if state.memory.is_empty() {
            match state.append(&self.path, &self.bounds, &frame) {
                Ok(()) => return true,
                Err(error) if !state.has_failed => {
                    state.has_failed = true;
                    tracing::warn!(%error, path = %self.path.display(), "the disk does not take output on its way to the broker");
                }
                Err(_) => {}
            }
        }
        let fits = state.memory_bytes + frame.bytes.len() <= SPOOL_MEMORY_BYTES_MAX;
        if fits {
            state.memory_bytes += frame.bytes.len();
            state.memory.push_back(frame);
        }
        fits
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let state = self.state();
        self.bounds.waiting.fetch_sub(state.written - state.mark.position, Ordering::Relaxed);
        self.bounds.freed.notify_waiters();
    }
}
