//! Starts a handler host through the process door, and watches over it until its last process is gone.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use longshore_model::limits::LOG_BYTES_PER_STEP_MAX;
use longshore_model::wire::log::LogStream;
use longshore_model::wire::problem::chain;
use rustix::pipe::PipeFlags;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::ChildStdout;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::death::{Death, Ending};
use super::warm::Warm;
use crate::Output;
use crate::process::{Fault, Launcher, Limits, Program, Ran, Sink, Stops, Wiring};
use crate::provider::command::{ending, is_verified};

/// Bytes of the end of a host's stderr that are kept.
const LAST_WORDS_BYTES: usize = 2048;
const READ_BYTES: usize = 256 * 1024;
/// How long what a dead host wrote is read for; its pipe may be held open outside of its tree.
const REST_BOUND: Duration = Duration::from_secs(2);

/// A pipe to a program's stdin.
pub(crate) fn stdin_pipe() -> std::io::Result<(OwnedFd, pipe::Sender)> {
    let (theirs, ours) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    Ok((theirs, pipe::Sender::from_owned_fd(ours)?))
}

/// Keeps the end of what a program writes, and passes all of it on to whoever wants it.
#[derive(Default)]
pub(crate) struct LastWords {
    kept: Mutex<VecDeque<u8>>,
    taker: Option<Arc<dyn Output>>,
}

impl Output for LastWords {
    fn write(&self, step: u32, stream: LogStream, bytes: &[u8]) {
        if let Some(taker) = &self.taker {
            taker.write(step, stream, bytes);
        }
        let bytes = &bytes[bytes.len().saturating_sub(LAST_WORDS_BYTES)..];
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let excess = (kept.len() + bytes.len()).saturating_sub(LAST_WORDS_BYTES);
        kept.drain(..excess);
        kept.extend(bytes);
    }
}

impl LastWords {
    pub(crate) fn passing_on(taker: Option<Arc<dyn Output>>) -> Self {
        Self { taker, ..Self::default() }
    }

    pub(crate) fn text(&self) -> String {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(kept.make_contiguous()).trim().to_owned()
    }

    pub(crate) fn sink(self: &Arc<Self>) -> Sink {
        let output: Arc<dyn Output> = self.clone();
        let bytes_max = if self.taker.is_some() { LOG_BYTES_PER_STEP_MAX } else { u64::MAX };
        Sink::to_file(output, 0, bytes_max, None)
    }
}

/// A program that becomes a host.
pub(crate) struct Start {
    pub(crate) launcher: Launcher,
    pub(crate) program: Program,
    pub(crate) limits: Limits,
    pub(crate) stdin: OwnedFd,
    pub(crate) frame_bytes_max: usize,
    /// What to do if the program is not there.
    pub(crate) hint: &'static str,
}

/// Stops that nothing sets off but `kill`.
pub(crate) fn until(kill: &CancellationToken) -> Stops {
    let for_ever = Instant::now() + Duration::from_secs(100 * 365 * 24 * 3600);
    Stops { cancel: CancellationToken::new(), abandon: kill.clone(), deadline: for_ever }
}

enum Event {
    Ended(Result<Ran, Fault>),
    Read(std::io::Result<usize>),
    Look,
}

/// Runs a host to its end. Its calls are answered meanwhile, and none is left without an answer.
pub(crate) async fn run(start: Start, warm: Arc<Warm>) -> Ending {
    let Start { launcher, program, limits, stdin, frame_bytes_max, hint } = start;
    let last_words = Arc::new(LastWords::default());
    let (mut sink, stops) = (last_words.sink(), until(&warm.kill));
    let (tell, told) = oneshot::channel();
    let wiring = Wiring { stdin: Some(stdin), stdout: Some(tell), limits, contain: None };
    let running = launcher.run_wired(program, wiring, &mut sink, &stops);
    tokio::pin!(running, told);
    let (mut stdout, mut is_told) = (None, false);
    let mut buffer = Vec::new();
    let ran = loop {
        let look = warm.judge(Instant::now());
        let event = tokio::select! {
            ran = &mut running => Event::Ended(ran),
            reader = &mut told, if !is_told => {
                (stdout, is_told) = (reader.ok(), true);
                Event::Look
            }
            read = read(&mut stdout, &mut buffer) => Event::Read(read),
            () = warm.changed.notified() => Event::Look,
            () = warm.flush(), if warm.has_unwritten() => Event::Look,
            () = sleep_until(look.unwrap_or_else(Instant::now)), if look.is_some() => Event::Look,
        };
        match event {
            Event::Ended(ran) => break ran,
            Event::Look => {}
            // Looked through once, however many pieces a frame comes in.
            Event::Read(Ok(n)) if n > 0 && buffer.len() <= frame_bytes_max && !warm.codec.may_end_in(&buffer[buffer.len() - n..]) => {}
            Event::Read(Ok(n)) if n > 0 => match warm.codec.decode(&buffer, frame_bytes_max, |frame| warm.take(frame)) {
                Ok(taken) => {
                    drop(buffer.drain(..taken));
                    if buffer.len() < READ_BYTES {
                        // What one large answer needed is not kept for as long as its host lives.
                        buffer.shrink_to(4 * READ_BYTES);
                    }
                }
                Err(nonsense) => {
                    warm.condemn(format!("had to be ended: it wrote what is no frame ({nonsense})"));
                    stdout = None;
                }
            },
            // The supervisor has this pipe open as well: it closes when all is over.
            Event::Read(_) => stdout = None,
        }
    };
    // What it wrote before it ended counts: an answer is one, whoever fell over after it.
    let is_open = stdout.is_some();
    let rest = async {
        while matches!(read(&mut stdout, &mut buffer).await, Ok(n) if n > 0) {
            let taken = warm.codec.decode(&buffer, frame_bytes_max, |frame| warm.take(frame)).unwrap_or(buffer.len());
            drop(buffer.drain(..taken));
        }
    };
    if is_open {
        let _held_open_elsewhere = timeout(REST_BOUND, rest).await;
    }
    warm.died(&death(ran, last_words.text(), hint))
}

fn death(ran: Result<Ran, Fault>, last_words: String, hint: &str) -> Death {
    let (how, verified, started) = match ran {
        Ok(ran) => (ending(ran.exit), ran.verified, true),
        Err(Fault::NotStarted(fault)) => (format!("could not be started: {fault}; {hint}"), true, false),
        Err(fault) => (format!("could not go on: {}", chain(&fault)), is_verified(&fault), true),
    };
    Death { how, last_words, verified, started }
}

/// Reads once. Never ready without a pipe. Cancel-safe.
async fn read(stdout: &mut Option<ChildStdout>, buffer: &mut Vec<u8>) -> std::io::Result<usize> {
    match stdout {
        Some(stdout) => {
            buffer.reserve(READ_BYTES);
            stdout.read_buf(buffer).await
        }
        None => std::future::pending().await,
    }
}
