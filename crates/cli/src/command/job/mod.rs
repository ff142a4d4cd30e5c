//! `longshore job`: submit, follow and manage jobs.

mod answers;
mod artifacts;
mod audience;
mod change;
mod detach;
mod id;
mod list;
mod logs;
mod presence;
mod result;
mod show;
mod submit;
mod wait;
mod watch;

pub(crate) use audience::{Audience, in_our_words};
pub(crate) use change::each;
use clap::Subcommand;
pub(crate) use detach::{interrupts, leave};
pub(crate) use id::resolve;
pub(crate) use logs::Writer;
use longshore_client::JobId;
pub(crate) use presence::telling;
pub(crate) use submit::{fresh_key, pair};
pub(crate) use wait::{or_leave, until};

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Format;
use crate::role::agent::WorkerStart;

/// Submit, follow and manage jobs.
#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// Submit a job.
    Submit(submit::Submit),
    /// List jobs, newest first.
    #[command(visible_alias = "ls")]
    List(list::List),
    /// Everything of one job.
    Show(show::Show),
    /// The result of one host, whatever its size.
    Result(result::ResultOf),
    /// Fetch what a workspace job brought back.
    Artifacts(artifacts::Artifacts),
    /// A job's output.
    Logs(logs::Logs),
    /// What happens to jobs, a line as it happens.
    Watch(watch::Watch),
    /// Wait until jobs have ended.
    Wait(wait::Wait),
    /// Ask for the end of jobs.
    Cancel(change::Cancel),
    /// Submit the same work again as a new job.
    Retry(change::Retry),
    /// Remove everything kept of ended jobs.
    #[command(visible_alias = "rm")]
    Delete(change::Delete),
    /// The earlier spelling of `longshore agent`.
    #[command(subcommand)]
    Worker(Worker),
}

/// The earlier spelling of `longshore agent`.
#[derive(Debug, Subcommand)]
pub(crate) enum Worker {
    /// Run an agent on this host.
    Start(WorkerStart),
}

/// What to do about a job that was accepted, after a failure that is not its own.
pub(crate) fn goes_on(id: JobId) -> String {
    format!("job {id} goes on:     longshore job wait {id}")
}

/// Refuses the forms of output that are one document: what goes on has no end to write.
fn only_lines(app: &App) -> Result<(), Failure> {
    match app.out.format {
        Format::Json | Format::Yaml => Err(Failure::new(Exit::Usage, "a stream that goes on is not one document").hint("use -o jsonl")),
        Format::Table | Format::Wide | Format::Jsonl | Format::Name => Ok(()),
    }
}

impl Job {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        match self {
            Self::Submit(submit) => submit.perform(app).await,
            Self::List(list) => list.perform(app).await,
            Self::Show(show) => show.perform(app).await,
            Self::Result(result) => result.perform(app).await,
            Self::Artifacts(artifacts) => artifacts.perform(app).await,
            Self::Logs(logs) => logs.perform(app).await,
            Self::Watch(watch) => watch.perform(app).await,
            Self::Wait(wait) => wait.perform(app).await,
            Self::Cancel(cancel) => cancel.perform(app).await,
            Self::Retry(retry) => retry.perform(app).await,
            Self::Delete(delete) => delete.perform(app).await,
            Self::Worker(Worker::Start(start)) => start.perform(app).await,
        }
    }
}
