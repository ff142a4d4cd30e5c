//! A reader of a store's object that does not wait for ever: not for the store, and not when nobody wants the content any more.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::BoxFuture;
use longshore_store::ObjectReader;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Sleep;

/// How long a read may bring nothing.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(30);

/// Reads fail once the store brought nothing for `idle_max`, or when `gone` resolves.
pub(crate) struct Patient {
    inner: ObjectReader,
    idle_max: Duration,
    /// Runs while a read waits; a reader that does not ask has all the time it wants.
    waiting: Option<Pin<Box<Sleep>>>,
    gone: BoxFuture<'static, ()>,
}

impl Patient {
    pub(super) fn new(inner: ObjectReader, idle_max: Duration, gone: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { inner, idle_max, waiting: None, gone: Box::pin(gone) }
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.gone.as_mut().poll(cx).is_ready() {
            // What is gone stays gone, but a future must not be asked again.
            self.gone = Box::pin(std::future::ready(()));
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if let Poll::Ready(read) = self.inner.as_mut().poll_read(cx, buffer) {
            self.waiting = None;
            return Poll::Ready(read);
        }
        let idle_max = self.idle_max;
        ready!(self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle_max))).as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the object store stopped sending")))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_store_that_stops_sending_ends_the_read_and_a_slow_reader_does_not() {
        let (mut store, content) = tokio::io::duplex(64);
        let mut reader = Patient::new(Box::pin(content), IDLE_MAX, std::future::pending());
        let mut byte = [0];
        for _ in 0..3 {
            tokio::time::sleep(2 * IDLE_MAX).await;
            store.write_all(b"x").await.unwrap();
            reader.read_exact(&mut byte).await.unwrap();
        }
        assert_eq!(reader.read(&mut byte).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_read_ends_when_nobody_wants_it() {
        let (_store, content) = tokio::io::duplex(64);
        let mut reader = Patient::new(Box::pin(content), IDLE_MAX, std::future::ready(()));
        for _ in 0..2 {
            assert_eq!(reader.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        }
    }
}
