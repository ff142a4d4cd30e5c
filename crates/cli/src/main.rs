//! `longshore`, the one executable: the roles, the user's commands, settings, signals, and how it all looks.

mod app;
mod args;
mod command;
mod contexts;
#[cfg(test)]
mod documents;
mod exit;
mod failure;
mod output;
mod private;
mod render;
mod role;
mod settings;
mod target;

use std::process::ExitCode;

use app::App;
use args::{Cli, Command};
use clap::Parser;
use exit::Exit;
use failure::Failure;
use tokio::runtime::Builder;

/// Requests and messages are many small allocations that one thread makes and another frees. Without huge pages: each is 2 MiB at once, and what an
/// idle agent or worker has fits a third of one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Both are this program called by itself; they must start before anything that makes threads.
    if let Some(code) = role::hidden(std::env::args_os().nth(1).as_deref()) {
        return code;
    }
    let cli = Cli::try_parse_from(command::workspace::meant(std::env::args_os())).unwrap_or_else(|error| args::refuse(error));
    let app = App::new(cli.global);
    let exit = match perform(&app, cli.command) {
        Ok(exit) => exit,
        Err(failure) => {
            app.out.fail(&failure);
            failure.exit
        }
    };
    ExitCode::from(exit.code())
}

fn perform(app: &App, command: Command) -> Result<Exit, Failure> {
    role::logging::set_up(&command);
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match command {
        Command::Completion(completion) => completion.perform(app),
        Command::Explain(explain) => explain.perform(app),
        Command::Version => command::version::perform(app),
        Command::Config(config) => config.perform(app),
        Command::Context(context) => context.perform(app),
        Command::Token(token) => token.perform(app),
        Command::Key(key) => key.perform(app),
        Command::Run(run) => with_runtime(run.perform(app)),
        Command::Status => with_runtime(command::status::perform(app)),
        Command::Job(job @ command::job::Job::Worker(_)) => on_one_thread(job.perform(app)),
        Command::Job(job) => with_runtime(job.perform(app)),
        Command::DeadLetter(letter) => with_runtime(letter.perform(app)),
        Command::Audit(audit) => with_runtime(audit.perform(app)),
        Command::Node(node) => with_runtime(node.perform(app)),
        Command::Operation(operation) => with_runtime(operation.perform(app)),
        Command::Package(package) => with_runtime(package.perform(app)),
        Command::Start(start) => with_runtime(start.perform(app)),
        Command::Agent(agent) => on_one_thread(agent.perform(app)),
        Command::Workspace(workspace) => on_one_thread(workspace.perform(app)),
        Command::Worker(worker) => on_one_thread(worker.perform(app)),
        Command::Controller(controller) => with_runtime(controller.perform(app)),
        Command::Nats(nats) => with_runtime(nats.perform(app)),
    }
}

fn with_runtime(work: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    perform_on(&mut Builder::new_multi_thread(), work)
}

/// An agent waits for the broker and for what it runs, and leaves the processors to that: on one thread no message wakes several, and what
/// tasks have to say goes out together when each of them has had its turn. What takes long (files, digests, archives) has threads of its own.
fn on_one_thread(work: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    perform_on(&mut Builder::new_current_thread(), work)
}

fn perform_on(builder: &mut Builder, work: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = builder.enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Exit::Failed, "the runtime cannot start").caused_by(&error))?;
    let exit = runtime.block_on(work);
    // Reads of standard input and such cannot be interrupted; they end with the process.
    runtime.shutdown_background();
    exit
}
