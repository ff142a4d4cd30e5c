//! A stand-in for the existing scheduler: its frames, its windows, its strictness and its weaknesses, over a real WebSocket.
//!
//! Written from what was measured of it and from nothing of ours, so that what passes here says something. Its weaknesses that a worker has to live with are all here: it
//! acknowledges by id what it drops, never repairs a hole, sends nothing again but whole dispatches, forgets acknowledgements that come too early, closes at the
//! first malformed frame, and takes a result for whatever it names.

mod connection;
mod state;
mod strict;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::eventually::eventually;
pub use state::Dispatched;
use state::State;

/// How it behaves.
#[derive(Debug, Clone)]
pub struct SchedulerOptions {
    /// The only token that is let in; without, any that is not empty.
    pub token: Option<String>,
    /// Its window, in each direction.
    pub window: u64,
    /// How long after a dispatch was sent its acknowledgement is not listened for: the race.
    pub race: Duration,
    /// How long the acknowledgement of a dispatch is waited for.
    pub ack_within: Duration,
    /// After which wait a dispatch that was not acknowledged is sent again.
    pub redispatch_after: Duration,
    /// The largest frame that it reads.
    pub frame_bytes_max: usize,
    /// Whether sessions are resumed at all.
    pub resumes: bool,
    /// Whether frames are kept to be looked at; without, they are only counted.
    pub keeps: bool,
    /// Whether a registration is ever answered with an acceptance.
    pub accepts: bool,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        Self {
            token: None,
            window: 64,
            race: Duration::ZERO,
            ack_within: Duration::from_secs(5),
            redispatch_after: Duration::from_secs(1),
            frame_bytes_max: 16 << 20,
            resumes: true,
            keeps: true,
            accepts: true,
        }
    }
}

/// A running stand-in. Dropping it closes everything.
#[derive(Debug)]
pub struct Scheduler {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    options: SchedulerOptions,
    state: Mutex<State>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a connection is told to do.
#[derive(Debug)]
enum Order {
    Send(String),
    /// After what was sent before.
    Close(u16, String),
    /// At once, without a word.
    Cut,
    /// Reads nothing for a while.
    Stall(Duration),
}

type Orders = mpsc::UnboundedSender<Order>;

impl Scheduler {
    /// One on a free port.
    ///
    /// # Panics
    /// Loopback has no port.
    pub async fn start(options: SchedulerOptions) -> Self {
        Self::start_at("127.0.0.1:0", options).await
    }

    /// One at an address.
    ///
    /// # Panics
    /// It is taken.
    pub async fn start_at(address: &str, options: SchedulerOptions) -> Self {
        let listener = TcpListener::bind(address).await.expect("the address is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared { options, state: Mutex::default() });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&shared)));
        tasks.spawn(dispatch_again(Arc::clone(&shared)));
        Self { address, shared, _tasks: tasks }
    }

    /// Where workers connect to.
    #[must_use]
    pub fn url(&self) -> String {
        format!("ws://{}/ws/worker", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a task to the connected worker; each has a run, a task and a node id. Tells its counter.
    pub fn dispatch(&self, task: &Value) -> u64 {
        self.shared.state().dispatch(task, &self.shared.options)
    }

    /// A task for the node type `echo` of the package `example.pkg`.
    #[must_use]
    pub fn task(run: &str, task: &str, parameters: &Value) -> Value {
        serde_json::json!({
            "run_id": run, "task_id": task, "node_id": format!("node of {task}"), "node_type": "echo",
            "package_name": "example.pkg", "package_version": "1.0.0", "parameters": parameters, "constraints": {},
            "concurrency_key": format!("{run}:{task}"),
        })
    }

    /// Sends any frame with a number.
    pub fn send(&self, kind: &str, payload: &Value, corr: Option<&str>) {
        self.shared.state().send(kind, payload, corr, None, false);
    }

    /// Sends any frame of the session itself.
    pub fn send_control(&self, kind: &str, payload: &Value) {
        self.shared.state().control(kind, payload);
    }

    /// Sends any text as it is.
    pub fn send_text(&self, text: &str) {
        self.shared.state().order(Order::Send(text.to_owned()));
    }

    /// Breaks the connection, if there is one, without a word.
    pub fn cut(&self) {
        self.shared.state().order(Order::Cut);
    }

    /// Reads nothing for a while.
    pub fn stall(&self, time: Duration) {
        self.shared.state().order(Order::Stall(time));
    }

    /// Closes the connection as given.
    pub fn close(&self, code: u16, reason: &str) {
        self.shared.state().order(Order::Close(code, reason.to_owned()));
    }

    /// Ends the session as a restart would: nothing of it is known any more.
    pub fn forget(&self) {
        self.shared.state().forget();
    }

    /// From here on, connections are accepted and closed at once.
    pub fn close_at_once(&self, does: bool) {
        self.shared.state().closes_at_once = does;
    }

    /// From here on, the HTTP upgrade is answered with this status.
    pub fn refuse_upgrades(&self, status: Option<u16>) {
        self.shared.state().refuses_with = status;
    }

    /// Frames of a kind that were passed on, in order; acknowledgements are among [`Scheduler::received`] only.
    #[must_use]
    pub fn frames(&self, kind: &str) -> Vec<Value> {
        self.shared.state().frames.iter().filter(|frame| frame["type"] == kind).cloned().collect()
    }

    /// How many frames of a kind came, passed on or not.
    #[must_use]
    pub fn n_received(&self, kind: &str) -> usize {
        self.shared.state().n_received.get(kind).copied().unwrap_or(0)
    }

    /// All the text that was received, unread.
    #[must_use]
    pub fn received(&self) -> Vec<String> {
        self.shared.state().received.clone()
    }

    /// Why connections were closed from here.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        self.shared.state().complaints.clone()
    }

    /// Every dispatch that was sent, again or not.
    #[must_use]
    pub fn dispatched(&self) -> Vec<Dispatched> {
        self.shared.state().dispatched.clone()
    }

    /// How many connections there were, and how many new and resumed sessions.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        let state = self.shared.state();
        (state.dialled.len(), state.n_sessions, state.n_resumed)
    }

    /// When each connection came.
    #[must_use]
    pub fn dialled(&self) -> Vec<Instant> {
        self.shared.state().dialled.clone()
    }

    /// Whether a worker is registered and connected.
    #[must_use]
    pub fn has_worker(&self) -> bool {
        self.shared.state().is_open()
    }

    /// What the worker registered last.
    #[must_use]
    pub fn registered(&self) -> Option<Value> {
        self.shared.state().registered.last().cloned()
    }

    /// Waits for a registered worker.
    ///
    /// # Panics
    /// None came in time.
    pub async fn worker(&self) {
        eventually("a registered worker", Duration::from_secs(20), async || self.has_worker().then_some(())).await;
    }

    /// Waits for the results or errors of a task, and gives the first.
    ///
    /// # Panics
    /// None came in time.
    pub async fn answer(&self, task: &str) -> Value {
        eventually(&format!("an answer to {task}"), Duration::from_secs(30), async || self.answers(task).into_iter().next()).await
    }

    /// Sends a task and waits for its first result or error, however long that takes. Told when it is there: who looks again and again
    /// measures how often it looks.
    ///
    /// # Panics
    /// The same task was asked for before and is not answered.
    pub async fn ask(&self, task: &Value) -> Value {
        let (told, answer) = oneshot::channel();
        {
            let mut state = self.shared.state();
            let id = task["task_id"].as_str().unwrap_or_default().to_owned();
            assert!(state.asked.insert(id, told).is_none(), "one asks for a task at a time: {task}");
            state.dispatch(task, &self.shared.options);
        }
        answer.await.expect("whoever asks is answered, or waits")
    }

    /// The task that a frame is the result or the error of.
    #[must_use]
    pub fn answered(frame: &Value) -> Option<&str> {
        state::answered(frame)
    }

    /// All results and errors of a task, in order.
    #[must_use]
    pub fn answers(&self, task: &str) -> Vec<Value> {
        self.shared.state().frames.iter().filter(|frame| Self::answered(frame) == Some(task)).cloned().collect()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        shared.state().dialled.push(Instant::now());
        connections.spawn(connection::serve(stream, Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

/// What was not acknowledged in time is sent again, whole, finished or not.
async fn dispatch_again(shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    loop {
        tick.tick().await;
        shared.state().dispatch_again(&shared.options);
    }
}
