//! What waits for a host's pipe: in order, bounded, and noticed when nobody will ever read it.

use std::io;

use tokio::net::unix::pipe;

/// Bytes that wait for a host that does not read before it is given up.
const BYTES_MAX: usize = 256 << 20;
/// Capacity that is kept once all is written.
const CAPACITY_KEPT: usize = 256 * 1024;

/// Frames, or the rest of them, that the pipe did not take yet.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    /// How many of them were written.
    written: usize,
    closed: bool,
}

/// Why there is no use in waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deaf {
    /// Its end of the pipe is closed.
    Closed,
    /// It does not read.
    Full,
}

impl Outbox {
    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Writes a frame, or keeps what of it the pipe does not take now; gives whether all was taken.
    ///
    /// # Errors
    /// Nobody will read it.
    pub(crate) fn push(&mut self, pipe: &pipe::Sender, frame: &[u8]) -> Result<bool, Deaf> {
        if self.closed {
            return Err(Deaf::Closed);
        }
        let taken = if self.len() == 0 { self.try_write(pipe, frame)? } else { 0 };
        let rest = &frame[taken..];
        if rest.is_empty() {
            return Ok(true);
        }
        if self.len() + rest.len() > BYTES_MAX {
            self.close();
            return Err(Deaf::Full);
        }
        self.bytes.extend_from_slice(rest);
        Ok(false)
    }

    /// Writes what the pipe takes now.
    ///
    /// # Errors
    /// Nobody will read the rest.
    pub(crate) fn flush(&mut self, pipe: &pipe::Sender) -> Result<(), Deaf> {
        let bytes = std::mem::take(&mut self.bytes);
        let taken = self.try_write(pipe, &bytes[self.written..])?;
        self.bytes = bytes;
        self.written += taken;
        if self.written == self.bytes.len() {
            self.clear();
        } else if self.written >= self.bytes.len() / 2 {
            // Rarely enough for moving the rest to cost less than writing it did.
            self.bytes.drain(..std::mem::take(&mut self.written));
        }
        Ok(())
    }

    fn try_write(&mut self, pipe: &pipe::Sender, bytes: &[u8]) -> Result<usize, Deaf> {
        match pipe.try_write(bytes) {
            Ok(taken) => Ok(taken),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
            Err(_) => {
                self.close();
                Err(Deaf::Closed)
            }
        }
    }

    fn close(&mut self) {
        self.closed = true;
        self.clear();
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(CAPACITY_KEPT);
        self.written = 0;
    }
}
