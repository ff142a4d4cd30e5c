//! A role of the program (controller, agent …) as a process of its own, which can be killed and started again as it was.

use std::ffi::OsStr;
use std::fmt;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::nats::nats_server_binary;
use crate::process::Process;

/// A running (or killed) role. Dropping it kills it.
pub struct Role {
    make: Box<dyn Fn() -> Command + Send>,
    within: Duration,
    process: Process,
    /// What the processes before it wrote.
    earlier: String,
    ready: Value,
}

impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Role").field("process", &self.process).field("ready", &self.ready).finish_non_exhaustive()
    }
}

impl Role {
    /// Starts what `make` gives, now and at every restart, and waits for the line of JSON by which it says that it is ready.
    ///
    /// # Panics
    /// It is not ready `within` that time; the message shows what it wrote.
    pub async fn start(within: Duration, make: impl Fn() -> Command + Send + 'static) -> Self {
        let (process, ready) = launch(&make, within).await;
        Self { make: Box::new(make), within, process, earlier: String::new(), ready }
    }

    /// What it said when it was ready.
    ///
    /// # Panics
    /// It did not say this.
    #[must_use]
    pub fn said(&self, key: &str) -> String {
        self.ready[key].as_str().unwrap_or_else(|| panic!("it did not say its {key}: {}", self.ready)).to_owned()
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Everything that it has written, before its restarts as well.
    #[must_use]
    pub fn log(&self) -> String {
        format!("{}{}", self.earlier, self.process.output())
    }

    /// Kills the process alone, as a crash would, and starts it again as it was.
    ///
    /// # Panics
    /// It is not ready in time.
    pub async fn kill_and_restart(&mut self) {
        self.process.kill9();
        self.restart().await;
    }

    /// Starts it again as it was. What the one before has left running is ended after that, not before.
    ///
    /// # Panics
    /// It is not ready in time.
    pub async fn restart(&mut self) {
        self.earlier.push_str(&self.process.output());
        (self.process, self.ready) = launch(&self.make, self.within).await;
    }
}

async fn launch(make: impl Fn() -> Command, within: Duration) -> (Process, Value) {
    let process = Process::spawn(make());
    let line = process.wait_for_line(|line| line.starts_with('{'), within).await;
    let ready: Value = serde_json::from_str(&line).expect("the line is JSON");
    assert!(ready.get("code").is_none(), "it did not start: {ready}");
    (process, ready)
}

/// The program with a home of its own and nothing of ours in its environment.
pub fn longshore<T: AsRef<OsStr>>(binary: &Path, home: &Path, words: &[T]) -> Command {
    let mut command = Command::new(binary);
    command.args(words).env("HOME", home).env("XDG_CONFIG_HOME", home.join("config")).env("XDG_STATE_HOME", home.join("state"));
    for name in ["LONGSHORE_URL", "LONGSHORE_TOKEN_FILE", "LONGSHORE_CONTEXT"] {
        command.env_remove(name);
    }
    command.env("NATS_SERVER_BIN", nats_server_binary());
    command
}

/// An address on loopback below the range that connections are given by themselves, free at the moment and nobody else's in this process.
///
/// # Panics
/// No port is free.
#[must_use]
pub fn free_address() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() as u16).wrapping_mul(31);
    std::iter::repeat_with(|| 20_000 + start.wrapping_add(NEXT.fetch_add(7, Ordering::Relaxed)) % 10_000)
        .take(1000)
        .map(|port| format!("127.0.0.1:{port}"))
        .find(|address| TcpListener::bind(address).is_ok())
        .expect("a free port")
}
