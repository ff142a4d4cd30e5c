//! What a worker says of itself: in heartbeats, and to whoever watches it in this process.

use std::time::{Duration, Instant};

use longshore_session::{Payload, Phase};

use super::super::View;
use super::super::socket::Socket;
use super::super::vitals::{CpuTime, disk_percent, memory_percent};
use super::Runner;

/// A disk that is fuller than this makes a worker unwell: neither its journal nor its tasks' data have room.
const DISK_PERCENT_MAX: f64 = 99.0;

/// For heartbeats.
#[derive(Default)]
pub(super) struct Vitals {
    pub(super) cpu: CpuTime,
    pub(super) round_trip: Option<Duration>,
    pub(super) received_at: Option<Instant>,
    pub(super) sent_at: Option<Instant>,
    pub(super) acknowledged_at: Option<Instant>,
    pub(super) connection_error: Option<String>,
}

impl Runner {
    pub(super) fn heartbeat(&mut self) {
        let stats = self.session.stats();
        let mut metrics = Payload::new();
        let (n_queues, n_queued) = self.queues.counts();
        metrics.insert("inflight".to_owned(), (self.tasks.n_begun() + n_queued).into());
        metrics.insert("running".to_owned(), self.tasks.n_begun().into());
        metrics.insert("queued".to_owned(), n_queued.into());
        metrics.insert("queues".to_owned(), n_queues.into());
        metrics.insert("send_inflight".to_owned(), stats.under_way.into());
        metrics.insert("send_waiters".to_owned(), (stats.outbox - stats.under_way + self.unsent.len()).into());
        let queued = self.socket.as_ref().map_or(0, Socket::n_received);
        metrics.insert("recv_queue".to_owned(), queued.into());
        metrics.insert("send_queue".to_owned(), self.socket.as_ref().map_or(0, Socket::n_waiting).into());
        let cpu = CpuTime::now();
        if let Some(cpu) = cpu {
            metrics.insert("cpu_pct".to_owned(), cpu.percent_since(self.vitals.cpu).into());
            self.vitals.cpu = cpu;
        }
        metrics.extend(memory_percent().map(|percent| ("mem_pct".to_owned(), percent.into())));
        let disk = disk_percent(&self.data_dir);
        metrics.extend(disk.map(|percent| ("disk_pct".to_owned(), percent.into())));
        let ago = |at: Option<Instant>| at.map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX));
        for (name, at) in
            [("last_recv_ms", self.vitals.received_at), ("last_send_ms", self.vitals.sent_at), ("last_ack_ms", self.vitals.acknowledged_at)]
        {
            metrics.extend(ago(at).map(|ms| (name.to_owned(), ms.into())));
        }
        metrics.extend(self.vitals.round_trip.map(|time| ("latency_ms".to_owned(), (time.as_secs_f64() * 1000.0).into())));
        metrics.extend(self.vitals.connection_error.clone().map(|error| ("conn_error".to_owned(), error.into())));
        metrics.extend(self.handlers.metrics());
        let is_well = self.journal.check() && disk.is_some_and(|disk| disk < DISK_PERCENT_MAX) && !self.is_ending();
        self.session.heartbeat(is_well, metrics, Some(self.has_drifted()), self.now());
    }

    pub(super) fn publish(&mut self) {
        let view = View {
            is_open: matches!(self.session.phase(), Phase::Open | Phase::Draining),
            is_draining: self.is_ending(),
            running: self.tasks.n_begun(),
            queued: self.queues.counts().1,
            unacknowledged: self.session.stats().outbox + self.unsent.len() + self.later.len(),
        };
        self.view.send_if_modified(|seen| {
            let is_new = *seen != view;
            *seen = view;
            is_new
        });
    }
}
