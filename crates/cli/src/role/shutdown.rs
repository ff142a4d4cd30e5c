//! Signals: the first asks to finish or hand back, the second ends now, and so does the time-out.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

/// How long running jobs get.
pub(crate) const DRAIN_WITHIN: Duration = Duration::from_secs(30);

/// The process's signals.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

/// What is set by signals.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tokens {
    /// Take no new work, finish or hand back.
    pub(crate) drain: CancellationToken,
    /// Now.
    pub(crate) stop: CancellationToken,
}

impl Signals {
    /// Catches SIGINT and SIGTERM from now on.
    pub(crate) fn catch() -> Result<Self, Failure> {
        let catch = |kind| signal(kind).map_err(|error| Failure::new(Exit::Failed, "signals cannot be caught").caused_by(&error));
        Ok(Self { interrupt: catch(SignalKind::interrupt())?, terminate: catch(SignalKind::terminate())? })
    }

    /// The next signal. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Exit {
        tokio::select! {
            _ = self.interrupt.recv() => Exit::Interrupted,
            _ = self.terminate.recv() => Exit::Terminated,
        }
    }

    /// Sets the tokens as signals come, until `work` has ended. Gives how the program should end, and what `work` gave.
    pub(crate) async fn guide<T>(self, out: &Output, tokens: &Tokens, work: impl Future<Output = T>) -> (Exit, T) {
        self.guide_within(out, tokens, DRAIN_WITHIN, work).await
    }

    /// [`Self::guide`] with another time for running jobs.
    pub(crate) async fn guide_within<T>(
        mut self,
        out: &Output,
        tokens: &Tokens,
        drain_within: Duration,
        work: impl Future<Output = T>,
    ) -> (Exit, T) {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            done = &mut work => return (Exit::Done, done),
            _ = self.next() => {}
        }
        tokens.drain.cancel();
        if out.stderr_is_terminal {
            out.say(format!("\nstopping; running jobs get {} s, another Ctrl-C ends them now", drain_within.as_secs()));
        }
        let exit = tokio::select! {
            done = &mut work => return (Exit::Done, done),
            exit = self.next() => exit,
            () = tokio::time::sleep(drain_within) => Exit::Done,
        };
        tokens.stop.cancel();
        (exit, work.await)
    }
}
