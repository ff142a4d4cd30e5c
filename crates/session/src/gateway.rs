//! The gateway's end of a session: one for each worker instance, kept over its connections.
//!
//! ```text
//!                   greet: handshake              register (worker)
//!   Detached ────────────────────────► Registering ───────────────► Open
//!    │  ▲ ▲                             │   ▲                        │ │ ▲
//!    │  │ └── no register in time, ─────┘   └── greet: handshake ────┘ │ │ greet: resume, on a new connection
//!    │  │     disconnected                                             │ │ (also from Detached, if it was open)
//!    │  └── disconnected, silence, reset (gateway), nothing ───────────┘─┘
//!    │      acknowledged any more
//!    └── nobody came back in time ──► Over
//! ```
//!
//! Who greets is judged outside, by [`crate::Greeting`], before anything here is touched: a refused greeting harms nobody. A greeting that is let in takes the session over; the
//! earlier connection is closed, and what still comes from it is refused as stale.
//!
//! | frame ╲ state | Registering | Open | Detached, Over |
//! | --- | --- | --- | --- |
//! | the greeting, repeated | acknowledged again | acknowledged and accepted again | stale |
//! | another handshake or resume | handed out to be judged | handed out to be judged | stale |
//! | `control.register` | acknowledged, accepted, opens | repeated: acknowledged and accepted again; else an update | stale |
//! | `control.ack` | nothing is under way | window; of the hello: numbered frames flow | stale |
//! | `control.heartbeat` | a sign of life | told | stale |
//! | accept, reset, drain, unknown | unexpected, acknowledged if asked | as before | stale |
//! | everything else | unexpected, not acknowledged | in order, once | stale |
//! | no frame, or somebody else's | closed | closed | stale |

mod frames;

use std::time::Duration;

use crate::admission::{Admission, Session, Socket, check_resume};
use crate::code;
use crate::config::{GatewayConfig, Now};
use crate::control::{Accept, Control, Drain, Reset};
use crate::envelope::{Envelope, Payload, Role};
use crate::greeting::{Greeting, Hail, Refusal};
use crate::link::{Link, Purpose};
use crate::outbox::SendError;
use crate::output::{Binding, Message, Output, Phase, Stats};

/// The gateway's end. Whoever runs it drains [`Gateway::next_output`] after every call, sleeps until [`Gateway::next_deadline`] and then says [`Gateway::tick`].
#[derive(Debug)]
pub struct Gateway {
    config: GatewayConfig,
    link: Link,
    state: State,
    session: Option<Session>,
    /// When something was heard last.
    heard_at: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Detached { until: Duration },
    Registering { by: Duration },
    Open,
    Over,
}

impl Gateway {
    /// A session for a worker that is not connected yet. `seed` is 16 random bytes.
    #[must_use]
    pub fn new(config: GatewayConfig, seed: u128, now: Now) -> Self {
        let link = Link::new(config.link.clone(), Role::Scheduler, seed);
        Self { state: State::Detached { until: now.at.saturating_add(config.detached_max) }, link, config, session: None, heard_at: now.at }
    }

    /// Where it stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Detached { .. } => Phase::Detached,
            State::Registering { .. } => Phase::Handshaking,
            State::Open => Phase::Open,
            State::Over => Phase::Over,
        }
    }

    /// Counts, for metrics.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.link.stats()
    }

    /// Whether the worker is a Longshore, which takes `ext.longshore.*` frames and does nothing twice.
    #[must_use]
    pub fn is_longshore(&self) -> bool {
        self.link.is_longshore
    }

    /// Lets somebody in whose credentials, tenant and instance were checked, and names the connection. An earlier connection is closed.
    ///
    /// # Errors
    /// How to refuse it; then nothing has changed.
    pub fn greet(&mut self, greeting: &Greeting, admission: Admission, socket: Socket, now: Now) -> Result<Binding, Refusal> {
        self.check(greeting, &admission, socket)?;
        let binding = match socket {
            Socket::Same(binding) => binding,
            Socket::New => {
                self.link.unbind(Some((1011, "superseded session")));
                self.link.bind()
            }
        };
        self.heard_at = now.at;
        self.link.quiet();
        match &greeting.hail {
            Hail::Handshake(_) => {
                self.begin_anew();
                self.session = Some(Session { admission, greeting: greeting.id.clone(), register: None, resumed: false });
                self.state = State::Registering { by: now.at.saturating_add(self.config.register_timeout) };
                self.acknowledge(greeting.id.clone(), now);
            }
            Hail::Resume(_) => {
                if let Some(session) = &mut self.session {
                    (session.admission, session.greeting, session.resumed) = (admission, greeting.id.clone(), true);
                }
                self.state = State::Open;
                self.acknowledge(greeting.id.clone(), now);
                self.accept(now);
                self.link.put(Output::Opened { resumed: true });
                self.link.outbox.resume(now.at);
                self.begin_numbers(now);
            }
        }
        Ok(binding)
    }

    fn check(&self, greeting: &Greeting, admission: &Admission, socket: Socket) -> Result<(), Refusal> {
        if self.state == State::Over {
            return Err(Refusal::new(code::SESSION_UNKNOWN, "the session has ended"));
        }
        if let Socket::Same(binding) = socket
            && self.link.binding() != Some(binding)
        {
            return Err(Refusal::new(code::STALE_BINDING, "another connection has taken the session over"));
        }
        if greeting.tenant != self.config.link.tenant {
            return Err(Refusal::new(code::TENANT_MISMATCH, "the session is another tenant's"));
        }
        if greeting.instance != self.config.instance {
            return Err(Refusal::new(code::SESSION_MISMATCH, "the session is another instance's"));
        }
        check_resume(&greeting.hail, self.session.as_ref(), admission)
    }

    /// A Longshore gets everything again under new numbers and knows what it had by its id; any other might do it twice.
    fn begin_anew(&mut self) {
        self.link.inbox.reset(self.link.is_longshore);
        if self.link.is_longshore {
            self.link.outbox.renumber();
        } else {
            for id in self.link.outbox.hand_back() {
                self.link.put(Output::Uncertain { id });
            }
        }
        self.link.is_longshore = false;
    }

    fn acknowledge(&mut self, id: String, now: Now) {
        self.link.acknowledge_greeting(id, now);
    }

    fn accept(&mut self, now: Now) {
        let Some(session) = &self.session else { return };
        let Admission { session_id, session_token, expires_at } = session.admission.clone();
        let worker_instance_id = self.config.instance.clone();
        let accept = Accept { session_id, session_token, worker_instance_id, expires_at, resumed: Some(session.resumed) };
        self.link.tell(&Control::Accept(accept), now);
    }

    /// A Longshore is told first whom it talks to, and nothing is numbered before it has heard that.
    fn begin_numbers(&mut self, now: Now) {
        if self.link.is_longshore {
            let payload = Payload::from_iter([("version".to_owned(), 1.into())]);
            self.link.ask(Purpose::Hello, crate::HELLO, payload, now);
        } else {
            self.link.open(now);
        }
    }

    /// Takes a message to be delivered in order; it is kept over connections until the worker has passed it on. Tells its id.
    ///
    /// # Errors
    /// See [`SendError`]; then nothing has happened.
    pub fn send(&mut self, message: Message, now: Now) -> Result<String, SendError> {
        self.link.send(message, now)
    }

    /// The next message of the worker.
    pub fn next_delivery(&mut self, now: Now) -> Option<Envelope> {
        self.link.next_delivery(now)
    }

    /// The next thing to do.
    pub fn next_output(&mut self) -> Option<Output> {
        self.link.next_output()
    }

    /// Asks the worker to take no more work, until it acknowledges that. Without effect unless the session is open: say it again when it is.
    pub fn drain(&mut self, drain: Drain, now: Now) {
        match self.state {
            State::Open => {
                let drain = Control::Drain(drain);
                self.link.ask(Purpose::Drain, drain.kind(), drain.payload(), now);
            }
            State::Detached { .. } | State::Registering { .. } | State::Over => {}
        }
    }

    /// Ends the connection and the session's numbers: the worker has to shake hands anew. What waits is kept.
    pub fn reset(&mut self, refusal: &Refusal, now: Now) {
        let Refusal { code, reason, retry_after_ms } = refusal.clone();
        self.link.tell(&Control::Reset(Reset { code, reason: reason.clone(), retry_after_ms }), now);
        if let Some(session) = &mut self.session {
            session.register = None;
        }
        self.detach(Some((1011, &reason)), &reason, now);
    }

    /// The socket is closed. Without effect for a connection that is not the session's any more.
    pub fn disconnected(&mut self, binding: Binding, reason: &str, now: Now) {
        if self.link.binding() == Some(binding) {
            self.detach(None, reason, now);
        }
    }

    fn detach(&mut self, close: Option<(u16, &str)>, reason: &str, now: Now) {
        match self.state {
            State::Registering { .. } | State::Open => {
                self.link.unbind(close);
                self.state = State::Detached { until: now.at.saturating_add(self.config.detached_max) };
                self.link.put(Output::Detached { reason: reason.to_owned() });
            }
            State::Detached { .. } | State::Over => {}
        }
    }

    /// Does what is due. Safe at any time.
    pub fn tick(&mut self, now: Now) {
        match self.state {
            State::Detached { until } if until <= now.at => {
                self.state = State::Over;
                self.link.put(Output::Expired);
            }
            State::Registering { by } if by <= now.at => {
                self.detach(Some((1011, "no register in time")), "no register in time", now);
            }
            State::Open if self.heard_at.saturating_add(self.config.silence_max) <= now.at => {
                self.detach(Some((1011, "nothing was heard")), "nothing was heard", now);
            }
            State::Detached { .. } | State::Registering { .. } | State::Open | State::Over => {}
        }
        if self.link.tick(now) {
            self.reset(&Refusal::new(code::STALE_BINDING, "nothing is acknowledged any more"), now);
        }
    }

    /// When to tick next; none only at the end.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        let own = match self.state {
            State::Detached { until } => until,
            State::Registering { by } => by,
            State::Open => self.heard_at.saturating_add(self.config.silence_max),
            State::Over => return None,
        };
        Some(self.link.deadline().map_or(own, |other| own.min(other)))
    }
}
