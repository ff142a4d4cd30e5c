//! Keeps the server running: starts it, notices its death, starts it again.
//!
//! The invariant guarded here: what answers at the endpoint is the server that was started here, and never another one that has the port.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use longshore_client::Backoff;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::binary::{self, Binary};
use super::endpoint::Endpoint;
use super::files::Files;
use super::guard::{GUARD, STOP_WITHIN};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::private;
use crate::role::data::unusable;
use crate::settings::Nats;

/// A server that is kept running until [`Broker::stop`]. Dropped, it is stopped without waiting for it.
pub(crate) struct Broker {
    /// Where it is.
    pub(crate) endpoint: Endpoint,
    /// Its version.
    pub(crate) version: String,
    pid: watch::Receiver<u32>,
    stop: CancellationToken,
    keeper: JoinSet<()>,
}

/// How long the first start may take, with a large store to read.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// A server that ran this long was well; its death is not the next step of a series.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// Bytes of a server's first line.
const GREETING_BYTES_MAX: u64 = 64 * 1024;

/// A running guard. The server ends when the lifeline is dropped.
struct Guard {
    child: Child,
    // Apart from the child, whose `wait` would close it.
    lifeline: Option<ChildStdin>,
}

struct Keeper {
    program: PathBuf,
    binary: Binary,
    files: Files,
    endpoint: Endpoint,
    pid: watch::Sender<u32>,
    stop: CancellationToken,
}

impl Broker {
    /// Starts the server below `data` and waits until it answers.
    pub(crate) async fn start(nats: &Nats, data: &std::path::Path) -> Result<Self, Failure> {
        let binary = binary::find(nats.server.binary.as_deref()).await?;
        let files = Files::below(data);
        end_predecessor(&files).await;
        let endpoint = files.prepare(nats)?;
        let program =
            std::env::current_exe().map_err(|error| Failure::new(Exit::Failed, "this program cannot find itself").caused_by(&error))?;
        let (pid, pid_seen) = watch::channel(0);
        let stop = CancellationToken::new();
        let version = binary.version.clone();
        let keeper = Keeper { program, binary, files: files.clone(), endpoint: endpoint.clone(), pid, stop: stop.clone() };
        let first = keeper.launch().await?;
        let mut broker = Self { endpoint, version, pid: pid_seen, stop, keeper: JoinSet::new() };
        let guard = broker.ready(first, &files).await?;
        broker.keeper.spawn(keeper.keep(guard));
        broker.endpoint.make_known();
        Ok(broker)
    }

    /// The server's process id; another one after it has died.
    pub(crate) fn pid(&self) -> u32 {
        *self.pid.borrow()
    }

    /// Stops it and waits for its end.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        while self.keeper.join_next().await.is_some() {}
    }

    async fn ready(&self, mut guard: Guard, files: &Files) -> Result<Guard, Failure> {
        let started = Instant::now();
        loop {
            if let Ok(Some(status)) = guard.child.try_wait() {
                return Err(died(status, files));
            }
            match greeting(&self.endpoint).await {
                Some(name) if name == self.endpoint.server_name => return Ok(guard),
                Some(name) => return Err(taken(&self.endpoint).because(format!("a nats-server named {name:?} answers there"))),
                None => {}
            }
            if started.elapsed() > READY_WITHIN {
                return Err(Failure::new(Exit::Failed, format!("nats-server does not answer at {}", self.endpoint.url()))
                    .because(format!("it has been given {} s", READY_WITHIN.as_secs()))
                    .hint(format!("its log:     {}", files.log().display()))
                    .code("broker"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The name of the nats-server that greets us there.
async fn greeting(endpoint: &Endpoint) -> Option<String> {
    let greeting = async {
        let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await.ok()?;
        let mut line = String::new();
        BufReader::new(stream).take(GREETING_BYTES_MAX).read_line(&mut line).await.ok()?;
        let info: serde_json::Value = serde_json::from_str(line.strip_prefix("INFO ")?).ok()?;
        Some(info["server_name"].as_str().unwrap_or_default().to_owned())
    };
    tokio::time::timeout(Duration::from_secs(1), greeting).await.ok().flatten()
}

/// Says that the address is somebody else's.
fn taken(endpoint: &Endpoint) -> Failure {
    Failure::new(Exit::Failed, format!("nats-server cannot listen on {}:{}", endpoint.host, endpoint.port))
        .hint("name another port with nats.server.port, or none for a free one")
        .hint(format!("or use the server that runs there:     longshore start --nats-url {}", endpoint.url()))
        .code("broker")
}

fn died(status: std::process::ExitStatus, files: &Files) -> Failure {
    let last = |path: PathBuf| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().rev().find(|line| !line.trim().is_empty()).map(str::to_owned)
    };
    let mut failure = Failure::new(Exit::Failed, "nats-server did not start").because(format!("it ended at once: {status}"));
    if let Some(line) = last(files.errors()).or_else(|| last(files.log())) {
        failure = failure.because(line);
    }
    failure.hint(format!("its log:     {}", files.log().display())).code("broker")
}

impl Keeper {
    async fn launch(&self) -> Result<Guard, Failure> {
        end_predecessor(&self.files).await;
        // A server that cannot have the port ends, but not before another one there may have been taken for it.
        let Endpoint { host, port, .. } = &self.endpoint;
        drop(TcpListener::bind((host.as_str(), *port)).await.map_err(|error| taken(&self.endpoint).because(error.to_string()))?);
        let errors = self.files.errors();
        let open = || {
            private::replace_file(&errors, b"")?;
            private::open(&errors)
        };
        let errors = open().map_err(|error| unusable(&errors, &error))?;
        let failed =
            |error: &std::io::Error| Failure::new(Exit::Failed, "the broker's guard cannot be started").caused_by(error).code("broker");
        let mut child = Command::new(&self.program)
            .arg(GUARD)
            .arg(&self.binary.path)
            .arg(self.files.config())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(|error| failed(&error))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).await.map_err(|error| failed(&error))?;
        }
        let pid = line.trim().strip_prefix("pid ").and_then(|pid| pid.parse().ok()).unwrap_or_default();
        self.pid.send_replace(pid);
        let lifeline = child.stdin.take();
        Ok(Guard { child, lifeline })
    }

    async fn keep(self, first: Guard) {
        let mut guard = Some(first);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            let began = Instant::now();
            if let Some(mut guard) = guard.take() {
                tokio::select! {
                    ended = guard.child.wait() => tracing::warn!(status = ?ended, "nats-server ended; it is started again"),
                    () = self.stop.cancelled() => return end(guard).await,
                }
            }
            if began.elapsed() > WELL_AFTER {
                backoff.reset();
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_wait()) => {}
                () = self.stop.cancelled() => return,
            }
            match self.launch().await {
                Ok(started) => guard = Some(started),
                Err(failure) => tracing::error!(error = %failure.text().trim_end(), "nats-server cannot be started again"),
            }
        }
    }
}

async fn end(mut guard: Guard) {
    guard.lifeline = None;
    // The guard has its own patience and then kills; ours is a little longer.
    if tokio::time::timeout(STOP_WITHIN + Duration::from_secs(5), guard.child.wait()).await.is_err() {
        tracing::error!("the broker's guard does not end; it is killed");
        let _ = guard.child.kill().await;
    }
}

/// Waits for, and at last kills, a server that a killed guard left behind. It would hold the port and the store.
async fn end_predecessor(files: &Files) {
    let Some(pid) = predecessor(files) else { return };
    tracing::warn!(pid = pid.as_raw_nonzero().get(), "a nats-server of an earlier start still runs; it is stopped");
    for (signal, patience) in [(Signal::TERM, STOP_WITHIN), (Signal::KILL, Duration::from_secs(5))] {
        let _ = kill_process(pid, signal);
        let asked = Instant::now();
        while asked.elapsed() < patience {
            if test_kill_process(pid).is_err() || predecessor(files) != Some(pid) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The process in the pid file, if it is a server with our configuration and not somebody who got its number.
fn predecessor(files: &Files) -> Option<Pid> {
    let id: i32 = std::fs::read_to_string(files.pid()).ok()?.trim().parse().ok()?;
    let pid = Pid::from_raw(id).filter(|_| id > 1)?;
    let words = std::fs::read(format!("/proc/{id}/cmdline")).ok()?;
    let config = files.config();
    let config = std::os::unix::ffi::OsStrExt::as_bytes(config.as_os_str());
    words.split(|byte| *byte == 0).any(|word| word == config).then_some(pid)
}
