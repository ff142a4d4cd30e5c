//! The worker's end of a session.
//!
//! ```text
//!                 tick: the wait is over        connected, no session to go on with
//!   BackingOff ───────────────────► Connecting ───────────────────────────────► Handshaking
//!    ▲  ▲  (the first wait is none)     │ │                                          │ ack (scheduler)
//!    │  │                               │ │ connected, a session to go on with       ▼
//!    │  └──────── dial_failed ──────────┘ └───────────────► Resuming            Registering
//!    │                                                         │                     │
//!    │                                          accept, resumed│      accept (scheduler)
//!    │                                                         ▼                     │
//!    │ disconnected, reset (scheduler), nothing          ┌──► Open ◄─────────────────┘
//!    └─ acknowledged any more, no acceptance in time ────┤     │ drain (scheduler)
//!                                                        │     ▼
//!                                                        └── Draining: the same, and the application takes no more work
//!
//!   any ── finish and everything acknowledged, or its time is over; a refusal that the settings say to end at ──► Over
//! ```
//!
//! One connection has one session: where the existing worker begins anew on the same socket, this one dials again, so numbers of two sessions never meet.
//!
//! | frame ╲ state | Handshaking | Registering | Resuming | Open, Draining | others |
//! | --- | --- | --- | --- | --- | --- |
//! | `control.ack` | of the handshake: registers | of the register: waits for acceptance | of the resume: waits for acceptance | window | stale |
//! | `control.session.accept` | unexpected | opens | opens; not resumed: numbers afresh | same session: new token; else unexpected | stale |
//! | `control.reset` | session forgotten, backs off; the settings may say to end | as before | as before | as before | stale |
//! | `control.drain` | unexpected, not acknowledged | as before | as before | told once, acknowledged | stale |
//! | unknown `control.*` | acknowledged if asked | as before | as before | as before | stale |
//! | handshake, register, resume, heartbeat | unexpected, acknowledged if asked | as before | as before | as before | stale |
//! | `ext.longshore.hello` | unexpected, not acknowledged | as before | as before | the other end is a Longshore | stale |
//! | everything else | unexpected, not acknowledged | as before | as before | in order, once | stale |

mod frames;

use std::time::Duration;

use crate::FEATURE;
use crate::code::{Failure, is_session_lost};
use crate::codec::EncodeError;
use crate::config::{Now, WorkerConfig};
use crate::control::{Control, Drift, Heartbeat, Register, Resume, Token};
use crate::envelope::{Envelope, Payload, Role};
use crate::link::{Link, Purpose};
use crate::outbox::SendError;
use crate::output::{Binding, Message, Output, Phase, Stats, Stop};

/// The worker's end. Outlives its connections.
///
/// Whoever runs it drains [`Worker::next_output`] after every call, sleeps until [`Worker::next_deadline`] and then says [`Worker::tick`].
#[derive(Debug)]
pub struct Worker {
    config: WorkerConfig,
    link: Link,
    state: State,
    session: Option<Session>,
    /// Dials in a row that led to no open session.
    n_failures: u32,
    is_draining: bool,
    /// Counts what this worker can do, from 1; what was said last, and what the other end has acknowledged.
    revision: u64,
    said_revision: u64,
    told_revision: u64,
    finish_by: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    BackingOff { until: Duration },
    Connecting,
    Handshaking,
    Registering { accept_by: Option<Duration> },
    Resuming { accept_by: Option<Duration> },
    Open { heartbeat_at: Duration },
    Over,
}

#[derive(Debug)]
struct Session {
    id: String,
    token: Token,
}

impl Worker {
    /// A worker that has never connected. `seed` is 16 random bytes; the first tick asks to dial.
    ///
    /// # Errors
    /// If what it says of itself is larger than the other end reads.
    pub fn new(mut config: WorkerConfig, seed: u128, now: Now) -> Result<Self, EncodeError> {
        let mut link = Link::new(config.link.clone(), Role::Worker, seed);
        with_feature(&mut config.register);
        link.check_size(&Control::Handshake(config.handshake.clone()), now)?;
        link.check_size(&Control::Register(config.register.clone()), now)?;
        Ok(Self {
            config,
            link,
            state: State::BackingOff { until: now.at },
            session: None,
            n_failures: 0,
            is_draining: false,
            revision: 1,
            said_revision: 0,
            told_revision: 0,
            finish_by: None,
        })
    }

    /// Where it stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.state {
            State::BackingOff { .. } => Phase::BackingOff,
            State::Connecting => Phase::Connecting,
            State::Handshaking | State::Registering { .. } | State::Resuming { .. } => Phase::Handshaking,
            State::Open { .. } if self.is_draining => Phase::Draining,
            State::Open { .. } => Phase::Open,
            State::Over => Phase::Over,
        }
    }

    /// Counts, for metrics.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.link.stats()
    }

    /// Whether the other end is a Longshore, as it has said: only then its `ext.longshore.*` frames mean anything.
    #[must_use]
    pub fn is_longshore(&self) -> bool {
        self.link.is_longshore
    }

    /// Takes a message to be delivered in order; it is kept over connections until the other end has passed it on. Tells its id.
    ///
    /// # Errors
    /// See [`SendError`]; then nothing has happened.
    pub fn send(&mut self, message: Message, now: Now) -> Result<String, SendError> {
        self.link.send(message, now)
    }

    /// The next message of the other end.
    pub fn next_delivery(&mut self, now: Now) -> Option<Envelope> {
        self.link.next_delivery(now)
    }

    /// Whether a frame of the other end is here and was not delivered yet. Looks through what waits, the newest first.
    #[must_use]
    pub fn holds(&self, id: &str) -> bool {
        self.link.inbox.holds(id)
    }

    /// Drops nothing that arrives while `holds`, whatever [`crate::LinkConfig::app_overflow`] says: for an application that cannot tell its peer of any more
    /// drops now. Safe to repeat.
    pub fn hold_back(&mut self, holds: bool, now: Now) {
        self.link.hold_back(holds, now);
    }

    /// What was transmitted is still being written: it is not due again before its usual wait from now. To be said before [`Worker::tick`] for as long as
    /// that is so; a large frame on a slow line would else be sent again and again before it has left once.
    pub fn postpone(&mut self, now: Now) {
        self.link.postpone(now);
    }

    /// The next thing to do.
    pub fn next_output(&mut self) -> Option<Output> {
        self.link.next_output()
    }

    /// The asked-for dial succeeded; the answer names the connection. Asked for or not, it takes the place of an earlier one.
    pub fn connected(&mut self, now: Now) -> Binding {
        self.link.unbind(Some((1000, "superseded connection")));
        let binding = self.link.bind();
        match (self.state, &self.session) {
            (State::Over, _) => self.link.unbind(Some((1000, "the worker has ended"))),
            (_, Some(session)) if self.link.is_longshore => {
                let (session_id, session_token) = (session.id.clone(), session.token.clone());
                let resume = Control::Resume(Resume { session_id, session_token, last_seen_seq: Some(self.link.stats().received_upto) });
                self.state = State::Resuming { accept_by: None };
                self.link.ask(Purpose::Resume, resume.kind(), resume.payload(), now);
            }
            // A peer that sends nothing twice cannot mend what was on its way: a new session is the only one without holes.
            (_, Some(_) | None) => {
                let handshake = Control::Handshake(self.config.handshake.clone());
                self.state = State::Handshaking;
                self.link.ask(Purpose::Handshake, handshake.kind(), handshake.payload(), now);
            }
        }
        binding
    }

    /// The asked-for dial failed. Without effect if none was asked for.
    pub fn dial_failed(&mut self, failure: Failure, reason: &str, now: Now) {
        match self.state {
            State::Connecting => self.back_off(failure, reason, None, now),
            State::BackingOff { .. }
            | State::Handshaking
            | State::Registering { .. }
            | State::Resuming { .. }
            | State::Open { .. }
            | State::Over => {}
        }
    }

    /// The socket is closed; `code` is that of a close frame, if there was one, and then its words say what it is about. Without effect for a connection
    /// that is not the session's any more.
    pub fn disconnected(&mut self, binding: Binding, code: Option<u16>, reason: &str, now: Now) {
        if self.link.binding() != Some(binding) {
            return;
        }
        if is_session_lost(code, reason) {
            self.session = None;
        }
        // What is no word of the other end's says nothing of what that thinks of us.
        let failure = if code.is_some() { Failure::of(code, reason) } else { Failure::Network };
        self.lose(failure, reason, None, None, now);
    }

    fn heartbeat_after(&mut self, now: Now) -> Duration {
        let jitter = self.link.dice().up_to(self.config.heartbeat_jitter);
        now.at.saturating_add(self.config.heartbeat_interval).saturating_add(jitter)
    }

    /// Says how the worker is. `metrics` holds `inflight` at least; counts of the session are added. Without effect unless the session is open.
    pub fn heartbeat(&mut self, healthy: bool, mut metrics: Payload, has_drift: Option<bool>, now: Now) {
        match self.state {
            State::Open { .. } => {}
            State::BackingOff { .. }
            | State::Connecting
            | State::Handshaking
            | State::Registering { .. }
            | State::Resuming { .. }
            | State::Over => return,
        }
        self.stats().add_to(&mut metrics);
        let packages = has_drift.map(|drift| Drift { drift: Some(drift) });
        self.link.tell(&Control::Heartbeat(Heartbeat { healthy, metrics, packages }), now);
    }

    /// The worker can do something else now. Said at once, or when the session is open again. Safe to repeat.
    ///
    /// # Errors
    /// If it is larger than the other end reads; then what was registered before stays.
    pub fn update(&mut self, mut register: Register, now: Now) -> Result<(), EncodeError> {
        with_feature(&mut register);
        self.link.check_size(&Control::Register(register.clone()), now)?;
        self.config.register = register;
        self.revision += 1;
        match self.state {
            State::Open { .. } => self.register(Purpose::Update, now),
            State::BackingOff { .. }
            | State::Connecting
            | State::Handshaking
            | State::Registering { .. }
            | State::Resuming { .. }
            | State::Over => {}
        }
        Ok(())
    }

    /// Ends the session once everything is acknowledged, connected or not, and at `deadline` in any case. A second call moves the deadline.
    pub fn finish(&mut self, deadline: Duration, now: Now) {
        self.finish_by = Some(deadline);
        self.end_if_finished(now);
    }

    fn end_if_finished(&mut self, now: Now) {
        let Some(deadline) = self.finish_by else { return };
        match (self.state, self.link.outbox.len()) {
            (State::Over, _) => {}
            (_, 0) => self.end(Stop::Finished),
            (_, left) if deadline <= now.at => self.end(Stop::Unfinished(left)),
            (_, _) => {}
        }
    }

    fn end(&mut self, stop: Stop) {
        self.link.unbind(Some((1000, "the worker has ended")));
        self.state = State::Over;
        self.link.put(Output::Stopped(stop));
    }

    /// Does what is due. Safe at any time.
    pub fn tick(&mut self, now: Now) {
        self.end_if_finished(now);
        match self.state {
            State::BackingOff { until } if until <= now.at => {
                self.state = State::Connecting;
                self.link.put(Output::Connect);
            }
            State::Registering { accept_by: Some(by) } | State::Resuming { accept_by: Some(by) } if by <= now.at => {
                self.session = None;
                self.lose(Failure::Network, "the session was not accepted in time", Some(1000), None, now);
            }
            State::Open { heartbeat_at } if heartbeat_at <= now.at => {
                self.state = State::Open { heartbeat_at: self.heartbeat_after(now) };
                self.link.put(Output::HeartbeatDue);
            }
            State::BackingOff { .. }
            | State::Connecting
            | State::Handshaking
            | State::Registering { .. }
            | State::Resuming { .. }
            | State::Open { .. }
            | State::Over => {}
        }
        if self.link.tick(now) {
            // Numbers may be missing at the other end that are not here any more: only a new session goes on.
            self.session = None;
            self.lose(Failure::Network, "the other end acknowledges nothing", Some(1000), None, now);
        }
    }

    /// When to tick next; none only at the end and while a dial is under way.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        let own = match self.state {
            State::BackingOff { until } => Some(until),
            State::Registering { accept_by } | State::Resuming { accept_by } => accept_by,
            State::Open { heartbeat_at } => Some(heartbeat_at),
            State::Connecting | State::Handshaking => None,
            State::Over => return None,
        };
        [own, self.finish_by, self.link.deadline()].into_iter().flatten().min()
    }

    fn lose(&mut self, failure: Failure, reason: &str, close: Option<u16>, retry_after: Option<Duration>, now: Now) {
        if self.state == State::Over {
            return;
        }
        self.link.unbind(close.map(|code| (code, reason)));
        self.link.put(Output::Detached { reason: reason.to_owned() });
        self.back_off(failure, reason, retry_after, now);
    }

    fn back_off(&mut self, failure: Failure, reason: &str, retry_after: Option<Duration>, now: Now) {
        if self.config.reconnect.ends_at(failure) {
            return self.end(Stop::Refused(reason.to_owned()));
        }
        let wait = self.config.reconnect.wait(self.n_failures, self.link.dice().fraction(), retry_after);
        self.n_failures = self.n_failures.saturating_add(1);
        self.state = State::BackingOff { until: now.at.saturating_add(wait) };
        self.end_if_finished(now);
    }
}

fn with_feature(register: &mut Register) {
    if !register.capabilities.features.iter().any(|feature| feature == FEATURE) {
        register.capabilities.features.push(FEATURE.to_owned());
    }
}
