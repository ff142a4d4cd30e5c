//! A real nats-server for one test: started, killed, paused, restarted, and gone with its files when dropped.

mod binary;
mod cluster;
mod monitor;
mod probe;
mod wire;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

pub use binary::{NATS_SERVER_VERSION, nats_server_binary};
pub use cluster::cluster;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
pub use wire::Tap;

use crate::eventually::PAUSE;
use crate::process::Process;

/// How long a server may take to answer for JetStream, with a large store to recover on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Ports that are tried: registered ones, below what systems hand to outgoing connections. A port from that range could be
/// taken by any client while a killed server is down, and a client that dials it could even reach itself.
const PORTS: std::ops::Range<u16> = 10_240..32_000;

/// How the server is set up.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// Every write is on disk before it is acknowledged, as in the managed broker. `false` is the server's own default.
    pub sync_always: bool,
    /// Where JetStream keeps its files; a directory that goes with the server unless given. One that is given stays.
    pub store_dir: Option<PathBuf>,
    /// Bytes of the largest message; the server's own default unless given.
    pub max_payload: Option<u64>,
    /// Bytes JetStream may store; the server's own default unless given.
    pub max_file_store: Option<u64>,
    /// Whether the server tells of itself over HTTP as well, see [`NatsServer::monitor`]. A server that wants credentials or TLS needs this:
    /// its readiness is asked for there, and otherwise by a connection without either.
    pub is_monitored: bool,
    /// What it listens on; loopback unless given. Every address of a network namespace of its own is loopback's, too.
    pub host: IpAddr,
    /// Lines added at the top level of the configuration.
    pub extra_config: String,
}

impl Default for NatsOptions {
    fn default() -> Self {
        Self {
            sync_always: true,
            store_dir: None,
            max_payload: None,
            max_file_store: None,
            is_monitored: false,
            host: Ipv4Addr::LOCALHOST.into(),
            extra_config: String::new(),
        }
    }
}

/// A running (or killed) nats-server with JetStream, on loopback. Dropping it kills it and removes its directory.
#[derive(Debug)]
pub struct NatsServer {
    // First, so that it is dropped before its directory.
    process: Option<Process>,
    /// What those wrote that were killed.
    earlier: String,
    options: NatsOptions,
    name: String,
    port: u16,
    dir: TempDir,
}

impl NatsServer {
    /// Starts a server with the default options and waits until JetStream answers.
    ///
    /// # Panics
    /// There is no nats-server, or it does not get ready.
    pub async fn start() -> Self {
        Self::start_with(NatsOptions::default()).await
    }

    /// Starts a server and waits until JetStream answers.
    ///
    /// # Panics
    /// There is no nats-server, or it does not get ready.
    pub async fn start_with(options: NatsOptions) -> Self {
        let dir = tempfile::Builder::new().prefix("longshore-nats-").tempdir().expect("a temporary directory can be made");
        // Unique, so that an answer at the port is known to be from this server and not from another test's.
        let name = dir.path().file_name().expect("it was given a name").to_string_lossy().into_owned();
        let mut server = Self { process: None, earlier: String::new(), options, name, port: 0, dir };
        for port in ports() {
            server.port = port;
            if server.launch().await {
                return server;
            }
        }
        panic!("no free port was found");
    }

    /// What clients connect to, such as `nats://127.0.0.1:4222`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The port; the same after a restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it calls itself; no other server is called so.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The running server's process id.
    ///
    /// # Panics
    /// The server was killed.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process().pid()
    }

    /// Where JetStream keeps its files.
    #[must_use]
    pub fn store_dir(&self) -> PathBuf {
        self.options.store_dir.clone().unwrap_or_else(|| self.dir.path().join("store"))
    }

    /// The directory that goes with the server: its configuration, and its files unless they were put elsewhere.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The server's log so far, of before its restarts as well.
    #[must_use]
    pub fn log(&self) -> String {
        format!("{}{}", self.earlier, self.process.as_ref().map(Process::output).unwrap_or_default())
    }

    /// Kills the server with SIGKILL and reaps it; the files stay. Does nothing when it is not running.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill9();
            self.earlier.push_str(&process.output());
        }
    }

    /// Starts the server again on its port and its files, killing it first if it runs, and waits until JetStream answers.
    ///
    /// # Panics
    /// It does not get ready.
    pub async fn restart(&mut self) {
        self.kill();
        assert!(self.launch().await, "port {} was taken while the server was down", self.port);
    }

    /// Stops the server's clock with SIGSTOP: connections stay open and nothing answers.
    pub fn pause(&self) {
        self.process().signal(Signal::STOP);
    }

    /// Lets a paused server go on.
    pub fn resume(&self) {
        self.process().signal(Signal::CONT);
    }

    /// Asks the server's own API, `$JS.API.…`, or anybody else who answers JSON.
    ///
    /// # Panics
    /// Nobody answers.
    pub async fn ask(&self, subject: &str, question: &Value) -> Value {
        let payload = if question.is_null() { String::new() } else { question.to_string() };
        self.ask_with(subject, &payload).await
    }

    /// The same with any text, such as a message for a stream, which answers with its place there, or with an error where no
    /// stream is.
    ///
    /// # Panics
    /// Nobody answers.
    pub async fn ask_with(&self, subject: &str, payload: &str) -> Value {
        let asked = async { wire::ask(&mut wire::Wire::connect(self.port).await?, subject, payload).await };
        asked.await.unwrap_or_else(|| panic!("nobody answered {subject}\n{}", self.log()))
    }

    /// Listens to what clients say under `subject` from now on, requests to the server's API included.
    ///
    /// # Panics
    /// The server does not answer.
    pub async fn tap(&self, subject: &str) -> Tap {
        Tap::open(self.port, subject).await.unwrap_or_else(|| panic!("the server does not answer\n{}", self.log()))
    }

    /// Every subject that is stored in any stream, as the server itself tells, each with its stream's name.
    ///
    /// # Panics
    /// The server does not answer.
    pub async fn stored_subjects(&self) -> Vec<(String, String)> {
        let names = self.ask("$JS.API.STREAM.NAMES", &Value::Null).await;
        let mut stored = Vec::new();
        for name in names["streams"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let question = serde_json::json!({ "subjects_filter": ">" });
            let info = self.ask(&format!("$JS.API.STREAM.INFO.{name}"), &question).await;
            let subjects = info["state"]["subjects"].as_object().into_iter().flatten();
            stored.extend(subjects.map(|(subject, _)| (name.to_owned(), subject.clone())));
        }
        stored
    }

    /// What a monitored server tells of itself, such as `/connz` or `/jsz?streams=true`.
    ///
    /// # Panics
    /// It is not monitored, or does not answer.
    pub async fn monitor(&self, path: &str) -> Value {
        let port = monitor::port(self.dir.path(), self.pid()).expect("the server is monitored");
        monitor::get(port, path).await.unwrap_or_else(|| panic!("no answer to {path}\n{}", self.log()))
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("the server was killed and not restarted")
    }

    /// Whether it got the port. Anything else that goes wrong is a panic.
    async fn launch(&mut self) -> bool {
        let config = self.dir.path().join("nats.conf");
        std::fs::write(&config, self.config()).expect("the configuration can be written");
        let mut command = Command::new(nats_server_binary());
        command.arg("--config").arg(&config).current_dir(self.dir.path());
        let mut process = Process::spawn(command);
        let began = Instant::now();
        loop {
            let is_ready = match self.options.is_monitored {
                true => monitor::is_ready(self.dir.path(), process.pid()).await,
                false => probe::jetstream_answers(self.port, &self.name).await,
            };
            if is_ready {
                self.process = Some(process);
                return true;
            }
            if !process.is_running() {
                let log = process.output();
                assert!(log.contains("address already in use"), "nats-server ended at once\n{log}");
                return false;
            }
            assert!(began.elapsed() < READY_WITHIN, "nats-server was not ready within {READY_WITHIN:?}\n{}", process.output());
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn config(&self) -> String {
        let Self { options, name, port, .. } = self;
        let line = |key: &str, value: Option<String>| value.map(|value| format!("{key}: {value}\n")).unwrap_or_default();
        format!(
            "server_name: {}\nlisten: \"{}:{port}\"\n{}{}jetstream {{\nstore_dir: {}\n{}{}}}\n{}\n",
            quoted(name),
            options.host,
            if options.is_monitored { monitor::config(self.dir.path()) } else { String::new() },
            line("max_payload", options.max_payload.map(|bytes| bytes.to_string())),
            quoted(&self.store_dir().to_string_lossy()),
            line("sync_interval", options.sync_always.then(|| "always".to_owned())),
            line("max_file_store", options.max_file_store.map(|bytes| bytes.to_string())),
            options.extra_config,
        )
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A random walk through [`PORTS`], so that tests in parallel rarely try the same.
fn ports() -> impl Iterator<Item = u16> {
    use std::hash::{BuildHasher, RandomState};
    let n_ports = u64::from(PORTS.end - PORTS.start);
    (0..100u8).map(move |_| {
        let offset = RandomState::new().hash_one(std::process::id()) % n_ports;
        PORTS.start + u16::try_from(offset).expect("it is below the number of ports")
    })
}
