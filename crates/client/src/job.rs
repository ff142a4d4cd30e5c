//! Jobs: submit, read, change, follow.

use std::time::{Duration, Instant};

use futures::Stream;
use longshore_model::limits::WAIT_MAX;
use longshore_model::wire::rest::{CancelView, JobList, JobRequest, JobView, LogView, RetryJobRequest, TimelineEntry};
use longshore_model::{ExecutionId, JobId};
use reqwest::Method;
use serde::{Deserialize, Serialize};

use crate::backoff::Backoff;
use crate::client::{ANSWER_TIMEOUT, Client};
use crate::error::Error;
use crate::follow::Followed;

/// Which jobs a list shows. `Default` is all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct JobFilter {
    /// Statuses, comma separated: any of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// An operation's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// A target as it was submitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// A host name or agent id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Who submitted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub submitter: Option<String>,
    /// `key=value`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotation: Option<String>,
    /// Submitted at or after: RFC 3339, or a duration ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Submitted before: RFC 3339, or a duration ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Text in the identifier, operation, target, hosts, annotations or error.
    #[serde(rename = "text", skip_serializing_if = "Option::is_none")]
    pub q: Option<String>,
    /// Jobs in the page, 1 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// From the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// What a stream of all jobs tells.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum JobNews {
    /// Something happened to a job.
    Change(Box<TimelineEntry>),
    /// The reader was away for so long that some of what happened meanwhile is no longer known.
    Gap {
        /// Where what is still known begins, if anything is.
        first: serde_json::Value,
    },
}

fn wait_query(wait: Option<Duration>) -> Vec<(&'static str, String)> {
    wait.map(|wait| ("wait", format!("{}ms", wait.min(WAIT_MAX).as_millis()))).into_iter().collect()
}

fn patience(wait: Option<Duration>) -> Duration {
    wait.unwrap_or_default().min(WAIT_MAX) + ANSWER_TIMEOUT
}

impl Client {
    /// Submits, and waits up to `wait` (at most five minutes) for the end.
    ///
    /// With an idempotency key in the request this is safe to repeat, and is repeated here while the controller cannot be reached or is
    /// not available, within the retry budget, which counts from the first failure. Without one it is sent once.
    ///
    /// # Errors
    /// The controller refused it, or could not be reached.
    pub async fn submit(&self, request: &JobRequest, wait: Option<Duration>) -> Result<JobView, Error> {
        let mut failing_since = None;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        loop {
            let call = self.to(Method::POST, "/jobs").query(&wait_query(wait)).json(request);
            let error = match self.json(call, patience(wait)).await {
                Ok(job) => return Ok(job),
                Err(error) => error,
            };
            let since = *failing_since.get_or_insert_with(Instant::now);
            let pause = backoff.next_wait();
            let is_safe = request.idempotency_key.is_some();
            if !is_safe || !error.is_retryable() || since.elapsed() + pause > self.retry_budget() {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// One job; with `wait`, as soon as it has ended, or as it is when the time is up.
    ///
    /// # Errors
    /// There is no such job, or the controller could not be reached.
    pub async fn job(&self, id: JobId, wait: Option<Duration>) -> Result<JobView, Error> {
        self.json(self.to(Method::GET, &format!("/jobs/{id}")).query(&wait_query(wait)), patience(wait)).await
    }

    /// The result of one execution, whatever its size.
    ///
    /// # Errors
    /// There is no such job or result, it was damaged, or the controller could not be reached.
    pub async fn result(&self, id: JobId, execution: ExecutionId) -> Result<serde_json::Value, Error> {
        self.json(self.to(Method::GET, &format!("/jobs/{id}/executions/{execution}/result")), ANSWER_TIMEOUT).await
    }

    /// A page of jobs, newest first.
    ///
    /// # Errors
    /// The filter cannot be, or the controller could not be reached.
    pub async fn jobs(&self, filter: &JobFilter) -> Result<JobList, Error> {
        self.json(self.to(Method::GET, "/jobs").query(filter), ANSWER_TIMEOUT).await
    }

    /// Asks for the end of a job. Safe to repeat.
    ///
    /// # Errors
    /// There is no such job, or the controller could not be reached.
    pub async fn cancel(&self, id: JobId) -> Result<CancelView, Error> {
        self.json(self.to(Method::POST, &format!("/jobs/{id}/cancel")), ANSWER_TIMEOUT).await
    }

    /// Removes everything kept of an ended job; with `force` a running one is cancelled first.
    ///
    /// # Errors
    /// There is no such job, it has not ended, or the controller could not be reached.
    pub async fn delete(&self, id: JobId, force: bool) -> Result<(), Error> {
        let query: &[(&str, &str)] = if force { &[("force", "true")] } else { &[] };
        self.send(self.to(Method::DELETE, &format!("/jobs/{id}")).query(query), ANSWER_TIMEOUT * 2).await?;
        Ok(())
    }

    /// Submits the same work again as a new job.
    ///
    /// # Errors
    /// There is no such job, it has not ended, or the controller could not be reached.
    pub async fn retry(&self, id: JobId, request: &RetryJobRequest) -> Result<JobView, Error> {
        self.json(self.to(Method::POST, &format!("/jobs/{id}/retry")).json(request), ANSWER_TIMEOUT).await
    }

    /// What happens to a job, from its start or from after `last`, until it has ended. Resumes by itself; the first error ends it.
    pub fn events(&self, id: JobId, last: Option<String>) -> impl Stream<Item = Result<Followed<TimelineEntry>, Error>> + Send + use<> {
        self.follow(format!("/jobs/{id}/events"), Vec::new(), last)
    }

    /// What happens to any job, from now on or from after `last`. Never ends by itself: it resumes, and the first error ends it.
    pub fn all_events(&self, last: Option<String>) -> impl Stream<Item = Result<Followed<JobNews>, Error>> + Send + use<> {
        self.follow("/jobs/events".to_owned(), Vec::new(), last)
    }

    /// A job's output, from its start or from after `last`, and only records numbered `from` or higher; with `follow` until it has ended,
    /// else what there is now. A record after some that are missing has a `gap`.
    pub fn logs(
        &self,
        id: JobId,
        last: Option<String>,
        from: u64,
        follow: bool,
    ) -> impl Stream<Item = Result<Followed<LogView>, Error>> + Send + use<> {
        let mut query = if follow { Vec::new() } else { vec![("follow", "false".to_owned())] };
        query.extend((from > 0).then(|| ("from", from.to_string())));
        self.follow(format!("/jobs/{id}/logs"), query, last)
    }
}

/// The output as it was written.
#[must_use]
pub fn log_bytes(view: &LogView) -> Vec<u8> {
    match (&view.text, &view.base64) {
        (Some(text), _) => text.clone().into_bytes(),
        (None, Some(encoded)) => crate::base64::decode(encoded).unwrap_or_default(),
        (None, None) => Vec::new(),
    }
}
