//! What can go wrong with a call, and what that means for the caller.

use longshore_model::wire::problem::{ErrorCode, Problem};

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The controller answered, and said no.
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    /// The controller did not answer.
    #[error("cannot reach {url}")]
    Unreachable {
        /// The address tried.
        url: String,
        /// Whether it is certain that the request did not arrive.
        nothing_sent: bool,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something answered, but not as Longshore's API does.
    #[error("{url} does not answer like a Longshore controller: {what}")]
    Protocol {
        /// The address tried.
        url: String,
        /// What was odd.
        what: String,
    },
    /// The configuration of the client cannot be used.
    #[error("{what}")]
    Config {
        /// What is wrong with it.
        what: String,
    },
}

impl Error {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Problem(problem) => problem.retryable || problem.status == 503,
            Self::Unreachable { .. } => true,
            Self::Protocol { .. } | Self::Config { .. } => false,
        }
    }

    /// Whether it is certain that the call changed nothing, so that it may be sent again without doubling anything.
    #[must_use]
    pub fn had_no_effect(&self) -> bool {
        match self {
            // A forced delete that is refused with this has asked for the job's end.
            Self::Problem(problem) if problem.code == ErrorCode::JobStopping => false,
            Self::Problem(problem) => problem.status < 500 || problem.code == ErrorCode::StorageFull,
            Self::Unreachable { nothing_sent, .. } => *nothing_sent,
            Self::Protocol { .. } => false,
            Self::Config { .. } => true,
        }
    }

    /// The stable code, where the controller gave one.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Problem(problem) => Some(problem.code),
            Self::Unreachable { .. } | Self::Protocol { .. } | Self::Config { .. } => None,
        }
    }

    pub(crate) fn unreachable(url: &str, error: reqwest::Error) -> Self {
        let nothing_sent = error.is_connect() || error.is_builder();
        Self::Unreachable { url: url.to_owned(), nothing_sent, source: Box::new(error.without_url()) }
    }

    pub(crate) fn silent(url: &str, after: std::time::Duration) -> Self {
        let what = format!("no answer within {} s", after.as_secs());
        Self::Unreachable { url: url.to_owned(), nothing_sent: false, source: what.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_tell_whether_to_repeat_and_whether_that_is_safe() {
        let problem = |code, status, retryable| Error::Problem(Box::new(Problem { retryable, ..Problem::new(code, status, "x") }));
        let unreachable = |nothing_sent| Error::Unreachable { url: String::new(), nothing_sent, source: "x".into() };
        for (error, retryable, no_effect) in [
            (problem(ErrorCode::Validation, 422, false), false, true),
            (problem(ErrorCode::Unavailable, 503, true), true, false),
            (problem(ErrorCode::StorageFull, 507, false), false, true),
            (problem(ErrorCode::JobStopping, 409, true), true, false),
            (problem(ErrorCode::Internal, 500, false), false, false),
            (unreachable(true), true, true),
            (unreachable(false), true, false),
            (Error::Protocol { url: String::new(), what: String::new() }, false, false),
        ] {
            assert_eq!((error.is_retryable(), error.had_no_effect()), (retryable, no_effect), "{error:?}");
        }
    }
}
