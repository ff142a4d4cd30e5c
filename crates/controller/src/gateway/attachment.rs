//! One worker: its session over all its connections, and what the gateway does for it. One loop; whatever waits for the broker is a task of its
//! own and comes back as an event.
//!
//! ```text
//!   frame: result ──► stored ──► acknowledged            inbox ──► claimed ──► dispatched ──► running
//!                     (aside until then)                              │                          │ result, error, time, cancel
//!                                                                     └── taken up ──────────────┴──► concluded
//! ```

mod running;
mod standing;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use longshore_model::AgentId;
use longshore_session::{Admission, Binding, Gateway as Session, Greeting, Output, Phase, Refusal, Socket, code};
use longshore_store::{Error as StoreError, Lease, WakeStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::admit::{self, Admitted, Identity};
use super::door::Line;
use super::frames::Task;
use super::now;
use super::presence::{Abilities, Beat, Presence};
use super::socket::{Heard, Out};
use super::work::{Claimed, Key, Proxy, Wanted};
use crate::app::App;
use running::Running;

/// A connection that was let in.
#[derive(Debug, Clone)]
pub(super) struct Knock {
    pub(super) greeting: Greeting,
    pub(super) admitted: Admitted,
    pub(super) line: Line,
}

/// Whether it has the session now.
pub(super) type Reply = oneshot::Sender<Result<(Binding, mpsc::Sender<Heard>), Refusal>>;

/// Frames that were heard and not looked at; whoever says more waits in its own socket.
const HEARD_MAX: usize = 16;
/// When what could not be stored is looked at again.
const UNSTORED: Duration = Duration::from_secs(30);
/// Before another look at the broker after a fault.
const PAUSE: Duration = Duration::from_secs(1);

/// What a task of the loop brought back.
enum Done {
    Told(Beat),
    State(Result<bool, StoreError>),
    Wakes(Result<WakeStream, StoreError>),
    Inbox(Result<Vec<longshore_store::Delivery>, StoreError>),
    Claimed(Key, Claimed, Option<Box<dyn Lease>>),
    /// What followed from a worker's word is stored, or cannot be by this process.
    Settled {
        key: Option<Key>,
        frame: Option<Aside>,
        is_stored: bool,
    },
    Looked(Task, Wanted),
    Nothing,
}

/// A frame that is acknowledged when what follows from it is stored.
struct Aside {
    binding: Binding,
    id: String,
    text: Utf8Bytes,
}

pub(super) struct Attachment {
    app: App,
    began: Instant,
    instance: String,
    identity: Identity,
    session: Session,
    line: Option<(Binding, Line)>,
    heard: (mpsc::Sender<Heard>, mpsc::Receiver<Heard>),
    presence: Presence,
    can: Abilities,
    /// It has registered in this session, so that it is known what it can do.
    is_registered: bool,
    is_drained: bool,
    /// It is known whether it is drained.
    is_state_known: bool,
    wakes: Option<WakeStream>,
    running: BTreeMap<Key, Running>,
    claiming: BTreeSet<Key>,
    /// Not before this.
    later: BTreeMap<Key, Instant>,
    aside: BTreeSet<String>,
    tasks: JoinSet<Done>,
    is_beating: bool,
    is_reading: bool,
    beat_due: Instant,
    inbox_due: Instant,
    is_over: bool,
}

impl Attachment {
    pub(super) fn new(app: App, instance: String, identity: Identity, began: Instant) -> Self {
        let gateway = &app.config.gateway;
        let mut config = longshore_session::GatewayConfig::new(&gateway.tenant, &instance);
        config.link = app.gateway.link(&app);
        (config.silence_max, config.detached_max) = (gateway.silence_max, gateway.detached_max);
        let session = Session::new(config, uuid::Uuid::now_v7().as_u128(), now(&app, began));
        let presence = Presence::new(app.now());
        Self {
            session,
            presence,
            app,
            began,
            instance,
            identity,
            line: None,
            heard: mpsc::channel(HEARD_MAX),
            can: Abilities::default(),
            is_registered: false,
            is_drained: false,
            is_state_known: false,
            wakes: None,
            running: BTreeMap::new(),
            claiming: BTreeSet::new(),
            later: BTreeMap::new(),
            aside: BTreeSet::new(),
            tasks: JoinSet::new(),
            is_beating: false,
            is_reading: false,
            beat_due: Instant::now(),
            inbox_due: Instant::now(),
            is_over: false,
        }
    }

    fn now(&self) -> longshore_session::Now {
        now(&self.app, self.began)
    }

    fn agent(&self) -> AgentId {
        self.identity.agent
    }

    fn proxy(&self) -> Proxy {
        Proxy { agent: self.identity.agent, hostname: self.identity.hostname.clone(), process: self.presence.process.id.clone() }
    }

    fn is_open(&self) -> bool {
        self.session.phase() == Phase::Open && self.is_registered
    }

    /// Runs until nobody is expected back, another controller speaks for the worker, or this controller ends.
    pub(super) async fn run(mut self, mut knocks: mpsc::Receiver<(Knock, Reply)>) {
        let drain = self.app.drain.clone();
        while !self.is_over {
            let due = self.due();
            let wake = async {
                match &mut self.wakes {
                    Some(wakes) => wakes.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = drain.cancelled() => break,
                Some(knock) = knocks.recv() => self.greeted(knock),
                Some(done) = self.tasks.join_next() => self.done(done.unwrap_or(Done::Nothing)),
                Some(heard) = self.heard.1.recv() => self.hear(heard),
                wake = wake => self.woken(wake),
                () = sleep_until(due) => self.tick(),
            }
            self.perform();
            self.look_after();
        }
        self.end().await;
    }

    /// When something is due next.
    fn due(&self) -> Instant {
        let session = self.session.next_deadline().map(|at| self.began + at);
        let work =
            self.is_open().then(|| self.running.values().filter_map(|running| running.due()).chain(self.later.values().copied()).min());
        let beat = (self.is_open() && self.can_beat()).then_some(self.beat_due);
        let inbox = (self.is_open() && self.can_read()).then_some(self.inbox_due);
        let due = [session, work.flatten(), beat, inbox].into_iter().flatten().min();
        due.unwrap_or_else(|| Instant::now() + Duration::from_secs(60))
    }

    fn can_beat(&self) -> bool {
        !self.is_beating && self.is_state_known
    }

    /// Nothing is taken before the registry says whose the worker is.
    fn can_read(&self) -> bool {
        !self.is_reading && self.presence.last.is_some()
    }

    fn greeted(&mut self, (knock, reply): (Knock, Reply)) {
        let Knock { greeting, admitted, line } = knock;
        let now = self.now();
        let greeted = self.admission(&admitted, now.wall).and_then(|admission| self.session.greet(&greeting, admission, Socket::New, now));
        let joined = greeted.map(|binding| {
            if let Some(identity) = admitted.identity {
                (self.identity, self.is_registered) = (identity, false);
            }
            let earlier = self.line.replace((binding, line));
            // What is still to be said to the earlier connection is its end.
            while let Some(output) = self.session.next_output() {
                match (&earlier, output) {
                    (Some((old, line)), Output::Close { binding, code, reason }) if *old == binding => {
                        let _ = line.try_send(Out::Close { code, reason });
                    }
                    (_, output) => self.carry_out(output),
                }
            }
            self.aside.clear();
            (binding, self.heard.0.clone())
        });
        let _ = reply.send(joined);
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Closed { binding, code, reason } => {
                let is_current = self.line.as_ref().is_some_and(|(current, _)| *current == binding);
                if is_current {
                    self.line = None;
                    self.session.disconnected(binding, &reason, self.now());
                    // A goodbye, unless somebody waits for what it does.
                    if matches!(code, Some(1000 | 1001)) && self.running.is_empty() {
                        self.leave();
                    }
                }
            }
            Heard::Frame(binding, text) => {
                let held = self.hold_back(binding, &text);
                if !held {
                    self.receive(binding, &text);
                }
            }
        }
    }

    fn receive(&mut self, binding: Binding, text: &Utf8Bytes) {
        if let Err(ignored) = self.session.receive(binding, text.as_bytes(), self.now()) {
            tracing::debug!(agent.id = %self.agent(), %ignored, "a worker's frame had no effect");
        }
        while let Some(envelope) = self.session.next_delivery(self.now()) {
            self.deliver(&envelope);
        }
    }

    /// Does what the session asks for.
    fn perform(&mut self) {
        while let Some(output) = self.session.next_output() {
            self.carry_out(output);
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Transmit { to, text } => self.put(to, Out::Frame(text)),
            Output::Close { binding, code, reason } => {
                self.put(binding, Out::Close { code, reason });
                if self.line.as_ref().is_some_and(|(current, _)| *current == binding) {
                    self.line = None;
                }
            }
            Output::Opened { resumed } => self.opened(resumed),
            Output::Registered(register) => {
                self.can = Abilities::of(&register);
                self.is_registered = true;
                (self.beat_due, self.inbox_due) = (Instant::now(), Instant::now());
            }
            Output::Heartbeat(heartbeat) => self.heard_of(&heartbeat),
            Output::Authenticate(greeting) => self.greeted_again(&greeting),
            Output::Acknowledged { id } => {
                if let Some(running) = self.running.values_mut().find(|running| running.is_called(&id)) {
                    running.is_delivered = true;
                }
            }
            Output::Uncertain { id } => {
                if let Some(running) = self.running.values_mut().find(|running| running.is_called(&id)) {
                    running.doubt();
                }
            }
            Output::Dropped(envelope) => self.deliver(&envelope),
            Output::Skipped { from, to } => tracing::warn!(agent.id = %self.agent(), from, to, "a worker left numbers out"),
            Output::Detached { reason } => {
                tracing::info!(agent.id = %self.agent(), hostname = %self.identity.hostname, reason, "a worker's connection ended");
                // What was set aside is said again over the next one.
                self.aside.clear();
            }
            Output::Expired => self.is_over = true,
            // The worker's end only.
            Output::Connect | Output::Drain(_) | Output::HeartbeatDue | Output::Stopped(_) => {}
        }
    }

    fn put(&mut self, binding: Binding, out: Out) {
        let Some((current, line)) = &self.line else { return };
        if *current == binding && line.try_send(out).is_err() {
            // It does not read, or is gone: dropping the line closes its socket.
            self.line = None;
            self.session.disconnected(binding, "the worker does not read", self.now());
        }
    }

    fn opened(&mut self, resumed: bool) {
        tracing::info!(agent.id = %self.agent(), hostname = %self.identity.hostname, by = %self.identity.subject, resumed, "a worker is attached");
        if resumed {
            self.is_registered = true;
        }
        // The worker is here now, whoever spoke for it before.
        self.presence.last = None;
        (self.beat_due, self.inbox_due) = (Instant::now(), Instant::now());
        self.is_state_known = false;
        let (registry, agent) = (self.app.store.registry.clone(), self.agent());
        self.tasks.spawn(async move { Done::State(registry.state_of(agent).await.map(|state| state.is_some_and(|state| state.drained))) });
        if self.wakes.is_none() {
            let (work, groups) = (self.app.store.work.clone(), Vec::new());
            self.tasks.spawn(async move { Done::Wakes(work.wakes(agent, &groups).await) });
        }
        if !resumed {
            // A Longshore does nothing twice: whatever it was handed and has not answered is handed to it once more.
            let is_longshore = self.session.is_longshore();
            for running in self.running.values_mut().filter(|running| running.is_delivered && !running.is_ending) {
                if is_longshore {
                    running.say_again_at(Instant::now());
                } else {
                    running.doubt();
                }
            }
        }
    }

    /// What somebody who was let in gets. A session that goes on outlives the token that it began with no more than any other.
    fn admission(&self, admitted: &Admitted, at: jiff::Timestamp) -> Result<Admission, Refusal> {
        if admitted.identity.is_some() {
            return Ok(admitted.admission.clone());
        }
        if self.identity.until.is_some_and(|until| until <= at) {
            return Err(Refusal::new(code::SESSION_TOKEN, "the token that the session began with has expired"));
        }
        let (tenant, session) = (&self.app.config.gateway.tenant, admitted.admission.session_id.clone());
        Ok(admit::admission(&self.app, session, (tenant, &self.instance), self.identity.until, at))
    }

    fn greeted_again(&mut self, greeting: &Greeting) {
        let Some((binding, _)) = &self.line else { return };
        let (binding, now) = (*binding, self.now());
        let greeted = admit::judge(&self.app, greeting, now.wall).and_then(|admitted| {
            let admission = self.admission(&admitted, now.wall)?;
            self.session.greet(greeting, admission, Socket::Same(binding), now)?;
            Ok(admitted.identity)
        });
        match greeted {
            Ok(Some(identity)) => (self.identity, self.is_registered) = (identity, false),
            Ok(None) => {}
            Err(refusal) => self.session.reset(&refusal, now),
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Told(beat) => {
                self.is_beating = false;
                match beat {
                    Beat::Told(revision, started_at) => {
                        if self.presence.last.is_none() {
                            self.inbox_due = Instant::now();
                        }
                        (self.presence.last, self.presence.started_at) = (Some(revision), started_at);
                    }
                    Beat::Taken => self.give_way(),
                    Beat::Failed(error) => tracing::debug!(%error, "a worker's heartbeat was not sent"),
                }
            }
            Done::State(Ok(is_drained)) => self.set_drained(is_drained),
            Done::State(Err(error)) => {
                tracing::debug!(%error, "could not read whether a worker is drained");
                let (registry, agent) = (self.app.store.registry.clone(), self.agent());
                self.tasks.spawn(async move {
                    tokio::time::sleep(PAUSE).await;
                    Done::State(registry.state_of(agent).await.map(|state| state.is_some_and(|state| state.drained)))
                });
            }
            Done::Wakes(Ok(wakes)) => {
                self.wakes = Some(wakes);
                // What came before it.
                self.inbox_due = Instant::now();
            }
            Done::Wakes(Err(_)) => self.woken(None),
            Done::Inbox(deliveries) => {
                self.is_reading = false;
                match deliveries {
                    Ok(deliveries) => deliveries.into_iter().for_each(|delivery| self.offered(delivery)),
                    Err(error) => {
                        tracing::debug!(%error, "a worker's inbox could not be read");
                        self.inbox_due = Instant::now() + PAUSE;
                    }
                }
            }
            Done::Claimed(key, claimed, lease) => self.claimed(key, claimed, lease),
            Done::Settled { key, frame, is_stored } => self.settled(key, frame, is_stored),
            Done::Looked(task, wanted) => self.looked(task, wanted),
            Done::Nothing => {}
        }
    }

    fn tick(&mut self) {
        self.session.tick(self.now());
    }

    /// Does what is due by itself.
    fn look_after(&mut self) {
        // Also while one frame follows the other.
        if self.session.next_deadline().is_some_and(|at| at <= self.began.elapsed()) {
            self.tick();
            self.perform();
        }
        if !self.is_open() || self.is_over {
            return;
        }
        let at = Instant::now();
        if self.beat_due <= at && self.can_beat() {
            self.beat(at);
        }
        if self.inbox_due <= at && self.can_read() {
            self.read_inbox(at);
        }
        if self.later.values().any(|due| *due <= at) {
            self.later.retain(|_, due| *due > at);
            self.inbox_due = at;
        }
        self.look_after_work(at);
    }

    /// The controller ends, or the worker is not expected back. What it was handed stays in the ledger: who speaks for it next takes it up.
    async fn end(mut self) {
        if self.app.drain.is_cancelled()
            && let Some((_, line)) = self.line.take()
        {
            let _ = line.try_send(Out::Close { code: 1012, reason: "service restart".to_owned() });
        }
        // Whatever can be stored now is; nothing is acknowledged any more.
        self.running.clear();
        let rest = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(2), rest.boxed()).await;
    }
}
