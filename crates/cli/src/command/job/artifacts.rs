//! `longshore job artifacts`: what a workspace job brought back, also of one that nobody followed.

use std::path::PathBuf;

use clap::Args;
use longshore_model::Target;
use tokio_util::sync::CancellationToken;

use super::detach::interrupts;
use super::id::resolve;
use crate::app::App;
use crate::command::run::{Layout, collect, is_usable};
use crate::exit::Exit;
use crate::failure::Failure;

/// Fetch what a workspace job brought back.
#[derive(Debug, Args)]
pub(crate) struct Artifacts {
    /// The job's id, or a unique beginning or end of it.
    id: String,
    /// Where it goes; that of `_all` and of a group each into a directory below it that has the host's name.
    #[arg(long, value_name = "DIR", default_value = "results")]
    out: PathBuf,
}

impl Artifacts {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        is_usable(&self.out)?;
        let client = app.client()?;
        let job = client.job(resolve(&client, &self.id).await?, None).await?;
        if !job.status.is_final() {
            app.out.say(format!("the job has not ended yet; for what is missing then     longshore job wait {}", job.id.short()));
        }
        let layout = match job.target.parse() {
            Ok(Target::All | Target::Group(_)) => Layout::ByHost,
            Ok(Target::Any | Target::Host(_) | Target::AnyOf(_)) | Err(_) => Layout::Flat,
        };
        let (mut interrupts, stop) = (interrupts()?, CancellationToken::new());
        let mut fetching = std::pin::pin!(collect(app, &client, job.id, (&self.out, layout), &stop));
        tokio::select! {
            fetched = &mut fetching => fetched.map(|()| Exit::Done),
            _ = interrupts.recv() => {
                stop.cancel();
                // Removes what it had begun with.
                fetching.await.map(|()| Exit::Done)
            }
        }
    }
}
