//! What a spool holds, and what is to be done with it next. Waits for nobody.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use longshore_model::limits::{LOG_RECORD_BYTES_MAX, SPOOL_MEMORY_BYTES_MAX};
use longshore_model::wire::log::LogStream;
use rustix::fs::FallocateFlags;

use super::super::frame::{Frame, HEAD_BYTES, Missed};
use super::Bounds;
use super::file::{BEGIN, Mark, Taken, create, index};

/// Sent bytes that are given back to the file system together.
const GIVEN_BACK: u64 = 1024 * 1024;

pub(super) struct State {
    /// Made with the first piece: most attempts print nothing.
    pub(super) file: Option<Arc<File>>,
    pub(super) mark: Mark,
    pub(super) written: u64,
    pub(super) given_back: u64,
    pub(super) memory: VecDeque<Frame>,
    pub(super) memory_bytes: usize,
    /// Dropped since the last frame.
    pub(super) missed: Missed,
    pub(super) is_dropping: bool,
    pub(super) is_closed: bool,
    pub(super) has_failed: bool,
    pub(super) taken: Taken,
    /// What an earlier process took, and will come again.
    pub(super) known: Taken,
    /// Seen of that again.
    pub(super) again: Taken,
}

/// What is to be done next.
pub(super) enum Plan {
    Frames(Batch),
    Read { file: Arc<File>, from: u64, to: u64, is_repeat: bool },
    Wait,
    End,
}

/// Frames to be sent together.
#[derive(Debug)]
pub(in super::super) struct Batch {
    pub(in super::super) frames: Vec<Frame>,
    /// The number of the first record.
    pub(in super::super) seq: u64,
    /// Where it ends in the file; `None` if it was in memory.
    pub(super) end: Option<u64>,
}

impl State {
    pub(super) fn new(file: Option<Arc<File>>, mark: Mark, written: u64) -> Self {
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
    pub(super) fn has_room_on_disk(&self, bounds: &Bounds, length: u64) -> bool {
        let waiting = self.written - self.mark.position;
        let is_full = waiting + length > bounds.bytes || bounds.waiting.load(Ordering::Relaxed) + length > bounds.all_bytes;
        let is_half_full = waiting > bounds.bytes / 2;
        !(is_full || self.is_dropping && is_half_full)
    }

    /// The same, also of memory where what the disk did not take waits.
    pub(super) fn has_room(&self, bounds: &Bounds, length: u64) -> bool {
        self.has_room_on_disk(bounds, length)
            && (self.memory.is_empty() || self.memory_bytes + LOG_RECORD_BYTES_MAX <= SPOOL_MEMORY_BYTES_MAX)
    }

    /// The part that an earlier process did not take.
    pub(super) fn unknown<'a>(&mut self, step: u32, stream: LogStream, bytes: &'a [u8]) -> &'a [u8] {
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

    pub(super) fn append(&mut self, path: &Path, bounds: &Bounds, frame: &Frame) -> io::Result<()> {
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

    pub(super) fn plan(&self) -> Plan {
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
    pub(super) fn under_way(&mut self, frames: Vec<Frame>, from: u64, is_repeat: bool) -> Batch {
        let end = from + frames.iter().map(|frame| (HEAD_BYTES + frame.bytes.len()) as u64).sum::<u64>();
        if !is_repeat {
            self.mark.batch_end = end;
            self.write_mark();
        }
        Batch { frames, seq: self.mark.seq, end: Some(end) }
    }

    /// Gives the room of what is sent back, so that a job that prints for days has a small file.
    pub(super) fn give_back(&mut self) {
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

    pub(super) fn write_mark(&mut self) {
        if let Some(file) = &self.file
            && let Err(error) = self.mark.write(file)
            && !self.has_failed
        {
            self.has_failed = true;
            tracing::warn!(%error, "the disk does not take where the output is that is on its way to the broker");
        }
    }
}
