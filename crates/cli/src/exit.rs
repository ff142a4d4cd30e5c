//! Exit codes. Their meanings are a promise; `longshore explain exit-codes` prints this table.

use longshore_model::JobStatus;
use longshore_model::wire::problem::ErrorCode;

/// How the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done; where a job was waited for, it succeeded.
    Done,
    /// Refused, or an unexpected error.
    Failed,
    /// Wrong usage, or an input that cannot be read.
    Usage,
    /// What was named is not there; for `status`: nothing is running.
    NotFound,
    /// Not logged in, or not allowed.
    NotAllowed,
    /// The controller or the broker could not be reached.
    Unreachable,
    /// A job that was waited for failed.
    JobFailed,
    /// A job that was waited for was cancelled or expired.
    JobEnded,
    /// The time for waiting was up; the job goes on.
    WaitTimedOut,
    /// Some targets of a job failed, others did not.
    Partial,
    /// A configuration or another document is not valid.
    Invalid,
    /// No agent can take the job.
    NoAgent,
    /// `run`: an end of Longshore's own, not the command's.
    RunFailed,
    /// `run`: the command is not there.
    RunNotFound,
    /// `run`: the command's own status.
    Command(u8),
    /// Ended by SIGINT.
    Interrupted,
    /// `run`: whoever read the output has closed it, as after SIGPIPE.
    OutputClosed,
    /// Ended by SIGTERM.
    Terminated,
}

impl Exit {
    /// The number.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::NotAllowed => 4,
            Self::Unreachable => 5,
            Self::JobFailed => 6,
            Self::JobEnded => 7,
            Self::WaitTimedOut => 8,
            Self::Partial => 9,
            Self::Invalid => 10,
            Self::NoAgent => 11,
            Self::RunFailed => 125,
            Self::RunNotFound => 127,
            Self::Command(code) => code,
            Self::Interrupted => 130,
            Self::OutputClosed => 141,
            Self::Terminated => 143,
        }
    }

    /// What a refusal with this code ends the program with.
    pub(crate) fn of_code(code: ErrorCode) -> Self {
        match code {
            ErrorCode::BadRequest
            | ErrorCode::MethodNotAllowed
            | ErrorCode::IdempotencyConflict
            | ErrorCode::JobDeleted
            | ErrorCode::AgentOnline
            | ErrorCode::JobRunning
            | ErrorCode::JobStopping
            | ErrorCode::JobNotFinal
            | ErrorCode::TooLarge
            | ErrorCode::UnsupportedMediaType
            | ErrorCode::DigestMismatch
            | ErrorCode::StorageFull
            | ErrorCode::Retention
            | ErrorCode::NoSealingKey
            // As a refusal: what died was redriven or discarded before.
            | ErrorCode::DeadLetterClosed
            | ErrorCode::Internal => Self::Failed,
            ErrorCode::Validation => Self::Invalid,
            ErrorCode::UnknownOperation | ErrorCode::NotFound => Self::NotFound,
            ErrorCode::NoAgent | ErrorCode::AgentOffline => Self::NoAgent,
            ErrorCode::Unauthenticated | ErrorCode::Forbidden => Self::NotAllowed,
            ErrorCode::Unavailable => Self::Unreachable,
            ErrorCode::TimedOut
            | ErrorCode::ExitStatus
            | ErrorCode::CommandNotFound
            | ErrorCode::HandlerFailed
            | ErrorCode::PackageFailed
            | ErrorCode::DeadLetter
            | ErrorCode::Interrupted
            | ErrorCode::Lost
            | ErrorCode::Staging
            | ErrorCode::Collecting
            | ErrorCode::HostFault
            | ErrorCode::NotPermitted
            | ErrorCode::SecretsSealed
            | ErrorCode::Untrusted
            | ErrorCode::Unsupported => Self::JobFailed,
            ErrorCode::Cancelled | ErrorCode::Expired => Self::JobEnded,
        }
    }

    /// What a job that was waited for ends the program with.
    pub(crate) fn of_status(status: JobStatus) -> Self {
        match status {
            JobStatus::Completed | JobStatus::Skipped => Self::Done,
            JobStatus::Failed => Self::JobFailed,
            JobStatus::Cancelled | JobStatus::Expired => Self::JobEnded,
            JobStatus::PartialFailure => Self::Partial,
            JobStatus::Scheduled | JobStatus::Pending | JobStatus::Running | JobStatus::Retryable => Self::WaitTimedOut,
        }
    }

    /// What a number means, if it has a meaning: `run` ends with any other one that its command ended with.
    pub(crate) fn meaning(number: &str) -> Option<&'static str> {
        let number: u8 = number.parse().ok()?;
        let documented = MEANINGS.iter().find(|(code, _)| *code == number).map(|(_, meaning)| *meaning);
        Some(documented.unwrap_or("`run`: the command's own status"))
    }

    /// The worse of two jobs' ends: the first that is not success.
    pub(crate) fn or(self, other: Self) -> Self {
        if self == Self::Done { other } else { self }
    }
}

/// What `longshore explain exit-codes` says.
pub(crate) const MEANINGS: &[(u8, &str)] = &[
    (0, "done; where a job was waited for, it succeeded"),
    (1, "refused (conflict, quota, invalid state), or an unexpected error"),
    (2, "wrong usage, invalid flag or unreadable input file"),
    (3, "what you named is not there; for `status`: nothing is running"),
    (4, "not logged in, or not allowed"),
    (5, "the controller or NATS could not be reached"),
    (6, "a waited-for job failed for good"),
    (7, "a waited-for job was cancelled or expired"),
    (8, "the time for waiting was up; the job goes on"),
    (9, "some targets of a job failed"),
    (10, "a configuration, package or other document is not valid"),
    (11, "no agent can take the job"),
    (125, "`run`: an end of Longshore's own; any number that is not listed: the command's own status"),
    (127, "`run`: the command is not there"),
    (130, "ended by SIGINT"),
    (141, "`run`: whoever read the output has closed it; the job goes on"),
    (143, "ended by SIGTERM"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_the_documented_ones() {
        let own = [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::NotFound,
            Exit::NotAllowed,
            Exit::Unreachable,
            Exit::JobFailed,
            Exit::JobEnded,
            Exit::WaitTimedOut,
            Exit::Partial,
            Exit::Invalid,
            Exit::NoAgent,
        ];
        for (number, exit) in (0u8..).zip(own) {
            assert_eq!(exit.code(), number);
            assert!(MEANINGS.iter().any(|(code, _)| *code == number), "{number} is documented");
        }
        let others = [Exit::RunFailed, Exit::RunNotFound, Exit::Interrupted, Exit::OutputClosed, Exit::Terminated];
        assert_eq!(others.map(Exit::code), [125, 127, 130, 141, 143]);
        assert!(others.iter().all(|exit| MEANINGS.iter().any(|(code, _)| *code == exit.code())));
    }

    #[test]
    fn refusals_have_their_class() {
        for (code, exit) in [
            (ErrorCode::JobRunning, 1),
            (ErrorCode::DeadLetterClosed, 1),
            (ErrorCode::NotFound, 3),
            (ErrorCode::UnknownOperation, 3),
            (ErrorCode::Unauthenticated, 4),
            (ErrorCode::Forbidden, 4),
            (ErrorCode::Unavailable, 5),
            (ErrorCode::Validation, 10),
            (ErrorCode::NoAgent, 11),
            (ErrorCode::AgentOffline, 11),
        ] {
            assert_eq!(Exit::of_code(code).code(), exit, "{code}");
        }
    }

    #[test]
    fn job_ends_have_their_class() {
        for (status, exit) in [
            (JobStatus::Completed, 0),
            (JobStatus::Skipped, 0),
            (JobStatus::Failed, 6),
            (JobStatus::Cancelled, 7),
            (JobStatus::Expired, 7),
            (JobStatus::PartialFailure, 9),
            (JobStatus::Running, 8),
        ] {
            assert_eq!(Exit::of_status(status).code(), exit, "{}", status.as_str());
        }
        assert_eq!(Exit::Done.or(Exit::JobFailed), Exit::JobFailed);
        assert_eq!(Exit::JobEnded.or(Exit::JobFailed), Exit::JobEnded);
    }
}
