//! What the gateway's end does with each frame: the table of [`super`], in code.

use super::{Gateway, State};
use crate::config::Now;
use crate::control::{Control, Register};
use crate::envelope::{Envelope, Role};
use crate::greeting::Greeting;
use crate::link::Purpose;
use crate::output::{Binding, Ignored, Output};

impl Gateway {
    /// A frame came.
    ///
    /// # Errors
    /// Why it had no effect. If it was no frame or somebody else's, the connection is closed, as an output says.
    pub fn receive(&mut self, binding: Binding, bytes: &[u8], now: Now) -> Result<(), Ignored> {
        let result = self.read(binding, bytes).and_then(|(envelope, weight)| {
            self.heard_at = now.at;
            if envelope.is_control() {
                let control = Control::read(&envelope)?;
                return self.control(&envelope, control, binding, now);
            }
            self.link.take(envelope, weight, self.phase(), now)
        });
        match &result {
            Err(error @ (Ignored::Malformed(_) | Ignored::BadControl(_) | Ignored::Foreign(_))) => {
                let reason = error.to_string();
                self.detach(Some((1011, &reason)), &reason, now);
            }
            Ok(()) | Err(Ignored::StaleBinding | Ignored::Unexpected { .. } | Ignored::Known | Ignored::NoRoom) => {}
        }
        result
    }

    fn read(&self, binding: Binding, bytes: &[u8]) -> Result<(Envelope, usize), Ignored> {
        let (envelope, weight) = self.link.read(binding, bytes)?;
        if envelope.tenant != self.config.link.tenant {
            return Err(Ignored::Foreign("tenant"));
        }
        if envelope.sender.role != Role::Worker || envelope.sender.id != self.config.instance {
            return Err(Ignored::Foreign("sender"));
        }
        Ok((envelope, weight))
    }

    fn control(&mut self, envelope: &Envelope, control: Control, binding: Binding, now: Now) -> Result<(), Ignored> {
        let unexpected = Err(Ignored::Unexpected { kind: envelope.kind.clone(), phase: self.phase() });
        match (control, self.state) {
            (control @ (Control::Handshake(_) | Control::Resume(_)), State::Registering { .. } | State::Open) => {
                self.greeted_again(envelope, control, now)
            }
            (Control::Register(register), State::Registering { .. }) => {
                self.opened(envelope, register, now);
                Ok(())
            }
            (Control::Register(register), State::Open) => self.updated(envelope, register, now),
            (Control::Ack(ack), State::Registering { .. } | State::Open) => {
                if self.link.acknowledged(envelope, &ack, now) == Some(Purpose::Hello) {
                    self.link.open(now);
                }
                Ok(())
            }
            (Control::Heartbeat(heartbeat), State::Open) => {
                self.link.put(Output::Heartbeat(heartbeat));
                Ok(())
            }
            // It may come before the session is open, and is a sign of life.
            (Control::Heartbeat(_), State::Registering { .. }) => Ok(()),
            (Control::Accept(_) | Control::Reset(_) | Control::Drain(_) | Control::Unknown, State::Registering { .. } | State::Open) => {
                self.link.acknowledge(envelope, now);
                unexpected
            }
            // Without a binding nothing is read; said for completeness.
            (
                Control::Handshake(_)
                | Control::Register(_)
                | Control::Resume(_)
                | Control::Accept(_)
                | Control::Ack(_)
                | Control::Heartbeat(_)
                | Control::Reset(_)
                | Control::Drain(_)
                | Control::Unknown,
                State::Detached { .. } | State::Over,
            ) => {
                debug_assert!(self.link.binding() != Some(binding), "a session without a connection has no binding");
                Err(Ignored::StaleBinding)
            }
        }
    }

    fn greeted_again(&mut self, envelope: &Envelope, control: Control, now: Now) -> Result<(), Ignored> {
        let is_repeated = self.session.as_ref().is_some_and(|session| session.greeting == envelope.id);
        if is_repeated {
            self.acknowledge(envelope.id.clone(), now);
            if self.state == State::Open {
                self.accept(now);
            }
            return Err(Ignored::Known);
        }
        if let Some(greeting) = Greeting::of(envelope, control) {
            self.link.put(Output::Authenticate(greeting));
        }
        Ok(())
    }

    fn opened(&mut self, envelope: &Envelope, register: Register, now: Now) {
        if let Some(session) = &mut self.session {
            session.register = Some(envelope.id.clone());
        }
        self.link.is_longshore = register.capabilities.features.iter().any(|feature| feature == crate::FEATURE);
        self.state = State::Open;
        self.link.acknowledge(envelope, now);
        self.accept(now);
        self.link.put(Output::Opened { resumed: false });
        self.link.put(Output::Registered(register));
        self.begin_numbers(now);
    }

    fn updated(&mut self, envelope: &Envelope, register: Register, now: Now) -> Result<(), Ignored> {
        self.link.acknowledge(envelope, now);
        let is_repeated = self.session.as_ref().is_some_and(|session| session.register.as_deref() == Some(&envelope.id));
        if is_repeated {
            self.accept(now);
            return Err(Ignored::Known);
        }
        self.link.put(Output::Registered(register));
        Ok(())
    }
}
