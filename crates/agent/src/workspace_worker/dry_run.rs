//! A job without a broker, to try out an environment.

use std::sync::Arc;

use longshore_exec::workspace::{Hold, leftovers};
use longshore_model::stand_alone::Request;
use longshore_model::wire::problem::chain;
use longshore_model::wire::stand_alone::Response;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Config;
use super::job::{NotNow, Offer, Performed, perform, read};
use super::manifest::refusal;

/// What is noted of a job without a broker.
const NOTE: &str = "dry run";

/// How a dry run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DryRun {
    /// It ran, well or badly.
    Done(Response),
    /// It can never be done. The response, where there is anybody to answer to.
    Refused(Option<Response>, String),
    /// It could not be done here and now.
    Failed(String),
}

/// Runs what `payload` asks for. A job's directory that is missing is made if the payload brings the steps. At `stop` it ends.
pub async fn dry_run(config: &Config, payload: &[u8], stop: CancellationToken) -> DryRun {
    let request = match read(payload) {
        Ok(request) => request,
        Err(refused) => return DryRun::Refused(refused.id.map(|id| refusal(&id, &refused.reason)), refused.reason),
    };
    let hold = match prepared(config, &request, &stop).await {
        Ok(hold) => Arc::new(hold),
        Err(NotNow { reason, .. }) => return DryRun::Failed(reason),
    };
    let offer = Offer { asked: None, attempt: 1 };
    let performed = perform(config, &request, offer, &hold, std::future::ready(true), &stop).await;
    let ended = match performed {
        Performed::Answered { response, workspace } => {
            let _left_for_the_next = spawn_blocking(move || drop(workspace)).await;
            DryRun::Done(response)
        }
        Performed::Stored(response) => DryRun::Done(response),
        Performed::Refused { response, reason } => DryRun::Refused(Some(response), reason),
        Performed::NotNow(NotNow { reason, .. }) => DryRun::Failed(reason),
        Performed::Gone => DryRun::Failed("nobody waits for it".to_owned()),
    };
    let _left_for_the_next = spawn_blocking(move || Arc::into_inner(hold).map(Hold::end)).await;
    ended
}

async fn prepared(config: &Config, request: &Request, stop: &CancellationToken) -> Result<Hold, NotNow> {
    let (jobs_dir, workspaces_dir, request) = (config.jobs_dir.clone(), config.workspaces_dir.clone(), request.clone());
    let watch = config.watch(Instant::now() + config.timeout, stop);
    let preparing = watch.over(move |_| {
        let failed = |error: &(dyn std::error::Error + 'static)| NotNow::fault(format!("could not {}", chain(error)));
        leftovers(&workspaces_dir, &|note| note == NOTE).map_err(|error| failed(&error))?.into_iter().for_each(|left| left.end());
        if request.has_steps() {
            let dir = jobs_dir.join(request.id.as_str());
            let made = std::fs::create_dir_all(&jobs_dir).and_then(|()| std::fs::create_dir(&dir));
            if let Err(error) = made
                && error.kind() != std::io::ErrorKind::AlreadyExists
            {
                return Err(NotNow::fault(format!("could not make the directory {}: {error}", dir.display())));
            }
        }
        Hold::take(&workspaces_dir, &request.id, NOTE).map_err(|error| failed(&error))
    });
    preparing.await.unwrap_or_else(|unfinished| Err(NotNow::unfinished("make the job's directory", unfinished)))
}
