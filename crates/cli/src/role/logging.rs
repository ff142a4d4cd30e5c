//! The log: to standard error, as much as `LONGSHORE_LOG` says.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::{agent, controller, nats, worker};
use crate::args::Command;
use crate::command::job::{Job, Worker};
use crate::command::workspace::Workspace;

/// Sets it up for the command.
pub(crate) fn set_up(command: &Command) {
    // Its settings say how much, and they are not read yet.
    if matches!(command, Command::Worker(worker::Worker::Start(_))) {
        return;
    }
    let is_terminal = std::io::stderr().is_terminal();
    // On a terminal a role tells in its own words when it is ready, and then only what is wrong.
    let level = if is_role(command) && !is_terminal { "info,async_nats=warn" } else { "warn" };
    begin(level);
}

/// Sets it up with another level, unless the environment says one.
pub(super) fn begin(level: &str) {
    let is_terminal = std::io::stderr().is_terminal();
    let filter = EnvFilter::try_from_env("LONGSHORE_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(is_terminal);
    // Fails only if there is a subscriber, and then that one is as good.
    let _ = subscriber.try_init();
}

fn is_role(command: &Command) -> bool {
    match command {
        Command::Start(_)
        | Command::Agent(agent::Agent::Start(_))
        | Command::Job(Job::Worker(Worker::Start(_)))
        | Command::Controller(controller::Controller::Start(_))
        | Command::Workspace(Workspace::Worker(_))
        | Command::Nats(nats::Nats::Start(_)) => true,
        Command::Run(_)
        | Command::Status
        | Command::Job(_)
        | Command::Node(_)
        | Command::DeadLetter(_)
        | Command::Audit(_)
        | Command::Operation(_)
        | Command::Package(_)
        | Command::Agent(
            agent::Agent::List
            | agent::Agent::Show(_)
            | agent::Agent::Facts(_)
            | agent::Agent::Doctor
            | agent::Agent::Drain(_)
            | agent::Agent::Undrain(_)
            | agent::Agent::Remove(_),
        )
        | Command::Token(_)
        | Command::Context(_)
        | Command::Config(_)
        | Command::Explain(_)
        | Command::Completion(_)
        | Command::Key(_)
        | Command::Worker(_)
        | Command::Version => false,
    }
}
