//! One worker: the loop over its session, its connections, its work and its standing in the fleet. Whatever waits for the broker is a task of
//! its own and comes back as an event.
//!
//! ```text
//!   frame: result ──► stored ──► acknowledged            inbox ──► claimed ──► dispatched ──► running
//!                     (aside until then)                              │                          │ result, error, time, cancel
//!                                                                     └── taken up ──────────────┴──► concluded
//! ```

mod connection;
mod running;
mod standing;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use longshore_model::AgentId;
use longshore_session::{Binding, Gateway as Session, Greeting, Phase, Refusal};
use longshore_store::{Error as StoreError, Lease, WakeStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::admit::{Admitted, Identity};
use super::door::Line;
use super::frames::Task;
use super::now;
use super::presence::{Abilities, Beat, Presence};
use super::socket::{Heard, Out};
use super::work::{Claimed, Key, Proxy, Wanted};
use crate::app::App;
use crate::tls::Shown;
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

/// Bytes of one worker's frames that are kept aside: some of the largest ones. A worker says again what found no room.
const ASIDE_BYTES_MAX: usize = 64 << 20;
/// What is counted of them; each costs some of these beside its text, so that their number is bounded too.
const ASIDE_UNIT_BYTES: usize = 1 << 10;
const ASIDE_COST_UNITS: usize = 64;
/// Frames that were heard and not looked at; whoever says more waits in its own socket.
const HEARD_MAX: usize = 16;
/// When what could not be stored is looked at again.
const UNSTORED: Duration = Duration::from_secs(30);
/// Before another look at the broker after a fault.
const PAUSE: Duration = Duration::from_secs(1);

/// What is told of a task that met a fault of ours.
const OURS: StoreError = StoreError::Unavailable { doing: "doing a gateway's work", source: None };

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
    /// Its part of the room for such frames, wherever it is.
    _room: OwnedSemaphorePermit,
}

pub(super) struct Attachment {
    app: App,
    began: Instant,
    instance: String,
    identity: Identity,
    session: Session,
    line: Option<(Binding, Line)>,
    /// What the last connection has shown.
    shown: Option<Arc<Shown>>,
    heard: (mpsc::Sender<Heard>, mpsc::Receiver<Heard>),
    presence: Presence,
    can: Abilities,
    /// It has registered in this session, so that it is known what it can do.
    is_registered: bool,
    /// It has registered in any session.
    has_opened: bool,
    /// By its last registration: what is on its way while it shakes hands anew is still for a Longshore.
    is_longshore: bool,
    /// By its last heartbeat.
    is_well: bool,
    /// Its goodbye is to be noted when the heartbeat that is on its way has arrived.
    is_leaving: bool,
    is_drained: bool,
    /// It is known whether it is drained.
    is_state_known: bool,
    wakes: Option<WakeStream>,
    running: BTreeMap<Key, Running>,
    claiming: BTreeSet<Key>,
    /// Not before this.
    later: BTreeMap<Key, Instant>,
    aside: BTreeSet<String>,
    /// For frames that are kept aside, in units of [`ASIDE_UNIT_BYTES`].
    aside_room: Arc<Semaphore>,
    tasks: JoinSet<Done>,
    is_beating: bool,
    is_reading: bool,
    beat_due: Instant,
    inbox_due: Instant,
    /// When the ledger is asked what it wants of all that runs.
    looks_due: Instant,
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
            shown: None,
            heard: mpsc::channel(HEARD_MAX),
            can: Abilities::default(),
            is_registered: false,
            has_opened: false,
            is_longshore: false,
            is_well: true,
            is_leaving: false,
            is_drained: false,
            is_state_known: false,
            wakes: None,
            running: BTreeMap::new(),
            claiming: BTreeSet::new(),
            later: BTreeMap::new(),
            aside: BTreeSet::new(),
            aside_room: Arc::new(Semaphore::new(ASIDE_BYTES_MAX / ASIDE_UNIT_BYTES)),
            tasks: JoinSet::new(),
            is_beating: false,
            is_reading: false,
            beat_due: Instant::now(),
            inbox_due: Instant::now(),
            looks_due: Instant::now(),
            is_over: false,
        }
    }

    /// Does what waits for the broker. A fault of ours in it is told by `otherwise`, so that nothing is waited for in vain.
    fn spawn(&mut self, otherwise: Done, work: impl Future<Output = Done> + Send + 'static) {
        self.tasks.spawn(guarded(otherwise, work));
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
                        if self.is_leaving {
                            self.leave();
                        }
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
                (self.inbox_due, self.looks_due) = (Instant::now(), Instant::now());
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

async fn guarded(otherwise: Done, work: impl Future<Output = Done>) -> Done {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!("a fault of ours in a gateway; it is tried again");
        otherwise
    })
}

#[cfg(test)]
mod tests {
    use longshore_model::{ExecutionId, JobId};

    use super::*;

    #[tokio::test]
    async fn a_claim_that_meets_a_fault_of_ours_is_made_again_later() {
        let key = (JobId::from_bits(1), ExecutionId::Any);
        let done = guarded(Done::Claimed(key, Claimed::Later(UNSTORED), None), async { panic!("a fault of the test") }).await;
        assert!(matches!(done, Done::Claimed(again, Claimed::Later(_), None) if again == key));
    }
}
