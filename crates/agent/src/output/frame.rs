//! Pieces of output as they lie in a file: a head of fixed size, then the bytes as they were written.
//!
//! A kill may leave the last frame without some of its bytes; what is there of them is good. Nothing else is torn, as frames are only
//! appended.

use jiff::Timestamp;
use longshore_model::limits::LOG_RECORD_BYTES_MAX;
use longshore_model::wire::log::LogStream;

/// Bytes of a frame's head.
pub(super) const HEAD_BYTES: usize = 48;
const MAGIC: [u8; 3] = *b"LSF";
const VERSION: u8 = 1;

/// So much was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Missed {
    pub(super) records: u64,
    pub(super) bytes: u64,
}

impl Missed {
    pub(super) fn is_nothing(self) -> bool {
        self == Self::default()
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self { records: self.records + other.records, bytes: self.bytes + other.bytes }
    }
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) step: u32,
    pub(super) time: Timestamp,
    pub(super) stream: LogStream,
    /// Bytes of its step and stream before it, with those that were dropped.
    pub(super) offset: u64,
    /// Before it.
    pub(super) missed: Missed,
    pub(super) bytes: Vec<u8>,
}

/// What a head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) step: u32,
    pub(super) time: Timestamp,
    pub(super) stream: LogStream,
    pub(super) offset: u64,
    pub(super) missed: Missed,
    pub(super) n_bytes: usize,
}

impl Frame {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut encoded = Vec::with_capacity(HEAD_BYTES + self.bytes.len());
        encoded.extend_from_slice(&MAGIC);
        encoded.push(VERSION);
        encoded.extend_from_slice(&self.step.to_le_bytes());
        encoded.extend_from_slice(&number_of(self.stream).to_le_bytes());
        encoded.extend_from_slice(&u32::try_from(self.bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        encoded.extend_from_slice(&self.offset.to_le_bytes());
        encoded.extend_from_slice(&self.missed.records.to_le_bytes());
        encoded.extend_from_slice(&self.missed.bytes.to_le_bytes());
        encoded.extend_from_slice(&self.time.as_microsecond().to_le_bytes());
        encoded.extend_from_slice(&self.bytes);
        encoded
    }

    /// The frame at the beginning of `from`, and its length there; `None` if that is none, or not all of one.
    pub(super) fn decode(from: &[u8]) -> Option<(Self, usize)> {
        let Head { step, time, stream, offset, missed, n_bytes } = Head::decode(from)?;
        let bytes = from.get(HEAD_BYTES..HEAD_BYTES + n_bytes)?.to_vec();
        Some((Self { step, time, stream, offset, missed, bytes }, HEAD_BYTES + n_bytes))
    }
}

impl Head {
    /// Bytes of the frame.
    pub(super) fn frame_bytes(self) -> u64 {
        (HEAD_BYTES + self.n_bytes) as u64
    }

    pub(super) fn decode(from: &[u8]) -> Option<Self> {
        let (magic, rest) = from.split_at_checked(4)?;
        if magic[..3] != MAGIC || magic[3] != VERSION {
            return None;
        }
        let (step, rest) = rest.split_first_chunk()?;
        let (stream, rest) = rest.split_first_chunk()?;
        let (n_bytes, rest) = rest.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let (records, rest) = rest.split_first_chunk()?;
        let (bytes, rest) = rest.split_first_chunk()?;
        let (time, _) = rest.split_first_chunk()?;
        let n_bytes = usize::try_from(u32::from_le_bytes(*n_bytes)).ok().filter(|n_bytes| *n_bytes <= LOG_RECORD_BYTES_MAX)?;
        Some(Self {
            step: u32::from_le_bytes(*step),
            time: Timestamp::from_microsecond(i64::from_le_bytes(*time)).ok()?,
            stream: stream_of(u32::from_le_bytes(*stream))?,
            offset: u64::from_le_bytes(*offset),
            missed: Missed { records: u64::from_le_bytes(*records), bytes: u64::from_le_bytes(*bytes) },
            n_bytes,
        })
    }
}

pub(super) fn number_of(stream: LogStream) -> u32 {
    match stream {
        LogStream::Stdout => 0,
        LogStream::Stderr => 1,
        LogStream::System => 2,
    }
}

fn stream_of(number: u32) -> Option<LogStream> {
    [LogStream::Stdout, LogStream::Stderr, LogStream::System].into_iter().find(|stream| number_of(*stream) == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_was_written_and_half_a_frame_is_none() {
        let frames = [(LogStream::Stdout, &b""[..]), (LogStream::Stderr, b"\xff\0\n"), (LogStream::System, &[7; LOG_RECORD_BYTES_MAX])];
        for (stream, bytes) in frames {
            let time = Timestamp::from_microsecond(1_700_000_000_123_456).unwrap();
            let missed = Missed { records: 3, bytes: u64::MAX };
            let frame = Frame { step: u32::MAX, time, stream, offset: 9, missed, bytes: bytes.to_vec() };
            let encoded = frame.encode();
            let length = encoded.len();
            for end in [0, 3, HEAD_BYTES - 1, length - 1] {
                let is_whole = end >= length;
                assert_eq!(Frame::decode(&encoded[..end]).is_some(), is_whole);
            }
            assert_eq!(Frame::decode(&[encoded, vec![0; 50]].concat()), Some((frame, length)));
        }
        assert_eq!(Head::decode(&[0; 64]), None, "what a power cut may leave");
    }
}
