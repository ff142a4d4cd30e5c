//! What an agent has of a supervisor's process, however that came to be: it can be woken, killed and waited for.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Signal, kill_process, pidfd_send_signal};
use tokio::process::{Child, ChildStderr, ChildStdout};
use tokio::time::sleep;

use super::super::tree::pause;

const RECHECK: Duration = Duration::from_millis(5);

/// A supervisor that was started, and its program's output.
pub(super) struct Started {
    pub(super) keeper: Keeper,
    pub(super) stdout: Option<ChildStdout>,
    pub(super) stderr: Option<ChildStderr>,
}

impl From<Child> for Started {
    fn from(mut child: Child) -> Self {
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        Self { keeper: Keeper::Child(child), stdout, stderr }
    }
}

/// A supervisor's process.
pub(super) enum Keeper {
    Child(Child),
    /// A nursery's child, which reaps it: its pidfd.
    Forked(OwnedFd),
}

impl Keeper {
    /// Lets it go on, if a job has stopped it.
    pub(super) fn wake(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it, and waits until it is gone.
    pub(super) async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.gone().await;
    }

    /// Sees to it that nothing stays of one that has said its last word. Cancel-safe.
    pub(super) async fn reap(&mut self) {
        match self {
            Self::Child(_) => self.gone().await,
            Self::Forked(_) => {}
        }
    }

    async fn gone(&mut self) {
        match self {
            Self::Child(child) => drop(child.wait().await),
            Self::Forked(pidfd) => {
                while !has_ended(pidfd) {
                    sleep(RECHECK).await;
                }
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let _gone_already = match self {
            // Not reaped yet, so the number is still its own.
            Self::Child(child) => {
                child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).map_or(Ok(()), |pid| kill_process(pid, signal))
            }
            Self::Forked(pidfd) => pidfd_send_signal(pidfd, signal),
        };
    }
}

/// A pidfd is readable from the end of its process on.
fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    pause(&mut fds, Duration::ZERO);
    !fds[0].revents().is_empty()
}
