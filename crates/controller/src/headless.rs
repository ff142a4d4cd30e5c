//! A controller without its API: the same use cases, followers and reconcilers, for whoever runs many of them in one process, as a
//! simulation does. What it refuses, it refuses with the problem that the API would answer with.

use std::collections::BTreeSet;

use longshore_model::access::Caller;
use longshore_model::wire::problem::Problem;
use longshore_model::wire::rest::{
    AgentView, CancelView, DeadLetterCondition, DeadLetterList, JobList, JobRequest, JobView, RetryJobRequest, RetryOnly,
};
use longshore_model::{HostName, JobId};
use longshore_store::{Position, Store};
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::app::delete::Running;
use crate::app::stream::Frame;
use crate::app::{App, Error, cancel, dead_letters, delete, drain, events, get, list, retry, status, submit};
use crate::index::Filter;
use crate::rest::Failed;
use crate::{Config, server};

/// A controller that listens to nobody. Cheap to clone.
#[derive(Clone)]
pub struct Headless(App);

/// Why it did not do what was asked.
pub type Refusal = Box<Problem>;

impl Headless {
    /// A controller that knows nothing yet.
    #[must_use]
    pub fn new(config: Config, store: Store) -> Self {
        Self(App::new(config, store))
    }

    /// Follows the stores and repairs, until `drain` is set. Dropping the future ends everything at once, as a kill does.
    pub async fn run(&self, drain: CancellationToken) {
        let mut tasks = JoinSet::new();
        server::spawn(&self.0, &mut tasks);
        drain.cancelled().await;
        self.0.drain.cancel();
        while tasks.join_next().await.is_some() {}
    }

    /// Whether it can answer everything.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        status::missing(&self.0).is_none()
    }

    /// Accepts a job.
    ///
    /// # Errors
    /// As `POST /api/v1/jobs`.
    pub async fn submit(&self, caller: &Caller, request: JobRequest) -> Result<JobView, Refusal> {
        let submitted = submit::submit(&self.0, caller, request).await.map_err(refusal)?;
        Ok(submitted.view(&self.0))
    }

    /// Reads a job.
    ///
    /// # Errors
    /// As `GET /api/v1/jobs/ID`.
    pub async fn job(&self, caller: &Caller, id: JobId) -> Result<JobView, Refusal> {
        get::get(&self.0, caller, id, None).await.map(|shown| shown.job).map_err(refusal)
    }

    /// A page of at most `limit` jobs, newest first.
    ///
    /// # Errors
    /// As `GET /api/v1/jobs`.
    pub fn jobs(&self, caller: &Caller, limit: usize) -> Result<JobList, Refusal> {
        list::list(&self.0, caller, Filter::default(), None, limit).map_err(refusal)
    }

    /// Everything that happened and happens to a job, after a place in the ledger's sequences or from its beginning; ends with `end`.
    ///
    /// # Errors
    /// As `GET /api/v1/jobs/ID/events`.
    pub async fn job_events(&self, caller: &Caller, id: JobId, seen: Option<Position>) -> Result<Receiver<Frame>, Refusal> {
        events::of_job(&self.0, caller, id, seen).await.map_err(refusal)
    }

    /// Everything that happens to any job, after a place in the ledger's sequences or from now on.
    ///
    /// # Errors
    /// As `GET /api/v1/jobs/events`.
    pub fn events(&self, caller: &Caller, seen: Option<Position>) -> Result<Receiver<Frame>, Refusal> {
        events::of_all(&self.0, caller, seen).map_err(refusal)
    }

    /// Ends a job.
    ///
    /// # Errors
    /// As `POST /api/v1/jobs/ID/cancel`.
    pub async fn cancel(&self, caller: &Caller, id: JobId) -> Result<CancelView, Refusal> {
        cancel::cancel(&self.0, caller, id).await.map_err(refusal)
    }

    /// Removes a job; with `force`, also one that has not ended.
    ///
    /// # Errors
    /// As `DELETE /api/v1/jobs/ID`.
    pub async fn delete(&self, caller: &Caller, id: JobId, force: bool) -> Result<(), Refusal> {
        let running = if force { Running::CancelFirst } else { Running::Refuse };
        delete::delete(&self.0, caller, id, running).await.map_err(refusal)
    }

    /// Repeats a job.
    ///
    /// # Errors
    /// As `POST /api/v1/jobs/ID/retry`.
    pub async fn retry(&self, caller: &Caller, id: JobId, only: RetryOnly) -> Result<JobView, Refusal> {
        retry::retry(&self.0, caller, id, RetryJobRequest { only }).await.map_err(refusal)
    }

    /// A page of at most `limit` dead letters in any state, those of the newest jobs first.
    ///
    /// # Errors
    /// As `GET /api/v1/dead-letters`.
    pub fn dead_letters(&self, caller: &Caller, limit: usize) -> Result<DeadLetterList, Refusal> {
        let all = BTreeSet::from([DeadLetterCondition::Open, DeadLetterCondition::Redriven, DeadLetterCondition::Discarded]);
        dead_letters::list(&self.0, caller, &all, None, limit).map_err(refusal)
    }

    /// Submits what died of a job once more.
    ///
    /// # Errors
    /// As `POST /api/v1/dead-letters/ID/redrive`.
    pub async fn redrive(&self, caller: &Caller, id: JobId) -> Result<JobView, Refusal> {
        dead_letters::redrive(&self.0, caller, id).await.map(|redrive| redrive.job).map_err(refusal)
    }

    /// Notes that a dead letter needs nothing more.
    ///
    /// # Errors
    /// As `POST /api/v1/dead-letters/ID/discard`.
    pub async fn discard(&self, caller: &Caller, id: JobId) -> Result<(), Refusal> {
        dead_letters::discard(&self.0, caller, id).await.map_err(refusal)
    }

    /// Tells an agent to take no new work, or to take it again.
    ///
    /// # Errors
    /// As `POST /api/v1/agents/NAME/drain`.
    pub async fn drain(&self, caller: &Caller, name: &HostName, drained: bool) -> Result<AgentView, Refusal> {
        drain::want(&self.0, caller, name, drained, None).await.map_err(refusal)
    }

    /// The agents, sorted by host name.
    ///
    /// # Errors
    /// As `GET /api/v1/agents`.
    pub fn agents(&self, caller: &Caller) -> Result<Vec<AgentView>, Refusal> {
        status::agents(&self.0, caller).map_err(refusal)
    }
}

fn refusal(error: Error) -> Refusal {
    Failed::from(error).0
}
