//! One worker: its session over all its connections, and what the gateway does for it. One loop; whatever waits for the broker is a task of its
//! own and comes back as an event.
//!
//! ```text
//!   frame: result ──► stored ──► acknowledged            inbox ──► claimed ──► dispatched ──► running
//!                     (aside until then)                              │                          │ result, error, time, cancel
//!                                                                     └── taken up ──────────────┴──► concluded
//! ```

mod running;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use longshore_model::AgentId;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Failure, Outcome};
use longshore_session::control::{Drain, Heartbeat};
use longshore_session::{Admission, Binding, Envelope, Gateway as Session, Greeting, Output, Phase, Refusal, Socket, code, codec};
use longshore_store::{Error as StoreError, Lease, Wake, WakeStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::admit::{self, Admitted, Identity};
use super::door::Line;
use super::frames::{self, Task, Word};
use super::now;
use super::presence::{self, Abilities, Beat, Load, Presence};
use super::socket::{Heard, Out};
use super::work::{self, Claimed, Ending, Key, Proxy, Wanted};
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

    /// Whether a frame waits until what follows from it is stored; then it is acknowledged, and not before.
    fn hold_back(&mut self, binding: Binding, text: &Utf8Bytes) -> bool {
        let is_current = self.line.as_ref().is_some_and(|(current, _)| *current == binding);
        if !is_current || !self.is_open() || !text.contains("biz.exec.") {
            return false;
        }
        let Ok(envelope) = codec::decode(text.as_bytes(), super::socket::FRAME_BYTES_MAX) else { return false };
        let is_its_own = envelope.sender.id == self.instance && envelope.tenant == self.app.config.gateway.tenant;
        if !frames::is_word(&envelope) || !is_its_own {
            return false;
        }
        if self.aside.contains(&envelope.id) {
            return true;
        }
        let by_corr = |corr: &str| self.running.values().find(|running| running.is_called(corr)).map(|running| running.attempt.task);
        let (task, word) = match frames::word(&envelope, by_corr) {
            Ok(word) => word,
            Err(why) => {
                tracing::warn!(agent.id = %self.agent(), why, "a worker's word could not be read, and is dropped");
                return false;
            }
        };
        let frame = Aside { binding, id: envelope.id, text: text.clone() };
        self.said(task, word, frame)
    }

    /// Takes a worker's word on a task; true if its frame is kept until that is stored.
    fn said(&mut self, task: Task, word: Word, frame: Aside) -> bool {
        let key = (task.job, task.execution);
        match self.running.get_mut(&key).filter(|running| running.attempt.task == task) {
            Some(running) if running.is_ending => {
                // The word of a repeat; the first one's is being stored.
                self.aside.insert(frame.id.clone());
                running.also.push(frame);
                true
            }
            Some(running) => match word {
                Word::RunsAlready if running.is_in_doubt => {
                    running.is_in_doubt = false;
                    false
                }
                // Another attempt of the same, that was given up here: when it is over, this one can begin.
                Word::RunsAlready => {
                    running.say_again_at(Instant::now() + Duration::from_secs(2));
                    false
                }
                Word::NotNow(wait, why) => {
                    tracing::debug!(job.id = %task.job, why, "a worker did not take a task yet");
                    running.say_again_at(Instant::now() + wait);
                    false
                }
                Word::HandedBack(why) => {
                    let ending = handed_back(running, &self.identity.hostname, &why);
                    self.conclude(key, ending, Some(frame));
                    true
                }
                Word::Ended(mut end) => {
                    if let Some(result) = &mut end.result {
                        result.version.clone_from(&running.version);
                    }
                    self.conclude(key, Ending::Answer { end, cancel_verified: None }, Some(frame));
                    true
                }
            },
            None => {
                let ending = match word {
                    Word::RunsAlready | Word::NotNow(..) => return false,
                    Word::HandedBack(why) => Ending::Again { failure: interrupted(&self.identity.hostname, &why), wait: Duration::ZERO },
                    Word::Ended(end) => Ending::Answer { end, cancel_verified: None },
                };
                self.aside.insert(frame.id.clone());
                let (app, proxy) = (self.app.clone(), self.proxy());
                self.tasks.spawn(async move {
                    let is_stored = match work::look_up(&app, &proxy, task).await {
                        Some(Some((job, attempt))) => work::conclude(&app, &proxy, &job, attempt, ending).await,
                        Some(None) => true,
                        None => false,
                    };
                    Done::Settled { key: None, frame: Some(frame), is_stored }
                });
                true
            }
        }
    }

    fn conclude(&mut self, key: Key, ending: Ending, frame: Option<Aside>) {
        let proxy = self.proxy();
        let Some(running) = self.running.get_mut(&key) else { return };
        running.is_ending = true;
        if let Some(frame) = &frame {
            self.aside.insert(frame.id.clone());
        }
        let (app, job, attempt) = (self.app.clone(), running.job.clone(), running.attempt);
        let (log, lease) = (running.log.take(), running.lease.take());
        self.tasks.spawn(async move {
            // Output first, so that whoever sees the end has seen everything before it.
            if let Some(log) = log {
                log.close().await;
            }
            let is_stored = work::conclude(&app, &proxy, &job, attempt, ending).await;
            if let Some(lease) = lease.filter(|_| is_stored)
                && let Err(error) = work::settle(&app, attempt.task, &*lease).await
            {
                tracing::debug!(%error, "an inbox entry stays until it is looked at again");
            }
            Done::Settled { key: Some(key), frame, is_stored }
        });
    }

    /// A message of the worker, in order.
    fn deliver(&mut self, envelope: &Envelope) {
        match envelope.kind.as_str() {
            "biz.exec.feedback" => match frames::feedback(envelope) {
                Ok(feedback) => {
                    let key = (feedback.task.job, feedback.task.execution);
                    let running = self.running.get_mut(&key).filter(|running| running.attempt.task == feedback.task && !running.is_ending);
                    if let Some(running) = running {
                        let (app, agent) = (&self.app, self.identity.agent);
                        feedback.pieces.iter().for_each(|(stream, bytes)| running.log(app, agent).write(*stream, bytes));
                    }
                }
                Err(why) => tracing::debug!(agent.id = %self.agent(), why, "feedback could not be read"),
            },
            "biz.exec.next.request" => {
                if let Some(answer) = frames::no_next(envelope)
                    && let Err(error) = self.session.send(answer, self.now())
                {
                    tracing::debug!(%error, "a middleware is not answered");
                }
            }
            // Handled before they were acknowledged.
            "biz.exec.result" | "biz.exec.error" => {}
            "biz.pkg.event" => tracing::info!(agent.id = %self.agent(), event = ?envelope.payload, "a worker's packages changed"),
            other => tracing::debug!(agent.id = %self.agent(), kind = other, "a frame of a kind that means nothing here"),
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

    /// A heartbeat. A worker that has nothing under way does not have what may never have reached it.
    fn heard_of(&mut self, heartbeat: &Heartbeat) {
        let is_idle = heartbeat.metrics.get("inflight").and_then(serde_json::Value::as_u64) == Some(0);
        if !heartbeat.healthy {
            tracing::debug!(agent.id = %self.agent(), "a worker says that it is not well");
        }
        if !is_idle || self.session.is_longshore() {
            return;
        }
        let hostname = self.identity.hostname.clone();
        let patience = self.app.config.gateway.doubt_within;
        let gone: Vec<Key> = self.running.iter().filter(|(_, running)| running.is_doubted_for(patience)).map(|(key, _)| *key).collect();
        for key in gone {
            let failure = interrupted(&hostname, "it began anew, and does not have the task");
            self.conclude(key, Ending::Again { failure, wait: Duration::ZERO }, None);
        }
    }

    fn woken(&mut self, wake: Option<Wake>) {
        match wake {
            Some(Wake::Inbox | Wake::Reconnected | Wake::Group(_)) => self.inbox_due = Instant::now(),
            Some(Wake::Cancel(job)) => {
                let tasks: Vec<Task> = self.running.values().map(|running| running.attempt.task).filter(|task| task.job == job).collect();
                tasks.into_iter().for_each(|task| self.look_at(task));
                self.inbox_due = Instant::now();
            }
            Some(Wake::State) => self.ask_for_state(),
            None => {
                self.wakes = None;
                let (work, agent) = (self.app.store.work.clone(), self.agent());
                self.tasks.spawn(async move {
                    tokio::time::sleep(PAUSE).await;
                    Done::Wakes(work.wakes(agent, &[]).await)
                });
            }
        }
    }

    fn ask_for_state(&mut self) {
        let (registry, agent) = (self.app.store.registry.clone(), self.agent());
        self.tasks.spawn(async move { Done::State(registry.state_of(agent).await.map(|state| state.is_some_and(|state| state.drained))) });
    }

    fn look_at(&mut self, task: Task) {
        let app = self.app.clone();
        self.tasks.spawn(async move { Done::Looked(task, work::wanted(&app, task).await) });
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

    /// Another controller speaks for the worker now.
    fn give_way(&mut self) {
        tracing::info!(agent.id = %self.agent(), "the worker is attached to another controller");
        self.session.reset(&Refusal::new(code::STALE_BINDING, "superseded session"), self.now());
        self.perform();
        self.is_over = true;
    }

    fn set_drained(&mut self, is_drained: bool) {
        let was_drained = std::mem::replace(&mut self.is_drained, is_drained);
        let was_known = std::mem::replace(&mut self.is_state_known, true);
        if is_drained && (!was_drained || !was_known) {
            self.session.drain(Drain { reason: Some("drained".to_owned()), deadline_ms: None }, self.now());
        } else if was_drained && !is_drained && self.is_open() {
            // There is no word for the opposite: a new session begins with a worker that takes work.
            self.session.reset(&Refusal::new(code::STALE_BINDING, "undrained: shake hands anew"), self.now());
        }
        (self.beat_due, self.inbox_due) = (Instant::now(), Instant::now());
    }

    fn settled(&mut self, key: Option<Key>, frame: Option<Aside>, is_stored: bool) {
        let mut frames: Vec<Aside> = frame.into_iter().collect();
        if let Some(key) = key
            && let Some(running) = self.running.remove(&key)
        {
            frames.extend(running.also);
            if !is_stored {
                self.later.insert(key, Instant::now() + UNSTORED);
            }
        }
        for Aside { binding, id, text } in frames {
            // What could not be stored is not acknowledged: it is said again, to whoever can.
            if self.aside.remove(&id) && is_stored {
                self.receive(binding, &text);
            }
        }
        self.inbox_due = Instant::now();
    }

    fn looked(&mut self, task: Task, wanted: Wanted) {
        let key = (task.job, task.execution);
        let Some(running) = self.running.get_mut(&key).filter(|running| running.attempt.task == task && !running.is_ending) else { return };
        match wanted {
            Wanted::GoesOn => {}
            Wanted::Over => {
                // Answered elsewhere, deleted, or given up: its worker's word means nothing any more.
                let end = work::cancelled("the ledger");
                self.conclude(key, Ending::Answer { end, cancel_verified: None }, None);
            }
            Wanted::CancelledBy(by) if running.cancelled_by.is_none() => {
                running.cancelled_by = Some(by.clone());
                running.cancel_until = Some(Instant::now() + self.app.config.gateway.cancel_within);
                if self.session.is_longshore() {
                    if let Err(error) = self.session.send(frames::cancel(task), self.now()) {
                        tracing::debug!(%error, "a cancel is not said");
                    }
                } else {
                    // The existing worker cannot be told.
                    let ending = Ending::Answer { end: work::cancelled(&by), cancel_verified: Some(false) };
                    self.conclude(key, ending, None);
                }
            }
            Wanted::CancelledBy(_) => {}
        }
    }

    fn leave(&mut self) {
        if self.presence.last.take().is_none() {
            return;
        }
        let (registry, agent, process) = (self.app.store.registry.clone(), self.agent(), self.presence.process.id.clone());
        self.tasks.spawn(async move {
            if presence::is_ours(&*registry, agent, &process).await
                && let Err(error) = registry.leave(agent).await
            {
                tracing::debug!(%error, "a worker's goodbye is not noted; its heartbeat will expire");
            }
            Done::Nothing
        });
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

    fn beat(&mut self, at: Instant) {
        self.beat_due = at + self.app.config.gateway.beat_every;
        self.is_beating = true;
        let load = Load { running: self.running.len(), is_drained: self.is_drained };
        let controller = self.app.config.gateway.name.clone().unwrap_or_else(|| self.app.config.listen.to_string());
        let tenant = &self.app.config.gateway.tenant;
        let heartbeat = self.presence.heartbeat(&self.identity, (tenant, &self.instance), &self.can, load, &controller);
        let (registry, last) = (self.app.store.registry.clone(), self.presence.last);
        self.tasks.spawn(async move { Done::Told(presence::beat(&*registry, heartbeat, last).await) });
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

fn handed_back(running: &Running, hostname: &str, why: &str) -> Ending {
    match &running.cancelled_by {
        Some(by) => Ending::Answer { end: work::cancelled(by), cancel_verified: Some(true) },
        None => Ending::Again { failure: interrupted(hostname, why), wait: Duration::ZERO },
    }
}

fn interrupted(hostname: &str, why: &str) -> Failure {
    Failure { code: ErrorCode::Interrupted, message: format!("the worker on {hostname} gave it up: {why}") }
}
