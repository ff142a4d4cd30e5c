//! `longshore job wait`: until jobs have ended, or the time is up.

use std::time::{Duration, Instant};

use clap::Args;
use longshore_client::{Backoff, Client, JobId, JobView};
use longshore_model::ExecutionState;
use longshore_model::unit::Span;

use super::answers;
use super::detach::unless_left;
use super::id::resolve;
use super::{goes_on, telling};
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::render;

/// Wait until jobs have ended.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes\n  0 all succeeded, 6 failed, 7 cancelled or expired, 8 the time was up, 9 some targets failed")]
pub(crate) struct Wait {
    /// Their ids, or unique beginnings or ends of them.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Stop waiting after this; the jobs go on.
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Span>,
}

/// What one request waits for; the next follows at once.
const STEP: Duration = Duration::from_secs(60);
/// The same for the first, and where several hosts are waited for and people are told how many are left.
const STEP_OF_MANY: Duration = Duration::from_secs(10);
/// How long a controller may be away while somebody waits.
const AWAY_MAX: Duration = Duration::from_secs(60);

impl Wait {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        let client = app.client()?;
        // A time that no clock reaches is none.
        let deadline = self.timeout.and_then(|span| Instant::now().checked_add(span.0));
        let mut exit = Exit::Done;
        for text in &self.ids {
            let ended = async {
                let id = resolve(&client, text).await?;
                let job = until(app, &client, id, deadline).await?;
                app.out.item(&job, |_| render::job_line(&job), || job.id.to_string())?;
                Ok(Exit::of_status(job.status))
            };
            let ended = ended.await.unwrap_or_else(|failure: Failure| {
                app.out.fail(&failure);
                failure.exit
            });
            exit = exit.or(ended);
        }
        if exit == Exit::WaitTimedOut {
            app.out.say("the time for waiting was up; what had not ended goes on");
        }
        Ok(exit)
    }
}

/// Waits for what becomes of a job that was accepted; Ctrl-C ends the waiting and says how to come back, a second one cancels the job. Gives
/// nothing then.
pub(crate) async fn or_leave<T>(
    app: &App,
    client: &Client,
    id: JobId,
    waiting: impl Future<Output = Result<T, Failure>>,
) -> Result<Option<T>, Failure> {
    let waited = unless_left(app, client, &[id], format_args!("longshore job wait {id}"), waiting).await?;
    waited.transpose().map_err(|failure| failure.hint(goes_on(id)))
}

/// Waits for the end of a job that was just submitted.
pub(crate) async fn until_final(app: &App, client: &Client, job: JobView) -> Result<JobView, Failure> {
    if job.status.is_final() { Ok(job) } else { until(app, client, job.id, None).await }
}

/// The job when it has ended, or as it is at the deadline. A controller that is away for a moment is waited for.
pub(crate) async fn until(app: &App, client: &Client, id: JobId, deadline: Option<Instant>) -> Result<JobView, Failure> {
    let waiting = async {
        tokio::select! {
            job = patiently(app, client, id, deadline) => job,
            never = answers::draw(app, client, id) => match never {},
        }
    };
    telling(&app.out, client, waiting).await
}

/// How far a job for many hosts is: `37/50 answered, 2 failed`.
fn answered(job: &JobView) -> String {
    let count = |is: fn(ExecutionState) -> bool| job.executions.iter().filter(|execution| is(execution.state)).count();
    let (final_ones, failed) =
        (count(ExecutionState::is_final), count(|state| matches!(state, ExecutionState::Failed | ExecutionState::Lost)));
    let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    format!("{}: {final_ones}/{} answered{failed}", job.id.short(), job.executions.len())
}

async fn patiently(app: &App, client: &Client, id: JobId, deadline: Option<Instant>) -> Result<JobView, Failure> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let mut away_since = None;
    let mut step = STEP_OF_MANY;
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match client.job(id, Some(left.map_or(step, |left| left.min(step)))).await {
            Ok(job) if job.status.is_final() || left.is_some_and(|left| left.is_zero()) => return Ok(job),
            Ok(job) => {
                backoff.reset();
                away_since = None;
                match job.executions.len() {
                    0 | 1 => step = STEP,
                    _ if app.out.draws_progress() => {}
                    _ => app.out.say(answered(&job)),
                }
            }
            Err(error) => {
                let since = *away_since.get_or_insert_with(Instant::now);
                if !error.is_retryable() || since.elapsed() > AWAY_MAX || left.is_some_and(|left| left.is_zero()) {
                    return Err(error.into());
                }
                tokio::time::sleep(backoff.next_wait()).await;
            }
        }
    }
}
