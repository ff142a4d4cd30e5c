//! The loop: what happens is turned into calls of the session and of the tasks, and what they want done is done.
//!
//! What came is noted before it is acknowledged, and what is said is noted before it is sent; both rest on one order: a frame is given to the session, what it delivers is
//! taken and noted, and only then what the session wants sent leaves.

mod beating;
mod ending;
mod hearing;
mod performing;
mod speaking;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use longshore_session::control::Register;
use longshore_session::{Message, Now, Payload, Phase, Stop};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::answer::Of;
use super::dial::{DialFault, Dialer, WebSocket};
use super::handlers::{Handlers, Inventory};
use super::journal::{Journal, Key};
use super::next::Waits;
use super::perform::{End, FromTask};
use super::queues::Queues;
use super::settings::{Settings, seconds};
use super::socket::{Received, Socket};
use super::tasks::Tasks;
use super::work::{Item, ToBegin};
use super::{Error, View};
use beating::{Look, Vitals};

/// What runs past the deadline of a drain was asked to stop, and is asked again after this: it may have begun just then.
const STOP_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Words of tasks on their way here.
const FROM_TASKS_MAX: usize = 64;

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
    /// Looks at the disk that are under way: one at most.
    looking: JoinSet<Look>,
    view: watch::Sender<View>,
}

/// What a runner is made of.
pub(super) struct Parts {
    pub(super) settings: Arc<Settings>,
    pub(super) handlers: Arc<dyn Handlers>,
    pub(super) journal: Journal,
    pub(super) session: longshore_session::Worker,
    pub(super) register: Register,
    /// What is registered of packages is what was found, and not nothing because they could not be looked at.
    pub(super) is_inventory_known: bool,
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
    Looked(Look),
    Flushed,
    Drain,
    Stop,
    Tick,
}

impl Runner {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { settings, handlers, journal, session, register, is_inventory_known, tasks, dialer, began, view } = parts;
        let idle = seconds(settings.dispatch_queue_idle_seconds);
        let queues = Queues::new(settings.dispatch_queue_max, settings.dispatch_queue_overflow, idle);
        let (to_runner, from_tasks) = mpsc::channel(FROM_TASKS_MAX);
        let data_dir = settings.data_dir.clone();
        let vitals = Vitals::new(&data_dir, is_inventory_known);
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
            looking: JoinSet::new(),
            view,
        }
    }

    pub(super) fn now(&self) -> Now {
        Now { at: self.began.elapsed(), wall: jiff::Timestamp::now() }
    }

    /// Whether no more work is taken. A drain counts from the moment in which it was heard: what was sent after it may have come with it.
    pub(super) fn is_ending(&self) -> bool {
        self.ending != Ending::No || self.session.phase() == Phase::Draining
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
                Event::Looked(look) => self.looked(look),
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
            Some(look) = self.looking.join_next() => look.map_or(Event::Tick, Event::Looked),
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
