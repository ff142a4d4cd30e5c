//! What waits for a host's pipe: in order, bounded, and noticed when nobody will ever read it.

use std::io;

use tokio::net::unix::pipe;

/// Bytes that wait for a host that does not read before it is given up.
const BYTES_MAX: usize = 256 << 20;
/// Capacity that is kept once all is written.
const CAPACITY_KEPT: usize = 256 * 1024;

/// Frames, or the rest of them, that the pipe did not take yet.
#[derive(Debug)]
pub(crate) struct Outbox {
    bytes_max: usize,
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

impl Default for Outbox {
    fn default() -> Self {
        Self { bytes_max: BYTES_MAX, bytes: Vec::new(), written: 0, closed: false }
    }
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
        if self.len() + rest.len() > self.bytes_max {
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// Both ends, the first of them known to take something.
    async fn ends() -> (pipe::Sender, pipe::Receiver) {
        let (sender, receiver) = pipe::pipe().unwrap();
        sender.writable().await.unwrap();
        (sender, receiver)
    }

    /// A frame that tells which it is at every byte.
    fn frame(n: u8) -> Vec<u8> {
        vec![n; 40_000]
    }

    #[tokio::test]
    async fn frames_arrive_whole_and_in_order_however_little_the_pipe_takes() {
        let (sender, mut receiver) = ends().await;
        let mut outbox = Outbox::default();
        let was_taken: Vec<bool> = (0..20).map(|n| outbox.push(&sender, &frame(n)).unwrap()).collect();
        // The pipe takes the first one, and not all of them.
        assert!(was_taken[0] && !was_taken[19] && outbox.len() > 0);
        let mut read = Vec::new();
        let mut piece = vec![0; 10_000];
        while read.len() < 20 * 40_000 {
            tokio::select! {
                n = receiver.read(&mut piece) => read.extend_from_slice(&piece[..n.unwrap()]),
                ready = sender.writable(), if outbox.len() > 0 => {
                    ready.unwrap();
                    outbox.flush(&sender).unwrap();
                }
            }
        }
        assert_eq!(read, (0..20).flat_map(frame).collect::<Vec<_>>());
        assert_eq!((outbox.len(), outbox.bytes.capacity() <= CAPACITY_KEPT), (0, true));
        sender.writable().await.unwrap();
        assert_eq!(outbox.push(&sender, b"x"), Ok(true));
    }

    #[tokio::test]
    async fn who_does_not_read_is_given_up_at_the_bound_and_nothing_is_kept_for_it() {
        let (sender, _receiver) = ends().await;
        let mut outbox = Outbox { bytes_max: 100_000, ..Outbox::default() };
        let ended = (0..20).map(|n| outbox.push(&sender, &frame(n))).find_map(Result::err);
        assert_eq!((ended, outbox.len()), (Some(Deaf::Full), 0));
        assert_eq!(outbox.push(&sender, b"x"), Err(Deaf::Closed));
    }

    #[tokio::test]
    async fn a_closed_pipe_is_noticed_when_something_is_written_and_when_the_rest_is() {
        let (sender, receiver) = ends().await;
        let mut outbox = Outbox::default();
        while outbox.push(&sender, &frame(0)).unwrap() {}
        drop(receiver);
        sender.writable().await.unwrap();
        assert_eq!(outbox.flush(&sender), Err(Deaf::Closed));
        assert_eq!((outbox.len(), outbox.push(&sender, b"x")), (0, Err(Deaf::Closed)));
        let (sender, receiver) = ends().await;
        drop(receiver);
        assert_eq!(Outbox::default().push(&sender, b"x"), Err(Deaf::Closed));
    }
}
