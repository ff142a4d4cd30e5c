//! `longshore job list`.

use clap::Args;
use jiff::Timestamp;
use longshore_client::{JobFilter, JobList};

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::render;

/// List jobs, newest first.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples\n  longshore job list --status failed --since 1h\n  longshore job list -o name --status running | xargs longshore job cancel"
)]
pub(crate) struct List {
    /// Statuses, such as `failed,expired`.
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,
    /// An operation's name.
    #[arg(long, value_name = "NAME")]
    operation: Option<String>,
    /// A target as it was submitted.
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
    /// A host name or agent id.
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,
    /// Who submitted it.
    #[arg(long, value_name = "NAME")]
    submitter: Option<String>,
    /// An annotation.
    #[arg(long, value_name = "KEY=VALUE")]
    annotation: Option<String>,
    /// Submitted since: RFC 3339, or a duration ago such as `1h`.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Submitted before.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Text anywhere in it.
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// The most jobs to list.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Go on where the page before ended.
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

impl List {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        let filter = JobFilter {
            status: self.status,
            operation: self.operation,
            target: self.target,
            agent: self.agent,
            submitter: self.submitter,
            annotation: self.annotation,
            since: self.since,
            until: self.until,
            q: self.search,
            limit: Some(usize::from(self.limit)),
            cursor: self.cursor,
        };
        let list = app.client()?.jobs(&filter).await?;
        let now = Timestamp::now();
        app.out.list(&list, &list.items, |wide| render::jobs(&app.out, &list, wide, now), |job| job.id.to_string())?;
        remark(app, &list);
        Ok(Exit::Done)
    }
}

fn remark(app: &App, list: &JobList) {
    if list.items.is_empty() {
        app.out.say("No jobs match.");
    } else if let Some(cursor) = &list.next_cursor {
        app.out.suggest(format!("more:     longshore job list --cursor {cursor}"));
    }
}
