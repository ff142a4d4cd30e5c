//! `longshore job result`.

use clap::Args;
use longshore_client::{ExecutionView, JobView};

use super::id::resolve;
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::render::printable;

/// The result of one host, whatever its size: what `job show` has no room for.
#[derive(Debug, Args)]
pub(crate) struct ResultOf {
    /// The job's id, or a unique beginning or end of it.
    id: String,
    /// The host's name or its agent's id; not needed if only one did the job.
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
}

impl ResultOf {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        let client = app.client()?;
        let job = client.job(resolve(&client, &self.id).await?, None).await?;
        let execution = pick(&job, self.host.as_deref())?;
        let result = match &execution.result {
            Some(result) => result.clone(),
            None => client.result(job.id, execution.id).await?,
        };
        app.out.item(&result, |_| format!("{result:#}"), || execution.id.to_string())?;
        Ok(Exit::Done)
    }
}

/// The one execution that was asked for.
pub(crate) fn pick<'a>(job: &'a JobView, host: Option<&str>) -> Result<&'a ExecutionView, Failure> {
    let is_it = |execution: &&ExecutionView| match host {
        None => true,
        Some(name) => {
            let agent = execution.agent.or(execution.id.agent()).map(|agent| agent.to_string());
            execution.hostname.as_deref() == Some(name) || agent.as_deref() == Some(name)
        }
    };
    let mut found = job.executions.iter().filter(is_it);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(Failure::new(Exit::Usage, format!("no host {} has job {}", printable(host.unwrap_or("at all")), job.id))
            .hint(format!("its hosts:     longshore job show {}", job.id))),
        (Some(_), Some(_)) => {
            let names: Vec<_> =
                job.executions.iter().filter_map(|execution| execution.hostname.as_deref()).take(8).map(printable).collect();
            Err(Failure::new(Exit::Usage, format!("several hosts have job {}: {}", job.id, names.join(", ")))
                .hint(format!("name one, by its agent's id if they share a name:     longshore job result {} --host HOST", job.id)))
        }
    }
}
