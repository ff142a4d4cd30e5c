//! `longshore job cancel`, `retry` and `delete`. Several ids are done one by one; the first refusal does not keep the others from it.

use clap::Args;
use longshore_client::{Client, ErrorCode, JobId, RetryJobRequest, RetryOnly};

use super::id::resolve;
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::render;

/// Ask for the end of jobs. Cancelling twice, or an ended job, is harmless.
#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// Their ids, or unique beginnings or ends of them.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

/// Submit the same work again as a new job.
#[derive(Debug, Args)]
pub(crate) struct Retry {
    /// Their ids, or unique beginnings or ends of them.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Only the executions that did not complete.
    #[arg(long)]
    failed: bool,
}

/// Remove everything kept of ended jobs.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Their ids, or unique beginnings or ends of them.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Cancel one that runs first.
    #[arg(long)]
    force: bool,
}

impl Cancel {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        each(app, &self.ids, "cancelled", async |client, id| {
            let view = client.cancel(id).await?;
            app.out.item(&view, |_| format!("{}: {}", id.short(), view.message), || id.to_string())
        })
        .await
    }
}

impl Retry {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        let request = RetryJobRequest { only: if self.failed { RetryOnly::Failed } else { RetryOnly::All } };
        each(app, &self.ids, "retried", async |client, id| {
            let job = client.retry(id, &request).await?;
            app.out.item(&job, |_| format!("{} repeats {}: {}", job.id, id.short(), render::job_line(&job)), || job.id.to_string())
        })
        .await
    }
}

impl Delete {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        each(app, &self.ids, "deleted", async |client, id| {
            client.delete(id, self.force).await.map_err(|error| {
                let hint = format!("wait for it     longshore job wait {0}\nor cancel it    longshore job cancel {0}\nor end and delete it    longshore job delete --force {0}", id.short());
                Failure::from(error).hint_instead(ErrorCode::JobRunning, hint)
            })?;
            let document = serde_json::json!({ "id": id, "deleted": true });
            app.out.item(&document, |_| format!("{} deleted", id.short()), || id.to_string())
        })
        .await
    }
}

/// Does `change` to each job; the first refusal does not keep the others from it.
pub(crate) async fn each(
    app: &App,
    texts: &[String],
    done: &str,
    change: impl AsyncFn(&Client, JobId) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    let client = app.client()?;
    let mut exit = Exit::Done;
    for text in texts {
        let changed = async {
            let id = resolve(&client, text).await?;
            change(&client, id).await.map_err(|failure| failure.doing(&format!("job {} was not {done}", id.short())))
        };
        if let Err(failure) = changed.await {
            app.out.fail(&failure);
            exit = exit.or(failure.exit);
        }
    }
    Ok(exit)
}
