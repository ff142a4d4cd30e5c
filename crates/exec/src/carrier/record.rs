//! A job's output on disk: records one after the other, only ever appended, read by whoever needs them from the beginning.
//!
//! A record is nine bytes (the step and the number of bytes, each four bytes, the least first; between them the stream) and the bytes.
//! What one process has appended another sees at once; a record that is not whole yet is not there yet.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use longshore_model::limits::LOG_RECORD_BYTES_MAX;
use longshore_model::wire::log::LogStream;

const HEAD_BYTES: usize = 9;

/// The writing end.
#[derive(Debug)]
pub(crate) struct Writer {
    file: File,
    end: u64,
    /// Something could not be written, and nobody has been told.
    is_torn: bool,
}

impl Writer {
    /// For a file that is empty.
    pub(crate) fn new(file: File) -> Self {
        Self { file, end: 0, is_torn: false }
    }

    /// Appends a record. What a full disk does not take is left out, and the next record that it takes says so before itself.
    pub(crate) fn append(&mut self, step: u32, stream: LogStream, bytes: &[u8]) {
        if self.is_torn {
            let remark = b"[longshore] output is missing here: the host's disk took no more\n";
            self.is_torn = self.write(step, LogStream::System, remark).is_err();
        }
        self.is_torn |= bytes.chunks(LOG_RECORD_BYTES_MAX).any(|piece| self.write(step, stream, piece).is_err());
    }

    fn write(&mut self, step: u32, stream: LogStream, bytes: &[u8]) -> io::Result<()> {
        let mut record = Vec::with_capacity(HEAD_BYTES + bytes.len());
        record.extend_from_slice(&step.to_le_bytes());
        record.push(match stream {
            LogStream::Stdout => 1,
            LogStream::Stderr => 2,
            LogStream::System => 3,
        });
        record.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        record.extend_from_slice(bytes);
        match self.file.write_all_at(&record, self.end) {
            Ok(()) => {
                self.end += record.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Half a record would be read as a beginning that never ends.
                let _still_torn_then = self.file.set_len(self.end);
                Err(error)
            }
        }
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) step: u32,
    pub(crate) stream: LogStream,
    pub(crate) bytes: Vec<u8>,
}

/// The reading end.
#[derive(Debug)]
pub(crate) struct Reader {
    file: File,
    at: u64,
}

impl Reader {
    pub(crate) fn new(file: File) -> Self {
        Self { file, at: 0 }
    }

    /// The next record, if it is there; it is given again until [`Self::pass`]. What is no record is the end for good.
    pub(crate) fn peek(&self) -> Option<Record> {
        let mut head = [0; HEAD_BYTES];
        self.file.read_exact_at(&mut head, self.at).ok()?;
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let stream = match head[4] {
            1 => LogStream::Stdout,
            2 => LogStream::Stderr,
            3 => LogStream::System,
            _nonsense => return None,
        };
        let mut bytes = vec![0; usize::try_from(number(5)).ok().filter(|bytes| *bytes <= LOG_RECORD_BYTES_MAX)?];
        self.file.read_exact_at(&mut bytes, self.at + HEAD_BYTES as u64).ok()?;
        Some(Record { step: number(0), stream, bytes })
    }

    /// Goes on to what follows `record`.
    pub(crate) fn pass(&mut self, record: &Record) {
        self.at += (HEAD_BYTES + record.bytes.len()) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Writer, Reader, tempfile::NamedTempFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let writer = Writer::new(file.reopen().unwrap());
        let reader = Reader::new(file.reopen().unwrap());
        (writer, reader, file)
    }

    #[test]
    fn records_come_back_as_they_were_written_and_only_when_they_are_whole() {
        let (mut writer, mut reader, file) = pair();
        assert_eq!(reader.peek(), None);
        writer.append(3, LogStream::Stderr, b"\0\xffone");
        writer.append(4, LogStream::Stdout, &vec![b'x'; LOG_RECORD_BYTES_MAX + 1]);
        let mut seen = Vec::new();
        while let Some(record) = reader.peek() {
            reader.pass(&record);
            seen.push((record.step, record.stream, record.bytes.len()));
        }
        assert_eq!(seen, [(3, LogStream::Stderr, 5), (4, LogStream::Stdout, LOG_RECORD_BYTES_MAX), (4, LogStream::Stdout, 1)]);
        file.as_file().write_all_at(&[5, 0, 0, 0, 1, 9, 0, 0, 0, b'h', b'a'], writer.end).unwrap();
        assert_eq!(reader.peek(), None);
    }

    #[test]
    fn nonsense_is_never_read_as_output() {
        for nonsense in [[0; 64], [0xff; 64], [1; 64]] {
            let (_, reader, file) = pair();
            file.as_file().write_all_at(&nonsense, 0).unwrap();
            assert_eq!(reader.peek(), None);
        }
    }
}
