//! Why a use case was refused or failed, in terms the API can answer with.

use jiff::Timestamp;
use longshore_model::JobId;
use longshore_model::job::{InvalidDefinition, InvalidSubmission};
use longshore_model::wire::problem::FieldError;
use longshore_seal::SealError;
use longshore_store::Error as StoreError;

use crate::fleet::NoTarget;

/// A use case did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the token does not grant {permission}")]
    Forbidden { permission: &'static str },
    #[error("the token is not for {names}")]
    ForbiddenTargets { names: String },
    #[error(transparent)]
    Invalid(#[from] InvalidSubmission),
    #[error(transparent)]
    NoTarget(#[from] NoTarget),
    #[error("the agent on {hostname} is running")]
    AgentOnline { hostname: String },
    #[error("the index of jobs is still being built")]
    Indexing,
    #[error("there is no {what}")]
    NotFound { what: String },
    #[error("the idempotency key was used for another body, which made {job}")]
    IdempotencyConflict { job: JobId },
    #[error("the job {job} of this idempotency key was deleted")]
    Deleted { job: JobId },
    #[error("{job} has not ended")]
    Running { job: JobId },
    #[error("the end of {job} is asked for, but it has not stopped yet")]
    Stopping { job: JobId },
    #[error("{job} was changed by somebody else each time that its end was to be recorded")]
    Contended { job: JobId },
    #[error("too many files are being looked for, or too many large results read, at the moment")]
    Busy,
    #[error("{job} has not ended, so it is not known yet what there is to repeat")]
    NotFinal { job: JobId },
    #[error("the dead letter of {job} was redriven as {as_job}")]
    Redriven { job: JobId, as_job: JobId },
    #[error("the dead letter of {job} was redriven as {as_job}, which was deleted")]
    RedriveDeleted { job: JobId, as_job: JobId },
    #[error("the dead letter of {job} was discarded by {by}")]
    Discarded { job: JobId, by: String },
    #[error("its records may be needed until {needed}, and are kept until {kept}")]
    Retention { needed: Timestamp, kept: Timestamp },
    #[error("the content has the SHA-256 {found}, not {announced}")]
    DigestMismatch { announced: String, found: String },
    #[error("the content is larger than {max} bytes")]
    TooLarge { max: u64 },
    #[error("the cursor does not belong to this list")]
    Cursor,
    #[error("the upload broke off")]
    Upload(#[source] std::io::Error),
    #[error("the job has secrets, and this controller has no key to seal them with")]
    NoSealingKey,
    #[error("the job could not be accepted")]
    Seal(#[from] SealError),
    #[error("the stores could not do it")]
    Store(#[from] StoreError),
    #[error("the stored job cannot be read")]
    Definition(#[from] InvalidDefinition),
    #[error("the stored result cannot be given: {problem}")]
    Result { problem: String },
    #[error("several hosts brought something back: {names}")]
    SeveralHosts { names: String },
    #[error("the stored archive cannot be read")]
    Archive(#[source] std::io::Error),
}

impl Error {
    /// One field has a value that cannot be.
    pub(crate) fn field(pointer: &str, detail: impl Into<String>) -> Self {
        Self::Invalid(InvalidSubmission::Fields(vec![FieldError { pointer: pointer.to_owned(), detail: detail.into() }]))
    }

    pub(crate) fn no_job(job: JobId) -> Self {
        Self::NotFound { what: format!("job {job}") }
    }
}
