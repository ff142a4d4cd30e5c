//! What a worker says of itself: in heartbeats, and to whoever watches it in this process.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use longshore_session::{Payload, Phase};

use super::super::View;
use super::super::handlers::Inventory;
use super::super::socket::Socket;
use super::super::vitals::{CpuTime, disk_percent, memory_percent};
use super::Runner;

/// A disk that is fuller than this makes a worker unwell: neither its journal nor its tasks' data have room.
const DISK_PERCENT_MAX: f64 = 99.0;

/// What a look at the disk found. It is taken by a thread of its own: a file system that hangs holds nobody up.
pub(super) struct Look {
    inventory: Option<Inventory>,
    disk_percent: Option<f64>,
}

/// For heartbeats.
#[derive(Default)]
pub(super) struct Vitals {
    /// How full the disk was when it was looked at last.
    disk_percent: Option<f64>,
    /// Other packages were there then than those that are registered.
    has_drifted: bool,
    /// What is registered of packages was found by somebody.
    is_inventory_known: bool,
    /// Packages were registered after the look that is under way began.
    is_look_outdated: bool,
    pub(super) cpu: CpuTime,
    pub(super) round_trip: Option<Duration>,
    pub(super) received_at: Option<Instant>,
    pub(super) sent_at: Option<Instant>,
    pub(super) acknowledged_at: Option<Instant>,
    pub(super) connection_error: Option<String>,
}

impl Vitals {
    /// Looks at the disk a first time.
    pub(super) fn new(data_dir: &Path, is_inventory_known: bool) -> Self {
        let disk_percent = disk_percent(data_dir);
        Self { cpu: CpuTime::now().unwrap_or_default(), disk_percent, is_inventory_known, ..Self::default() }
    }
}

impl Runner {
    /// Looks at the disk again, unless that is being done.
    fn look(&mut self) {
        if !self.looking.is_empty() {
            return;
        }
        let (handlers, data_dir) = (Arc::clone(&self.handlers), self.data_dir.clone());
        self.looking.spawn_blocking(move || Look { inventory: handlers.inventory(), disk_percent: disk_percent(&data_dir) });
    }

    pub(super) fn looked(&mut self, look: Look) {
        self.vitals.disk_percent = look.disk_percent;
        let is_outdated = std::mem::take(&mut self.vitals.is_look_outdated);
        let Some(inventory) = look.inventory.filter(|_| !is_outdated) else { return };
        if self.vitals.is_inventory_known {
            self.vitals.has_drifted = self.differs(&inventory);
        } else {
            self.refresh(&inventory);
        }
    }

    /// What is installed was said just now.
    pub(in crate::worker) fn told_of_packages(&mut self) {
        self.vitals.is_inventory_known = true;
        self.vitals.has_drifted = false;
        self.vitals.is_look_outdated = !self.looking.is_empty();
    }

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
        let disk = self.vitals.disk_percent;
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
        self.session.heartbeat(is_well, metrics, Some(self.vitals.has_drifted), self.now());
        self.look();
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
