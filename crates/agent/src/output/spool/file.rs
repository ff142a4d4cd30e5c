//! The file of a spool: its head, and frames one after the other. How it is read, and put in order after a kill.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use longshore_model::limits::LOG_RECORD_BYTES_MAX;
use longshore_model::wire::log::LogStream;

use super::super::frame::{Frame, HEAD_BYTES, Head, number_of};

/// Where frames begin.
pub(super) const BEGIN: u64 = 128;
const MAGIC: [u8; 8] = *b"LSSPOOL\x01";
/// Bytes of a batch, about.
pub(super) const BATCH_BYTES: usize = 1024 * 1024;
/// Bytes of a batch with its last frame, which may begin just before it is full.
const BATCH_BYTES_MAX: u64 = (BATCH_BYTES + HEAD_BYTES + LOG_RECORD_BYTES_MAX) as u64;

/// The head of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// Where what is not known to be stored begins.
    pub(super) position: u64,
    /// Where the batch ends that was sent last; not after `position` if it is stored.
    pub(super) batch_end: u64,
    /// The number of the record at `position`.
    pub(super) seq: u64,
    pub(super) is_closed: bool,
    /// Of what is before `position`.
    pub(super) taken: Taken,
}

/// How much of the output of the newest step was taken, of each stream, with what was dropped of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Taken {
    pub(super) step: u32,
    pub(super) bytes: [u64; 3],
}

impl Default for Mark {
    fn default() -> Self {
        Self { position: BEGIN, batch_end: BEGIN, seq: 0, is_closed: false, taken: Taken::default() }
    }
}

impl Mark {
    pub(super) fn write(&self, file: &File) -> io::Result<()> {
        let mut head = Vec::with_capacity(80);
        head.extend_from_slice(&MAGIC);
        let numbers = [self.position, self.batch_end, self.seq, u64::from(self.is_closed), u64::from(self.taken.step)];
        numbers.iter().chain(&self.taken.bytes).for_each(|number| head.extend_from_slice(&number.to_le_bytes()));
        file.write_all_at(&head, 0)
    }

    /// `None` if there is none: the process ended before it wrote any.
    pub(super) fn read(file: &File) -> Option<Self> {
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

impl Taken {
    pub(super) fn of(&self, step: u32, stream: LogStream) -> u64 {
        if step == self.step { self.bytes[index(stream)] } else { 0 }
    }

    pub(super) fn set(&mut self, step: u32, stream: LogStream, bytes: u64) {
        if step > self.step {
            *self = Self { step, bytes: [0; 3] };
        }
        self.bytes[index(stream)] = bytes;
    }
}

pub(super) fn index(stream: LogStream) -> usize {
    number_of(stream) as usize
}

pub(super) fn create(path: &Path) -> io::Result<File> {
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
pub(super) fn read(file: &File, position: u64, end: u64, about: usize) -> io::Result<Vec<Frame>> {
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
pub(super) fn repair(file: &File, mark: &mut Mark) -> io::Result<(u64, Taken)> {
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
    if mark.batch_end.saturating_sub(mark.position) > BATCH_BYTES_MAX {
        // No batch of ours: a power cut has mixed old and new. What a batch would have been is not known, so nothing is taken for one.
        mark.batch_end = mark.position;
    }
    Ok((at, taken))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::super::frame::Missed;
    use super::*;

    #[test]
    fn a_head_that_makes_no_sense_never_makes_a_batch_of_all_that_waits() {
        let file = tempfile::tempfile().unwrap();
        let frame = |offset| Frame {
            step: 0,
            time: Timestamp::UNIX_EPOCH,
            stream: LogStream::Stdout,
            offset,
            missed: Missed::default(),
            bytes: vec![b'x'; LOG_RECORD_BYTES_MAX],
        };
        let mut end = BEGIN;
        while end < BEGIN + 4 * BATCH_BYTES as u64 {
            let encoded = frame(end - BEGIN).encode();
            file.write_all_at(&encoded, end).unwrap();
            end += encoded.len() as u64;
        }
        for (batch_end, expected) in [
            (u64::MAX, BEGIN),
            (end, BEGIN),
            (BEGIN + BATCH_BYTES_MAX + 1, BEGIN),
            (BEGIN + BATCH_BYTES_MAX, BEGIN + BATCH_BYTES_MAX),
            (0, 0),
        ] {
            let mut mark = Mark { batch_end, ..Mark::default() };
            let (written, _) = repair(&file, &mut mark).unwrap();
            assert_eq!((written, mark.batch_end), (end, expected), "{batch_end}");
        }
        let batch = read(&file, BEGIN, end, BATCH_BYTES).unwrap();
        assert!(batch.iter().map(|frame| HEAD_BYTES + frame.bytes.len()).sum::<usize>() as u64 <= BATCH_BYTES_MAX);
    }
}
