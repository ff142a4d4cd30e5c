//! A worker's connections: who has the session, what goes to its socket, and what the session asks for.

use longshore_session::{Admission, Greeting, Output, Refusal, Socket, code};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{Attachment, Knock, Reply};
use crate::gateway::DENIED;
use crate::gateway::admit::{self, Admitted};
use crate::gateway::presence::Abilities;
use crate::gateway::socket::{Heard, Out};
use longshore_session::Binding;

impl Attachment {
    pub(super) fn greeted(&mut self, (knock, reply): (Knock, Reply)) {
        let Knock { greeting, admitted, line } = knock;
        let now = self.now();
        let admission = self.may_supersede(&admitted).and_then(|()| self.admission(&admitted, now.wall));
        let greeted = admission.and_then(|admission| self.session.greet(&greeting, admission, Socket::New, now));
        let joined = greeted.map(|binding| {
            if let Some(identity) = admitted.identity {
                if self.line.is_some() && self.is_registered {
                    self.superseded();
                }
                (self.identity, self.is_registered) = (identity, false);
            }
            self.shown = admitted.shown;
            let earlier = self.line.replace((binding, line));
            // What is still to be said to the earlier connection is its end.
            while let Some(output) = self.session.next_output() {
                match (&earlier, output) {
                    (Some((old, line)), Output::Close { binding, code, reason }) if *old == binding => {
                        let _ = line.try_send(Out::Close { code, reason });
                    }
                    (_, output) => self.carry_out(output),
                }
            }
            self.aside.clear();
            (binding, self.heard.0.clone())
        });
        let _ = reply.send(joined);
    }

    pub(super) fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Closed { binding, code, reason } => {
                let is_current = self.line.as_ref().is_some_and(|(current, _)| *current == binding);
                if is_current {
                    self.line = None;
                    self.session.disconnected(binding, &reason, self.now());
                    // A goodbye, unless somebody waits for what it does.
                    if matches!(code, Some(1000 | 1001)) && self.running.is_empty() && self.claiming.is_empty() {
                        self.leave();
                    }
                }
            }
            Heard::Frame(binding, text) => {
                let held = self.hold_back(binding, &text);
                if !held {
                    self.receive(binding, &text);
                }
            }
        }
    }

    pub(super) fn receive(&mut self, binding: Binding, text: &Utf8Bytes) {
        if let Err(ignored) = self.session.receive(binding, text.as_bytes(), self.now()) {
            tracing::debug!(agent.id = %self.agent(), %ignored, "a worker's frame had no effect");
        }
        while let Some(envelope) = self.session.next_delivery(self.now()) {
            self.deliver(&envelope);
        }
    }

    /// Does what the session asks for.
    pub(super) fn perform(&mut self) {
        while let Some(output) = self.session.next_output() {
            self.carry_out(output);
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Transmit { to, text } => self.put(to, Out::Frame(text)),
            Output::Close { binding, code, reason } => {
                self.put(binding, Out::Close { code, reason });
                if self.line.as_ref().is_some_and(|(current, _)| *current == binding) {
                    self.line = None;
                }
            }
            Output::Opened { resumed } => self.opened(resumed),
            Output::Registered(register) => {
                self.can = Abilities::of(&register);
                self.leave_groups();
                (self.is_registered, self.is_longshore) = (true, self.session.is_longshore());
                self.packages_seen(&register);
                (self.beat_due, self.inbox_due) = (Instant::now(), Instant::now());
            }
            Output::Heartbeat(heartbeat) => self.heard_of(&heartbeat),
            Output::Authenticate(greeting) => self.greeted_again(&greeting),
            Output::Acknowledged { id } => {
                if let Some(running) = self.running.values_mut().find(|running| running.is_called(&id)) {
                    running.is_delivered = true;
                }
            }
            Output::Uncertain { id } => {
                if let Some(running) = self.running.values_mut().find(|running| running.is_called(&id)) {
                    running.doubt();
                }
            }
            Output::Dropped(envelope) => self.deliver(&envelope),
            Output::Skipped { from, to } => tracing::warn!(agent.id = %self.agent(), from, to, "a worker left numbers out"),
            Output::Detached { reason } => {
                tracing::info!(agent.id = %self.agent(), hostname = %self.identity.hostname, reason, "a worker's connection ended");
                // What was set aside is said again over the next one.
                self.aside.clear();
                // Who never said what it can do is not waited for.
                self.is_over |= !self.has_opened;
            }
            Output::Expired => self.is_over = true,
            // The worker's end only.
            Output::Connect | Output::Drain(_) | Output::HeartbeatDue | Output::Stopped(_) => {}
        }
    }

    fn put(&mut self, binding: Binding, out: Out) {
        let Some((current, line)) = &self.line else { return };
        if *current == binding && line.try_send(out).is_err() {
            // It does not read, or is gone: dropping the line closes its socket.
            self.line = None;
            self.session.disconnected(binding, "the worker does not read", self.now());
        }
    }

    /// Whether a worker may begin anew where another connection has the session: not as often as two of them would like.
    fn may_supersede(&self, admitted: &Admitted) -> Result<(), Refusal> {
        if admitted.identity.is_none() || self.line.is_none() {
            return Ok(());
        }
        let Some(wait) = self.app.gateway.contests.wait(&self.instance, Instant::now()) else { return Ok(()) };
        let reason = "several workers have this instance id and take it from each other: give each one of its own";
        let retry_after_ms = Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        Err(Refusal { retry_after_ms, ..Refusal::new(DENIED, reason) })
    }

    /// What somebody who was let in gets. A session that goes on outlives the token that it began with no more than any other.
    fn admission(&self, admitted: &Admitted, at: jiff::Timestamp) -> Result<Admission, Refusal> {
        if admitted.identity.is_some() {
            return Ok(admitted.admission.clone());
        }
        // What it got for its session is not worth more than its key.
        if self.identity.certificate.is_some() && self.identity.certificate != admitted.shown {
            return Err(Refusal::new(
                code::MTLS_REQUIRED,
                "the session began with a certificate: go on with it over a connection that shows the same",
            ));
        }
        if self.identity.until.is_some_and(|until| until <= at) {
            return Err(Refusal::new(code::SESSION_TOKEN, "the token that the session began with has expired"));
        }
        let (tenant, session) = (&self.app.config.gateway.tenant, admitted.admission.session_id.clone());
        Ok(admit::admission(&self.app, session, (tenant, &self.instance), self.identity.until, at))
    }

    /// What lets a worker in says which groups it may belong to; the others it does not.
    fn leave_groups(&mut self) {
        let identity = &self.identity;
        let left: Vec<_> = self.can.labels.extract_if(.., |label| !identity.may_join(label)).map(|label| label.to_string()).collect();
        if !left.is_empty() {
            let (agent, by) = (self.agent(), &self.identity.subject);
            tracing::warn!(agent.id = %agent, by, groups = left.join(", "), "a worker does not belong to groups that its token or certificate does not name");
        }
    }

    fn greeted_again(&mut self, greeting: &Greeting) {
        let Some((binding, _)) = &self.line else { return };
        let (binding, now) = (*binding, self.now());
        let greeted = admit::judge(&self.app, greeting, self.shown.as_ref(), now.wall).and_then(|admitted| {
            let admission = self.admission(&admitted, now.wall)?;
            self.session.greet(greeting, admission, Socket::Same(binding), now)?;
            Ok(admitted.identity)
        });
        match greeted {
            Ok(Some(identity)) => (self.identity, self.is_registered) = (identity, false),
            Ok(None) => {}
            Err(refusal) => self.session.reset(&refusal, now),
        }
    }
}
