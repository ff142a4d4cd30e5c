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

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Access, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, WaitStatus, getpid, getrlimit, set_child_subreaper, set_parent_process_death_signal,
    setrlimit, setsid, wait,
};

use super::inside::{self, First, Word};
use super::protocol::{Contain, Limits, Order, Report, Spec, StartFault};
use super::tree::{self, KILL_BOUND, pause};
use crate::carrier::carry;

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
    let mut agent = Agent { socket: io::stdin(), unread: Vec::new(), closed: false };
    let stdin = agent.stdin()?;
    let line = agent.line()?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let Ok(spec) = serde_json::from_slice::<Spec>(&line) else {
        // Not one program, but a job that starts some.
        drop(signals);
        hear_every_signal()?;
        return carry(&line, agent.unread);
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
    agent.tell(Report::Done { verified });
    Ok(())
}

/// Starts the program, in namespaces of its own if it is to be and can be.
fn start(spec: &Spec, stdin: Option<OwnedFd>, agent: &Agent) -> Result<Family, (StartFault, i32)> {
    if spec.contain.as_ref().is_some_and(|contain| contain.namespaces) {
        let errno = match inside::enter(spec, stdin.as_ref()) {
            Err(error) => error.raw_os_error().unwrap_or_default(),
            Ok(first) => match first.hear() {
                Some(Word::Started) => return Ok(Family { program: first.pid, exit: None, first: Some(first) }),
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
    Ok(Family { program, exit: None, first: None })
}

/// Starts the program as this process's child, in its groups and within its limits.
pub(super) fn spawn(spec: &Spec, stdin: Option<&OwnedFd>) -> Result<Pid, (StartFault, io::Error)> {
    let program = spec.words.first().ok_or_else(|| (StartFault::Program, io::ErrorKind::InvalidInput.into()))?;
    // Before the start, since afterwards "not found" could mean either.
    if !std::fs::metadata(&spec.cwd).map_err(|error| (StartFault::Directory, error))?.is_dir() {
        return Err((StartFault::Directory, Errno::NOTDIR.into()));
    }
    rustix::fs::access(&spec.cwd, Access::EXEC_OK).map_err(|errno| (StartFault::Directory, errno.into()))?;
    let stdin = match stdin {
        Some(stdin) => stdin.try_clone().map_err(|error| (StartFault::Program, error))?.into(),
        None => Stdio::null(),
    };
    let mut command = Command::new(program);
    command.args(&spec.words[1..]).env_clear().envs(&spec.env).current_dir(&spec.cwd).stdin(stdin);
    let doors = spec.contain.as_ref().map(open_doors).transpose()?;
    let limits = spec.limits;
    // SAFETY: between fork and exec only system calls are made, no memory is allocated and no lock is taken.
    unsafe {
        command.pre_exec(move || {
            hear_every_signal()?;
            limit(limits)?;
            setsid()?;
            // If somebody kills the supervisor, at least the program goes with it.
            set_parent_process_death_signal(Some(Signal::KILL))?;
            if let Some(doors) = &doors {
                confine(doors)?;
            }
            Ok(())
        });
    }
    let child = command.spawn().map_err(|error| (StartFault::Program, error))?;
    // The child is reaped by `Family::reap`, like everything else below us.
    Ok(Pid::from_child(&child))
}

/// Opens what the program is to write itself to.
fn open_doors(contain: &Contain) -> Result<Vec<(OwnedFd, bool)>, (StartFault, io::Error)> {
    let open = |(path, must): &(String, bool)| match rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(door) => Some(Ok((door, *must))),
        Err(errno) if *must => Some(Err((StartFault::Limits, errno.into()))),
        Err(_) => None,
    };
    contain.doors.iter().filter_map(open).collect()
}

/// Puts this process, between `fork` and `exec`, into its groups.
fn confine(doors: &[(OwnedFd, bool)]) -> io::Result<()> {
    for (door, must) in doors {
        match rustix::io::write(door, b"0") {
            Err(errno) if *must => return Err(errno.into()),
            Ok(_) | Err(_) => {}
        }
    }
    // When memory is short, a job is to go before the agent.
    if let Ok(score) = rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        let _only_a_preference = rustix::io::write(score, b"500");
    }
    // SAFETY: the call takes numbers only.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Holds this process, and what it becomes, to `limits`; never above what it is held to already.
fn limit(limits: Limits) -> io::Result<()> {
    let rows = [
        (Resource::As, limits.memory_bytes),
        (Resource::Nofile, limits.open_files),
        (Resource::Nproc, limits.processes),
        (Resource::Fsize, limits.file_bytes),
        (Resource::Core, limits.no_core.then_some(0)),
    ];
    for (resource, wanted) in rows {
        let Some(wanted) = wanted else { continue };
        let most = getrlimit(resource).maximum.map_or(wanted, |maximum| maximum.min(wanted));
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    Ok(())
}

/// The exit status of what has ended, or the signal that ended it.
pub(super) fn status_of(status: WaitStatus) -> (Option<i32>, Option<i32>) {
    (status.exit_status(), status.terminating_signal())
}

/// Undoes what [`Signals::hold`] did: `Command` lets children inherit the mask.
fn hear_every_signal() -> io::Result<()> {
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set before anything reads it.
    let done = unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn end(family: &mut Family, agent: &mut Agent, signals: &Signals, grace: Duration) -> bool {
    let began = Instant::now();
    let (mut grace, mut asked_politely, mut killing_since) = (grace, false, None);
    loop {
        if family.reap(agent) == Left::Nobody {
            return true;
        }
        let left = tree::descendants(getpid());
        if began.elapsed() >= grace {
            if killing_since.get_or_insert_with(Instant::now).elapsed() > KILL_BOUND {
                return false;
            }
            left.into_iter().for_each(|process| tree::send(process, Signal::KILL));
        } else if !asked_politely {
            // Once: what a handler starts to tidy up is left to do so until the grace is over.
            asked_politely = true;
            for process in left {
                tree::send(process, Signal::TERM);
                tree::send(process, Signal::CONT);
            }
        }
        wait_for_news(agent, signals, family.words(), RECHECK);
        grace = agent.order().map_or(grace, |newer| newer.min(grace));
    }
}

fn wait_for_news(agent: &Agent, signals: &Signals, words: Option<BorrowedFd<'_>>, at_most: Duration) {
    let socket = agent.socket.as_fd();
    // A closed socket is always ready, and would turn waiting into spinning.
    let socket = (!agent.closed).then(|| PollFd::new(&socket, PollFlags::IN));
    let words = words.as_ref().map(|words| PollFd::new(words, PollFlags::IN));
    let mut fds: Vec<_> = [Some(PollFd::new(&signals.0, PollFlags::IN)), socket, words].into_iter().flatten().collect();
    pause(&mut fds, at_most);
    signals.drain();
}

/// The supervisor's end of the conversation.
struct Agent {
    socket: io::Stdin,
    unread: Vec<u8>,
    closed: bool,
}

impl Agent {
    /// An order that has come, as the grace it leaves. A closed socket orders a kill without grace. Does not block.
    fn order(&mut self) -> Option<Duration> {
        if self.closed {
            return Some(Duration::ZERO);
        }
        if !self.unread.contains(&b'\n') {
            let socket = self.socket.as_fd();
            let mut fds = [PollFd::new(&socket, PollFlags::IN)];
            pause(&mut fds, Duration::ZERO);
            if fds[0].revents().is_empty() {
                return None;
            }
        }
        match self.line() {
            Ok(Some(line)) => {
                let order = serde_json::from_slice::<Order>(&line);
                Some(order.map_or(Duration::ZERO, |Order::Kill { grace_ms }| Duration::from_millis(grace_ms)))
            }
            Ok(None) | Err(_) => {
                self.closed = true;
                Some(Duration::ZERO)
            }
        }
    }

    /// What came with the first byte, which stays to be read: an agent of an earlier version begins with the line itself. Blocks.
    fn stdin(&mut self) -> io::Result<Option<OwnedFd>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut with = RecvAncillaryBuffer::new(&mut space);
        let mut first = [0; 1];
        let received = rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(self.socket.as_fd(), &mut [IoSliceMut::new(&mut first)], &mut with, RecvFlags::CMSG_CLOEXEC)
        })?;
        self.unread.extend_from_slice(&first[..received.bytes]);
        let mut stdin = None;
        for message in with.drain() {
            if let RecvAncillaryMessage::ScmRights(mut fds) = message {
                stdin = fds.next();
            }
        }
        Ok(stdin)
    }

    /// The next line; `None` at the end. Blocks.
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let rest = self.unread.split_off(end + 1);
                return Ok(Some(std::mem::replace(&mut self.unread, rest)));
            }
            let mut buffer = [0; 16 * 1024];
            // Not through `Stdin`'s own buffer: `poll` would not know what is in it.
            match rustix::io::retry_on_intr(|| rustix::io::read(self.socket.as_fd(), &mut buffer))? {
                0 => return Ok(None),
                n => self.unread.extend_from_slice(&buffer[..n]),
            }
        }
    }

    /// Reports. An agent that has gone does not hear it, which the next read will show.
    fn tell(&self, report: Report) {
        let Ok(mut line) = serde_json::to_vec(&report) else { return };
        line.push(b'\n');
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            match rustix::io::retry_on_intr(|| rustix::io::write(self.socket.as_fd(), rest)) {
                Ok(n) => rest = &rest[n..],
                Err(_) => return,
            }
        }
    }
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
                    self.exited(agent, status_of(status));
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return Left::Somebody,
                Err(_) => return Left::Nobody,
            }
        }
    }
}

/// Signals as something to wait for. Those that would end us are among them, and are only read away.
struct Signals(OwnedFd);

impl Signals {
    fn hold() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `sigemptyset` initialises the set before anything reads it, the signal numbers are valid, and the descriptor
        // that `signalfd` gives is new and nobody else's.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2] {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            if libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            match libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(Self(OwnedFd::from_raw_fd(fd))),
            }
        }
    }

    fn drain(&self) {
        let mut buffer = [0; 16 * size_of::<libc::signalfd_siginfo>()];
        while rustix::io::read(&self.0, &mut buffer).is_ok_and(|n| n == buffer.len()) {}
    }
}

/// Closes what the agent's own parent may have left open, beyond the three standard descriptors.
fn close_inherited() {
    let first = io::stderr().as_raw_fd() + 1;
    // SAFETY: this is the start of a program with one thread that has opened nothing yet, so nobody owns these descriptors.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    debug_assert!(closed == 0, "close_range is in every kernel from 5.9 on");
}
