//! Any program as a child of a test: its output line by line, its signals, and the certainty that it is gone afterwards.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::eventually::PAUSE;
use crate::lifeline::Lifeline;

/// How long the last lines of an ended process may take to arrive. Only a descendant that keeps its output open needs all of it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A running child in a process group of its own. Dropping it kills the whole group and reaps the child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
    captured: Arc<Mutex<Captured>>,
    lifeline: Option<Lifeline>,
}

/// Which output a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

#[derive(Debug, Default)]
struct Captured {
    lines: Vec<(Stream, String)>,
    n_ended: usize,
}

impl Process {
    /// Starts `command` with its output captured and nothing to read.
    ///
    /// # Panics
    /// The program cannot be started.
    #[must_use]
    pub fn spawn(mut command: Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("failed to start {command:?}: {error}"));
        let lifeline = Lifeline::to_group_of(child.id());
        let captured = Arc::default();
        capture(child.stdout.take(), Stream::Stdout, &captured);
        capture(child.stderr.take(), Stream::Stderr, &captured);
        Self { name, child, status: None, captured, lifeline: Some(lifeline) }
    }

    /// The child's process id, which is its group's too.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far to one of its outputs.
    #[must_use]
    pub fn lines(&self, stream: Stream) -> Vec<String> {
        self.captured().lines.iter().filter(|(from, _)| *from == stream).map(|(_, line)| line.clone()).collect()
    }

    /// All it has written so far, as messages show it.
    #[must_use]
    pub fn output(&self) -> String {
        let lines = self.captured().lines.iter().map(|(_, line)| format!("    {line}\n")).collect::<String>();
        format!("  {} ({}) wrote:\n{lines}", self.name, self.pid())
    }

    /// Waits for a line of either output, also one that is already there, and returns it.
    ///
    /// # Panics
    /// No such line before the deadline, or the process closed its outputs without it; the message shows what it wrote.
    pub async fn wait_for_line(&self, mut is_it: impl FnMut(&str) -> bool, deadline: Duration) -> String {
        let began = Instant::now();
        let mut seen = 0;
        loop {
            {
                let captured = self.captured();
                if let Some((_, line)) = captured.lines[seen..].iter().find(|(_, line)| is_it(line)) {
                    return line.clone();
                }
                seen = captured.lines.len();
                let gave_up = captured.n_ended == 2 || began.elapsed() > deadline;
                drop(captured);
                assert!(!gave_up, "the awaited line did not come in {:?}\n{}", began.elapsed(), self.output());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Sends a signal to the process alone. Does nothing when it has ended.
    pub fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            // A child that has not been waited for keeps its number, so this reaches nobody else.
            let _ = kill_process(pid(&self.child), signal);
        }
    }

    /// Kills the process alone, as a crash would, and reaps it. What it has started is not touched until this is dropped.
    pub fn kill9(&mut self) {
        self.signal(Signal::KILL);
        self.reap();
    }

    /// Whether it has not ended yet.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        self.try_wait().is_none()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It still runs at the deadline; the message shows what it wrote.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.try_wait() {
                break status;
            }
            assert!(began.elapsed() < deadline, "still running after {deadline:?}\n{}", self.output());
            tokio::time::sleep(PAUSE).await;
        };
        let ended = Instant::now();
        while self.captured().n_ended < 2 && ended.elapsed() < LAST_WORDS {
            tokio::time::sleep(PAUSE).await;
        }
        status
    }

    fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("a child can be waited for");
        }
        self.status
    }

    fn reap(&mut self) {
        if self.status.is_none() {
            self.status = Some(self.child.wait().expect("a child can be waited for"));
        }
    }

    fn captured(&self) -> MutexGuard<'_, Captured> {
        locked(&self.captured)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.lifeline = None;
        // Also after the child's own end: its descendants keep the group's number taken. An empty group is no error.
        let _ = kill_process_group(pid(&self.child), Signal::KILL);
        self.reap();
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

fn locked(captured: &Mutex<Captured>) -> MutexGuard<'_, Captured> {
    captured.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads to the end in a thread of its own. Nobody joins it: an escaped descendant may keep the pipe open for longer than the test lives.
fn capture(pipe: Option<impl Read + Send + 'static>, stream: Stream, captured: &Arc<Mutex<Captured>>) {
    let pipe = pipe.expect("the output was piped a moment ago");
    let captured = Arc::clone(captured);
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|n_read| n_read > 0) {
            let line = String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned();
            locked(&captured).lines.push((stream, line));
            bytes.clear();
        }
        locked(&captured).n_ended += 1;
    });
}
