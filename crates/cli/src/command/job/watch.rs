//! `longshore job watch`: what happens to jobs, a line as it happens. The controller tells; nobody polls.

use std::pin::pin;

use clap::Args;
use futures::{StreamExt, TryStreamExt, stream};
use longshore_client::{Client, JobId, JobNews, TimelineEntry};

use super::detach::unless_left;
use super::id::resolve;
use super::{only_lines, telling};
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::render;

/// What happens to jobs, a line as it happens.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Watch {
    /// Their ids, or unique beginnings or ends of them: from their submission to their end. Without any, all jobs from now on.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
}

const HELP: &str = "\
Examples
  longshore job watch                                           whatever happens to any job from now on
  longshore job watch j-7k2mab                                  one job, from its submission to its end
  longshore job watch -o jsonl | jq 'select(.event == \"lost\")'   for programs

Exit codes
  with ids: 0 all succeeded, 6 failed, 7 cancelled or expired, 9 some targets failed

Ctrl-C leaves; with ids a second one cancels.";

impl Watch {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        only_lines(app)?;
        let client = app.client()?;
        if self.ids.is_empty() {
            return everything(app, &client).await;
        }
        let mut jobs = Vec::new();
        for text in &self.ids {
            let id = resolve(&client, text).await?;
            if !jobs.contains(&id) {
                jobs.push(id);
            }
        }
        let words = jobs.iter().map(|id| format!(" {}", id.short())).collect::<String>();
        let watching = telling(&app.out, &client, to_their_end(app, &client, &jobs));
        unless_left(app, &client, &jobs, format_args!("longshore job watch{words}"), watching).await?.unwrap_or(Ok(Exit::Interrupted))
    }
}

/// Tells of these until all of them have ended; gives how.
async fn to_their_end(app: &App, client: &Client, jobs: &[JobId]) -> Result<Exit, Failure> {
    let mut changes = stream::select_all(jobs.iter().map(|id| client.events(*id, None).boxed()));
    while let Some(change) = changes.try_next().await? {
        tell(app, &change.item)?;
    }
    let mut exit = Exit::Done;
    for id in jobs {
        exit = exit.or(Exit::of_status(client.job(*id, None).await?.status));
    }
    Ok(exit)
}

/// Tells of all jobs for as long as somebody listens.
async fn everything(app: &App, client: &Client) -> Result<Exit, Failure> {
    let watching = async {
        let mut news = pin!(client.all_events(None));
        while let Some(news) = news.try_next().await? {
            match news.item {
                JobNews::Change(entry) => tell(app, &entry)?,
                JobNews::Gap { .. } => {
                    app.out.say("some of what happened meanwhile is not known any more; `longshore job list` has where it led")
                }
            }
        }
        Ok::<_, Failure>(Exit::Done)
    };
    telling(&app.out, client, watching).await
}

fn tell(app: &App, entry: &TimelineEntry) -> Result<(), Failure> {
    app.out.item(entry, |_| render::change(&app.out, entry), || entry.job.to_string())
}
