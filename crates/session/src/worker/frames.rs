//! What the worker's end does with each frame: the table of [`super`], in code.

use std::time::Duration;

use super::{Session, State, Worker};
use crate::code::Failure;
use crate::config::Now;
use crate::control::{Accept, Control, Reset};
use crate::envelope::Envelope;
use crate::link::Purpose;
use crate::output::{Binding, Ignored, Output};

impl Worker {
    /// A frame came.
    ///
    /// # Errors
    /// Why it had no effect; never a reason to close.
    pub fn receive(&mut self, binding: Binding, bytes: &[u8], now: Now) -> Result<(), Ignored> {
        let (envelope, weight) = self.link.read(binding, bytes)?;
        if envelope.is_control() {
            let control = Control::read(&envelope)?;
            return self.control(&envelope, control, now);
        }
        if envelope.kind == crate::HELLO && envelope.session_seq.is_none() {
            return self.hello(&envelope, now);
        }
        self.link.take(envelope, weight, self.phase(), now)
    }

    /// The other end is a Longshore. Heard before the session is open it would be forgotten there, so then it is not acknowledged and comes again.
    fn hello(&mut self, envelope: &Envelope, now: Now) -> Result<(), Ignored> {
        match self.state {
            State::Open { .. } => {
                self.link.is_longshore = true;
                self.link.acknowledge(envelope, now);
                Ok(())
            }
            State::BackingOff { .. }
            | State::Connecting
            | State::Handshaking
            | State::Registering { .. }
            | State::Resuming { .. }
            | State::Over => Err(Ignored::Unexpected { kind: envelope.kind.clone(), phase: self.phase() }),
        }
    }

    fn control(&mut self, envelope: &Envelope, control: Control, now: Now) -> Result<(), Ignored> {
        let unexpected = Err(Ignored::Unexpected { kind: envelope.kind.clone(), phase: self.phase() });
        match (control, self.state) {
            (Control::Ack(ack), _) => {
                if let Some(purpose) = self.link.acknowledged(envelope, &ack, now) {
                    self.answered(purpose, ack.ok != Some(false), now);
                }
                self.end_if_finished(now);
                Ok(())
            }
            (Control::Accept(accept), State::Registering { .. } | State::Resuming { .. }) => {
                self.accepted(accept, now);
                Ok(())
            }
            (Control::Accept(accept), State::Open { .. }) => match &mut self.session {
                Some(session) if session.id == accept.session_id => {
                    session.token = accept.session_token;
                    Ok(())
                }
                Some(_) | None => unexpected,
            },
            (Control::Reset(reset), _) => {
                self.reset(&reset, now);
                Ok(())
            }
            (Control::Drain(drain), State::Open { .. }) => {
                self.link.acknowledge(envelope, now);
                if std::mem::replace(&mut self.is_draining, true) {
                    return Err(Ignored::Known);
                }
                self.link.put(Output::Drain(drain));
                Ok(())
            }
            (
                Control::Accept(_) | Control::Drain(_),
                State::BackingOff { .. }
                | State::Connecting
                | State::Handshaking
                | State::Registering { .. }
                | State::Resuming { .. }
                | State::Over,
            ) => unexpected,
            (Control::Handshake(_) | Control::Register(_) | Control::Resume(_) | Control::Heartbeat(_) | Control::Unknown, _) => {
                self.link.acknowledge(envelope, now);
                unexpected
            }
        }
    }

    fn answered(&mut self, purpose: Purpose, is_granted: bool, now: Now) {
        if !is_granted {
            return self.lose(Failure::Protocol, "the other end refused a request", Some(1002), None, now);
        }
        let accept_by = Some(now.at.saturating_add(self.config.accept_timeout));
        match (purpose, self.state) {
            (Purpose::Handshake, State::Handshaking) => {
                self.state = State::Registering { accept_by: None };
                self.register(Purpose::Register, now);
            }
            (Purpose::Register, State::Registering { .. }) => {
                self.told_revision = self.said_revision;
                self.state = State::Registering { accept_by };
            }
            (Purpose::Update, _) => self.told_revision = self.said_revision,
            (Purpose::Resume, State::Resuming { .. }) => self.state = State::Resuming { accept_by },
            // Requests end with the state that made them; an answer to a greeting needs nothing more.
            (Purpose::Handshake | Purpose::Register | Purpose::Resume | Purpose::Hello | Purpose::Drain, _) => {}
        }
    }

    pub(super) fn register(&mut self, purpose: Purpose, now: Now) {
        let register = Control::Register(self.config.register.clone());
        // An earlier one that is sent again would overtake this one and be believed.
        self.link.stop_asking_for(purpose);
        self.said_revision = self.revision;
        self.link.ask(purpose, register.kind(), register.payload(), now);
    }

    fn accepted(&mut self, accept: Accept, now: Now) {
        let resumed = accept.resumed == Some(true);
        self.session = Some(Session { id: accept.session_id, token: accept.session_token });
        if !accept.worker_instance_id.is_empty() {
            self.link.config.sender_id = accept.worker_instance_id;
        }
        self.link.stop_asking();
        if resumed {
            self.link.outbox.resume(now.at);
        } else {
            // An acceptance follows a registration, acknowledged or not.
            self.told_revision = self.said_revision;
            self.link.inbox.reset(self.link.is_longshore);
            self.link.outbox.renumber();
            // It says so again before it numbers anything.
            self.link.is_longshore = false;
            // Who lets it in anew says so anew if it is to take no work.
            self.is_draining = false;
        }
        self.n_failures = 0;
        self.state = State::Open { heartbeat_at: self.heartbeat_after(now) };
        self.link.put(Output::Opened { resumed });
        self.link.open(now);
        if self.told_revision != self.revision {
            self.register(Purpose::Update, now);
        }
        self.end_if_finished(now);
    }

    fn reset(&mut self, reset: &Reset, now: Now) {
        self.session = None;
        let retry_after = reset.retry_after_ms.map(Duration::from_millis);
        let reason = format!("{}: {}", reset.code, reset.reason);
        self.lose(Failure::of_reset(&reset.code), &reason, Some(1000), retry_after, now);
    }
}
