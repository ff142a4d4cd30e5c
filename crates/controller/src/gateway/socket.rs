//! One WebSocket: bytes in and frames out, within bounds, until either end closes it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Sink, SinkExt as _, Stream, StreamExt as _};
use longshore_session::{Binding, Text};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

/// What may be read of somebody who was not let in yet, with everything around the frames.
pub(super) const STRANGER_BYTES_MAX: u64 = 64 << 10;
/// Frames that wait for a worker that reads slowly; more than a window's worth and all repeats of it. Then its connection is closed.
pub(super) const FRAMES_WAITING_MAX: usize = 512;
/// What is written to a worker and not sent yet, at most.
const WRITE_BYTES_MAX: usize = 32 << 20;
/// How long one write may take.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// How long the other end's word may take after ours, when a socket is closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Between pings, as the existing ends have it.
const PING_EVERY: Duration = Duration::from_secs(20);
/// Frames of one connection within a second; what is more waits in its own socket.
const FRAMES_PER_SECOND_MAX: u32 = 4000;
/// Bytes of a close's reason: what a control frame holds.
const REASON_BYTES_MAX: usize = 123;

/// Something to write.
#[derive(Debug)]
pub(super) enum Out {
    Frame(Text),
    Close { code: u16, reason: String },
}

/// What a socket tells its session.
#[derive(Debug)]
pub(super) enum Heard {
    Frame(Binding, Utf8Bytes),
    Closed { binding: Binding, code: Option<u16>, reason: String },
}

/// What a socket may still read: without a bound once somebody was let in.
#[derive(Debug, Clone)]
pub(super) struct Allowance(Arc<AtomicU64>);

impl Allowance {
    pub(super) fn of_a_stranger() -> Self {
        Self(Arc::new(AtomicU64::new(STRANGER_BYTES_MAX)))
    }

    pub(super) fn lift(&self) {
        self.0.store(u64::MAX, Ordering::Relaxed);
    }
}

/// A stream that is read as far as its allowance goes.
#[derive(Debug)]
pub(super) struct Metered<I> {
    inner: I,
    left: Allowance,
}

impl<I: AsyncRead + Unpin> AsyncRead for Metered<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let read = (buffer.filled().len() - before) as u64;
        let left = self.left.0.load(Ordering::Relaxed);
        if left != u64::MAX {
            if read > left {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::QuotaExceeded,
                    "more than may be said before a greeting is accepted",
                )));
            }
            // Nobody but the connection's own task reads; lifting it meanwhile is not undone.
            let _ = self.left.0.compare_exchange(left, left - read, Ordering::Relaxed, Ordering::Relaxed);
        }
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Metered<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// The WebSocket of a connection that was upgraded, on which no frame of more than `frame_bytes_max` is taken.
pub(super) async fn of<I: AsyncRead + AsyncWrite + Unpin>(io: I, left: Allowance, frame_bytes_max: usize) -> WebSocketStream<Metered<I>> {
    let config = WebSocketConfig::default()
        .read_buffer_size(8 << 10)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BYTES_MAX)
        .max_message_size(Some(frame_bytes_max))
        .max_frame_size(Some(frame_bytes_max));
    let role = tokio_tungstenite::tungstenite::protocol::Role::Server;
    WebSocketStream::from_raw_socket(Metered { inner: io, left }, role, Some(config)).await
}

/// The next text of a peer; `None` if there will be none, or it is none.
pub(super) async fn next_text<I: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<I>) -> Option<Utf8Bytes> {
    loop {
        match socket.next().await?.ok()? {
            Message::Text(text) => return Some(text),
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Binary(_) | Message::Close(_) | Message::Frame(_) => return None,
        }
    }
}

/// Says the last frame and closes.
pub(super) async fn refuse<I: AsyncRead + AsyncWrite + Unpin>(mut socket: WebSocketStream<I>, last: Option<Text>, reason: &str) {
    let say = async {
        if let Some(last) = last {
            socket.send(Message::text(last.as_str())).await?;
        }
        socket.send(closing(1011, reason)).await?;
        // Until the other end has heard it: a socket that is dropped with something unread takes the last words with it.
        while let Some(Ok(_)) = socket.next().await {}
        Ok::<_, Error>(())
    };
    if let Ok(Err(error)) = timeout(CLOSE_WITHIN, say).await {
        tracing::trace!(%error, "a refused connection ended before it had heard why");
    }
}

fn closing(code: u16, reason: &str) -> Message {
    let reason = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
    Message::Close(Some(CloseFrame { code: CloseCode::from(code), reason: reason.into() }))
}

/// Carries frames both ways until the connection ends, and tells its session of the end.
pub(super) async fn pump<I: AsyncRead + AsyncWrite + Unpin>(
    socket: WebSocketStream<I>,
    binding: Binding,
    out: mpsc::Receiver<Out>,
    heard: mpsc::Sender<Heard>,
) {
    let (sink, stream) = socket.split();
    let reading = read(stream, binding, &heard);
    tokio::pin!(reading);
    let (code, reason) = tokio::select! {
        ended = &mut reading => ended,
        ended = write(sink, out) => match ended {
            // Its answer is waited for, but not for long.
            Ok(()) => timeout(CLOSE_WITHIN, reading).await.unwrap_or_else(|_| (None, "closed by the gateway".to_owned())),
            Err(reason) => (None, reason),
        },
    };
    let _ = heard.send(Heard::Closed { binding, code, reason }).await;
}

async fn read(
    mut stream: impl Stream<Item = Result<Message, Error>> + Unpin,
    binding: Binding,
    heard: &mpsc::Sender<Heard>,
) -> (Option<u16>, String) {
    let (mut second, mut n_frames) = (Instant::now(), 0);
    loop {
        let text = match stream.next().await {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            Some(Ok(Message::Binary(_))) => return (None, "a binary message".to_owned()),
            Some(Ok(Message::Close(frame))) => {
                return frame.map_or((None, String::new()), |frame| (Some(frame.code.into()), frame.reason.to_string()));
            }
            Some(Err(error)) => return (None, error.to_string()),
            None => return (None, "the connection ended".to_owned()),
        };
        if heard.send(Heard::Frame(binding, text)).await.is_err() {
            return (None, "its session ended".to_owned());
        }
        n_frames += 1;
        if n_frames >= FRAMES_PER_SECOND_MAX {
            sleep_until(second + Duration::from_secs(1)).await;
        }
        if second.elapsed() >= Duration::from_secs(1) {
            (second, n_frames) = (Instant::now(), 0);
        }
    }
}

async fn write(mut sink: impl Sink<Message, Error = Error> + Unpin, mut out: mpsc::Receiver<Out>) -> Result<(), String> {
    let mut pings = interval(PING_EVERY);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings.reset();
    loop {
        let (message, is_last) = tokio::select! {
            biased;
            out = out.recv() => match out {
                Some(Out::Frame(text)) => (Message::text(text.as_str()), false),
                Some(Out::Close { code, reason }) => (closing(code, &reason), true),
                // Its session has let go of it.
                None => (closing(1011, "the session ended"), true),
            },
            _ = pings.tick() => (Message::Ping(Vec::new().into()), false),
        };
        match timeout(WRITE_WITHIN, sink.send(message)).await {
            Ok(Ok(())) if is_last => return Ok(()),
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("the worker does not read".to_owned()),
        }
    }
}
