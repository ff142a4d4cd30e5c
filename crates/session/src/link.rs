//! What both ends do alike: numbered frames out and in, acknowledgements, requests by id, and the timers of all of them.
//!
//! Nothing here knows how a session comes about; [`crate::worker`] and [`crate::gateway`] bind it to a connection and open it.

mod receipt;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::codec::{EncodeError, decode_weighed, encode};
use crate::config::{LinkConfig, Now};
use crate::control::{Ack, Control};
use crate::dice::Dice;
use crate::envelope::{AckMark, Envelope, Payload, Role, Sender, Text};
use crate::greeting::{stamp, written};
use crate::inbox::{Arrival, Inbox};
use crate::outbox::{Body, Outbox, SendError};
use crate::output::{Binding, Ignored, Message, Output, Phase, Stats};
use crate::resend::Requests;
use receipt::Receipt;

/// What a frame of the session itself was for, so that its acknowledgement has a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Handshake,
    Register,
    Resume,
    Update,
    Hello,
    Drain,
}

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) config: LinkConfig,
    role: Role,
    dice: Dice,
    pub(crate) outbox: Outbox,
    pub(crate) inbox: Inbox,
    requests: Requests<Purpose>,
    repeats: BTreeMap<(Duration, u64), Receipt>,
    n_repeats: u64,
    outputs: VecDeque<Output>,
    binding: Option<Binding>,
    n_bindings: u64,
    /// Numbered frames may go out.
    is_open: bool,
    /// The other end is a Longshore: it sends again, and its ids are unique.
    pub(crate) is_longshore: bool,
}

impl Link {
    pub(crate) fn new(config: LinkConfig, role: Role, seed: u128) -> Self {
        Self {
            outbox: Outbox::new(&config),
            inbox: Inbox::new(&config),
            config,
            role,
            dice: Dice::new(seed),
            requests: Requests::new(),
            repeats: BTreeMap::new(),
            n_repeats: 0,
            outputs: VecDeque::new(),
            binding: None,
            n_bindings: 0,
            is_open: false,
            is_longshore: false,
        }
    }

    pub(crate) fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }

    pub(crate) fn put(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(crate) fn next_output(&mut self) -> Option<Output> {
        while let Some(dropped) = self.inbox.next_dropped() {
            self.outputs.push_back(Output::Dropped(dropped));
        }
        self.outputs.pop_front()
    }

    pub(crate) fn bind(&mut self) -> Binding {
        self.n_bindings += 1;
        let binding = Binding(self.n_bindings);
        self.binding = Some(binding);
        binding
    }

    pub(crate) fn binding(&self) -> Option<Binding> {
        self.binding
    }

    /// Ends the binding; asks for the socket to be closed if `close` says how.
    pub(crate) fn unbind(&mut self, close: Option<(u16, &str)>) {
        self.quiet();
        if let (Some(binding), Some((code, reason))) = (self.binding.take(), close) {
            self.put(Output::Close { binding, code, reason: reason.to_owned() });
        }
    }

    /// No numbered frames, and nothing that waits for this connection's answers.
    pub(crate) fn quiet(&mut self) {
        self.is_open = false;
        self.requests.clear();
        self.repeats.clear();
    }

    /// Numbered frames flow from here on.
    pub(crate) fn open(&mut self, now: Now) {
        self.is_open = true;
        self.inbox.restart_patience(now.at);
        self.pump(now);
    }

    fn transmit(&mut self, text: Text) {
        if let Some(to) = self.binding {
            self.outputs.push_back(Output::Transmit { to, text });
        }
    }

    fn envelope(&mut self, kind: &str, payload: Payload, now: Now) -> Envelope {
        Envelope {
            kind: kind.to_owned(),
            id: self.dice.id(),
            ts: stamp(now),
            tenant: self.config.tenant.clone(),
            sender: Sender { role: self.role, id: self.config.sender_id.clone() },
            payload,
            corr: None,
            seq: None,
            session_seq: None,
            ack: None,
            flags: None,
        }
    }

    /// Says something of the session itself, which nobody acknowledges.
    pub(crate) fn tell(&mut self, control: &Control, now: Now) {
        let envelope = self.envelope(control.kind(), control.payload(), now);
        self.transmit(written(&envelope));
    }

    /// The same, until it is acknowledged; tells the frame's id.
    pub(crate) fn ask(&mut self, purpose: Purpose, kind: &str, payload: Payload, now: Now) {
        let mut envelope = self.envelope(kind, payload, now);
        envelope.ack = Some(AckMark { of: None, request: Some(true) });
        let text = written(&envelope);
        self.requests.add(envelope.id, purpose, text.as_str().to_owned(), now.at, &self.config.resend);
        self.transmit(text);
    }

    pub(crate) fn stop_asking(&mut self) {
        self.requests.clear();
    }

    pub(crate) fn stop_asking_for(&mut self, purpose: Purpose) {
        self.requests.forget(purpose);
    }

    /// Whether `control` would be small enough for the other end.
    pub(crate) fn check_size(&mut self, control: &Control, now: Now) -> Result<(), EncodeError> {
        let envelope = self.envelope(control.kind(), control.payload(), now);
        encode(&envelope, self.config.frame_bytes_out_max.saturating_sub(Body::NUMBER_BYTES_MAX)).map(|_| ())
    }

    /// Takes a message to be delivered once and in order, and tells its id. Encoded before it is numbered, so that what cannot be sent leaves no hole.
    pub(crate) fn send(&mut self, message: Message, now: Now) -> Result<String, SendError> {
        if message.kind.starts_with("control.") {
            return Err(SendError::Reserved(message.kind));
        }
        let mut envelope = self.envelope(&message.kind, message.payload, now);
        if let Some(id) = message.id {
            envelope.id = id;
        }
        (envelope.corr, envelope.seq) = (message.corr, message.seq);
        envelope.ack = message.wants_ack.then_some(AckMark { of: None, request: Some(true) });
        let text = encode(&envelope, self.config.frame_bytes_out_max.saturating_sub(Body::NUMBER_BYTES_MAX))?;
        let id = envelope.id.clone();
        self.outbox.push(Body { id: envelope.id, text: Text::new(text) })?;
        self.pump(now);
        Ok(id)
    }

    fn pump(&mut self, now: Now) {
        while self.is_open
            && let Some(text) = self.outbox.number(now.at)
        {
            self.transmit(Text::new(text));
        }
    }

    /// A frame, and what it takes in memory.
    pub(crate) fn read(&self, binding: Binding, bytes: &[u8]) -> Result<(Envelope, usize), Ignored> {
        if self.binding != Some(binding) {
            return Err(Ignored::StaleBinding);
        }
        Ok(decode_weighed(bytes, self.config.frame_bytes_in_max)?)
    }

    /// A frame that is not the session's own, and what it takes in memory.
    pub(crate) fn take(&mut self, envelope: Envelope, size: usize, phase: Phase, now: Now) -> Result<(), Ignored> {
        if !self.is_receiving(phase) {
            return Err(Ignored::Unexpected { kind: envelope.kind, phase });
        }
        let (id, corr, seq) = (envelope.wants_ack().then(|| envelope.id.clone()), envelope.corr.clone(), envelope.seq);
        let number = envelope.session_seq;
        let arrival = match number {
            Some(number) => self.inbox.arrive(number, envelope, size, self.is_longshore, now.at),
            None => self.inbox.arrive_unnumbered(envelope, size),
        };
        let has_window = number.is_some();
        let receipt = Receipt { id: if arrival == Arrival::Refused { None } else { id }, corr, seq, has_window };
        if receipt.id.is_some() || receipt.has_window {
            self.say(&receipt, now);
        }
        match arrival {
            Arrival::Taken => {
                self.repeat_later(receipt, now);
                Ok(())
            }
            Arrival::Known => Err(Ignored::Known),
            Arrival::Refused => Err(Ignored::NoRoom),
        }
    }

    fn is_receiving(&self, phase: Phase) -> bool {
        match phase {
            Phase::Open | Phase::Draining => true,
            Phase::BackingOff | Phase::Connecting | Phase::Handshaking | Phase::Detached | Phase::Over => false,
        }
    }

    /// An acknowledgement came. What it says of ids counts for the session's own frames only: a peer may acknowledge by id what it has dropped.
    pub(crate) fn acknowledged(&mut self, envelope: &Envelope, ack: &Ack, now: Now) -> Option<Purpose> {
        if let Some(upto) = ack.ack_seq.filter(|_| self.is_open) {
            for id in self.outbox.acknowledge(upto, ack.ack_bitmap.unwrap_or(0), ack.recv_window, now.at) {
                self.put(Output::Acknowledged { id });
            }
            self.pump(now);
        }
        let id = envelope.ack.as_ref().and_then(|mark| mark.of.as_ref()).or(ack.of.as_ref())?;
        self.requests.acknowledge(id)
    }

    /// What the application reads next. The window may move with it, and then the peer is told.
    pub(crate) fn next_delivery(&mut self, now: Now) -> Option<Envelope> {
        let before = self.inbox.state().0;
        let envelope = self.inbox.next(self.is_longshore, now.at)?;
        if self.inbox.state().0 != before {
            self.say_window(now);
        }
        Some(envelope)
    }

    /// Drops nothing that arrives while `holds`. The window may move when that ends, and then the peer is told.
    pub(crate) fn hold_back(&mut self, holds: bool, now: Now) {
        let before = self.inbox.state().0;
        self.inbox.hold_back(holds, self.is_longshore, now.at);
        if self.inbox.state().0 != before {
            self.say_window(now);
        }
    }

    /// What was transmitted is still on its way into the socket: nothing is due again before its usual wait from now.
    pub(crate) fn postpone(&mut self, now: Now) {
        self.requests.postpone(now.at, &self.config.resend);
        self.outbox.postpone(now.at);
    }

    /// Sends again what is due; true if the peer answers nothing any more, or has lost what it had.
    pub(crate) fn tick(&mut self, now: Now) -> bool {
        if self.binding.is_none() {
            return false;
        }
        let (mut again, mut given_up) = self.requests.tick(now.at, &self.config.resend);
        if self.is_open {
            let (more, up) = self.outbox.tick(now.at);
            again.extend(more);
            given_up |= up;
            self.skip_hole(now);
        }
        for text in again {
            self.transmit(Text::new(text));
        }
        self.repeat_receipts(now);
        given_up
    }

    fn hole_deadline(&self) -> Option<Duration> {
        let since = self.inbox.hole_since().filter(|_| self.is_open && !self.is_longshore)?;
        Some(since.saturating_add(self.config.hole_patience))
    }

    fn skip_hole(&mut self, now: Now) {
        if self.hole_deadline().is_some_and(|deadline| deadline <= now.at)
            && let Some((from, to)) = self.inbox.skip_hole(now.at)
        {
            self.put(Output::Skipped { from, to });
            self.say_window(now);
        }
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.binding?;
        let outbox = self.outbox.deadline().filter(|_| self.is_open);
        let repeat = self.repeats.keys().next().map(|key| key.0);
        [self.requests.deadline(), outbox, repeat, self.hole_deadline()].into_iter().flatten().min()
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            under_way: self.outbox.under_way(),
            outbox: self.outbox.len(),
            requests: self.requests.len(),
            app_queue: self.inbox.queued(),
            held: self.inbox.held(),
            received_bytes: self.inbox.bytes(),
            dropped: self.inbox.n_dropped(),
            received_upto: self.inbox.state().0,
            ack_repeats: self.repeats.len(),
        }
    }
}
