//! Acknowledgements that this end gives: at once, and again later for a peer that may forget the first.

use super::Link;
use crate::config::Now;
use crate::control::{Ack, Control};
use crate::envelope::{AckMark, Envelope};
use crate::greeting::written;

/// How many acknowledgements wait to be said again; the oldest make room.
const ACK_REPEATS_MAX: usize = 8192;

/// An acknowledgement by id.
#[derive(Debug, Clone)]
pub(super) struct Receipt {
    pub(super) id: Option<String>,
    pub(super) corr: Option<String>,
    pub(super) seq: Option<u64>,
    pub(super) has_window: bool,
}

impl Link {
    /// Acknowledges a frame of the session itself, if that is asked for.
    pub(crate) fn acknowledge(&mut self, envelope: &Envelope, now: Now) {
        if envelope.wants_ack() {
            let receipt = Receipt {
                id: Some(envelope.id.clone()),
                corr: envelope.corr.clone(),
                seq: envelope.seq,
                has_window: envelope.session_seq.is_some(),
            };
            self.say(&receipt, now);
        }
    }

    /// Acknowledges a greeting, which came before there was a session.
    pub(crate) fn acknowledge_greeting(&mut self, id: String, now: Now) {
        self.say(&Receipt { id: Some(id), corr: None, seq: None, has_window: false }, now);
    }

    pub(super) fn say(&mut self, receipt: &Receipt, now: Now) {
        let (base, bits) = self.inbox.state();
        let window = receipt.has_window.then_some(());
        let ack = Ack {
            ok: Some(true),
            of: receipt.id.clone(),
            info: None,
            ack_seq: window.map(|()| base),
            ack_bitmap: window.map(|()| bits),
            recv_window: window.map(|()| self.inbox.window()),
        };
        let control = Control::Ack(ack);
        let mut envelope = self.envelope(control.kind(), control.payload(), now);
        (envelope.corr, envelope.seq) = (receipt.corr.clone(), receipt.seq);
        envelope.ack = receipt.id.clone().map(|id| AckMark { of: Some(id), request: None });
        self.transmit(written(&envelope));
    }

    pub(super) fn repeat_later(&mut self, receipt: Receipt, now: Now) {
        if receipt.id.is_none() || self.is_longshore {
            return;
        }
        for wait in self.config.ack_repeats.clone() {
            self.n_repeats += 1;
            self.repeats.insert((now.at.saturating_add(wait), self.n_repeats), receipt.clone());
        }
        while self.repeats.len() > ACK_REPEATS_MAX {
            self.repeats.pop_first();
        }
    }

    pub(super) fn repeat_receipts(&mut self, now: Now) {
        while let Some(entry) = self.repeats.first_entry().filter(|entry| entry.key().0 <= now.at) {
            let receipt = entry.remove();
            self.say(&receipt, now);
        }
    }

    pub(super) fn say_window(&mut self, now: Now) {
        if self.is_open {
            self.say(&Receipt { id: None, corr: None, seq: None, has_window: true }, now);
        }
    }
}
