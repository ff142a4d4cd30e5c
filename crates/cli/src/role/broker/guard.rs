//! The guard: between us and the nats-server, so that the server never outlives us.
//!
//! Called as `longshore __broker-guard PROGRAM CONFIG`. Its standard input is a pipe from the process that owns the broker; nothing is ever
//! written to it, and when it closes, the owner is gone or wants the end. A parent-death signal would not do: the kernel ties it to the
//! thread that started the child.

use std::io::Write;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// The hidden command.
pub(crate) const GUARD: &str = "__broker-guard";

/// How long a server may take to write everything down.
pub(super) const STOP_WITHIN: Duration = Duration::from_secs(10);

/// The guard's main: starts the server, tells its process id, ends it when the pipe closes, and ends as it ended.
pub(crate) fn guard_main() -> ExitCode {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return ExitCode::FAILURE };
    runtime.block_on(guard()).map_or(ExitCode::FAILURE, ExitCode::from)
}

async fn guard() -> std::io::Result<u8> {
    let mut args = std::env::args_os().skip(2);
    let (Some(program), Some(config)) = (args.next(), args.next()) else { return Ok(2) };
    let mut owner = pipe::Receiver::from_owned_fd(std::io::stdin().as_fd().try_clone_to_owned()?)?;
    // A signal that is meant for all of us must not kill the guard before the server.
    let mut signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?);
    let mut server = Command::new(program).arg("-c").arg(config).stdin(std::process::Stdio::null()).process_group(0).spawn()?;
    tell(server.id().unwrap_or_default())?;

    let mut byte = [0];
    loop {
        tokio::select! {
            ended = server.wait() => return Ok(code(ended?)),
            read = owner.read(&mut byte) => match read {
                Ok(1..) => {}
                Ok(0) | Err(_) => return stop(server).await,
            },
            // The owner hears the same signals and decides when the broker ends.
            _ = signals.0.recv() => {}
            _ = signals.1.recv() => {}
            _ = signals.2.recv() => {}
        }
    }
}

fn tell(pid: u32) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "pid {pid}")?;
    stdout.flush()
}

async fn stop(mut server: Child) -> std::io::Result<u8> {
    if let Some(pid) = server.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        // Fails only when it has ended by itself.
        let _ = kill_process(pid, Signal::TERM);
    }
    match tokio::time::timeout(STOP_WITHIN, server.wait()).await {
        Ok(ended) => Ok(code(ended?)),
        Err(_) => {
            server.kill().await?;
            Ok(137)
        }
    }
}

fn code(status: std::process::ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let number = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(number).unwrap_or(1)
}
