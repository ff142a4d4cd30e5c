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
//! each of its calls ends, at the latest with the facts of its death. What a call and its taker say to each other meanwhile is in
//! [`super::relay`].

mod judge;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::answer::{Answer, failed, returned};
use super::call::{Door, ErrorKind, HandlerError, NextCall};
use super::codec::Codec;
use super::death::{Death, Ending};
use super::feedback::FeedbackSender;
use super::frame::{Frame, FromHost, ToHost};
use super::outbox::{Deaf, Outbox};
use super::resources::Resources;
use crate::Output;

/// Calls of one host at a time.
const CALLS_MAX: usize = 4096;
/// Bytes that wait for a host that does not read before it is given no more.
const WAITING_BYTES_MAX: usize = 128 << 20;

/// A host that runs.
#[derive(Debug)]
pub(crate) struct Warm {
    /// Whose it is, for people: `name@version`.
    pub(crate) label: String,
    pub(crate) codec: Codec,
    bounds: Bounds,
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
    pub(super) tasks: TaskTracker,
}

#[derive(Debug)]
pub(super) struct State {
    phase: Phase,
    pub(super) calls: BTreeMap<u32, Slot>,
    last_call: u32,
    out: Outbox,
    /// Since when it is known that it reads no more.
    closed: Option<Instant>,
    /// It was asked to leave, for no fault of its own.
    let_go: bool,
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
    Starting { since: Instant },
    Ready,
    Condemned { since: Instant },
    Leaving { since: Instant },
    Ended,
}

/// A call that runs.
pub(super) struct Slot {
    answer: oneshot::Sender<Answer>,
    pub(super) feedback: Option<Arc<FeedbackSender>>,
    pub(super) paused: bool,
    pub(super) next: Option<mpsc::Sender<NextCall>>,
    /// Calls of `next()` that have no answer yet.
    pub(super) asking: usize,
    pub(super) output: Option<Arc<dyn Output>>,
    /// Bytes of output that are taken yet; nothing once it was cut.
    pub(super) output_left: Option<u64>,
    stop: Option<Stopping>,
    /// Ends what waits on its behalf.
    pub(super) over: CancellationToken,
    _ends_them: DropGuard,
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

/// How long hosts are waited for, and how much is taken of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) output_bytes_max: u64,
    pub(crate) stop_grace: Duration,
    pub(crate) patience: Duration,
    pub(crate) idle: Duration,
    pub(crate) start_max: Duration,
}

impl Warm {
    pub(super) fn new(
        label: String,
        codec: Codec,
        bounds: Bounds,
        pipe: pipe::Sender,
        resources: Arc<Resources>,
        tasks: TaskTracker,
    ) -> Self {
        let state = State {
            phase: Phase::Starting { since: Instant::now() },
            calls: BTreeMap::new(),
            last_call: 0,
            out: Outbox::default(),
            closed: None,
            let_go: false,
            idle_since: Instant::now(),
            verdict: None,
            served: 0,
            ending: None,
        };
        let (ready, kill, over) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        Self { label, codec, bounds, pipe, state: Mutex::new(state), changed: Notify::new(), ready, kill, over, resources, tasks }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
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
        let over = CancellationToken::new();
        let slot = Slot {
            answer,
            feedback,
            paused: false,
            next,
            asking: 0,
            output,
            output_left: Some(self.bounds.output_bytes_max),
            stop: None,
            _ends_them: over.clone().drop_guard(),
            over,
        };
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

    /// Why it takes no call, though it was to be asked; nothing if it was let go, so that another may be started. Waits for the end of
    /// one that died.
    pub(super) async fn stillborn(&self) -> Option<HandlerError> {
        if self.state().let_go {
            return None;
        }
        self.ended().await;
        let error = self.state().ending.clone();
        let error = error.unwrap_or_else(|| HandlerError::new(ErrorKind::HostDied, "the handler host was given up"));
        Some(HandlerError { kind: ErrorKind::HostUnavailable, ..error })
    }

    /// Waits until its last process is gone. Cancel-safe.
    pub(super) async fn ended(&self) {
        self.over.cancelled().await;
    }

    /// Whether it takes calls.
    pub(crate) fn is_open(&self) -> bool {
        self.state().phase == Phase::Ready
    }

    pub(crate) fn is_starting(&self) -> bool {
        matches!(self.state().phase, Phase::Starting { .. })
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
            Phase::Starting { .. } | Phase::Ready => {
                (state.phase, state.let_go) = (Phase::Leaving { since: Instant::now() }, true);
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

    pub(super) fn write(&self, state: &mut State, kind: ToHost, call: u32, payload: &[u8]) {
        let frame = self.codec.encode(kind, call, payload);
        match state.out.push(&self.pipe, &frame) {
            Ok(true) => {}
            Ok(false) => self.changed.notify_one(),
            Err(deaf) => self.deaf(state, deaf),
        }
    }

    /// Nothing reaches it any more.
    fn deaf(&self, state: &mut State, deaf: Deaf) {
        match deaf {
            // As a rule it is about to end; what that says of it is worth a moment.
            Deaf::Closed => {
                let since = *state.closed.get_or_insert_with(Instant::now);
                if state.phase == Phase::Ready {
                    state.phase = Phase::Condemned { since };
                }
            }
            Deaf::Full => {
                state.verdict.get_or_insert_with(|| "had to be ended: it does not read what it is sent".to_owned());
                if state.phase != Phase::Ended {
                    state.phase = Phase::Condemned { since: Instant::now() };
                }
                self.kill.cancel();
            }
        }
        self.changed.notify_one();
    }

    /// Writes what waits, as far as the pipe takes it; waits for that. Cancel-safe.
    pub(super) async fn flush(&self) {
        if self.pipe.writable().await.is_err() {
            std::future::pending::<()>().await;
        }
        let mut state = self.state();
        if let Err(deaf) = state.out.flush(&self.pipe) {
            self.deaf(&mut state, deaf);
        }
    }

    pub(super) fn has_unwritten(&self) -> bool {
        self.state().out.len() > 0
    }

    /// Takes a frame from the host.
    pub(super) fn take(self: &Arc<Self>, frame: &Frame<'_>) {
        let call = frame.call;
        match frame.kind {
            FromHost::Ready => {
                let mut state = self.state();
                if matches!(state.phase, Phase::Starting { .. }) {
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
                Phase::Starting { .. } | Phase::Ready | Phase::Condemned { .. } | Phase::Ended => {}
            }
        }
        let watched = state.phase != Phase::Ready || state.calls.is_empty();
        drop(state);
        let _nobody_waits_any_more = slot.answer.send(answer);
        if watched {
            self.changed.notify_one();
        }
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

    /// Lets the host go when its other calls are over. True if all of its processes are known to be gone within `patience`.
    pub(crate) async fn bury(&self, patience: Duration) -> bool {
        self.warm.retire();
        let has_ended = tokio::time::timeout(patience, self.warm.ended()).await.is_ok();
        has_ended && self.warm.state().ending.as_ref().is_some_and(|error| error.verified)
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.over {
            self.warm.ask_to_stop(self.call);
        }
    }
}
