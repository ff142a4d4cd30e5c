//! One open connection: a task that reads and one that writes, so that neither waits for the other.

use std::time::{Duration, Instant};

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use longshore_session::Binding;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use tokio_util::task::AbortOnDropHandle;

use super::dial::WebSocket;

/// Frames between the reading task and the session, if the settings leave it open: a few, so that the reader is seldom woken for one.
const RECEIVED_MAX: usize = 64;
/// Frames between the session and the writing task.
const WRITTEN_MAX: usize = 64;
/// How long the last frames and the closing one may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Between pings.
const PING_EVERY: Duration = Duration::from_secs(20);
/// A connection over which nothing comes for this long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What came.
#[derive(Debug)]
pub(crate) enum Received {
    /// A frame.
    Frame(Bytes),
    /// How long a ping took.
    RoundTrip(Duration),
    /// The end.
    Closed {
        /// The close code, if there was one.
        code: Option<u16>,
        /// Why.
        reason: String,
    },
}

enum Write {
    Frame(String),
    Close(u16, String),
}

/// An open connection. Dropping it closes the socket without a word.
pub(crate) struct Socket {
    pub(crate) binding: Binding,
    received: mpsc::Receiver<Received>,
    written: mpsc::Sender<Write>,
    /// What found no room on the way to the writing task.
    waiting: std::collections::VecDeque<Write>,
    is_over: bool,
    _reader: AbortOnDropHandle<()>,
    writer: Option<AbortOnDropHandle<()>>,
}

impl Socket {
    /// `received_max` frames may wait for the session; 0 is a small number.
    pub(crate) fn new(binding: Binding, socket: WebSocket, received_max: usize) -> Self {
        let (sink, stream) = socket.split();
        let (received_tx, received) = mpsc::channel(if received_max == 0 { RECEIVED_MAX } else { received_max });
        let (written, written_rx) = mpsc::channel(WRITTEN_MAX);
        let (ping_tx, ping_rx) = mpsc::channel(1);
        let reader = owned(read(stream, received_tx, ping_tx));
        let writer = owned(write(sink, written_rx, ping_rx));
        Self {
            binding,
            received,
            written,
            waiting: std::collections::VecDeque::new(),
            is_over: false,
            _reader: reader,
            writer: Some(writer),
        }
    }

    /// Whether the peer takes what is written: while it does not, nothing more is read, so that answers do not pile up.
    pub(crate) fn is_taking(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The next thing that came; after the end, never. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Received {
        if self.is_over {
            std::future::pending::<()>().await;
        }
        match self.received.recv().await {
            Some(received) => {
                self.is_over = matches!(received, Received::Closed { .. });
                received
            }
            None => {
                self.is_over = true;
                Received::Closed { code: None, reason: "the connection broke".to_owned() }
            }
        }
    }

    /// Whatever came as well, without waiting.
    pub(crate) fn try_next(&mut self) -> Option<Received> {
        let received = self.received.try_recv().ok().filter(|_| !self.is_over)?;
        self.is_over = matches!(received, Received::Closed { .. });
        Some(received)
    }

    /// How many frames wait to be read.
    pub(crate) fn n_received(&self) -> usize {
        self.received.len()
    }

    /// How many frames wait to be written.
    pub(crate) fn n_waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn send(&mut self, text: String) {
        self.put(Write::Frame(text));
    }

    fn put(&mut self, write: Write) {
        self.waiting.push_back(write);
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(write) = self.waiting.pop_front() {
            match self.written.try_send(write) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(write)) => return self.waiting.push_front(write),
                // The reader tells of the end.
                Err(mpsc::error::TrySendError::Closed(_)) => return self.waiting.clear(),
            }
        }
    }

    /// Hands on what waits, as the peer takes it. Never ready while nothing waits. Cancel-safe.
    pub(crate) async fn drain(&mut self) {
        if self.waiting.is_empty() {
            std::future::pending::<()>().await;
        }
        let Ok(permit) = self.written.reserve().await else { return self.waiting.clear() };
        match self.waiting.pop_front() {
            Some(write) => permit.send(write),
            None => drop(permit),
        }
        self.flush();
    }

    /// Says the last words, if the peer takes them in time.
    pub(crate) async fn close(mut self, code: u16, reason: String) {
        self.put(Write::Close(code, reason));
        let closing = async {
            while !self.waiting.is_empty() {
                self.drain().await;
            }
            drop(self.written);
            if let Some(writer) = self.writer.take() {
                let _ = writer.await;
            }
        };
        let _ = tokio::time::timeout(CLOSE_WITHIN, closing).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "the handle owns the task")]
fn owned(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::task::spawn(task))
}

async fn read(mut stream: SplitStream<WebSocket>, received: mpsc::Sender<Received>, pings: mpsc::Sender<()>) {
    let mut next_ping = tokio::time::interval(PING_EVERY);
    next_ping.tick().await;
    let (mut heard_at, mut pinged_at) = (Instant::now(), None);
    loop {
        let message = tokio::select! {
            message = stream.next() => message,
            _ = next_ping.tick() => {
                if heard_at.elapsed() > SILENCE_MAX {
                    let reason = format!("timed out: nothing was heard for {} s", SILENCE_MAX.as_secs());
                    let _ = received.send(Received::Closed { code: None, reason }).await;
                    return;
                }
                pinged_at = Some(Instant::now());
                let _ = pings.try_send(());
                continue;
            }
        };
        heard_at = Instant::now();
        let event = match message {
            Some(Ok(Message::Text(text))) => Received::Frame(text.into()),
            Some(Ok(Message::Binary(bytes))) => Received::Frame(bytes),
            Some(Ok(Message::Pong(_))) => match pinged_at.take() {
                Some(at) => Received::RoundTrip(at.elapsed()),
                None => continue,
            },
            Some(Ok(Message::Ping(_) | Message::Frame(_))) => continue,
            Some(Ok(Message::Close(frame))) => closed(frame),
            Some(Err(error)) => Received::Closed { code: None, reason: reason(&error) },
            None => Received::Closed { code: None, reason: "the connection was closed".to_owned() },
        };
        let is_end = matches!(event, Received::Closed { .. });
        if received.send(event).await.is_err() || is_end {
            return;
        }
    }
}

fn closed(frame: Option<CloseFrame>) -> Received {
    match frame {
        Some(frame) => Received::Closed { code: Some(frame.code.into()), reason: frame.reason.as_str().to_owned() },
        None => Received::Closed { code: None, reason: "closed without a word".to_owned() },
    }
}

/// What the error says, without any of the frame: that may hold secrets.
fn reason(error: &Error) -> String {
    match error {
        Error::Capacity(capacity) => format!("too large: {capacity}"),
        Error::WriteBufferFull(_) => "the write buffer is full".to_owned(),
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Io(_)
        | Error::Tls(_)
        | Error::Protocol(_)
        | Error::Utf8(_)
        | Error::AttackAttempt
        | Error::Url(_)
        | Error::Http(_)
        | Error::HttpFormat(_) => error.to_string(),
    }
}

async fn write(mut sink: SplitSink<WebSocket, Message>, mut written: mpsc::Receiver<Write>, mut pings: mpsc::Receiver<()>) {
    loop {
        let write = tokio::select! {
            biased;
            write = written.recv() => write,
            Some(()) = pings.recv() => {
                if sink.send(Message::Ping(Bytes::new())).await.is_err() {
                    return;
                }
                continue;
            }
        };
        let done = match write {
            Some(Write::Frame(text)) => {
                let mut fed = sink.feed(Message::text(text)).await;
                // What waits as well goes out with it, in one write.
                while fed.is_ok() {
                    match written.try_recv() {
                        Ok(Write::Frame(text)) => fed = sink.feed(Message::text(text)).await,
                        Ok(Write::Close(code, reason)) => {
                            let _ = sink.send(Message::Close(Some(CloseFrame { code: code.into(), reason: short(&reason).into() }))).await;
                            return;
                        }
                        Err(_) => break,
                    }
                }
                if fed.is_ok() { sink.flush().await } else { fed }
            }
            Some(Write::Close(code, reason)) => {
                let _ = sink.send(Message::Close(Some(CloseFrame { code: code.into(), reason: short(&reason).into() }))).await;
                return;
            }
            None => return,
        };
        if done.is_err() {
            return;
        }
    }
}

/// A close frame takes no more than this.
fn short(reason: &str) -> String {
    reason[..reason.floor_char_boundary(120)].to_owned()
}
