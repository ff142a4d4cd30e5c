//! The typed client of Longshore's REST API.
//!
//! ```no_run
//! # async fn example() -> Result<(), longshore_client::Error> {
//! use longshore_client::{Client, ClientConfig, JobRequest};
//! use std::time::Duration;
//!
//! let client = Client::new(ClientConfig { url: "http://127.0.0.1:8080".to_owned(), token: Some("…".to_owned()) })?;
//! let request = JobRequest {
//!     idempotency_key: Some("nightly-2026-07-27".to_owned()),
//!     ..Client::request("node.hostname.get", serde_json::json!({}))
//! };
//! let job = client.submit(&request, Some(Duration::from_secs(30))).await?;
//! assert!(job.status.is_final());
//! # Ok(())
//! # }
//! ```
//!
//! Nobody polls: waits are the server's ([`Client::job`] with a wait), and changes and live output come as streams that resume where
//! they broke off ([`Client::events`], [`Client::all_events`], [`Client::logs`]). The invariant guarded here: a call that returns an error says whether it
//! may have had an effect ([`Error::had_no_effect`]) and whether it is worth repeating ([`Error::is_retryable`]).

mod audit;
mod backoff;
mod base64;
mod bundle;
mod client;
mod dead_letters;
mod error;
mod fleet;
mod follow;
mod job;
mod sse;

pub use audit::AuditFilter;
pub use backoff::Backoff;
pub use client::{Client, ClientConfig};
pub use dead_letters::DeadLetterFilter;
pub use error::Error;
pub use follow::Followed;
pub use job::{JobFilter, JobNews, log_bytes};
pub use longshore_model::wire::agent::Condition;
pub use longshore_model::wire::audit::{AuditOutcome, AuditRecord};
pub use longshore_model::wire::dead_letter::DeadExecution;
pub use longshore_model::wire::problem::{ErrorCode, Problem};
pub use longshore_model::wire::rest::{
    AgentCondition, AgentDetail, AgentList, AgentView, AlarmView, ArtifactArchive, ArtifactFile, ArtifactList, AuditList, BundleView,
    CancelView, DeadLetterCondition, DeadLetterList, DeadLetterView, ExecutionView, FactsView, HealthView, JobList, JobRequest, JobSummary,
    JobView, LogView, OperationList, OperationView, RetryJobRequest, RetryOnly, RetryRequest, StatusView, TimelineEntry,
};
pub use longshore_model::{AgentId, ExecutionId, JobId};
