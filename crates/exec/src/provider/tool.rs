//! Programs of the host that do a part of an operation: run by their argument list, with a time-out, their output capped and kept to us.

use std::sync::Arc;
use std::time::Duration;

use longshore_model::limits::LOG_BYTES_PER_STEP_MAX;
use longshore_model::unit::Span;
use longshore_model::wire::log::LogStream;
use longshore_model::wire::problem::ErrorCode;

use super::Ended;
use super::command::{ending, from_fault};
use crate::Output;
use crate::executor::Host;
use crate::finished::Finished;
use crate::process::{Program, Sink, Stop, Stops};

/// How much of what a failing program said is in the message.
const SAID_BYTES_MAX: usize = 1024;

struct Nobody;

impl Output for Nobody {
    fn write(&self, _step: u32, _stream: LogStream, _bytes: &[u8]) {}
}

/// Runs `program` (its path) with `args` for at most `limit`, and gives what it wrote to standard output.
///
/// # Errors
/// How the attempt ends, if the program does not start, fails, or is stopped.
pub(super) async fn run(host: &Host, program: &str, args: &[&str], limit: Duration, stops: &Stops) -> Ended<String> {
    let words = std::iter::once(program).chain(args.iter().copied()).map(str::to_owned).collect();
    let mut env = host.environment(&host.home);
    // Its words are for us to read, and a line is a line.
    env.extend(
        [("LC_ALL", "C"), ("COLUMNS", "1000"), ("SYSTEMD_COLORS", "0"), ("SYSTEMD_PAGER", "")]
            .map(|(name, value)| (name.into(), value.into())),
    );
    let mut sink = Sink::keeping(Arc::new(Nobody), LOG_BYTES_PER_STEP_MAX);
    let own = stops.within(Some(limit));
    let ran = host.launcher.run(Program { words, cwd: "/".to_owned(), env }, &mut sink, &own).await.map_err(|fault| from_fault(&fault))?;
    let captured = sink.finish().await;
    match (ran.stop, ran.exit.and_then(|exit| exit.code)) {
        (Some(Stop::Cancelled | Stop::Abandoned), _) => Err(Finished::cancelled(ran.verified).into()),
        (Some(Stop::TimedOut), _) => {
            let whose =
                if own.deadline < stops.deadline { format!("longer than {}", Span(limit)) } else { "out of the job's time".to_owned() };
            Err(Finished::failed(ErrorCode::TimedOut, format!("{program} ran {whose}")).into())
        }
        (None, Some(0)) if captured.truncated => Err(Finished::failed(
            ErrorCode::HostFault,
            format!("{program} wrote {} bytes, which is too much to be sound", captured.stdout_bytes),
        )
        .into()),
        (None, Some(0)) => Ok(captured.stdout),
        (None, _) => {
            let said = if captured.stderr.trim().is_empty() { &captured.stdout } else { &captured.stderr };
            Err(Finished::failed(ErrorCode::ExitStatus, format!("{program} {} {}: {}", args.join(" "), ending(ran.exit), shown(said)))
                .into())
        }
    }
}

/// What a program said, on one line and without what a terminal would obey.
fn shown(said: &str) -> String {
    let said = said.trim();
    let said = &said[..said.floor_char_boundary(SAID_BYTES_MAX)];
    said.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Waits until nobody else changes the host's settings, and keeps others from it.
///
/// # Errors
/// How the attempt ends, if it is stopped before.
pub(super) async fn settings<'a>(host: &'a Host, stops: &Stops) -> Ended<tokio::sync::MutexGuard<'a, ()>> {
    tokio::select! {
        guard = host.settings.lock() => Ok(guard),
        stop = stops.first() => Err(stopped(stop, "another job was still changing the host's settings").into()),
    }
}

/// How an attempt ends that a stop ended while no program of it ran.
pub(super) fn stopped(stop: Stop, late: &str) -> Finished {
    match stop {
        Stop::Cancelled | Stop::Abandoned => Finished::cancelled(true),
        Stop::TimedOut => Finished::failed(ErrorCode::TimedOut, late),
    }
}
