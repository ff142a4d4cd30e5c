//! The process from which supervisors are forked, ready-made: to load this program anew costs more than a short program takes.
//!
//! ```text
//!   whoever asks ──request: a mark, socket, stdout, stderr──► nursery ──fork──► supervisor, as one that was loaded for it
//!        ▲                                                       │
//!        └──────────── the supervisor's pidfd, by its socket ────┘
//! ```
//!
//! It never reads what a supervisor is told, so no secret of one is in the memory of another. It ends with whoever asks, also if it is stopped then;
//! supervisors outlive it.

use std::ffi::{CStr, c_char};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, set_child_subreaper, set_dumpable_behavior,
    set_parent_process_death_signal, wait,
};

use super::super::protocol::MARK_BYTES_MAX;
use super::super::tree::{SUPERVISOR_VARIABLE, pause};
use super::FOREVER;
use super::signals::Signals;

/// Serves requests that come by stdin until nobody can ask any more. The only thread of its process.
pub(super) fn serve() -> io::Result<()> {
    // Whoever dies below a supervisor that was killed is not for us to find.
    set_child_subreaper(None)?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // A step of one job, as the same user, must not get at what later jobs are started by.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let signals = Signals::hold()?;
    let stdin = io::stdin();
    while let Some(request) = next(stdin.as_fd(), &signals)? {
        // Who asks hears of every failure by the end of its socket.
        let _heard_by_the_asker = bear(request);
    }
    Ok(())
}

struct Request {
    mark: Vec<u8>,
    socket: OwnedFd,
    output: [OwnedFd; 2],
}

/// The next request that makes sense; `None` at the end. Supervisors that have ended are reaped meanwhile.
fn next(socket: BorrowedFd<'_>, signals: &Signals) -> io::Result<Option<Request>> {
    loop {
        let held = signals.fd();
        let mut fds = [PollFd::new(&socket, PollFlags::IN), PollFd::new(&held, PollFlags::IN)];
        pause(&mut fds, FOREVER);
        let is_asked = !fds[0].revents().is_empty();
        signals.drain();
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        if !is_asked {
            continue;
        }
        let mut mark = vec![0; MARK_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut with = RecvAncillaryBuffer::new(&mut space);
        let received = match recvmsg(socket, &mut [IoSliceMut::new(&mut mark)], &mut with, RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => continue,
            received => received?,
        };
        if received.bytes == 0 {
            return Ok(None);
        }
        mark.truncate(received.bytes);
        let mut came = Vec::new();
        for message in with.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                came.extend(fds);
            }
        }
        if let Ok([socket, stdout, stderr]) = <[OwnedFd; 3]>::try_from(came) {
            return Ok(Some(Request { mark, socket, output: [stdout, stderr] }));
        }
    }
}

/// Forks a supervisor, and tells who asked which process that is.
fn bear(Request { mark, socket, output }: Request) -> io::Result<()> {
    // SAFETY: this process has one thread, so that the child may do whatever its parent might.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => become_supervisor(&mark, &socket, &output),
        pid => {
            let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
            // It is not reaped before the next request is waited for, so the number is its own.
            let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut with = SendAncillaryBuffer::new(&mut space);
            let fds = [pidfd.as_fd()];
            with.push(SendAncillaryMessage::ScmRights(&fds));
            sendmsg(&socket, &[IoSlice::new(b" ")], &mut with, SendFlags::NOSIGNAL)?;
            Ok(())
        }
    }
}

/// Never comes back: what this process has open is its parent's, and is closed without being dropped.
fn become_supervisor(mark: &[u8], socket: &OwnedFd, output: &[OwnedFd; 2]) -> ! {
    let places = [(socket, 0), (&output[0], 1), (&output[1], 2)];
    let is_ready = places.into_iter().all(|(fd, place)| {
        // SAFETY: the descriptor is open, and the first three numbers are the standard streams, which nobody owns.
        unsafe { libc::dup2(fd.as_raw_fd(), place) != -1 }
    });
    // Its mark is to be read, as that of every supervisor.
    if !is_ready || set_dumpable_behavior(DumpableBehavior::Dumpable).is_err() || wear(mark).is_err() {
        std::process::exit(1);
    }
    std::process::exit(i32::from(super::supervise().is_err()))
}

/// Makes `mark` what others see of this process as the value of the supervisors' variable, which was made long enough for that.
fn wear(mark: &[u8]) -> io::Result<()> {
    unsafe extern "C" {
        static environ: *const *mut c_char;
    }
    // SAFETY: this process has one thread and never changes its environment, so that this is still the list of C strings that the kernel
    // has put there; what is written stays within the one that is found, whose last byte stays its end.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            let text = CStr::from_ptr(*entry).to_bytes();
            let name = text.strip_prefix(SUPERVISOR_VARIABLE.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
            if let Some(value) = name {
                let (room, offset) = (value.len(), text.len() - value.len());
                if mark.len() > room {
                    return Err(Errno::TOOBIG.into());
                }
                let value = (*entry).cast::<u8>().add(offset);
                std::ptr::write_bytes(value, 0, room);
                std::ptr::copy_nonoverlapping(mark.as_ptr(), value, mark.len());
                return Ok(());
            }
            entry = entry.add(1);
        }
    }
    Err(io::ErrorKind::NotFound.into())
}
