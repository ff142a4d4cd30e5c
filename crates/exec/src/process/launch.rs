//! The agent's side of a supervised program: starts the supervisor, reads output, orders the end.
//!
//! Dropping [`Launcher::run`] closes the socket, upon which the supervisor kills the tree by itself.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::time::Duration;
use std::{fmt, io};

use longshore_model::limits::LOG_RECORD_BYTES_MAX;
use longshore_model::wire::log::LogStream;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::capture::Sink;
use super::protocol::{Contain, Limits, Order, Report, Spec, StartFault};
use super::tree::{KILL_BOUND, Marked, SUPERVISOR_VARIABLE, TREE_VARIABLE, end_marked};
use crate::SupervisorCommand;

/// How long a supervisor may take to start the program.
const START_BOUND: Duration = Duration::from_secs(30);
/// How long a supervisor may take beyond what its own bounds add up to.
const ANSWER_BOUND: Duration = Duration::from_secs(5);
/// How long output may still come when every process is known to be gone.
const DRAIN_BOUND: Duration = Duration::from_secs(5);

/// Starts programs below supervisors.
#[derive(Debug, Clone)]
pub(crate) struct Launcher {
    pub(crate) supervisor: SupervisorCommand,
    pub(crate) kill_grace: Duration,
    /// UTF-8; part of the mark that every program carries.
    pub(crate) state_dir: String,
}

/// A program to run.
pub(crate) struct Program {
    /// The program, then its arguments; never empty.
    pub(crate) words: Vec<String>,
    pub(crate) cwd: String,
    /// All of its environment.
    pub(crate) env: BTreeMap<String, String>,
}

/// How a program is connected, beyond what every program is.
#[derive(Default)]
pub(crate) struct Wiring {
    /// What is its stdin; nothing is, without.
    pub(crate) stdin: Option<OwnedFd>,
    /// Who reads its stdout instead of the sink. Told before the program starts.
    pub(crate) stdout: Option<oneshot::Sender<ChildStdout>>,
    pub(crate) limits: Limits,
    /// What keeps it and its tree together; nothing beyond its session, without.
    pub(crate) contain: Option<Contain>,
}

/// What can end a program before its time.
#[derive(Debug, Clone)]
pub(crate) struct Stops {
    /// Somebody asked for it.
    pub(crate) cancel: CancellationToken,
    /// Nobody waits for the outcome any more.
    pub(crate) abandon: CancellationToken,
    pub(crate) deadline: Instant,
}

/// What did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Cancelled,
    Abandoned,
    TimedOut,
}

/// How a program itself ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
}

/// A program that has ended, and its tree with it.
pub(crate) struct Ran {
    /// Absent if it did not end within all bounds.
    pub(crate) exit: Option<Exit>,
    /// What ended it, if it did not by itself.
    pub(crate) stop: Option<Stop>,
    /// Whether every process of the tree is known to be gone.
    pub(crate) verified: bool,
    pub(crate) elapsed: Duration,
    /// Why it was in no namespaces of its own, if it was to be.
    pub(crate) uncontained: Option<i32>,
}

/// Why a program did not run, or why nobody knows how it ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    NotStarted(NotStarted),
    #[error("start the supervisor {program:?}")]
    Supervisor { program: String, source: io::Error },
    #[error("follow the program: its supervisor ended before it")]
    SupervisorDied { verified: bool },
    #[error("start the program: its supervisor does not answer")]
    SupervisorHangs,
}

/// A program that could not be started.
#[derive(Debug)]
pub(crate) struct NotStarted {
    pub(crate) at: StartFault,
    pub(crate) path: String,
    pub(crate) source: io::Error,
}

impl std::error::Error for NotStarted {}

impl fmt::Display for NotStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, path, source } = self;
        match (at, source.kind()) {
            (StartFault::Directory, _) => write!(f, "working directory {path:?}: {source}"),
            (StartFault::Program, io::ErrorKind::NotFound) => write!(f, "{path:?}: command not found"),
            // The search goes on past what it may not enter, and says so only at its end.
            (StartFault::Program, io::ErrorKind::PermissionDenied) if !path.contains('/') => {
                write!(f, "{path:?}: command not found, or not executable")
            }
            (StartFault::Program, _) => write!(f, "{path:?}: {source}"),
            (StartFault::Limits, _) => write!(f, "the control groups that bound it: {source}"),
        }
    }
}

impl Stops {
    /// The same with an earlier deadline.
    pub(crate) fn within(&self, limit: Option<Duration>) -> Self {
        let deadline = limit.map_or(self.deadline, |limit| self.deadline.min(Instant::now() + limit));
        Self { deadline, ..self.clone() }
    }

    /// What has stopped the work by now. Cheap enough to ask for every file.
    pub(crate) fn now(&self) -> Option<Stop> {
        if self.abandon.is_cancelled() {
            Some(Stop::Abandoned)
        } else if self.cancel.is_cancelled() {
            Some(Stop::Cancelled)
        } else {
            (Instant::now() >= self.deadline).then_some(Stop::TimedOut)
        }
    }

    pub(crate) async fn first(&self) -> Stop {
        tokio::select! {
            biased;
            () = self.abandon.cancelled() => Stop::Abandoned,
            () = self.cancel.cancelled() => Stop::Cancelled,
            () = sleep_until(self.deadline) => Stop::TimedOut,
        }
    }
}

impl Launcher {
    /// Runs a program to its end, or to a stop, and ends all that it started.
    ///
    /// # Errors
    /// It could not be started, or its supervisor was lost.
    pub(crate) async fn run(&self, program: Program, sink: &mut Sink, stops: &Stops) -> Result<Ran, Fault> {
        self.run_wired(program, Wiring::default(), sink, stops).await
    }

    /// The same for a program that is talked to, contained, or held to limits.
    ///
    /// # Errors
    /// Those of [`Self::run`].
    pub(crate) async fn run_wired(&self, program: Program, wiring: Wiring, sink: &mut Sink, stops: &Stops) -> Result<Ran, Fault> {
        let Program { words, cwd, mut env } = program;
        let Wiring { stdin, stdout, limits, contain } = wiring;
        let mark = format!("{}@{}", random_text(), self.state_dir);
        env.insert(TREE_VARIABLE.to_owned(), mark.clone());
        let (path, directory) = (words[0].clone(), cwd.clone());
        let (mut child, socket) = self
            .supervisor(&mark, stdin)
            .map_err(|source| Fault::Supervisor { program: self.supervisor.program.display().to_string(), source })?;
        if let Some(reader) = stdout
            && let Some(stdout) = child.stdout.take()
        {
            let _nobody_reads_any_more = reader.send(stdout);
        }
        let mut talk = Conversation::new(child, socket, mark, self.kill_grace);
        let spec = serde_json::to_vec(&Spec { words, cwd, env, contain, limits }).expect("a map of strings is JSON");
        let not_started = talk.follow(spec, sink, stops).await?;
        match not_started {
            None => Ok(talk.ran()),
            Some((at, errno)) => {
                let path = match at {
                    StartFault::Directory => directory,
                    StartFault::Program | StartFault::Limits => path,
                };
                Err(Fault::NotStarted(NotStarted { at, path, source: io::Error::from_raw_os_error(errno) }))
            }
        }
    }

    fn supervisor(&self, mark: &str, stdin: Option<OwnedFd>) -> io::Result<(Child, UnixStream)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        hand_over(&ours, stdin)?;
        ours.set_nonblocking(true)?;
        let child = Command::new(&self.supervisor.program)
            .args(&self.supervisor.args)
            .env_clear()
            .env(SUPERVISOR_VARIABLE, mark)
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok((child, UnixStream::from_std(ours)?))
    }
}

/// Sends the blank that every conversation begins with, and with it the descriptor. A new socket takes that without waiting.
pub(crate) fn hand_over(socket: &std::os::unix::net::UnixStream, stdin: Option<OwnedFd>) -> io::Result<()> {
    let fds = stdin.as_ref().map(AsFd::as_fd);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut with = SendAncillaryBuffer::new(&mut space);
    if let Some(fd) = &fds {
        with.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(fd)));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(b" ")], &mut with, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Sixteen hex digits nobody can guess.
pub(crate) fn random_text() -> String {
    let mut bytes = [0; 8];
    // Cannot fail for so few bytes on a kernel that has the call, except for an interruption, which is tried again.
    while rustix::io::retry_on_intr(|| getrandom(&mut bytes, GetRandomFlags::empty())).is_ok_and(|n| n < bytes.len()) {}
    format!("{:016x}", u64::from_ne_bytes(bytes))
}

struct Conversation {
    child: Child,
    socket: Option<UnixStream>,
    mark: String,
    kill_grace: Duration,
    began: Instant,
    started: bool,
    exit: Option<Exit>,
    ended: Option<Instant>,
    done: Option<bool>,
    stop: Option<Stop>,
    uncontained: Option<i32>,
}

enum News {
    Output(LogStream, usize),
    Report(Option<Report>),
    Stop(Stop),
    GiveUp,
}

impl Conversation {
    fn new(child: Child, socket: UnixStream, mark: String, kill_grace: Duration) -> Self {
        let began = Instant::now();
        Self {
            child,
            socket: Some(socket),
            mark,
            kill_grace,
            began,
            started: false,
            exit: None,
            ended: None,
            done: None,
            stop: None,
            uncontained: None,
        }
    }

    /// Follows the supervisor from its spec to the end of its output.
    async fn follow(&mut self, mut spec: Vec<u8>, sink: &mut Sink, stops: &Stops) -> Result<Option<(StartFault, i32)>, Fault> {
        let socket = self.socket.take().expect("a conversation is followed once");
        let (reader, mut writer) = socket.into_split();
        let mut reports = BufReader::new(reader).lines();
        let (mut stdout, mut stderr) = (self.child.stdout.take(), self.child.stderr.take());
        let (mut out_buffer, mut err_buffer) = (vec![0; LOG_RECORD_BYTES_MAX], vec![0; LOG_RECORD_BYTES_MAX]);
        let mut give_up = Some(Instant::now() + START_BOUND);
        let (mut talking, mut not_started) = (true, None);
        let stopped = stops.first();
        tokio::pin!(stopped);

        spec.push(b'\n');
        if !matches!(timeout(START_BOUND, writer.write_all(&spec)).await, Ok(Ok(()))) {
            return Err(self.lost().await);
        }
        while talking || stdout.is_some() || stderr.is_some() {
            let may_stop = self.stop.is_none() && self.exit.is_none() && talking;
            let news = tokio::select! {
                n = read(&mut stdout, &mut out_buffer) => News::Output(LogStream::Stdout, n),
                n = read(&mut stderr, &mut err_buffer) => News::Output(LogStream::Stderr, n),
                line = reports.next_line(), if talking => {
                    News::Report(line.ok().flatten().and_then(|line| serde_json::from_str(&line).ok()))
                }
                stop = &mut stopped, if may_stop => News::Stop(stop),
                () = sleep_until(give_up.unwrap_or_else(Instant::now)), if give_up.is_some() => News::GiveUp,
            };
            match news {
                News::Output(LogStream::Stdout, 0) => stdout = None,
                News::Output(LogStream::Stderr, 0) => stderr = None,
                News::Output(LogStream::Stderr, n) => sink.take(LogStream::Stderr, &err_buffer[..n]).await,
                News::Output(LogStream::Stdout | LogStream::System, n) => sink.take(LogStream::Stdout, &out_buffer[..n]).await,
                News::Report(Some(Report::Started { pid: _ })) => {
                    self.started = true;
                    give_up = give_up.filter(|_| self.stop.is_some());
                }
                News::Report(Some(Report::Uncontained { errno })) => self.uncontained = Some(errno),
                News::Report(Some(Report::NotStarted { at, errno })) => not_started = Some((at, errno)),
                News::Report(Some(Report::Exited { code, signal })) => {
                    self.exit = Some(Exit { code, signal });
                    self.ended = Some(Instant::now());
                    give_up.get_or_insert_with(|| Instant::now() + KILL_BOUND + ANSWER_BOUND);
                }
                News::Report(Some(Report::Done { verified })) => {
                    self.done = Some(verified);
                    talking = false;
                    give_up = Some(Instant::now() + DRAIN_BOUND);
                }
                News::Report(None) if self.stop.is_some() => {
                    self.end_by_force().await;
                    self.done = Some(false);
                    break;
                }
                News::Report(None) => return Err(self.lost().await),
                News::Stop(stop) => {
                    self.stop = Some(stop);
                    let grace = match stop {
                        Stop::Abandoned => Duration::ZERO,
                        Stop::Cancelled | Stop::TimedOut => self.kill_grace,
                    };
                    give_up = Some(Instant::now() + grace + KILL_BOUND + ANSWER_BOUND);
                    let order = Order::Kill { grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX) };
                    let mut line = serde_json::to_vec(&order).expect("a number is JSON");
                    line.push(b'\n');
                    self.wake();
                    // A supervisor that does not take it is one that has ended or hangs; both are noticed by reading.
                    let _noticed_by_reading = timeout(ANSWER_BOUND, writer.write_all(&line)).await;
                }
                News::GiveUp if self.done.is_some() => {
                    // Somebody still holds a pipe, so somebody is still alive: a descriptor passed outside the tree, say.
                    self.done = Some(false);
                    break;
                }
                News::GiveUp if !self.started => {
                    self.end_by_force().await;
                    return Err(Fault::SupervisorHangs);
                }
                News::GiveUp => {
                    // What carries the mark is gone, but what does not cannot be known.
                    self.end_by_force().await;
                    self.done = Some(false);
                    break;
                }
            }
        }
        // It exits right after its last word; reaping it is all that is left.
        let _reaped = timeout(ANSWER_BOUND, self.child.wait()).await;
        Ok(not_started)
    }

    /// A job may have stopped its supervisor.
    fn wake(&self) {
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            // Not reaped yet, so the number is still its own.
            let _gone_already = kill_process(pid, Signal::CONT);
        }
    }

    async fn lost(&mut self) -> Fault {
        Fault::SupervisorDied { verified: self.end_by_force().await }
    }

    /// For a supervisor that is gone or hangs: ends it, and whatever carries the tree's mark.
    async fn end_by_force(&mut self) -> bool {
        let _gone_already = self.child.kill().await;
        let mark = self.mark.clone();
        tokio::task::spawn_blocking(move || end_marked(Marked::Tree(&mark))).await.unwrap_or(false)
    }

    fn ran(&self) -> Ran {
        Ran {
            exit: self.exit,
            stop: self.stop,
            verified: self.done == Some(true),
            elapsed: self.ended.unwrap_or_else(Instant::now) - self.began,
            uncontained: self.uncontained,
        }
    }
}

/// Reads once; 0 at the end and on errors. Never ready without a pipe. Cancel-safe.
async fn read<R: AsyncRead + Unpin>(pipe: &mut Option<R>, buffer: &mut [u8]) -> usize {
    match pipe {
        Some(pipe) => pipe.read(buffer).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}
