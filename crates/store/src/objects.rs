//! Large things by name: bundles, artifacts and large results.

use std::pin::Pin;

use async_trait::async_trait;
use jiff::Timestamp;
use longshore_model::JobId;
use tokio::io::AsyncRead;

use crate::Error;

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

/// Large things by name. An object appears whole or not at all.
#[async_trait]
pub trait Objects: Send + Sync {
    /// Stores an object, replacing one of that name.
    async fn put(&self, name: &str, content: ObjectReader) -> Result<ObjectInfo, Error>;

    /// Opens an object; `None` if there is none. Reading fails if its content is damaged.
    async fn get(&self, name: &str) -> Result<Option<ObjectReader>, Error>;

    /// What is known of an object.
    async fn info(&self, name: &str) -> Result<Option<ObjectInfo>, Error>;

    /// Removes an object. Safe to repeat.
    async fn delete(&self, name: &str) -> Result<(), Error>;
}

/// The name of an uploaded bundle; `sha256` has been checked to be 64 hex digits.
#[must_use]
pub fn bundle_name(sha256: &str) -> String {
    format!("bundles/{sha256}")
}

/// The name of the archive a job's execution brought back.
#[must_use]
pub fn archive_name(job: JobId, execution: longshore_model::ExecutionId) -> String {
    format!("artifacts/{job}/{execution}")
}

/// The name of an execution's result that is too large for its answer. Only the agent that made this attempt writes it.
#[must_use]
pub fn result_name(job: JobId, execution: longshore_model::ExecutionId, attempt: u32) -> String {
    format!("results/{job}/{execution}/{attempt}")
}
