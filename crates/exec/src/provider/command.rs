//! `command.exec` and `command.shell`: one program, its words handed over as they are.

use std::io;
use std::sync::Arc;

use longshore_model::limits::LOG_BYTES_PER_STEP_MAX;
use longshore_model::operation::Command;
use longshore_model::unit::{ByteSize, Span};
use longshore_model::wire::problem::{ErrorCode, chain};
use longshore_model::wire::result::CommandResult;

use crate::Output;
use crate::executor::{Host, Task};
use crate::finished::{Finished, is_host_fault};
use crate::process::{Captured, Exit, Fault, NotStarted, Program, Ran, Sink, StartFault, Stop, Stops};
use crate::secrets::opened;

/// Runs the program to its end.
pub(crate) async fn run(host: &Host, task: &Task, command: &Command, output: Arc<dyn Output>, stops: &Stops) -> Finished {
    let mut env = host.environment(&host.home);
    env.extend(command.env.clone());
    env.extend(task.variables());
    let secrets = match opened(&command.secrets) {
        Ok(secrets) => secrets,
        Err(finished) => return *finished,
    };
    env.extend(secrets.clone());
    let program =
        Program { words: command.words.clone(), cwd: command.cwd.clone().unwrap_or_else(|| host.launcher.state_dir.clone()), env };
    let sink = match command.max_output {
        None => Sink::keeping(output, LOG_BYTES_PER_STEP_MAX),
        Some(ByteSize(max)) => Sink::keeping_up_to(output, LOG_BYTES_PER_STEP_MAX, usize::try_from(max).unwrap_or(usize::MAX / 2)),
    };
    let mut sink = sink.without(&secrets);
    let ran = host.launcher.run(program, &mut sink, stops).await;
    let captured = sink.finish().await;
    match ran {
        Ok(ran) => finished(&ran, captured, task.job.timeout),
        Err(fault) => from_fault(&fault),
    }
}

/// What a fault of starting or following a program means for the job.
pub(crate) fn from_fault(fault: &Fault) -> Finished {
    match fault {
        Fault::NotStarted(error) => not_started(error),
        Fault::Supervisor { .. } => Finished::host_fault(format!("could not {}", chain(fault))),
        Fault::SupervisorHangs | Fault::SupervisorDied { .. } => {
            // With survivors about, another attempt could meet them: it is not for the retry policy to start one.
            Finished { transient: is_verified(fault), ..Finished::host_fault(format!("could not {}", chain(fault))) }
        }
    }
}

/// Whether it is known that no process is left after this fault.
pub(crate) fn is_verified(fault: &Fault) -> bool {
    match fault {
        Fault::NotStarted(_) | Fault::Supervisor { .. } | Fault::SupervisorDied { verified: true } => true,
        Fault::SupervisorHangs | Fault::SupervisorDied { verified: false } => false,
    }
}

/// How a program ended, in words.
pub(crate) fn ending(exit: Option<Exit>) -> String {
    match exit {
        Some(Exit { code: Some(code), signal: _ }) => format!("exited with status {code}"),
        Some(Exit { code: None, signal: Some(signal) }) => format!("was ended by signal {signal}"),
        Some(Exit { code: None, signal: None }) | None => "ended in an unknown way".to_owned(),
    }
}

fn not_started(error: &NotStarted) -> Finished {
    if is_host_fault(&error.source) {
        return Finished::host_fault(error.to_string());
    }
    let code = match (error.at, error.source.kind()) {
        (StartFault::Directory, _) => ErrorCode::Staging,
        (StartFault::Limits, _) => ErrorCode::HostFault,
        (StartFault::Program, io::ErrorKind::ArgumentListTooLong) => ErrorCode::Validation,
        (StartFault::Program, _) => ErrorCode::CommandNotFound,
    };
    Finished::failed(code, error.to_string())
}

fn finished(ran: &Ran, captured: Captured, timeout: std::time::Duration) -> Finished {
    let exit = ran.exit.unwrap_or(Exit { code: None, signal: None });
    let result = CommandResult {
        exit_code: exit.code,
        signal: exit.signal,
        stdout: captured.stdout,
        stderr: captured.stderr,
        stdout_bytes: captured.stdout_bytes,
        stderr_bytes: captured.stderr_bytes,
        truncated: captured.truncated,
        duration_ms: u64::try_from(ran.elapsed.as_millis()).unwrap_or(u64::MAX),
    };
    let result = serde_json::to_value(result).ok();
    let finished = match (ran.stop, exit.code) {
        (Some(Stop::Cancelled | Stop::Abandoned), _) => Finished::cancelled(ran.verified),
        (Some(Stop::TimedOut), _) => {
            let gone = if ran.verified { "" } else { "; not every process is known to be gone" };
            Finished::failed(ErrorCode::TimedOut, format!("ran longer than {}{gone}", Span(timeout)))
        }
        (None, Some(0)) => Finished::completed(None, serde_json::Value::Null),
        (None, _) => Finished::failed(ErrorCode::ExitStatus, ending(ran.exit)),
    };
    Finished { result, ..finished }
}
