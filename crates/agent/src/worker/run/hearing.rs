//! What is heard from the other end and from the tasks, as far as there is room for what follows from it.

use std::time::Instant;

use longshore_session::Envelope;
use tokio_tungstenite::tungstenite::Bytes;

use super::super::dial::{DialFault, WebSocket};
use super::super::frames::kind;
use super::super::socket::{Received, Socket};
use super::Runner;

/// Frames that are taken from the socket before anything else has its turn.
const FRAMES_AT_ONCE: usize = 32;
/// With more than this in the session's outbox, feedback is left with the handlers.
const FEEDBACK_OUTBOX_MAX: usize = 128;
/// With more than this unsent, nothing more is taken from the session, and it drops nothing: each may have to be refused.
const UNSENT_MAX: usize = 1024;

impl Runner {
    pub(super) fn received(&mut self, first: Received) {
        let mut next = Some(first);
        let mut n_frames = 0;
        while let Some(received) = next.take() {
            match received {
                Received::Frame(bytes) => self.frame(&bytes),
                Received::RoundTrip(time) => self.vitals.round_trip = Some(time),
                Received::Closed { code, reason } => {
                    let Some(socket) = self.socket.take() else { return };
                    self.vitals.connection_error = Some(reason.clone());
                    self.session.disconnected(socket.binding, code, &reason, self.now());
                    return;
                }
            }
            n_frames += 1;
            if n_frames < FRAMES_AT_ONCE && self.socket.as_ref().is_some_and(Socket::is_taking) {
                next = self.socket.as_mut().and_then(Socket::try_next);
            }
        }
    }

    pub(super) fn frame(&mut self, bytes: &Bytes) {
        let Some(binding) = self.socket.as_ref().map(|socket| socket.binding) else { return };
        self.vitals.received_at = Some(Instant::now());
        let now = self.now();
        self.hold_back();
        match self.session.receive(binding, bytes, now) {
            Ok(()) => {
                self.route();
                // At once, so that a queue is not taken for full of what could run.
                while self.unsent.is_empty() && self.begin_more() {
                    self.route();
                }
                let stats = self.session.stats();
                // It may wait in the session, and is acknowledged all the same.
                if stats.app_queue + stats.held > 0 {
                    self.note_waiting(bytes);
                }
            }
            // No deeper: the words of the reader may hold some of the frame.
            Err(ignored) => {
                let why = std::error::Error::source(&ignored).map(ToString::to_string);
                tracing::debug!(error = %ignored, why, "a frame had no effect");
            }
        }
    }

    /// A peer that takes no answers is handed no more of them: what it sends waits, under every policy, and then it waits itself.
    pub(super) fn hold_back(&mut self) {
        let now = self.now();
        self.session.hold_back(self.unsent.len() >= UNSENT_MAX, now);
    }

    pub(super) fn dialled(&mut self, result: Result<WebSocket, DialFault>) {
        self.dialling = None;
        let now = self.now();
        match result {
            Ok(socket) => {
                let binding = self.session.connected(now);
                self.socket = Some(Socket::new(binding, socket, self.settings.transport_recv_queue_max));
            }
            Err(DialFault { failure, reason }) => {
                tracing::warn!(reason, "could not connect to the scheduler");
                self.vitals.connection_error = Some(reason.clone());
                self.session.dial_failed(failure, &reason, now);
            }
        }
    }

    /// The next message for the application, if the queues take one.
    pub(in crate::worker) fn next_delivery(&mut self) -> Option<Envelope> {
        if self.queues.is_blocked() || self.unsent.len() >= UNSENT_MAX {
            return None;
        }
        let now = self.now();
        self.session.next_delivery(now)
    }

    /// Whether a kind of frame is taken, as configured.
    pub(in crate::worker) fn takes(&self, wanted: &str) -> bool {
        wanted == kind::NEXT_RESPONSE || self.settings.payload_types.iter().any(|taken| taken == wanted)
    }

    /// Whether feedback is taken. It is left with the handlers while the peer takes nothing, so that it is coalesced there.
    pub(super) fn takes_words(&self) -> bool {
        self.unsent.is_empty() && self.session.stats().outbox < FEEDBACK_OUTBOX_MAX
    }

    /// The turn of what tasks say, between frames of a peer that never stops sending.
    pub(super) fn hear_some(&mut self) {
        for _ in 0..FRAMES_AT_ONCE {
            if !self.takes_words() {
                return;
            }
            let Ok(word) = self.from_tasks.try_recv() else { return };
            self.heard(word);
        }
    }

    /// Everything that a task has said so far, taken now: its end must not overtake it.
    pub(in crate::worker) fn hear_all(&mut self) {
        while let Ok(word) = self.from_tasks.try_recv() {
            self.heard(word);
        }
    }
}
