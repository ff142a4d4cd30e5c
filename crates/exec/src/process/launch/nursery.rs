//! The side of a nursery that asks: keeps its process, and has supervisors forked from it.
//!
//! It only makes them quicker: whoever gets none from it starts one in the usual way.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as Socket;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

use super::super::protocol::{MARK_BYTES_MAX, NURSERY};
use super::super::tree::SUPERVISOR_VARIABLE;
use super::keeper::{Keeper, Started};
use crate::SupervisorCommand;

/// How long a supervisor may take to be there. A nursery that does not answer has been stopped by somebody, or the host is busy: loading one
/// anew takes no longer then.
const ANSWER_BOUND: Duration = Duration::from_secs(1);

/// The process that supervisors are forked from, started when the first is wanted. It ends with the thread that it was started from: for
/// runtimes with one thread.
#[derive(Debug)]
pub(crate) struct Nursery {
    command: SupervisorCommand,
    process: Mutex<Option<(Child, OwnedFd)>>,
}

impl Nursery {
    /// Nothing is started yet.
    pub(crate) fn new(command: SupervisorCommand) -> Self {
        Self { command, process: Mutex::default() }
    }

    /// Starts the process if there is none, so that it is ready when a supervisor is wanted. Needs a tokio runtime. Safe to repeat.
    pub(crate) fn start(&self) -> io::Result<()> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((child, _)) = &mut *process
            && child.try_wait()?.is_none()
        {
            return Ok(());
        }
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // As to every supervisor: a blank, then what it is.
        for word in [&b" "[..], NURSERY, b"\n"] {
            rustix::net::send(&ours, word, SendFlags::NOSIGNAL)?;
        }
        let child = Command::new(&self.command.program)
            .args(&self.command.args)
            .env_clear()
            // Room for the marks of those that it becomes.
            .env(SUPERVISOR_VARIABLE, "-".repeat(MARK_BYTES_MAX))
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        *process = Some((child, ours));
        Ok(())
    }

    /// A new supervisor with this mark, and the socket to it.
    ///
    /// # Errors
    /// There is none, and none is to come: another may be started in its place.
    pub(super) async fn bear(&self, mark: &str) -> io::Result<(Started, UnixStream)> {
        if mark.len() > MARK_BYTES_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (ours, theirs) = Socket::pair()?;
        super::hand_over(&ours, None)?;
        ours.set_nonblocking(true)?;
        let ours = UnixStream::from_std(ours)?;
        let ((stdout, stdout_end), (stderr, stderr_end)) = (pipe_with(PipeFlags::CLOEXEC)?, pipe_with(PipeFlags::CLOEXEC)?);
        self.start()?;
        let asked = self.ask(mark, [theirs.as_fd(), stdout_end.as_fd(), stderr_end.as_fd()]);
        drop((theirs, stdout_end, stderr_end));
        let born = match asked {
            Ok(()) => timeout(ANSWER_BOUND, announced(&ours)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
            Err(error) => Err(error),
        };
        let pidfd = match born {
            Ok(pidfd) => pidfd,
            Err(error) => {
                // One that comes late finds its socket closed.
                drop(self.process.lock().unwrap_or_else(PoisonError::into_inner).take());
                return Err(error);
            }
        };
        let stdout = ChildStdout::from_std(stdout.into())?;
        let stderr = ChildStderr::from_std(stderr.into())?;
        Ok((Started { keeper: Keeper::Forked(pidfd), stdout: Some(stdout), stderr: Some(stderr) }, ours))
    }

    fn ask(&self, mark: &str, fds: [std::os::fd::BorrowedFd<'_>; 3]) -> io::Result<()> {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, socket)) = &*process else { return Err(io::ErrorKind::NotConnected.into()) };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut with = SendAncillaryBuffer::new(&mut space);
        with.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(socket, &[IoSlice::new(mark.as_bytes())], &mut with, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
        Ok(())
    }
}

/// Waits for the word that a supervisor has been forked, which comes before all of its own, and with it the process.
async fn announced(socket: &UnixStream) -> io::Result<OwnedFd> {
    let (n, pidfd) = socket
        .async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut with = RecvAncillaryBuffer::new(&mut space);
            let mut word = [0; 1];
            let received = recvmsg(socket, &mut [IoSliceMut::new(&mut word)], &mut with, RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT)?;
            let mut pidfd = None;
            for message in with.drain() {
                if let RecvAncillaryMessage::ScmRights(mut fds) = message {
                    pidfd = fds.next();
                }
            }
            Ok((received.bytes, pidfd))
        })
        .await?;
    pidfd.filter(|_| n == 1).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}
