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

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use longshore_model::limits::{LOG_RECORD_BYTES_MAX, SPOOL_MEMORY_BYTES_MAX};
use longshore_model::wire::log::LogStream;
use rustix::fs::FallocateFlags;
use tokio::sync::Notify;

use super::frame::{Frame, HEAD_BYTES, Head, Missed, number_of};

/// Where frames begin.
const BEGIN: u64 = 128;
const MAGIC: [u8; 8] = *b"LSSPOOL\x01";
/// Bytes of a batch, about.
const BATCH_BYTES: usize = 1024 * 1024;
/// Sent bytes that are given back to the file system together.
const GIVEN_BACK: u64 = 1024 * 1024;

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

/// The head of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    /// Where what is not known to be stored begins.
    position: u64,
    /// Where the batch ends that was sent last; not after `position` if it is stored.
    batch_end: u64,
    /// The number of the record at `position`.
    seq: u64,
    is_closed: bool,
    /// Of what is before `position`.
    taken: Taken,
}

/// How much of the output of the newest step was taken, of each stream, with what was dropped of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Taken {
    step: u32,
    bytes: [u64; 3],
}

struct State {
    /// Made with the first piece: most attempts print nothing.
    file: Option<Arc<File>>,
    mark: Mark,
    written: u64,
    given_back: u64,
    memory: VecDeque<Frame>,
    memory_bytes: usize,
    /// Dropped since the last frame.
    missed: Missed,
    is_dropping: bool,
    is_closed: bool,
    has_failed: bool,
    taken: Taken,
    /// What an earlier process took, and will come again.
    known: Taken,
    /// Seen of that again.
    again: Taken,
}

/// What is to be done next.
enum Plan {
    Frames(Batch),
    Read { file: Arc<File>, from: u64, to: u64, is_repeat: bool },
    Wait,
    End,
}

/// Frames to be sent together.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) frames: Vec<Frame>,
    /// The number of the first record.
    pub(super) seq: u64,
    /// Where it ends in the file; `None` if it was in memory.
    end: Option<u64>,
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

impl State {
    fn new(file: Option<Arc<File>>, mark: Mark, written: u64) -> Self {
        Self {
            file,
            mark,
            written,
            given_back: BEGIN,
            memory: VecDeque::new(),
            memory_bytes: 0,
            missed: Missed::default(),
            is_dropping: false,
            is_closed: false,
            has_failed: false,
            taken: Taken::default(),
            known: Taken::default(),
            again: Taken::default(),
        }
    }

    /// Whether so much fits the bounds. Once they were met, half of what may wait here must be free again: a gap for every other record would
    /// tell nobody anything.
    fn has_room_on_disk(&self, bounds: &Bounds, length: u64) -> bool {
        let waiting = self.written - self.mark.position;
        let is_full = waiting + length > bounds.bytes || bounds.waiting.load(Ordering::Relaxed) + length > bounds.all_bytes;
        let is_half_full = waiting > bounds.bytes / 2;
        !(is_full || self.is_dropping && is_half_full)
    }

    /// The same, also of memory where what the disk did not take waits.
    fn has_room(&self, bounds: &Bounds, length: u64) -> bool {
        self.has_room_on_disk(bounds, length)
            && (self.memory.is_empty() || self.memory_bytes + LOG_RECORD_BYTES_MAX <= SPOOL_MEMORY_BYTES_MAX)
    }

    /// The part that an earlier process did not take.
    fn unknown<'a>(&mut self, step: u32, stream: LogStream, bytes: &'a [u8]) -> &'a [u8] {
        if step > self.known.step || self.known == Taken::default() {
            return bytes;
        }
        if step < self.known.step {
            return &[];
        }
        let index = index(stream);
        let left = self.known.bytes[index].saturating_sub(self.again.bytes[index]);
        let known = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        self.again.bytes[index] += known as u64;
        &bytes[known..]
    }

    fn append(&mut self, path: &Path, bounds: &Bounds, frame: &Frame) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => {
                let file = Arc::new(create(path)?);
                self.file = Some(Arc::clone(&file));
                self.mark.write(&file)?;
                file
            }
        };
        let encoded = frame.encode();
        if let Err(error) = file.write_all_at(&encoded, self.written) {
            // What there is of it would be taken for the beginning of the next.
            file.set_len(self.written)?;
            return Err(error);
        }
        self.written += encoded.len() as u64;
        bounds.waiting.fetch_add(encoded.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn plan(&self) -> Plan {
        let Mark { position, batch_end, seq, .. } = self.mark;
        if position < self.written
            && let Some(file) = &self.file
        {
            // Once more what was sent before, if nobody knows what became of it.
            let is_repeat = batch_end > position;
            let to = if is_repeat { batch_end.min(self.written) } else { self.written };
            return Plan::Read { file: Arc::clone(file), from: position, to, is_repeat };
        }
        match (self.memory.is_empty(), self.is_closed) {
            (false, _) => Plan::Frames(Batch { frames: self.memory.iter().cloned().collect(), seq, end: None }),
            (true, true) => Plan::End,
            (true, false) => Plan::Wait,
        }
    }

    /// Notes that these are about to be sent.
    fn under_way(&mut self, frames: Vec<Frame>, from: u64, is_repeat: bool) -> Batch {
        let end = from + frames.iter().map(|frame| (HEAD_BYTES + frame.bytes.len()) as u64).sum::<u64>();
        if !is_repeat {
            self.mark.batch_end = end;
            self.write_mark();
        }
        Batch { frames, seq: self.mark.seq, end: Some(end) }
    }

    /// Gives the room of what is sent back, so that a job that prints for days has a small file.
    fn give_back(&mut self) {
        let Some(file) = &self.file else { return };
        if self.mark.position == self.written && self.written > GIVEN_BACK {
            // The head still says that all was sent: whoever finds the file between the two writes believes it.
            if file.set_len(BEGIN).is_ok() {
                (self.written, self.given_back) = (BEGIN, BEGIN);
                (self.mark.position, self.mark.batch_end) = (BEGIN, BEGIN);
                self.write_mark();
            }
            return;
        }
        if self.mark.position - self.given_back >= GIVEN_BACK {
            let (from, bytes) = (self.given_back, self.mark.position - self.given_back);
            // Not every file system can; then the file is as long as the output until all of it is sent.
            let _ = rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, from, bytes);
            self.given_back = self.mark.position;
        }
    }

    fn write_mark(&mut self) {
        if let Some(file) = &self.file
            && let Err(error) = self.mark.write(file)
            && !self.has_failed
        {
            self.has_failed = true;
            tracing::warn!(%error, "the disk does not take where the output is that is on its way to the broker");
        }
    }
}

impl Taken {
    fn of(&self, step: u32, stream: LogStream) -> u64 {
        if step == self.step { self.bytes[index(stream)] } else { 0 }
    }

    fn set(&mut self, step: u32, stream: LogStream, bytes: u64) {
        if step > self.step {
            *self = Self { step, bytes: [0; 3] };
        }
        self.bytes[index(stream)] = bytes;
    }
}

fn index(stream: LogStream) -> usize {
    number_of(stream) as usize
}

impl Default for Mark {
    fn default() -> Self {
        Self { position: BEGIN, batch_end: BEGIN, seq: 0, is_closed: false, taken: Taken::default() }
    }
}

impl Mark {
    fn write(&self, file: &File) -> io::Result<()> {
        let mut head = Vec::with_capacity(80);
        head.extend_from_slice(&MAGIC);
        let numbers = [self.position, self.batch_end, self.seq, u64::from(self.is_closed), u64::from(self.taken.step)];
        numbers.iter().chain(&self.taken.bytes).for_each(|number| head.extend_from_slice(&number.to_le_bytes()));
        file.write_all_at(&head, 0)
    }

    /// `None` if there is none: the process ended before it wrote any.
    fn read(file: &File) -> Option<Self> {
        let mut head = [0; 72];
        file.read_exact_at(&mut head, 0).ok()?;
        let (magic, rest) = head.split_at(8);
        if magic != MAGIC {
            return None;
        }
        let mut numbers = rest.chunks_exact(8).map(|number| u64::from_le_bytes(number.try_into().unwrap_or_default()));
        let mut next = || numbers.next().unwrap_or_default();
        let (position, batch_end, seq, is_closed) = (next(), next(), next(), next() == 1);
        let step = u32::try_from(next()).ok()?;
        Some(Self { position, batch_end, seq, is_closed, taken: Taken { step, bytes: [next(), next(), next()] } })
    }
}

fn create(path: &Path) -> io::Result<File> {
    let open = || OpenOptions::new().create(true).truncate(true).read(true).write(true).mode(0o600).open(path);
    match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Not what is above it: an agent without a directory keeps its output in memory.
            match DirBuilder::new().mode(0o700).create(path.parent().unwrap_or(path)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                Ok(()) | Err(_) => open(),
            }
        }
        opened => opened,
    }
}

/// Whole frames from `position`, of about so many bytes, and at least one.
fn read(file: &File, position: u64, end: u64, about: usize) -> io::Result<Vec<Frame>> {
    let wanted = usize::try_from(end - position).unwrap_or(usize::MAX).min(about.saturating_add(HEAD_BYTES + LOG_RECORD_BYTES_MAX));
    let mut content = vec![0; wanted];
    file.read_exact_at(&mut content, position)?;
    let (mut frames, mut at) = (Vec::new(), 0);
    while at < about
        && let Some((frame, length)) = Frame::decode(&content[at..])
    {
        frames.push(frame);
        at += length;
    }
    if frames.is_empty() { Err(io::Error::new(io::ErrorKind::InvalidData, "there is no frame where one should be")) } else { Ok(frames) }
}

/// Puts a file in order that a killed process left. Gives where it ends, and what was taken up to there.
fn repair(file: &File, mark: &mut Mark) -> io::Result<(u64, Taken)> {
    let length = file.metadata()?.len().max(BEGIN);
    if mark.position > length || mark.position < BEGIN {
        // Killed between emptying the file and saying so: all was sent.
        (mark.position, mark.batch_end) = (BEGIN, BEGIN);
    }
    let mut taken = mark.taken;
    let mut at = mark.position;
    let mut head = [0; HEAD_BYTES];
    while file.read_exact_at(&mut head, at).is_ok()
        && let Some(mut found) = Head::decode(&head)
    {
        let there = length - at - HEAD_BYTES as u64;
        if (found.n_bytes as u64) > there {
            // Torn: what there is of it is good.
            found.n_bytes = usize::try_from(there).unwrap_or_default();
            file.write_all_at(&u32::try_from(there).unwrap_or_default().to_le_bytes(), at + 12)?;
        }
        taken.set(found.step, found.stream, found.offset + found.n_bytes as u64);
        at += found.frame_bytes();
    }
    file.set_len(at)?;
    mark.batch_end = mark.batch_end.min(at);
    Ok((at, taken))
}
