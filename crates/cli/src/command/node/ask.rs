//! Submits one operation, waits for the answers, and shows them.

use std::time::Instant;

use clap::Args;
use longshore_client::{Client, JobRequest};
use longshore_model::operation::Operation;
use longshore_model::unit::Span;
use serde::Serialize;

use crate::app::App;
use crate::command::job::{Audience, fresh_key, goes_on, in_our_words, or_leave, until};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::render::{self, Rows};

/// Who is asked, and for how long.
#[derive(Debug, Args)]
pub(crate) struct Ask {
    #[command(flatten)]
    pub(crate) audience: Audience,
    /// How long to wait for the answers; the setting controller.api.job_timeout unless given. The job goes on.
    #[arg(long, value_name = "DURATION")]
    wait: Option<Span>,
    /// Of one attempt; the operation's own unless given. The commands for which it may be hours have a flag for it.
    #[arg(skip)]
    pub(super) timeout: Option<Span>,
}

impl Ask {
    /// Has `operation` done and shows each host's `R`.
    pub(super) async fn perform<R: Rows>(self, app: &App, operation: Operation, args: &impl Serialize) -> Result<Exit, Failure> {
        let wait = match self.wait {
            Some(wait) => wait,
            None => app.settings(Vec::new())?.settings.controller.api.job_timeout,
        };
        let client = app.client()?;
        self.audience.confirm(app, &client, operation.name()).await?;
        let args = serde_json::to_value(args).expect("arguments are text, numbers and lists of them");
        let request = JobRequest {
            timeout: self.timeout.map(|span| span.to_string()),
            idempotency_key: Some(fresh_key()),
            ..self.audience.of(Client::request(operation.name().to_owned(), args))
        };
        let deadline = Instant::now().checked_add(wait.0);
        let submitted = client.submit(&request, None).await;
        let job = submitted.map_err(|error| in_our_words(error.into(), &self.audience.target))?;
        let id = job.id;
        let Some(job) = or_leave(app, &client, id, until(app, &client, id, deadline)).await? else { return Ok(Exit::Interrupted) };
        app.out.item(&job, |_| render::answers::<R>(&app.out, &job), || id.to_string())?;
        let exit = Exit::of_status(job.status);
        if exit == Exit::WaitTimedOut {
            app.out.say(format!("the time for waiting was up; {}", goes_on(id)));
        }
        if job.executions.len() > 1 || exit != Exit::Done {
            app.out.say(render::job_line(&job));
        }
        Ok(exit)
    }
}
