//! The loop: what happens is turned into calls of the session and of the tasks, and what they want done is done.
//!
//! What came is noted before it is acknowledged, and what is said is noted before it is sent; both rest on one order: a frame is given to the session, what it delivers is
//! taken and noted, and only then what the session wants sent leaves.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use longshore_session::control::{Drain, Register};
use longshore_session::{Envelope, Message, Now, Output, Payload, Phase, SendError, Stop};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Bytes;
use tokio_util::sync::CancellationToken;

use super::answer::Of;
use super::dial::{DialFault, Dialer, WebSocket};
use super::frames::kind;
use super::handlers::{Handlers, Inventory};
use super::journal::{Journal, Key};
use super::next::Waits;
use super::perform::{End, FromTask};
use super::queues::Queues;
use super::settings::{Settings, seconds};
use super::socket::{Received, Socket};
use super::tasks::Tasks;
use super::vitals::{CpuTime, disk_percent, memory_percent};
use super::work::{Item, ToBegin};
use super::{Error, View};

/// Frames that are taken from the socket before anything else has its turn.
const FRAMES_AT_ONCE: usize = 32;
/// How long acknowledgements of the last words are waited for, if the worker may finish.
const FLUSH_WITHIN: Duration = Duration::from_secs(10);
/// The same, if it is to end now.
const FLUSH_NOW: Duration = Duration::from_secs(2);
/// With more than this in the session's outbox, feedback is left with the handlers.
const FEEDBACK_OUTBOX_MAX: usize = 128;
/// With more than this unsent, nothing more is taken from the session, and it drops nothing: each may have to be refused.
const UNSENT_MAX: usize = 1024;
/// What runs past the deadline of a drain was asked to stop, and is asked again after this: it may have begun just then.
const STOP_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How long a task that is not taken while the worker drains is kept before it is given back.
const GIVE_BACK_AFTER: Duration = Duration::from_millis(500);
/// As many as that at once; the oldest make room.
const GIVE_BACK_MAX: usize = 1024;
/// Words of tasks on their way here.
const FROM_TASKS_MAX: usize = 64;
/// A disk that is fuller than this makes a worker unwell: neither its journal nor its tasks' data have room.
const DISK_PERCENT_MAX: f64 = 99.0;

/// What an ended piece of work was.
pub(super) enum Ended {
    Task(Key, End),
    Command { kind: &'static str, name: String, version: String, result: Result<Payload, Payload>, inventory: Option<Inventory> },
}

/// What a message was, so that its acknowledgement has a meaning.
pub(super) enum Said {
    Answer(Key),
    Next(String),
}

pub(super) struct Running {
    pub(super) stop: CancellationToken,
    pub(super) of: Of,
    /// Where it stands in its chain; without, it cannot call `next()`.
    pub(super) chain_index: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Ending {
    No,
    /// No more is taken. What runs may do so until then, and whether the worker ends when it has.
    Draining {
        until: Duration,
        ends: bool,
    },
    /// What is said is waited for.
    Flushing,
}

pub(super) struct Runner {
    pub(super) settings: Arc<Settings>,
    pub(super) handlers: Arc<dyn Handlers>,
    pub(super) journal: Journal,
    pub(super) session: longshore_session::Worker,
    pub(super) register: Register,
    pub(super) tasks: Tasks,
    pub(super) queues: Queues<Item>,
    pub(super) to_begin: BTreeMap<Key, ToBegin>,
    pub(super) running: BTreeMap<Key, Running>,
    pub(super) work: JoinSet<Ended>,
    /// Of the package command that runs.
    pub(super) stop_command: Option<CancellationToken>,
    /// Package commands that came so far.
    pub(super) n_commands: u64,
    pub(super) waits: Waits,
    pub(super) to_runner: mpsc::Sender<FromTask>,
    pub(super) said: BTreeMap<String, Said>,
    /// What found no room in the session's outbox.
    unsent: VecDeque<(Message, Option<Said>)>,
    /// What is to be said at its time.
    later: VecDeque<(Duration, Message, Said)>,
    from_tasks: mpsc::Receiver<FromTask>,
    dialer: Option<Dialer>,
    dialling: Option<BoxFuture<'static, Result<WebSocket, DialFault>>>,
    socket: Option<Socket>,
    closing: JoinSet<()>,
    ending: Ending,
    stopped: Option<Stop>,
    began: Instant,
    data_dir: PathBuf,
    vitals: Vitals,
    view: watch::Sender<View>,
}

/// For heartbeats.
#[derive(Default)]
struct Vitals {
    cpu: CpuTime,
    round_trip: Option<Duration>,
    received_at: Option<Instant>,
    sent_at: Option<Instant>,
    acknowledged_at: Option<Instant>,
    connection_error: Option<String>,
}

/// What a runner is made of.
pub(super) struct Parts {
    pub(super) settings: Arc<Settings>,
    pub(super) handlers: Arc<dyn Handlers>,
    pub(super) journal: Journal,
    pub(super) session: longshore_session::Worker,
    pub(super) register: Register,
    pub(super) tasks: Tasks,
    pub(super) dialer: Option<Dialer>,
    pub(super) began: Instant,
    pub(super) view: watch::Sender<View>,
}

enum Event {
    Received(Received),
    Dialled(Result<WebSocket, DialFault>),
    Ended(Ended),
    FromTask(FromTask),
    Flushed,
    Drain,
    Stop,
    Tick,
}

impl Runner {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { settings, handlers, journal, session, register, tasks, dialer, began, view } = parts;
        let idle = seconds(settings.dispatch_queue_idle_seconds);
        let queues = Queues::new(settings.dispatch_queue_max, settings.dispatch_queue_overflow, idle);
        let (to_runner, from_tasks) = mpsc::channel(FROM_TASKS_MAX);
        let data_dir = settings.data_dir.clone();
        let vitals = Vitals { cpu: CpuTime::now().unwrap_or_default(), ..Vitals::default() };
        Self {
            settings,
            handlers,
            journal,
            session,
            register,
            tasks,
            queues,
            to_begin: BTreeMap::new(),
            running: BTreeMap::new(),
            work: JoinSet::new(),
            stop_command: None,
            n_commands: 0,
            waits: Waits::default(),
            to_runner,
            said: BTreeMap::new(),
            unsent: VecDeque::new(),
            later: VecDeque::new(),
            from_tasks,
            dialer,
            dialling: None,
            socket: None,
            closing: JoinSet::new(),
            ending: Ending::No,
            stopped: None,
            began,
            data_dir,
            vitals,
            view,
        }
    }

    pub(super) fn now(&self) -> Now {
        Now { at: self.began.elapsed(), wall: jiff::Timestamp::now() }
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending != Ending::No
    }

    /// Runs until the session has ended and nothing runs.
    pub(super) async fn run(mut self, drain: CancellationToken, stop: CancellationToken) -> Result<(), Error> {
        self.report_left_behind();
        let (mut has_drained, mut has_stopped) = (false, false);
        loop {
            self.advance();
            if self.stopped.is_some() && self.work.is_empty() {
                break;
            }
            let event = self.next_event(&drain, has_drained, &stop, has_stopped).await;
            match event {
                Event::Received(received) => {
                    self.received(received);
                    self.hear_some();
                }
                Event::Dialled(result) => self.dialled(result),
                Event::Ended(ended) => self.ended(ended),
                Event::FromTask(word) => self.heard(word),
                Event::Flushed => {}
                Event::Drain => {
                    has_drained = true;
                    self.begin_drain(seconds(self.settings.drain_timeout_seconds), true);
                }
                Event::Stop => {
                    has_stopped = true;
                    self.begin_drain(Duration::ZERO, true);
                    self.stop_all();
                }
                Event::Tick => self.tick(),
            }
        }
        if let Some(socket) = self.socket.take() {
            socket.close(1000, "the worker has ended".to_owned()).await;
        }
        while self.closing.join_next().await.is_some() {}
        match self.stopped {
            Some(Stop::Refused(reason)) => Err(Error::Refused(reason)),
            Some(Stop::Unfinished(n)) => {
                tracing::warn!(n_messages = n, "ended before everything was acknowledged; it is kept and sent at the next start");
                Ok(())
            }
            Some(Stop::Finished) | None => Ok(()),
        }
    }

    /// Takes, begins and says whatever can be, until nothing more changes.
    fn advance(&mut self) {
        loop {
            self.route();
            self.perform_outputs();
            let has_sent = self.send_unsent();
            self.hold_back();
            let has_begun = self.unsent.is_empty() && self.begin_more();
            if !has_sent && !has_begun {
                break;
            }
        }
        self.perform_outputs();
        self.go_on_ending();
        self.perform_outputs();
        self.publish();
    }

    async fn next_event(&mut self, drain: &CancellationToken, has_drained: bool, stop: &CancellationToken, has_stopped: bool) -> Event {
        let deadline = self.deadline();
        let takes_words = self.takes_words();
        let sleep = tokio::time::sleep_until((self.began + deadline).into());
        tokio::select! {
            // What ends by itself comes first: a peer that never stops sending keeps nobody from it.
            biased;
            () = stop.cancelled(), if !has_stopped => Event::Stop,
            () = drain.cancelled(), if !has_drained => Event::Drain,
            () = sleep => Event::Tick,
            Some(ended) = self.work.join_next() => match ended {
                Ok(ended) => Event::Ended(ended),
                // Its panics are caught inside; what is left is a runtime that ends.
                Err(_) => Event::Tick,
            },
            event = of_socket(&mut self.socket) => event,
            result = dialled_of(&mut self.dialling) => Event::Dialled(result),
            Some(word) = self.from_tasks.recv(), if takes_words => Event::FromTask(word),
            Some(_) = self.closing.join_next() => Event::Flushed,
        }
    }

    fn deadline(&self) -> Duration {
        let now = self.began.elapsed();
        let ending = match self.ending {
            // A handler that does not stop is asked again.
            Ending::Draining { until, .. } if !self.work.is_empty() => Some(until.max(now + STOP_AGAIN_AFTER)),
            Ending::Draining { .. } | Ending::No | Ending::Flushing => None,
        };
        let later = self.later.front().map(|(due, ..)| *due);
        let idle = Some(now + Duration::from_secs(60));
        [self.session.next_deadline(), ending, later, self.waits.deadline(now), idle].into_iter().flatten().min().unwrap_or(now)
    }

    fn tick(&mut self) {
        let now = self.now();
        if self.socket.as_ref().is_some_and(Socket::is_writing) {
            self.session.postpone(now);
        }
        self.session.tick(now);
        self.expire_waits();
        self.say_what_is_due();
        self.queues.retire(now.at);
        if let Ending::Draining { until, .. } = self.ending
            && until <= now.at
        {
            self.stop_all();
        }
    }

    fn received(&mut self, first: Received) {
        let mut next = Some(first);
        let mut n_frames = 0;
        while let Some(received) = next.take() {
            match received {
                Received::Frame(bytes) => self.frame(&bytes),
                Received::RoundTrip(time) => self.vitals.round_trip = Some(time),
                Received::Closed { code, reason } => {
                    let Some(socket) = self.socket.take() else { return };
                    self.vitals.connection_error = Some(reason.clone());
                    self.session.disconnected(socket.binding, code, &reason, self.now());
                    return;
                }
            }
            n_frames += 1;
            if n_frames < FRAMES_AT_ONCE && self.socket.as_ref().is_some_and(Socket::is_taking) {
                next = self.socket.as_mut().and_then(Socket::try_next);
            }
        }
    }

    fn frame(&mut self, bytes: &Bytes) {
        let Some(binding) = self.socket.as_ref().map(|socket| socket.binding) else { return };
        self.vitals.received_at = Some(Instant::now());
        let now = self.now();
        self.hold_back();
        match self.session.receive(binding, bytes, now) {
            Ok(()) => {
                self.route();
                // At once, so that a queue is not taken for full of what could run.
                while self.unsent.is_empty() && self.begin_more() {
                    self.route();
                }
                let stats = self.session.stats();
                // It may wait in the session, and is acknowledged all the same.
                if stats.app_queue + stats.held > 0 {
                    self.note_waiting(bytes);
                }
            }
            // No deeper: the words of the reader may hold some of the frame.
            Err(ignored) => {
                let why = std::error::Error::source(&ignored).map(ToString::to_string);
                tracing::debug!(error = %ignored, why, "a frame had no effect");
            }
        }
    }

    /// A peer that takes no answers is handed no more of them: what it sends waits, under every policy, and then it waits itself.
    fn hold_back(&mut self) {
        let now = self.now();
        self.session.hold_back(self.unsent.len() >= UNSENT_MAX, now);
    }

    fn dialled(&mut self, result: Result<WebSocket, DialFault>) {
        self.dialling = None;
        let now = self.now();
        match result {
            Ok(socket) => {
                let binding = self.session.connected(now);
                self.socket = Some(Socket::new(binding, socket, self.settings.transport_recv_queue_max));
            }
            Err(DialFault { failure, reason }) => {
                tracing::warn!(reason, "could not connect to the scheduler");
                self.vitals.connection_error = Some(reason.clone());
                self.session.dial_failed(failure, &reason, now);
            }
        }
    }

    fn perform_outputs(&mut self) {
        while let Some(output) = self.session.next_output() {
            match output {
                Output::Connect => {
                    self.dialling = Some(match &self.dialer {
                        Some(dialer) => dialer.clone().dial().boxed(),
                        // Without a scheduler nobody ever answers.
                        None => std::future::pending().boxed(),
                    });
                }
                Output::Transmit { to, text } => {
                    if let Some(socket) = self.socket.as_mut().filter(|socket| socket.binding == to) {
                        self.vitals.sent_at = Some(Instant::now());
                        socket.send(text.into_string());
                    }
                }
                Output::Close { binding, code, reason } => {
                    if let Some(socket) = self.socket.take_if(|socket| socket.binding == binding) {
                        self.closing.spawn(socket.close(code, reason));
                    }
                }
                Output::Opened { resumed } => {
                    tracing::info!(resumed, "the session is open");
                    self.vitals.connection_error = None;
                    if !resumed {
                        self.cancel_lost_waits();
                    }
                }
                Output::Detached { reason } => {
                    tracing::warn!(reason, "the connection is gone; what waits is kept");
                    self.socket = None;
                    self.vitals.connection_error = Some(reason);
                }
                Output::Acknowledged { id } => {
                    self.vitals.acknowledged_at = Some(Instant::now());
                    self.acknowledged(&id);
                }
                Output::Dropped(envelope) => self.dropped(&envelope),
                Output::Skipped { from, to } => tracing::warn!(from, to, "the scheduler left frames out"),
                Output::Drain(asked) => self.drain_asked(&asked),
                Output::HeartbeatDue => self.heartbeat(),
                Output::Stopped(stop) => {
                    tracing::info!(?stop, "the session has ended");
                    if matches!(stop, Stop::Refused(_)) {
                        self.stop_all();
                    }
                    self.socket = None;
                    self.dialling = None;
                    self.stopped = Some(stop);
                }
                Output::Registered(_) | Output::Heartbeat(_) | Output::Authenticate(_) | Output::Uncertain { .. } | Output::Expired => {
                    tracing::debug!("the session said what only a gateway is told");
                }
            }
        }
    }

    fn acknowledged(&mut self, id: &str) {
        match self.said.remove(id) {
            Some(Said::Answer(key)) => self.settled(&key, id),
            Some(Said::Next(request)) => self.waits.request_arrived(&request),
            None => {}
        }
    }

    /// Says it when there is room, in order.
    pub(super) fn say(&mut self, message: Message, said: Option<Said>) {
        self.unsent.push_back((message, said));
        self.send_unsent();
    }

    /// Says it after a while; at once if the worker says its last words.
    pub(super) fn say_later(&mut self, message: Message, said: Said) {
        self.later.push_back((self.now().at.saturating_add(GIVE_BACK_AFTER), message, said));
        self.say_what_is_due();
    }

    fn say_what_is_due(&mut self) {
        let now = self.now().at;
        while self.later.len() > GIVE_BACK_MAX || self.later.front().is_some_and(|(due, ..)| *due <= now || self.ending == Ending::Flushing)
        {
            let Some((_, message, said)) = self.later.pop_front() else { return };
            self.say(message, Some(said));
        }
    }

    fn send_unsent(&mut self) -> bool {
        let mut has_sent = false;
        while let Some((message, said)) = self.unsent.pop_front() {
            match self.session.send(message.clone(), self.now()) {
                Ok(id) => {
                    has_sent = true;
                    self.said.extend(said.map(|said| (id, said)));
                }
                Err(SendError::Full { .. }) => {
                    self.unsent.push_front((message, said));
                    return has_sent;
                }
                // It is on its way already.
                Err(SendError::Repeated(_)) => {}
                Err(error @ (SendError::Unfit(_) | SendError::Reserved(_))) => {
                    has_sent = true;
                    self.unfit(&message, said, &chain(&error));
                }
            }
        }
        has_sent
    }

    fn drain_asked(&mut self, asked: &Drain) {
        let within = asked.deadline_ms.map_or_else(|| seconds(self.settings.drain_timeout_seconds), Duration::from_millis);
        tracing::info!(
            reason = asked.reason.as_deref().unwrap_or_default(),
            within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
            "asked to take no more work"
        );
        self.begin_drain(within, false);
    }

    fn begin_drain(&mut self, within: Duration, asks_to_end: bool) {
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

    fn stop_all(&mut self) {
        for stop in self.running.values().map(|running| &running.stop).chain(&self.stop_command) {
            stop.cancel();
        }
    }

    fn go_on_ending(&mut self) {
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

    fn heartbeat(&mut self) {
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

    fn publish(&mut self) {
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

    /// Whether feedback is taken. It is left with the handlers while the peer takes nothing, so that it is coalesced there.
    fn takes_words(&self) -> bool {
        self.unsent.is_empty() && self.session.stats().outbox < FEEDBACK_OUTBOX_MAX
    }

    /// The turn of what tasks say, between frames of a peer that never stops sending.
    fn hear_some(&mut self) {
        for _ in 0..FRAMES_AT_ONCE {
            if !self.takes_words() {
                return;
            }
            let Ok(word) = self.from_tasks.try_recv() else { return };
            self.heard(word);
        }
    }

    /// Everything that a task has said so far, taken now: its end must not overtake it.
    pub(super) fn hear_all(&mut self) {
        while let Ok(word) = self.from_tasks.try_recv() {
            self.heard(word);
        }
    }

    /// The next message for the application, if the queues take one.
    pub(super) fn next_delivery(&mut self) -> Option<Envelope> {
        if self.queues.is_blocked() || self.unsent.len() >= UNSENT_MAX {
            return None;
        }
        let now = self.now();
        self.session.next_delivery(now)
    }

    /// Whether a kind of frame is taken, as configured.
    pub(super) fn takes(&self, wanted: &str) -> bool {
        wanted == kind::NEXT_RESPONSE || self.settings.payload_types.iter().any(|taken| taken == wanted)
    }
}

/// What comes over the socket; while the peer takes nothing, only that it does again. Cancel-safe.
async fn of_socket(socket: &mut Option<Socket>) -> Event {
    match socket {
        Some(socket) if socket.is_taking() => Event::Received(socket.next().await),
        Some(socket) => {
            socket.drain().await;
            Event::Flushed
        }
        None => std::future::pending().await,
    }
}

async fn dialled_of(dialling: &mut Option<BoxFuture<'static, Result<WebSocket, DialFault>>>) -> Result<WebSocket, DialFault> {
    match dialling {
        Some(dialling) => dialling.await,
        None => std::future::pending().await,
    }
}

/// An error and what caused it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source()).map(|cause| format!(": {cause}"));
    error.to_string() + &causes.collect::<String>()
}
