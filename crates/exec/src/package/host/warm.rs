//! One handler host that runs: its pipes, its calls, and whoever watches over both.
//!
//! ```text
//!   starting ─ready─► ready ─idle─► leaving ──────────────► ended
//!                       │                                     ▲
//!                       └─ a call does not stop ─► condemned ─┘   (or the host ends by itself, from anywhere)
//! ```
//!
//! A call is begun by writing one frame, by whoever makes it; one task for each host reads the answers and judges. A host that is
//! condemned takes no new calls; those it has may go on for a while if its event loop still answers. Whatever happens to a host,
//! each of its calls ends, at the latest with the facts of its death.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longshore_model::limits::LOG_RECORD_BYTES_MAX;
use longshore_model::wire::log::LogStream;
use serde::Deserialize;
use tokio::net::unix::pipe;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::{Answer, failed, returned};
use super::call::{Door, ErrorKind, HandlerError, NextCall, NextError, NextRequest};
use super::codec::Codec;
use super::death::{Death, Ending};
use super::feedback::{Feedback, FeedbackSender, Room};
use super::frame::{Frame, FromHost, ToHost};
use super::resources::Resources;
use crate::Output;

/// Calls of one host at a time.
const CALLS_MAX: usize = 4096;
/// Bytes that wait for a host that does not read before it is given no more.
const WAITING_BYTES_MAX: usize = 256 << 20;

/// How long what a host wrote is read on after the grace of a call is over.
const LAST_LOOK: Duration = Duration::from_millis(50);

/// A host that runs.
#[derive(Debug)]
pub(crate) struct Warm {
    /// Whose it is, for people: `name@version`.
    pub(crate) label: String,
    pub(crate) codec: Codec,
    stop_grace: Duration,
    patience: Duration,
    idle: Duration,
    pipe: pipe::Sender,
    state: Mutex<State>,
    /// Something has changed that the watching task has to look at.
    pub(super) changed: Notify,
    pub(super) ready: CancellationToken,
    /// Ends the host's processes at once.
    pub(super) kill: CancellationToken,
    /// Its last process is gone, and that is noted.
    over: CancellationToken,
    resources: Arc<Resources>,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    calls: BTreeMap<u32, Slot>,
    last_call: u32,
    /// What the pipe did not take yet.
    out: Vec<u8>,
    idle_since: Instant,
    /// Why it had to be ended, if it had to.
    verdict: Option<String>,
    /// Calls that have returned or raised.
    served: u64,
    /// The facts of its end.
    ending: Option<HandlerError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Ready,
    Condemned { since: Instant },
    Leaving { since: Instant },
    Ended,
}

struct Slot {
    answer: oneshot::Sender<Answer>,
    feedback: Option<Arc<FeedbackSender>>,
    paused: bool,
    next: Option<mpsc::Sender<NextCall>>,
    output: Option<Arc<dyn Output>>,
    stop: Option<Stopping>,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("paused", &self.paused).field("stop", &self.stop).finish_non_exhaustive()
    }
}

/// A call that was asked to stop.
#[derive(Debug, Clone, Copy)]
struct Stopping {
    since: Instant,
    /// Whether the host has said that it saw that.
    seen: bool,
    /// When its grace was found to be over. What it wrote may still have to be read, if it was us who stood still.
    late: Option<Instant>,
}

/// A host that takes no more calls.
#[derive(Debug)]
pub(crate) struct Gone;

/// How long hosts are waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) stop_grace: Duration,
    pub(crate) patience: Duration,
    pub(crate) idle: Duration,
}

impl Warm {
    pub(super) fn new(
        label: String,
        codec: Codec,
        patience: Patience,
        pipe: pipe::Sender,
        resources: Arc<Resources>,
        tasks: TaskTracker,
    ) -> Self {
        let Patience { stop_grace, patience, idle } = patience;
        let state = State {
            phase: Phase::Starting,
            calls: BTreeMap::new(),
            last_call: 0,
            out: Vec::new(),
            idle_since: Instant::now(),
            verdict: None,
            served: 0,
            ending: None,
        };
        let (ready, kill, over) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        Self {
            label,
            codec,
            stop_grace,
            patience,
            idle,
            pipe,
            state: Mutex::new(state),
            changed: Notify::new(),
            ready,
            kill,
            over,
            resources,
            tasks,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a call. Its answer comes in any case. Dropping the handle asks it to stop.
    ///
    /// # Errors
    /// It takes no more; `door` is still there then.
    pub(crate) fn begin(self: &Arc<Self>, door: &mut Option<Door>, payload: &[u8]) -> Result<Begun, Gone> {
        let (answer, receiver) = oneshot::channel();
        let mut state = self.state();
        if state.phase != Phase::Ready || state.calls.len() >= CALLS_MAX || state.out.len() > WAITING_BYTES_MAX {
            return Err(Gone);
        }
        // Zero is nobody's: frames that belong to no call have it.
        state.last_call = state.last_call.checked_add(1).unwrap_or(1);
        let call = state.last_call;
        let Door { feedback, next, output } = door.take().unwrap_or_default();
        let slot = Slot { answer, feedback: feedback.map(Arc::new), paused: false, next, output, stop: None };
        state.calls.insert(call, slot);
        self.write(&mut state, ToHost::Call, call, payload);
        drop(state);
        Ok(Begun { warm: Arc::clone(self), call, answer: receiver, over: false })
    }

    /// For programs that do not say so themselves.
    pub(super) fn assume_ready(&self) {
        self.state().phase = Phase::Ready;
        self.ready.cancel();
    }

    /// Leaves the facts of its end to whoever waited for its beginning.
    pub(super) fn buried(&self, ending: Ending) {
        self.state().ending = Some(ending.error);
        self.over.cancel();
    }

    /// Why it never took a call. Waits for its end.
    pub(super) async fn stillborn(&self) -> HandlerError {
        self.over.cancelled().await;
        let error = self.state().ending.clone();
        let error = error.unwrap_or_else(|| HandlerError::new(ErrorKind::HostDied, "the handler host was given up"));
        HandlerError { kind: ErrorKind::HostUnavailable, ..error }
    }

    /// Whether it takes calls.
    pub(crate) fn is_open(&self) -> bool {
        self.state().phase == Phase::Ready
    }

    pub(crate) fn is_starting(&self) -> bool {
        self.state().phase == Phase::Starting
    }

    /// Since when it has had nothing to do, if it has not.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let state = self.state();
        (state.phase == Phase::Ready && state.calls.is_empty()).then_some(state.idle_since)
    }

    /// Takes no more calls, and ends when those it has are over.
    pub(crate) fn retire(&self) {
        let mut state = self.state();
        match state.phase {
            Phase::Starting | Phase::Ready => {
                state.phase = Phase::Leaving { since: Instant::now() };
                if state.calls.is_empty() {
                    self.write(&mut state, ToHost::Quit, 0, b"");
                }
            }
            Phase::Condemned { .. } | Phase::Leaving { .. } | Phase::Ended => {}
        }
        drop(state);
        self.changed.notify_one();
    }

    fn ask_to_stop(&self, call: u32) {
        let mut state = self.state();
        let Some(slot) = state.calls.get_mut(&call) else { return };
        if slot.stop.is_none() {
            slot.stop = Some(Stopping { since: Instant::now(), seen: false, late: None });
            self.write(&mut state, ToHost::Stop, call, b"");
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Sends a frame, or keeps it until the pipe takes it.
    pub(super) fn send(&self, kind: ToHost, call: u32, payload: &[u8]) {
        self.write(&mut self.state(), kind, call, payload);
    }

    fn write(&self, state: &mut State, kind: ToHost, call: u32, payload: &[u8]) {
        let frame = self.codec.encode(kind, call, payload);
        // A pipe that fails belongs to a host that ends, which is noticed by its end.
        let taken = if state.out.is_empty() { self.pipe.try_write(&frame).unwrap_or(0) } else { 0 };
        if taken < frame.len() {
            state.out.extend_from_slice(&frame[taken..]);
            self.changed.notify_one();
        }
    }

    /// Writes what waits, as far as the pipe takes it; waits for that. Cancel-safe.
    pub(super) async fn flush(&self) {
        if self.pipe.writable().await.is_err() {
            std::future::pending::<()>().await;
        }
        let mut state = self.state();
        let taken = self.pipe.try_write(&state.out).unwrap_or(0);
        state.out.drain(..taken);
    }

    pub(super) fn has_unwritten(&self) -> bool {
        !self.state().out.is_empty()
    }

    /// Takes a frame from the host.
    pub(super) fn take(self: &Arc<Self>, frame: &Frame<'_>) {
        let call = frame.call;
        match frame.kind {
            FromHost::Ready => {
                let mut state = self.state();
                if state.phase == Phase::Starting {
                    state.phase = Phase::Ready;
                    state.idle_since = Instant::now();
                }
                drop(state);
                self.ready.cancel();
                self.changed.notify_one();
            }
            FromHost::Returned => self.answered(call, returned(frame.payload)),
            FromHost::Failed => self.answered(call, failed(frame.payload)),
            FromHost::Feedback => self.feedback(call, frame.payload),
            FromHost::Next => self.next(call, frame.payload),
            FromHost::Stopping => {
                if let Some(stop) = self.state().calls.get_mut(&call).and_then(|slot| slot.stop.as_mut()) {
                    stop.seen = true;
                }
            }
            FromHost::Printed => self.printed(call, frame.payload),
            FromHost::Resource => self.resources.take(frame.payload),
        }
    }

    fn answered(&self, call: u32, answer: Answer) {
        let mut state = self.state();
        let Some(slot) = state.calls.remove(&call) else { return };
        state.served += 1;
        if state.calls.is_empty() {
            state.idle_since = Instant::now();
            match state.phase {
                Phase::Leaving { .. } => self.write(&mut state, ToHost::Quit, 0, b""),
                Phase::Starting | Phase::Ready | Phase::Condemned { .. } | Phase::Ended => {}
            }
        }
        let watched = state.phase != Phase::Ready || state.calls.is_empty();
        drop(state);
        let _nobody_waits_any_more = slot.answer.send(answer);
        if watched {
            self.changed.notify_one();
        }
    }

    fn feedback(self: &Arc<Self>, call: u32, payload: &[u8]) {
        let Ok(feedback) = serde_json::from_slice::<Feedback>(payload) else {
            tracing::debug!(package = %self.label, "a handler host sent feedback that is none");
            return;
        };
        let mut state = self.state();
        let Some(slot) = state.calls.get_mut(&call) else { return };
        let Some(sender) = slot.feedback.clone() else { return };
        if sender.push(feedback) == Room::Enough || slot.paused {
            return;
        }
        slot.paused = true;
        self.write(&mut state, ToHost::Pause, call, b"");
        drop(state);
        let warm = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::select! {
                () = sender.room() => {}
                () = warm.kill.cancelled() => return,
            }
            let mut state = warm.state();
            if let Some(slot) = state.calls.get_mut(&call) {
                slot.paused = false;
                warm.write(&mut state, ToHost::Resume, call, b"");
            }
        });
    }

    fn printed(&self, call: u32, payload: &[u8]) {
        #[derive(Deserialize)]
        struct Printed {
            stream: LogStream,
            text: String,
        }
        let Some(output) = self.state().calls.get(&call).and_then(|slot| slot.output.clone()) else { return };
        let Ok(Printed { stream, text }) = serde_json::from_slice(payload) else {
            tracing::debug!(package = %self.label, "a handler host printed what is no text");
            return;
        };
        text.as_bytes().chunks(LOG_RECORD_BYTES_MAX).for_each(|piece| output.write(0, stream, piece));
    }

    fn next(self: &Arc<Self>, call: u32, payload: &[u8]) {
        #[derive(Deserialize)]
        struct Asked {
            number: u64,
            request: NextRequest,
        }
        let Ok(Asked { number, request }) = serde_json::from_slice(payload) else {
            tracing::debug!(package = %self.label, "a handler host sent a next() that is none");
            return;
        };
        let (reply, answer) = oneshot::channel();
        let sent = self.state().calls.get(&call).and_then(|slot| slot.next.as_ref()?.try_send(NextCall { request, reply }).ok());
        let warm = Arc::clone(self);
        self.tasks.spawn(async move {
            let reply = match sent {
                None => Err(NextError::new("next_unavailable", "nobody here can run the next element of the chain")),
                Some(()) => tokio::select! {
                    answer = answer => answer.unwrap_or_else(|_| Err(NextError::new("next_cancelled", "the wait for the next element was given up"))),
                    () = warm.kill.cancelled() => return,
                },
            };
            let reply = match reply {
                Ok(result) => serde_json::json!({ "number": number, "result": result }),
                Err(error) => serde_json::json!({ "number": number, "error": error }),
            };
            warm.send(ToHost::Next, call, reply.to_string().as_bytes());
        });
    }

    /// Looks at what is overdue, and gives when to look again.
    pub(super) fn judge(&self, now: Instant) -> Option<Instant> {
        let mut state = self.state();
        let State { phase, calls, idle_since, .. } = &mut *state;
        let mut again: Option<Instant> = None;
        let mut at = |moment: Instant| {
            if moment > now {
                again = Some(again.map_or(moment, |sooner| sooner.min(moment)));
            }
        };
        for stop in calls.values_mut().filter_map(|slot| slot.stop.as_mut()) {
            if stop.since + self.stop_grace > now {
                at(stop.since + self.stop_grace);
            } else {
                at(*stop.late.get_or_insert(now) + LAST_LOOK);
            }
        }
        let overdue = |slot: &Slot| slot.stop.filter(|stop| stop.late.is_some_and(|late| late + LAST_LOOK <= now));
        let deaf = calls.values().filter_map(overdue).any(|stop| !stop.seen);
        let stuck = calls.values().filter_map(overdue).count();
        let others = calls.len() - stuck;
        if stuck > 0
            && let Phase::Ready | Phase::Leaving { .. } = *phase
        {
            *phase = Phase::Condemned { since: now };
        }
        let mut verdict = None;
        match *phase {
            Phase::Starting | Phase::Ended => {}
            Phase::Ready => {
                if calls.is_empty() {
                    if *idle_since + self.idle <= now {
                        *phase = Phase::Leaving { since: now };
                        at(now + self.stop_grace);
                        self.write(&mut state, ToHost::Quit, 0, b"");
                    } else {
                        at(*idle_since + self.idle);
                    }
                }
            }
            Phase::Leaving { since } => {
                if calls.is_empty() {
                    let leave = since.max(*idle_since) + self.stop_grace;
                    if leave <= now { verdict = Some("had nothing to do and did not leave") } else { at(leave) }
                }
            }
            Phase::Condemned { since } => {
                if deaf {
                    verdict = Some("had to be ended: a task did not stop when it was asked to, and its event loop does not answer");
                } else if others == 0 || since + self.patience <= now {
                    verdict = Some("had to be ended: a task did not stop when it was asked to");
                } else {
                    at(since + self.patience);
                }
            }
        }
        if let Some(verdict) = verdict {
            state.verdict.get_or_insert_with(|| verdict.to_owned());
            self.kill.cancel();
        }
        again
    }

    /// Ends the host for something it did.
    pub(super) fn condemn(&self, why: String) {
        let mut state = self.state();
        state.verdict.get_or_insert(why);
        if state.phase != Phase::Ended {
            state.phase = Phase::Condemned { since: Instant::now() };
        }
        drop(state);
        self.kill.cancel();
    }

    /// Tells every call of the host's end. Gives whether the host was to end, and whether any call was answered before.
    pub(super) fn died(&self, death: &Death) -> Ending {
        let mut state = self.state();
        let (calls, phase) = (std::mem::take(&mut state.calls), std::mem::replace(&mut state.phase, Phase::Ended));
        let (verdict, served) = (state.verdict.take(), state.served);
        drop(state);
        let error = death.told(&self.label, verdict.as_deref(), calls.len());
        for slot in calls.into_values() {
            let _nobody_waits_any_more = slot.answer.send(Answer::Failed(error.clone()));
        }
        self.kill.cancel();
        Ending { wanted: matches!(phase, Phase::Leaving { .. }) || !death.started, served: served > 0, error }
    }
}

/// A call that was begun.
#[derive(Debug)]
pub(crate) struct Begun {
    warm: Arc<Warm>,
    call: u32,
    answer: oneshot::Receiver<Answer>,
    over: bool,
}

impl Begun {
    /// Waits for the answer. Cancel-safe.
    pub(crate) async fn answer(&mut self) -> Answer {
        let answer = (&mut self.answer).await;
        self.over = true;
        answer.unwrap_or_else(|_| Answer::Failed(HandlerError::new(ErrorKind::HostDied, "the handler host was given up")))
    }

    /// Asks the handler to stop; its answer comes within the grace, or its host is ended.
    pub(crate) fn stop(&self) {
        self.warm.ask_to_stop(self.call);
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.over {
            self.warm.ask_to_stop(self.call);
        }
    }
}
