//! The one place where errors become HTTP: codes to statuses, use-case errors to problem documents (RFC 9457).
//!
//! A handler's error travels as a [`Problem`] in the response's extensions; [`super::observe`] gives it the request's id and writes it.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use longshore_model::job::InvalidSubmission;
use longshore_model::wire::problem::{ErrorCode, FieldError, Problem};
use longshore_store::Error as StoreError;

use crate::app::{Error, chain};
use crate::fleet::NoTarget;

pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

/// What a handler fails with.
#[derive(Debug)]
pub(crate) struct Failed(pub(crate) Box<Problem>);

/// The status of every code. Codes that only answers carry have none of their own.
pub(crate) fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::BadRequest => StatusCode::BAD_REQUEST,
        ErrorCode::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorCode::Forbidden => StatusCode::FORBIDDEN,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::NoAgent
        | ErrorCode::AgentOffline
        | ErrorCode::AgentOnline
        | ErrorCode::IdempotencyConflict
        | ErrorCode::JobDeleted
        | ErrorCode::JobRunning
        | ErrorCode::JobStopping
        | ErrorCode::JobNotFinal
        | ErrorCode::DeadLetterClosed => StatusCode::CONFLICT,
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ErrorCode::Validation
        | ErrorCode::UnknownOperation
        | ErrorCode::DigestMismatch
        | ErrorCode::Retention
        | ErrorCode::NoSealingKey => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::StorageFull | ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Internal
        | ErrorCode::TimedOut
        | ErrorCode::ExitStatus
        | ErrorCode::CommandNotFound
        | ErrorCode::HandlerFailed
        | ErrorCode::PackageFailed
        | ErrorCode::Cancelled
        | ErrorCode::Expired
        | ErrorCode::DeadLetter
        | ErrorCode::Interrupted
        | ErrorCode::Lost
        | ErrorCode::Staging
        | ErrorCode::Collecting
        | ErrorCode::HostFault
        | ErrorCode::NotPermitted
        | ErrorCode::SecretsSealed
        | ErrorCode::Untrusted
        | ErrorCode::Unsupported => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl Failed {
    pub(crate) fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(code, status(code).as_u16(), detail)))
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    pub(crate) fn retryable(mut self) -> Self {
        self.0.retryable = true;
        self
    }

    pub(crate) fn fields(mut self, errors: Vec<FieldError>) -> Self {
        self.0.errors = errors;
        self
    }

    /// Names the fields at fault by where they are in the request that was sent: `place` gives it for a field of the submission that was
    /// made of it.
    pub(crate) fn at(mut self, place: impl Fn(&str) -> String) -> Self {
        let said = |errors: &[FieldError]| {
            let lines: Vec<_> = errors.iter().map(|field| format!("{}: {}", field.pointer, field.detail)).collect();
            lines.join("; ")
        };
        let was = said(&self.0.errors);
        for field in &mut self.0.errors {
            field.pointer = place(&field.pointer);
        }
        if self.0.detail == was {
            self.0.detail = said(&self.0.errors);
        }
        self
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::Forbidden { .. } | Error::ForbiddenTargets { .. } => Self::new(ErrorCode::Forbidden, detail),
            Error::Invalid(InvalidSubmission::UnknownOperation { name: _, nearest }) => {
                let failed = Self::new(ErrorCode::UnknownOperation, detail)
                    .fields(vec![FieldError { pointer: "/operation".to_owned(), detail: "the catalogue does not have it".to_owned() }]);
                if nearest.is_empty() { failed } else { failed.hint(format!("did you mean {}?", nearest.join(" or "))) }
            }
            Error::Invalid(InvalidSubmission::Fields(fields)) => Self::new(ErrorCode::Validation, detail).fields(fields),
            Error::NoTarget(NoTarget::NotCurrent) => Self::new(ErrorCode::Unavailable, detail).retryable(),
            Error::NoTarget(NoTarget::NobodyReady) => Self::new(ErrorCode::NoAgent, detail).retryable(),
            Error::NoTarget(NoTarget::TooMany { .. }) => Self::new(ErrorCode::TooLarge, detail),
            Error::NoTarget(NoTarget::Unknown { name: _, nearest } | NoTarget::NoMember { group: _, nearest }) => {
                let failed = Self::new(ErrorCode::NoAgent, detail);
                if nearest.is_empty() { failed } else { failed.hint(format!("did you mean {}?", nearest.join(" or "))) }
            }
            Error::NoTarget(NoTarget::LacksPackage { .. } | NoTarget::NoPackage { .. }) => Self::new(ErrorCode::NoAgent, detail).hint(
                "`longshore agent show NAME` says what an agent or a worker has, a few seconds after it was installed there; install the package, or start one that has it",
            ),
            Error::NoTarget(NoTarget::PackagesOnly { .. }) => {
                Self::new(ErrorCode::NoAgent, detail).hint("start an agent on that host, or submit `package.run`")
            }
            Error::NoTarget(NoTarget::Drained { .. }) => {
                let hint = "choose another target, let the job wait for it with `wait_for_agents`, or `longshore agent undrain`";
                Self::new(ErrorCode::AgentOffline, detail).retryable().hint(hint)
            }
            Error::NoTarget(NoTarget::Offline { .. }) => {
                Self::new(ErrorCode::AgentOffline, detail).retryable().hint("start it, or let the job wait for it with `wait_for_agents`")
            }
            Error::NoTarget(NoTarget::Ambiguous { .. }) => {
                let field = FieldError { pointer: "/target".to_owned(), detail: detail.clone() };
                Self::new(ErrorCode::Validation, detail).fields(vec![field])
            }
            Error::AgentOnline { hostname } => Self::new(ErrorCode::AgentOnline, detail)
                .hint(format!("stop it first; `longshore agent drain {hostname}` lets it finish what it has")),
            Error::NotFound { .. } => Self::new(ErrorCode::NotFound, detail),
            Error::IdempotencyConflict { .. } => Self::new(ErrorCode::IdempotencyConflict, detail),
            Error::Deleted { .. } => Self::new(ErrorCode::JobDeleted, detail).hint("submit it with a new key to have it done again"),
            Error::Stopping { .. } => Self::new(ErrorCode::JobStopping, detail).retryable().hint("repeat the delete"),
            Error::Contended { .. } => Self::new(ErrorCode::JobRunning, detail).retryable().hint("repeat the request"),
            Error::Indexing | Error::Busy => Self::new(ErrorCode::Unavailable, detail).retryable(),
            Error::Running { .. } => Self::new(ErrorCode::JobRunning, detail).hint("wait for it, cancel it, or say `?force=true`"),
            Error::NotFinal { .. } => Self::new(ErrorCode::JobNotFinal, detail),
            Error::Redriven { .. } => Self::new(ErrorCode::DeadLetterClosed, detail).hint("the new job says what became of it"),
            Error::RedriveDeleted { job, .. } => {
                Self::new(ErrorCode::JobDeleted, detail).hint(format!("`longshore job retry {job}` does it once more, as another job"))
            }
            Error::Discarded { job, .. } => {
                Self::new(ErrorCode::DeadLetterClosed, detail).hint(format!("`longshore job retry {job}` does it again all the same"))
            }
            Error::NoSealingKey => {
                let field = FieldError { pointer: "/args/secrets".to_owned(), detail: "cannot be sealed here".to_owned() };
                let hint = "`longshore key generate` makes the keys of a fleet and says where they go";
                Self::new(ErrorCode::NoSealingKey, detail).fields(vec![field]).hint(hint)
            }
            Error::Retention { .. } => Self::new(ErrorCode::Retention, detail),
            Error::DigestMismatch { .. } => Self::new(ErrorCode::DigestMismatch, detail).retryable(),
            Error::TooLarge { .. } => Self::new(ErrorCode::TooLarge, detail),
            Error::Cursor => Self::new(ErrorCode::BadRequest, detail).hint("ask again without `cursor`, and keep the filter between pages"),
            Error::Upload(_) => Self::new(ErrorCode::BadRequest, detail).retryable(),
            Error::Store(error) => error.into(),
            Error::SeveralHosts { .. } => Self::new(ErrorCode::BadRequest, detail)
                .hint("name one with `?agent=`: its host's name, or its id where two hosts share a name"),
            Error::Result { .. } => Self::new(ErrorCode::Internal, detail).hint("the output is in the log: `longshore job logs ID`"),
            Error::Definition(_) | Error::Archive(_) | Error::Seal(_) => Self::internal(&error),
        }
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable { .. } | StoreError::SetBack { .. } => {
                tracing::warn!(error = %chain(&error), "the broker did not answer a request");
                Self::new(ErrorCode::Unavailable, error.to_string()).retryable()
            }
            StoreError::Full { .. } => Self::new(ErrorCode::StorageFull, error.to_string()).retryable(),
            StoreError::TooLarge { .. } => Self::new(ErrorCode::TooLarge, error.to_string()),
            StoreError::Layout { .. } | StoreError::Corrupt { .. } | StoreError::Refused { .. } => Self::internal(&error),
        }
    }
}

impl Failed {
    /// An error of ours: the causes go to the log under the request's id, not to the client.
    fn internal(error: &dyn std::error::Error) -> Self {
        tracing::error!(error = %chain(error), "a request failed");
        Self::new(ErrorCode::Internal, "the controller could not do it; its log has the details under the request id")
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let Self(problem) = self;
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"longshore\""));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response.extensions_mut().insert(problem);
        response
    }
}

/// The problem of an error response that no handler of ours made, by its status.
pub(super) fn of_status(status: StatusCode) -> Problem {
    let (code, detail) = match status {
        StatusCode::NOT_FOUND => (ErrorCode::NotFound, "there is no such path"),
        StatusCode::METHOD_NOT_ALLOWED => (ErrorCode::MethodNotAllowed, "the path is there, but not with this method"),
        StatusCode::PAYLOAD_TOO_LARGE => (ErrorCode::TooLarge, "the body is too large"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => (ErrorCode::UnsupportedMediaType, "the body's media type is not accepted"),
        status if status.is_server_error() => (ErrorCode::Internal, "the controller could not do it"),
        _ => (ErrorCode::BadRequest, "the request is not well formed"),
    };
    Problem::new(code, status.as_u16(), detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_does_not_answer_and_a_full_store_say_when_to_try_again() {
        let rows = [
            (StoreError::Unavailable { doing: "a write", source: None }, 503, ErrorCode::Unavailable, true),
            (StoreError::Full { store: "job-queue".to_owned() }, 503, ErrorCode::StorageFull, true),
            (StoreError::TooLarge { bytes: 2, max: 1 }, 413, ErrorCode::TooLarge, false),
            (StoreError::Refused { doing: "a write", reason: "secret".to_owned() }, 500, ErrorCode::Internal, false),
        ];
        for (error, status, code, is_retryable) in rows {
            let response = Failed::from(error).into_response();
            let problem = response.extensions().get::<Box<Problem>>().unwrap();
            assert_eq!((response.status().as_u16(), problem.code, problem.retryable), (status, code, is_retryable));
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), is_retryable);
            assert!(!problem.detail.contains("secret"));
        }
    }
}
