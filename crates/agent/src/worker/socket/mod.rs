//! One open connection: a task that reads and one that writes, so that neither waits for the other. `reading` also finds out that nobody is there any more.

mod meter;
mod reading;
mod writing;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use longshore_session::Binding;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub(crate) use meter::Metered;

use super::dial::WebSocket;

/// Frames between the reading task and the session, if the settings leave it open: a few, so that the reader is seldom woken for one.
const RECEIVED_MAX: usize = 64;
/// Frames between the session and the writing task.
const WRITTEN_MAX: usize = 64;
/// How long the last frames and the closing one may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

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
    /// What the writing task was handed and the connection has not taken whole.
    n_unwritten: Arc<AtomicUsize>,
    /// Nobody reads any more.
    is_deaf: CancellationToken,
    is_over: bool,
    _reader: AbortOnDropHandle<()>,
    writer: Option<AbortOnDropHandle<()>>,
}

impl Socket {
    /// `received_max` frames may wait for the session; 0 is a small number.
    pub(crate) fn new(binding: Binding, socket: WebSocket, received_max: usize) -> Self {
        let meter = socket.get_ref().meter();
        let (sink, stream) = socket.split();
        let (received_tx, received) = mpsc::channel(if received_max == 0 { RECEIVED_MAX } else { received_max });
        let (written, written_rx) = mpsc::channel(WRITTEN_MAX);
        let (ping_tx, ping_rx) = mpsc::channel(1);
        let (n_unwritten, is_deaf) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let deaf = is_deaf.clone();
        let reader = owned(async move {
            let _deaf = deaf.drop_guard();
            reading::read(stream, received_tx, ping_tx, meter, reading::USUAL).await;
        });
        let writer = owned(writing::write(sink, written_rx, ping_rx, Arc::clone(&n_unwritten)));
        Self {
            binding,
            received,
            written,
            waiting: std::collections::VecDeque::new(),
            n_unwritten,
            is_deaf,
            is_over: false,
            _reader: reader,
            writer: Some(writer),
        }
    }

    /// Whether the peer takes what is written: while it does not, nothing more is read, so that answers do not pile up.
    pub(crate) fn is_taking(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether something that was sent has not left yet.
    pub(crate) fn is_writing(&self) -> bool {
        !self.waiting.is_empty() || self.n_unwritten.load(Ordering::Relaxed) > 0
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
            // Counted first: the writing task may be done with it before this goes on.
            self.n_unwritten.fetch_add(1, Ordering::Relaxed);
            match self.written.try_send(write) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(write)) => {
                    self.n_unwritten.fetch_sub(1, Ordering::Relaxed);
                    return self.waiting.push_front(write);
                }
                // The reader tells of the end.
                Err(mpsc::error::TrySendError::Closed(_)) => return self.waiting.clear(),
            }
        }
    }

    /// Hands on what waits, as the peer takes it, or lets go of it once the connection has ended. Never ready while nothing waits. Cancel-safe.
    pub(crate) async fn drain(&mut self) {
        if self.waiting.is_empty() {
            std::future::pending::<()>().await;
        }
        let goes_on = tokio::select! {
            biased;
            place = self.written.reserve() => match (place, self.waiting.pop_front()) {
                (Ok(place), Some(write)) => {
                    self.n_unwritten.fetch_add(1, Ordering::Relaxed);
                    place.send(write);
                    true
                }
                (Ok(_), None) => true,
                (Err(_), _) => false,
            },
            () = self.is_deaf.cancelled() => false,
        };
        if goes_on { self.flush() } else { self.waiting.clear() }
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

#[cfg(test)]
mod tests {
    use futures::SinkExt;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::super::dial::Duplex;
    use super::*;

    type Far = WebSocketStream<tokio::io::DuplexStream>;

    /// Both ends of a line that holds a kibibyte.
    pub(super) async fn ends() -> (WebSocket, Far) {
        let (near, far) = tokio::io::duplex(1 << 10);
        let near: Box<dyn Duplex> = Box::new(near);
        let near = WebSocketStream::from_raw_socket(Metered::new(near), Role::Client, None).await;
        (near, WebSocketStream::from_raw_socket(far, Role::Server, None).await)
    }

    fn binding() -> Binding {
        let now = longshore_session::Now { at: Duration::ZERO, wall: jiff::Timestamp::UNIX_EPOCH };
        let config = longshore_session::GatewayConfig::new("t", "w");
        let mut gateway = longshore_session::Gateway::new(config, 1, now);
        let hail = r#"{"type":"control.handshake","id":"1","ts":"2025-12-24T10:00:00Z","tenant":"t","sender":{"role":"worker","id":"w"},
            "payload":{"protocol":1,"auth":{"mode":"token","token":"t"},"worker":{"worker_name":"w","version":"1","hostname":"h"}}}"#;
        let link = longshore_session::LinkConfig::of_gateway("t");
        let greeting = longshore_session::Greeting::read(hail.as_bytes(), &link).unwrap();
        let admission = longshore_session::Admission {
            session_id: "s".to_owned(),
            session_token: longshore_session::control::Token("t".to_owned()),
            expires_at: None,
        };
        gateway.greet(&greeting, admission, longshore_session::Socket::New, now).unwrap()
    }

    #[tokio::test]
    async fn frames_wait_up_to_what_is_set_and_then_their_sender_waits() {
        for (set, most) in [(2, 2), (5, 5), (0, RECEIVED_MAX)] {
            let (near, mut far) = ends().await;
            let mut socket = Socket::new(binding(), near, set);
            // Each is larger than the line, so what was sent has been read.
            let text = "x".repeat(2 << 10);
            let n_sent = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&n_sent);
            let sending = owned(async move {
                loop {
                    far.send(Message::text(text.clone())).await.unwrap();
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            });
            // One more is in the reader's hand, and the next one on the line.
            while n_sent.load(Ordering::Relaxed) < most + 1 {
                tokio::task::yield_now().await;
            }
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            assert_eq!((n_sent.load(Ordering::Relaxed), socket.n_received()), (most + 1, most), "{set}");
            for _ in 0..10 {
                assert!(matches!(socket.next().await, Received::Frame(_)));
            }
            drop(sending);
        }
    }

    #[tokio::test]
    async fn what_was_sent_is_being_written_until_the_connection_has_taken_it() {
        let (near, mut far) = ends().await;
        let mut socket = Socket::new(binding(), near, 0);
        assert!(!socket.is_writing());
        for _ in 0..2 * WRITTEN_MAX {
            socket.send("x".repeat(100));
        }
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert!(socket.is_writing() && !socket.is_taking());
        let mut n_heard = 0;
        while n_heard < 2 * WRITTEN_MAX {
            tokio::select! {
                _ = far.next() => n_heard += 1,
                () = socket.drain() => {}
            }
        }
        while socket.is_writing() {
            tokio::task::yield_now().await;
        }
        assert!(socket.is_taking());
    }

    #[tokio::test]
    async fn what_waits_is_let_go_of_when_nobody_is_there_any_more() {
        let (near, far) = ends().await;
        let mut socket = Socket::new(binding(), near, 0);
        for _ in 0..2 * WRITTEN_MAX {
            socket.send("x".repeat(100));
        }
        drop(far);
        while !socket.is_taking() {
            socket.drain().await;
        }
        assert!(matches!(socket.next().await, Received::Closed { .. }));
    }
}
