//! The gateway: workers that attach over a WebSocket become agents like any other.
//!
//! ```text
//!   worker ──► door: upgrade, greeting ──► admit: who may ──► attachment: one for each worker, over its connections
//!                                                               │  session (frames, numbers, resume): `longshore_session`
//!                                                               ├─► presence: its heartbeat in the registry, and whose it is
//!                                                               └─► work: its inbox, claims and answers in the ledger
//!   worker ──► transfers: bundles and archives of what it runs, over HTTP
//! ```
//!
//! A worker is attached to one controller at a time. What that controller does in its name is in the ledger and the registry before it counts:
//! a claim before the dispatch, an answer before the result is acknowledged. So the controller that the worker attaches to next goes on from
//! there, and knows no more than what was stored. `docs/adr/0019-workers-behind-a-gateway.md`.

mod admit;
mod attachment;
mod contests;
mod door;
mod frames;
mod logs;
mod packages;
mod presence;
mod socket;
mod ticket;
mod transfers;
mod work;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longshore_session::{Binding, LinkConfig, Now, Refusal, code};
use longshore_store::Turnstile;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::tls::TlsListen;
use attachment::{Attachment, Knock, Reply};
use contests::Contests;
use socket::Heard;

pub(crate) use door::{PATH, open};
pub(crate) use transfers::{is_transfer, serve as transfer};

/// There is no place for a worker now.
const DENIED: &str = "E.SESSION.DENIED";
/// Who has no place is told to come back after this long.
const FULL_RETRY_MS: u64 = 30_000;

/// What a gateway needs to know.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Whether it takes workers at all.
    pub is_on: bool,
    /// Workers at once, attached or expected back.
    pub workers_max: usize,
    /// Bytes of the largest frame of a worker that was let in; at most half of what is kept aside of one worker, 32 MiB.
    pub frame_bytes_max: usize,
    /// Whose workers it takes.
    pub tenant: String,
    /// Where workers, and users of the API, come over TLS.
    pub tls: Option<TlsListen>,
    /// How it calls itself in the registry; the controller's address unless given.
    pub name: Option<String>,
    /// Between a worker's heartbeats in the registry; a third of what one lasts there.
    pub beat_every: Duration,
    /// How long a connection may take to say who it is.
    pub greeting_within: Duration,
    /// How long a session's token is good for.
    pub session_lifetime: Duration,
    /// How long a connected worker may say nothing before it counts as gone.
    pub silence_max: Duration,
    /// How long a session without a connection is kept.
    pub detached_max: Duration,
    /// How often a worker's inbox is read when nothing hints at it.
    pub inbox_every: Duration,
    /// How long a worker that began anew must have had nothing under way until a task that it may never have had counts as gone.
    pub doubt_within: Duration,
    /// How long a Longshore worker may take to end what was cancelled, before that is answered unverified.
    pub cancel_within: Duration,
    /// How long after a job's time-out its worker may still tell the end, before the gateway says that there was none.
    pub grace: Duration,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            is_on: true,
            workers_max: 4096,
            frame_bytes_max: 16 << 20,
            tenant: "default".to_owned(),
            tls: None,
            name: None,
            beat_every: Duration::from_secs(10),
            greeting_within: Duration::from_secs(5),
            session_lifetime: Duration::from_secs(3600),
            silence_max: Duration::from_secs(90),
            detached_max: Duration::from_secs(3600),
            inbox_every: Duration::from_secs(30),
            doubt_within: Duration::from_secs(10),
            cancel_within: Duration::from_secs(30),
            grace: Duration::from_secs(10),
        }
    }
}

/// The workers of one controller.
pub(crate) struct Gateway {
    began: Instant,
    strangers: Arc<Semaphore>,
    workers: Mutex<BTreeMap<String, Attached>>,
    tasks: TaskTracker,
    /// Instances that several workers have.
    contests: Contests,
    /// Of jobs with a concurrency key.
    turns: Turnstile,
    /// Set when the controller is dropped: everything ends where it stands.
    cut: CancellationToken,
}

/// How to reach a worker's attachment; `serial` tells it from a later one.
struct Attached {
    serial: u128,
    knocks: mpsc::Sender<(Knock, Reply)>,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            strangers: door::places(),
            workers: Mutex::default(),
            tasks: TaskTracker::new(),
            contests: Contests::default(),
            turns: Turnstile::default(),
            cut: CancellationToken::new(),
        }
    }
}

/// The time as sessions are told it.
fn now(app: &App, began: Instant) -> Now {
    Now { at: began.elapsed(), wall: app.now() }
}

impl Gateway {
    fn began(&self) -> Instant {
        self.began
    }

    fn turns(&self) -> &Turnstile {
        &self.turns
    }

    fn strangers(&self) -> Arc<Semaphore> {
        Arc::clone(&self.strangers)
    }

    /// How frames of this controller's gateway are.
    fn link(&self, app: &App) -> LinkConfig {
        LinkConfig { frame_bytes_in_max: app.config.gateway.frame_bytes_max, ..LinkConfig::of_gateway(&app.config.gateway.tenant) }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let cut = self.cut.clone();
        self.tasks.spawn(async move { _ = cut.run_until_cancelled(task).await });
    }

    /// Ends everything at once when it is dropped, as the rest of a controller ends.
    pub(crate) fn guard(&self) -> DropGuard {
        self.cut.clone().drop_guard()
    }

    /// Hands a connection over to its worker's attachment, which is made if there is none.
    async fn join(&self, app: &App, knock: Knock) -> Result<(Binding, mpsc::Sender<Heard>), Refusal> {
        // Once more if the attachment ends just now.
        for _ in 0..2 {
            let knocks = self.knocks(app, &knock)?;
            let (reply, answer) = oneshot::channel();
            if knocks.send((knock.clone(), reply)).await.is_err() {
                continue;
            }
            if let Ok(answer) = answer.await {
                return answer;
            }
        }
        Err(denied("the session is ending"))
    }

    fn knocks(&self, app: &App, knock: &Knock) -> Result<mpsc::Sender<(Knock, Reply)>, Refusal> {
        let instance = &knock.greeting.instance;
        let mut workers = self.workers();
        if let Some(attached) = workers.get(instance).filter(|attached| !attached.knocks.is_closed()) {
            return Ok(attached.knocks.clone());
        }
        let Some(identity) = &knock.admitted.identity else {
            return Err(Refusal::new(code::SESSION_UNKNOWN, "this controller has no session of that worker: shake hands anew"));
        };
        if workers.len() >= app.config.gateway.workers_max {
            return Err(denied("this controller has no room for another worker"));
        }
        let (knocks, knocking) = mpsc::channel(1);
        let serial = uuid::Uuid::now_v7().as_u128();
        workers.insert(instance.clone(), Attached { serial, knocks: knocks.clone() });
        let attachment = Attachment::new(app.clone(), instance.clone(), identity.clone(), self.began);
        let (app, instance) = (app.clone(), instance.clone());
        self.spawn(async move {
            attachment.run(knocking).await;
            let mut workers = app.gateway.workers();
            // A later one may have its place by now.
            if workers.get(&instance).is_some_and(|attached| attached.serial == serial) {
                workers.remove(&instance);
            }
        });
        Ok(knocks)
    }

    /// Workers that are attached, or expected back.
    pub(crate) fn n_workers(&self) -> usize {
        self.workers().len()
    }

    fn workers(&self) -> MutexGuard<'_, BTreeMap<String, Attached>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when every connection has ended. Nobody new comes.
    pub(crate) async fn end(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn denied(reason: &str) -> Refusal {
    Refusal { retry_after_ms: Some(FULL_RETRY_MS), ..Refusal::new(DENIED, reason) }
}
