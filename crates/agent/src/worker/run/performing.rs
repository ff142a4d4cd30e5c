//! What the session wants done, done.

use std::time::Instant;

use futures::FutureExt;
use longshore_session::{Output, Stop};

use super::Runner;

impl Runner {
    pub(super) fn perform_outputs(&mut self) {
        while let Some(output) = self.session.next_output() {
            match output {
                Output::Connect => {
                    self.dialling = Some(match &self.dialer {
                        Some(dialer) => dialer.clone().dial().boxed(),
                        // Without a scheduler nobody ever answers.
                        None => std::future::pending().boxed(),
                    });
                }
                Output::Transmit { to, text } => {
                    if let Some(socket) = self.socket.as_mut().filter(|socket| socket.binding == to) {
                        self.vitals.sent_at = Some(Instant::now());
                        socket.send(text.into_string());
                    }
                }
                Output::Close { binding, code, reason } => {
                    if let Some(socket) = self.socket.take_if(|socket| socket.binding == binding) {
                        self.closing.spawn(socket.close(code, reason));
                    }
                }
                Output::Opened { resumed } => {
                    tracing::info!(resumed, "the session is open");
                    self.vitals.connection_error = None;
                    if !resumed {
                        self.cancel_lost_waits();
                    }
                }
                Output::Detached { reason } => {
                    tracing::warn!(reason, "the connection is gone; what waits is kept");
                    self.socket = None;
                    self.vitals.connection_error = Some(reason);
                }
                Output::Acknowledged { id } => {
                    self.vitals.acknowledged_at = Some(Instant::now());
                    self.acknowledged(&id);
                }
                Output::Dropped(envelope) => self.dropped(&envelope),
                Output::Skipped { from, to } => tracing::warn!(from, to, "the scheduler left frames out"),
                Output::Drain(asked) => self.drain_asked(&asked),
                Output::HeartbeatDue => self.heartbeat(),
                Output::Stopped(stop) => {
                    tracing::info!(?stop, "the session has ended");
                    if matches!(stop, Stop::Refused(_)) {
                        self.stop_all();
                    }
                    self.socket = None;
                    self.dialling = None;
                    self.stopped = Some(stop);
                }
                Output::Registered(_) | Output::Heartbeat(_) | Output::Authenticate(_) | Output::Uncertain { .. } | Output::Expired => {
                    tracing::debug!("the session said what only a gateway is told");
                }
            }
        }
    }
}
