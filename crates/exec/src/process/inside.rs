//! Namespaces of its own for a program and everything below it.
//!
//! ```text
//!   supervisor ──► first process of the namespaces ──► program ──► …
//!        ▲                    │   (adopts every orphan)
//!        └── how it started ──┘
//!            and ended
//! ```
//!
//! When the first process ends, the kernel kills everything in its PID namespace, and it ends with the supervisor: so nothing survives it,
//! however it hides, and however it ends. Mounts that are made inside are seen inside only and are gone with it; so are System V and POSIX
//! message queues, semaphores and shared memory. Files, network and users are the host's.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, set_parent_process_death_signal, wait};

use super::protocol::{Spec, StartFault};
use super::supervisor::{spawn, status_of};

/// What the first process says, and its supervisor hears: two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// The namespaces could not be furnished; nothing was started.
    Unfurnished(i32),
    Started,
    NotStarted(StartFault, i32),
    /// The program's exit status, or the signal that ended it.
    Exited {
        code: Option<i32>,
        signal: Option<i32>,
    },
}

impl Word {
    fn to_bytes(self) -> [u8; 8] {
        let (kind, number) = match self {
            Self::Unfurnished(errno) => (1, errno),
            Self::Started => (2, 0),
            Self::NotStarted(StartFault::Directory, errno) => (3, errno),
            Self::NotStarted(StartFault::Program, errno) => (4, errno),
            Self::NotStarted(StartFault::Limits, errno) => (5, errno),
            Self::Exited { code: Some(code), signal: _ } => (6, code),
            Self::Exited { code: None, signal } => (7, signal.unwrap_or_default()),
        };
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&i32::to_ne_bytes(kind));
        bytes[4..].copy_from_slice(&number.to_ne_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; 8]) -> Option<Self> {
        let number = |at: usize| i32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (kind, number) = (number(0), number(4));
        Some(match kind {
            1 => Self::Unfurnished(number),
            2 => Self::Started,
            3 => Self::NotStarted(StartFault::Directory, number),
            4 => Self::NotStarted(StartFault::Program, number),
            5 => Self::NotStarted(StartFault::Limits, number),
            6 => Self::Exited { code: Some(number), signal: None },
            7 => Self::Exited { code: None, signal: Some(number).filter(|signal| *signal != 0) },
            _nonsense => return None,
        })
    }
}

/// The supervisor's end of what the first process says.
pub(super) struct First {
    pub(super) pid: Pid,
    pub(super) words: OwnedFd,
}

impl First {
    /// The next word; `None` if it ended without one. Blocks.
    pub(super) fn hear(&self) -> Option<Word> {
        let mut bytes = [0; 8];
        // Written as one, so that it comes as one.
        let n = rustix::io::retry_on_intr(|| rustix::io::read(&self.words, &mut bytes)).ok()?;
        if n == bytes.len() { Word::from_bytes(bytes) } else { None }
    }
}

/// Starts the first process of new namespaces, which starts the program.
///
/// # Errors
/// The host does not allow it; this process is as it was.
pub(super) fn enter(spec: &Spec, stdin: Option<&OwnedFd>) -> io::Result<First> {
    let own = rustix::fs::open("/proc/self/ns/pid", rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // SAFETY: the call takes flags only, and concerns children that this process starts from now on.
    if unsafe { libc::unshare(libc::CLONE_NEWPID) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: this process has one thread, so that the child may do whatever its parent might.
    match unsafe { libc::fork() } {
        -1 => {
            let error = io::Error::last_os_error();
            come_back(&own);
            Err(error)
        }
        0 => {
            drop((own, ours));
            first_process(spec, stdin, theirs)
        }
        pid => {
            drop(theirs);
            let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
            Ok(First { pid, words: ours })
        }
    }
}

/// Makes children be started in the namespace of this process again. Without it they could not be started at all once the first is gone.
pub(super) fn come_back_out() {
    if let Ok(own) = rustix::fs::open("/proc/self/ns/pid", rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty()) {
        come_back(&own);
    }
}

fn come_back(own: &OwnedFd) {
    // SAFETY: the descriptor is open, and the call concerns children that this process starts from now on.
    let _next_fork_fails = unsafe { libc::setns(own.as_raw_fd(), libc::CLONE_NEWPID) };
}

fn first_process(spec: &Spec, stdin: Option<&OwnedFd>, words: OwnedFd) -> ! {
    let say = |word: Word| rustix::io::retry_on_intr(|| rustix::io::write(&words, &word.to_bytes())).is_ok();
    if let Err(error) = furnish(spec) {
        say(Word::Unfurnished(error.raw_os_error().unwrap_or_default()));
        exit(1);
    }
    let program = match spawn(spec, stdin) {
        Ok(program) => program,
        Err((at, error)) => {
            say(Word::NotStarted(at, error.raw_os_error().unwrap_or_default()));
            exit(1);
        }
    };
    // A supervisor that was killed before its death was a signal hears nothing any more.
    if !say(Word::Started) {
        exit(1);
    }
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == program => {
                let (code, signal) = status_of(status);
                say(Word::Exited { code, signal });
            }
            Ok(_) | Err(Errno::INTR) => {}
            // Nobody is left.
            Err(_) => exit(0),
        }
    }
}

fn exit(code: i32) -> ! {
    // SAFETY: this ends the process without running what its parent has registered to run at its own end.
    unsafe { libc::_exit(code) }
}

/// Ties this process to its supervisor, and gives it what its namespaces need.
fn furnish(spec: &Spec) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The agent must notice the supervisor's end by its socket, which therefore nobody else may hold.
    // SAFETY: the path is a C string, and the descriptors are this process's own: it has one thread, and nobody owns number 0 but `io::stdin`.
    unsafe {
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        if null == -1 || libc::dup2(null, 0) == -1 {
            return Err(io::Error::last_os_error());
        }
        drop(OwnedFd::from_raw_fd(null));
        if libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWIPC) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // What the host mounts from now on is seen inside, but not the other way round.
    mount(None, c"/", None, libc::MS_REC | libc::MS_SLAVE)?;
    let closed = libc::MS_NOSUID | libc::MS_NODEV;
    mount(Some(c"proc"), c"/proc", Some(c"proc"), closed | libc::MS_NOEXEC)?;
    if is_in_shared_memory(spec) {
        return Ok(());
    }
    match mount(Some(c"tmpfs"), c"/dev/shm", Some(c"tmpfs"), closed) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        mounted => mounted,
    }
}

/// Whether the program works in the host's `/dev/shm`, which then must not be hidden from it: somebody keeps workspaces there.
fn is_in_shared_memory(spec: &Spec) -> bool {
    let device = |path: &str| std::fs::metadata(path).map(|found| found.dev()).ok();
    let Some(shared) = device("/dev/shm") else { return false };
    let resolved = |path: &str| std::fs::canonicalize(path).is_ok_and(|path| path.starts_with("/dev/shm"));
    // One question for most of them; a path's every part would be looked at otherwise.
    let is_there = |path: &String| path.starts_with('/') && device(path) == Some(shared) && resolved(path);
    std::iter::once(&spec.cwd).chain(spec.env.values()).any(is_there)
}

fn mount(source: Option<&std::ffi::CStr>, target: &std::ffi::CStr, kind: Option<&std::ffi::CStr>, flags: libc::c_ulong) -> io::Result<()> {
    let pointer = |text: Option<&std::ffi::CStr>| text.map_or(std::ptr::null(), std::ffi::CStr::as_ptr);
    // SAFETY: every pointer is to a C string that lives through the call, or null where that is allowed.
    let mounted = unsafe { libc::mount(pointer(source), target.as_ptr(), pointer(kind), flags, std::ptr::null()) };
    if mounted == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
