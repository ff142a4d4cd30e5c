//! Large things by name: bundles, artifacts and large results.

use std::pin::Pin;

use async_trait::async_trait;
use jiff::Timestamp;
use longshore_model::{ExecutionId, JobId};
use tokio::io::AsyncRead;

use crate::{Error, Revision};

/// An object's content, as it arrives.
pub type ObjectReader = Pin<Box<dyn AsyncRead + Send>>;

/// What is known of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its size in bytes.
    pub size: u64,
    /// SHA-256 of its content, lower-case hex.
    pub sha256: String,
    /// When it was stored, by the store's clock: its age counts from here.
    pub stored_at: Timestamp,
}

/// Some of what there is, in the order in which it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectPage {
    /// Names, and what is known of each.
    pub items: Vec<(String, ObjectInfo)>,
    /// Where the next page goes on; `None` if this was the last.
    pub next: Option<Revision>,
}

/// Large things by name. An object appears whole or not at all.
#[async_trait]
pub trait Objects: Send + Sync {
    /// Stores an object, replacing one of that name.
    async fn put(&self, name: &str, content: ObjectReader) -> Result<ObjectInfo, Error>;

    /// Opens an object; `None` if there is none. Reading fails if its content is damaged.
    async fn get(&self, name: &str) -> Result<Option<ObjectReader>, Error>;

    /// What is known of an object.
    async fn info(&self, name: &str) -> Result<Option<ObjectInfo>, Error>;

    /// Removes an object. Safe to repeat. One that is stored under the name meanwhile stays.
    async fn delete(&self, name: &str) -> Result<(), Error>;

    /// Up to some thousand objects that were stored after the place `after`; 0 is the beginning. An upload in progress is no object yet.
    async fn page(&self, after: Revision) -> Result<ObjectPage, Error>;

    /// Removes the pieces of uploads that broke off and got none since `before`: their process was killed. Gives of how many. Safe to
    /// repeat, and beside other calls.
    async fn sweep(&self, before: Timestamp) -> Result<u64, Error>;
}

/// The name of an uploaded bundle; `sha256` has been checked to be 64 hex digits.
#[must_use]
pub fn bundle_name(sha256: &str) -> String {
    format!("bundles/{sha256}")
}

/// The name of the archive a job's execution brought back.
#[must_use]
pub fn archive_name(job: JobId, execution: ExecutionId) -> String {
    format!("artifacts/{job}/{execution}")
}

/// The name of an execution's result that is too large for its answer. Only the agent that made this attempt writes it.
#[must_use]
pub fn result_name(job: JobId, execution: ExecutionId, attempt: u32) -> String {
    format!("results/{job}/{execution}/{attempt}")
}

/// Which execution an object belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectOwner {
    /// Its job.
    pub job: JobId,
    /// The execution.
    pub execution: ExecutionId,
    /// For a result, the attempt whose it is; `None` for an archive.
    pub attempt: Option<u32>,
}

impl ObjectOwner {
    /// Reads what [`archive_name`] and [`result_name`] make; a bundle, and what has another name, belongs to no execution.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        let parts: Vec<&str> = name.split('/').collect();
        let (job, execution, attempt) = match parts[..] {
            ["artifacts", job, execution] => (job, execution, None),
            ["results", job, execution, attempt] => (job, execution, Some(attempt.parse().ok()?)),
            _ => return None,
        };
        Some(Self { job: job.parse().ok()?, execution: execution.parse().ok()?, attempt })
    }
}

#[cfg(test)]
mod tests {
    use longshore_model::AgentId;

    use super::*;

    #[test]
    fn a_name_tells_whose_the_object_is() {
        let job = JobId::from_bits(7);
        for execution in [ExecutionId::Any, ExecutionId::Agent(AgentId::from_bits(3))] {
            let owner = |attempt| Some(ObjectOwner { job, execution, attempt });
            assert_eq!(ObjectOwner::of(&archive_name(job, execution)), owner(None));
            assert_eq!(ObjectOwner::of(&result_name(job, execution, 12)), owner(Some(12)));
        }
        for other in [bundle_name(&"0a".repeat(32)), "plain".to_owned(), format!("results/{job}/any"), format!("results/{job}/any/x")] {
            assert_eq!(ObjectOwner::of(&other), None, "{other}");
        }
    }
}
