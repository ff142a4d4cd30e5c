//! The agent's side of a supervised program: what is to be started, what can be known of its end, and how its supervisor is started, or forked
//! from a [`nursery`]. Following it is [`conversation`]'s.
//!
//! Dropping [`Launcher::run`] closes the socket, upon which the supervisor kills the tree by itself.

mod conversation;
mod keeper;
mod nursery;

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::net::UnixStream;
use tokio::process::{ChildStdout, Command};
use tokio::sync::oneshot;

use self::conversation::Conversation;
use self::keeper::Started;
pub(crate) use self::nursery::Nursery;
use super::capture::Sink;
use super::protocol::{Contain, Limits, Spec, StartFault};
use super::stops::{Stop, Stops};
use super::tree::{SUPERVISOR_VARIABLE, TREE_VARIABLE};
use crate::SupervisorCommand;

/// Starts programs below supervisors.
#[derive(Debug, Clone)]
pub(crate) struct Launcher {
    pub(crate) supervisor: SupervisorCommand,
    pub(crate) kill_grace: Duration,
    /// UTF-8; part of the mark that every program carries.
    pub(crate) state_dir: String,
    /// What supervisors are forked from; each is loaded anew, without.
    pub(crate) nursery: Option<Arc<Nursery>>,
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
        let (mut started, socket) = self
            .supervisor(&mark, stdin)
            .await
            .map_err(|source| Fault::Supervisor { program: self.supervisor.program.display().to_string(), source })?;
        if let Some(reader) = stdout
            && let Some(stdout) = started.stdout.take()
        {
            let _nobody_reads_any_more = reader.send(stdout);
        }
        let mut talk = Conversation::new(started, socket, mark, self.kill_grace);
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

    async fn supervisor(&self, mark: &str, stdin: Option<OwnedFd>) -> io::Result<(Started, UnixStream)> {
        if let (Some(nursery), None) = (&self.nursery, &stdin) {
            match nursery.bear(mark).await {
                Ok(born) => return Ok(born),
                Err(error) => tracing::debug!(%error, "a supervisor is loaded anew: the process that they are forked from does not answer"),
            }
        }
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
        Ok((child.into(), UnixStream::from_std(ours)?))
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
