//! How a worker comes to its end: it takes no more, lets what runs finish or stops it, and says its last words.

use std::time::Duration;

use longshore_session::control::Drain;

use super::super::settings::seconds;
use super::{Ending, Runner};

/// How long acknowledgements of the last words are waited for, if the worker may finish.
const FLUSH_WITHIN: Duration = Duration::from_secs(10);
/// The same, if it is to end now.
const FLUSH_NOW: Duration = Duration::from_secs(2);

impl Runner {
    pub(super) fn drain_asked(&mut self, asked: &Drain) {
        let within = asked.deadline_ms.map_or_else(|| seconds(self.settings.drain_timeout_seconds), Duration::from_millis);
        tracing::info!(
            reason = asked.reason.as_deref().unwrap_or_default(),
            within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
            "asked to take no more work"
        );
        self.begin_drain(within, false);
    }

    pub(super) fn begin_drain(&mut self, within: Duration, asks_to_end: bool) {
        let until = self.now().at.saturating_add(within);
        self.ending = match self.ending {
            Ending::Flushing => Ending::Flushing,
            Ending::No => Ending::Draining { until, ends: asks_to_end },
            Ending::Draining { until: earlier, ends } => Ending::Draining { until: until.min(earlier), ends: ends || asks_to_end },
        };
        self.give_back_waiting();
        // Others are preferred from now on, not from the next one on.
        self.heartbeat();
    }

    pub(super) fn stop_all(&mut self) {
        for stop in self.running.values().map(|running| &running.stop).chain(&self.stop_command) {
            stop.cancel();
        }
    }

    pub(super) fn go_on_ending(&mut self) {
        let Ending::Draining { until, ends: true } = self.ending else { return };
        if self.work.is_empty() && self.stopped.is_none() {
            let now = self.now();
            let within = if until <= now.at { FLUSH_NOW } else { FLUSH_WITHIN };
            self.ending = Ending::Flushing;
            self.say_what_is_due();
            // Nobody acknowledges anything where there is no scheduler.
            self.session.finish(if self.dialer.is_some() { now.at.saturating_add(within) } else { now.at }, now);
        }
    }
}
