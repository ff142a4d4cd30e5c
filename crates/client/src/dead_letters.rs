//! Dead letters: jobs whose attempts are used up.

use longshore_model::JobId;
use longshore_model::wire::rest::{DeadLetterList, DeadLetterView, JobView};
use reqwest::Method;
use serde::Serialize;

use crate::client::{ANSWER_TIMEOUT, Client};
use crate::error::Error;

/// Which dead letters a list shows. `Default` is the open ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DeadLetterFilter {
    /// `open`, `redriven`, `discarded`, comma separated: any of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Letters in the page, 1 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// From the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

impl Client {
    /// A page of dead letters, those of the newest jobs first.
    ///
    /// # Errors
    /// The filter cannot be, or the controller could not be reached.
    pub async fn dead_letters(&self, filter: &DeadLetterFilter) -> Result<DeadLetterList, Error> {
        self.json(self.to(Method::GET, "/dead-letters").query(filter), ANSWER_TIMEOUT).await
    }

    /// One dead letter, with the executions that died.
    ///
    /// # Errors
    /// The job is not there or not dead, or the controller could not be reached.
    pub async fn dead_letter(&self, job: JobId) -> Result<DeadLetterView, Error> {
        self.json(self.to(Method::GET, &format!("/dead-letters/{job}")), ANSWER_TIMEOUT).await
    }

    /// Submits what died again. Safe to repeat: every call gives the same job.
    ///
    /// # Errors
    /// The job is not dead or has not ended, its letter was discarded, or the controller could not be reached.
    pub async fn redrive(&self, job: JobId) -> Result<JobView, Error> {
        self.json(self.to(Method::POST, &format!("/dead-letters/{job}/redrive")), ANSWER_TIMEOUT).await
    }

    /// Notes that a dead letter needs nothing more. Safe to repeat.
    ///
    /// # Errors
    /// The job is not dead or has not ended, its letter was redriven, or the controller could not be reached.
    pub async fn discard(&self, job: JobId) -> Result<(), Error> {
        self.send(self.to(Method::DELETE, &format!("/dead-letters/{job}")), ANSWER_TIMEOUT).await?;
        Ok(())
    }
}
