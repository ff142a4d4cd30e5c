//! The supervisor: a small synchronous program with one thread that starts one program and outlives its whole tree.
//!
//! ```text
//!   reading the spec ─► running ─┬─ the program exits ──────────────► killing at once ─┐
//!                                ├─ the agent orders a kill ─► grace ─► killing ────────┼─► Done, exit
//!                                └─ the agent's end closes ─────────► killing at once ─┘
//! ```
//!
//! Killing goes on until `wait` says that there is no child left, which for a subreaper means no descendant either; that is what
//! `verified` means. Signals that would end the supervisor are held back: its end is decided here alone.

mod agent;
mod nursery;
mod program;
mod signals;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, set_child_subreaper, setsid, wait};

use super::inside::{self, First, Word};
use super::protocol::{NURSERY, Report, Spec, StartFault};
use super::tree::{self, KILL_BOUND, pause};
use crate::carrier::carry;

use self::agent::Agent;
pub(super) use self::program::spawn;
use self::signals::{Signals, hear_every_signal};

const FOREVER: Duration = Duration::from_secs(3600);
const RECHECK: Duration = Duration::from_millis(20);

/// Runs the supervisor; what `longshore __supervise` does. Its stdin must be the agent's socket. Call it before anything else in
/// `main`: it closes every other descriptor and must be the only thread. Told to carry a whole job, it does that instead.
#[must_use]
pub fn supervise_main() -> ExitCode {
    match supervise() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn supervise() -> io::Result<()> {
    close_inherited();
    let signals = Signals::hold()?;
    // Fails only for a process that leads its group already, which has what it needs.
    let _leads_already = setsid();
    set_child_subreaper(Some(getpid()))?;
    let mut agent = Agent::at_stdin();
    let stdin = agent.stdin()?;
    let line = agent.line()?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let Ok(spec) = serde_json::from_slice::<Spec>(&line) else {
        // Not one program, but a job that starts some, or many supervisors.
        drop(signals);
        hear_every_signal()?;
        if line.trim_ascii() == NURSERY {
            return nursery::serve();
        }
        return carry(&line, agent.into_unread());
    };
    drop(line);

    let mut family = match start(&spec, stdin, &agent) {
        Ok(family) => family,
        Err((at, errno)) => {
            agent.tell(Report::NotStarted { at, errno });
            while wait(WaitOptions::empty()).is_ok() {}
            agent.tell(Report::Done { verified: true });
            return Ok(());
        }
    };
    drop(spec);
    agent.tell(Report::Started { pid: family.program.as_raw_nonzero().get() });

    let grace = loop {
        family.reap(&mut agent);
        if family.exit.is_some() {
            break Duration::ZERO;
        }
        // Before waiting: an order may have come together with the spec.
        if let Some(grace) = agent.order() {
            break grace;
        }
        wait_for_news(&agent, &signals, family.words(), FOREVER);
    };
    let verified = end(&mut family, &mut agent, &signals, grace);
    close_output();
    agent.tell(Report::Done { verified });
    Ok(())
}

/// Starts the program, in namespaces of its own if it is to be and can be.
fn start(spec: &Spec, stdin: Option<OwnedFd>, agent: &Agent) -> Result<Family, (StartFault, i32)> {
    if spec.contain.as_ref().is_some_and(|contain| contain.namespaces) {
        let errno = match inside::enter(spec, stdin.as_ref()) {
            Err(error) => error.raw_os_error().unwrap_or_default(),
            Ok(first) => match first.hear() {
                Some(Word::Started) => return Ok(Family { program: first.pid, exit: None, is_contained: true, first: Some(first) }),
                Some(Word::NotStarted(at, errno)) => return Err((at, errno)),
                Some(Word::Unfurnished(errno)) => {
                    inside::come_back_out();
                    errno
                }
                Some(Word::Exited { .. }) | None => return Err((StartFault::Program, libc::ESRCH)),
            },
        };
        agent.tell(Report::Uncontained { errno });
    }
    let program = spawn(spec, stdin.as_ref()).map_err(|(at, error)| (at, error.raw_os_error().unwrap_or_default()))?;
    Ok(Family { program, exit: None, is_contained: false, first: None })
}

/// The exit status of what has ended, or the signal that ended it.
pub(super) fn status_of(status: WaitStatus) -> (Option<i32>, Option<i32>) {
    (status.exit_status(), status.terminating_signal())
}

fn end(family: &mut Family, agent: &mut Agent, signals: &Signals, grace: Duration) -> bool {
    let began = Instant::now();
    let (mut grace, mut asked_politely, mut killing_since) = (grace, false, None);
    loop {
        if family.reap(agent) == Left::Nobody {
            return true;
        }
        if began.elapsed() >= grace {
            if killing_since.get_or_insert_with(Instant::now).elapsed() > KILL_BOUND {
                return false;
            }
            family.kill();
        } else if !asked_politely {
            // Once: what a handler starts to tidy up is left to do so until the grace is over.
            asked_politely = true;
            for process in tree::descendants(getpid()) {
                tree::send(process, Signal::TERM);
                tree::send(process, Signal::CONT);
            }
        }
        wait_for_news(agent, signals, family.words(), RECHECK);
        grace = agent.order().map_or(grace, |newer| newer.min(grace));
    }
}

fn wait_for_news(agent: &Agent, signals: &Signals, words: Option<BorrowedFd<'_>>, at_most: Duration) {
    let held = signals.fd();
    let socket = agent.socket();
    let socket = socket.as_ref().map(|socket| PollFd::new(socket, PollFlags::IN));
    let words = words.as_ref().map(|words| PollFd::new(words, PollFlags::IN));
    let mut fds: Vec<_> = [Some(PollFd::new(&held, PollFlags::IN)), socket, words].into_iter().flatten().collect();
    pause(&mut fds, at_most);
    signals.drain();
}

#[derive(PartialEq, Eq)]
enum Left {
    Nobody,
    Somebody,
}

/// Everything below the supervisor.
struct Family {
    /// The program, or the first process of its namespaces.
    program: Pid,
    exit: Option<(Option<i32>, Option<i32>)>,
    /// Whether [`Self::program`] is the first process of a PID namespace, and there still.
    is_contained: bool,
    /// Set until it has said how the program ended.
    first: Option<First>,
}

impl Family {
    /// What the first process of the namespaces says something through.
    fn words(&self) -> Option<BorrowedFd<'_>> {
        self.first.as_ref().map(|first| first.words.as_fd())
    }

    /// Hears how the program ended, if that was said.
    fn hear(&mut self, agent: &Agent) {
        let Some(first) = &self.first else { return };
        let mut fds = [PollFd::new(&first.words, PollFlags::IN)];
        pause(&mut fds, Duration::ZERO);
        if fds[0].revents().is_empty() {
            return;
        }
        if let Some(Word::Exited { code, signal }) = first.hear() {
            self.exited(agent, (code, signal));
        }
        self.first = None;
    }

    /// Kills all of it.
    fn kill(&self) {
        if self.is_contained {
            // The kernel kills everything in its namespace with it, which nothing leaves. To look for them would cost more than a short
            // program. It is not reaped yet, so the number is its own.
            let _gone_already = kill_process(self.program, Signal::KILL);
        } else {
            tree::descendants(getpid()).into_iter().for_each(|process| tree::send(process, Signal::KILL));
        }
    }

    fn exited(&mut self, agent: &Agent, (code, signal): (Option<i32>, Option<i32>)) {
        if self.exit.is_none() {
            self.exit = Some((code, signal));
            agent.tell(Report::Exited { code, signal });
        }
    }

    /// Reaps whoever has ended, and reports the program's own end once.
    fn reap(&mut self, agent: &mut Agent) -> Left {
        loop {
            self.hear(agent);
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.program => {
                    // The first process may have ended right after its word.
                    self.hear(agent);
                    self.is_contained = false;
                    self.exited(agent, status_of(status));
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return Left::Somebody,
                Err(_) => return Left::Nobody,
            }
        }
    }
}

/// Lets go of the program's output, of which there is no more: whoever reads it need not wait until this process has been taken apart.
fn close_output() {
    for fd in [io::stdout().as_raw_fd(), io::stderr().as_raw_fd()] {
        // SAFETY: nobody owns these two but the standard streams, through which nothing is written here, and nothing is opened after them.
        let _closed = unsafe { libc::close(fd) };
    }
}

/// Closes what the agent's own parent may have left open, beyond the three standard descriptors.
fn close_inherited() {
    let first = io::stderr().as_raw_fd() + 1;
    // SAFETY: this is the start of a program with one thread that has opened nothing yet, so nobody owns these descriptors.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    debug_assert!(closed == 0, "close_range is in every kernel from 5.9 on");
}
