//! Errors as they cross processes: stable codes, and RFC 9457 problem documents.

use serde::{Deserialize, Serialize};

// `$text` is a token, not a `literal`: a fragment that was parsed once is not the plain string that the schema's derive looks for.
macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $text:tt, $title:literal, $explanation:literal;)*) => {
        /// What went wrong, for programs. A code never changes its meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        pub enum ErrorCode {
            $($(#[$doc])* #[doc = $title] #[serde(rename = $text)] $name,)*
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The stable text.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// A few words.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// What it means and what to do: `longshore explain CODE`.
            #[must_use]
            pub fn explanation(self) -> &'static str {
                match self { $(Self::$name => $explanation,)* }
            }
        }
    };
}

error_codes! {
    BadRequest = "bad_request", "the request is not well formed", "The body is not the JSON this call takes. The problem's `detail` and `errors` name the place; `GET /api/openapi.json` has the shape.";
    Validation = "validation", "a field has a value that cannot be", "Nothing was stored. `errors` names each field at fault and what it takes.";
    UnknownOperation = "unknown_operation", "no such operation", "The catalogue does not have it. `longshore operation list` or `GET /api/v1/operations` shows what there is.";
    NoAgent = "no_agent", "no agent can take the job", "The target matches no agent that is known and available. `longshore status` shows the agents; start one with `longshore agent start`.";
    AgentOffline = "agent_offline", "the host's agent is not available", "The host is known, but its agent has not been heard for longer than its heartbeat lasts. Start it, or choose another target.";
    AgentOnline = "agent_online", "the agent is running", "Only what an agent left behind can be removed. Stop it first; `longshore agent drain` lets it finish what it has.";
    NotFound = "not_found", "it is not there", "No such job, path or page. Retention or a delete may have removed it; `longshore job list` shows what there is.";
    MethodNotAllowed = "method_not_allowed", "the path does not take this method", "The `Allow` header names the methods it takes.";
    Unauthenticated = "unauthenticated", "a valid bearer token is required", "Send `Authorization: Bearer TOKEN`. On one host `longshore start` writes the token that the command line uses by itself.";
    Forbidden = "forbidden", "the token does not allow this", "The token is valid but lacks the permission that `detail` names. An administrator can issue another with `longshore token generate`.";
    IdempotencyConflict = "idempotency_conflict", "the idempotency key was used for another body", "A key stands for one submission. Use a new key for a new one.";
    JobDeleted = "job_deleted", "the job of this idempotency key was deleted", "Nothing was run again. A key stands for one submission, also when its job is gone: to have the work done once more, submit it with a new key.";
    JobRunning = "job_running", "the job is not final", "Wait for it, cancel it first, or say `force`, which cancels first.";
    JobStopping = "job_stopping", "the end of the job is asked for, and it has not stopped yet", "The cancel is recorded, and no other attempt will start; nothing was deleted yet. Repeat the delete: it goes on where this one stopped.";
    JobNotFinal = "job_not_final", "the job has not ended", "This needs a job that has ended: `longshore job wait ID`.";
    TooLarge = "too_large", "the body is larger than allowed", "Upload large inputs as a bundle; arguments are limited to 1 MiB.";
    UnsupportedMediaType = "unsupported_media_type", "the body's media type is not accepted", "Send `Content-Type: application/json`.";
    DigestMismatch = "digest_mismatch", "the content does not have the digest that was announced", "Nothing was stored. Upload again; if it repeats, something between you and the controller changes the bytes.";
    StorageFull = "storage_full", "a store is at its configured limit", "Nothing was dropped and nothing was accepted. Delete finished jobs or raise `nats.kv.max_bytes`.";
    Unavailable = "unavailable", "it is not available at the moment", "The controller is still starting or has too much to do, or the broker did not answer. Then the outcome may be unknown: send the same request again with the same idempotency key. If the broker's disk was full, it must be restarted after space is made.";
    Retention = "retention", "the job could outlive its records", "`not_before`, `expires_in` and the attempts' time-outs add up to more than `nats.kv.ttl` keeps records. Shorten them or raise the retention.";
    NoSealingKey = "no_sealing_key", "the controller has nothing to seal secrets with", "Nothing was stored. `longshore key generate` makes the keys of a fleet and says where they go; `longshore start` makes its own.";
    Internal = "internal", "an error of ours", "The controller's log has the details under the request id.";
    TimedOut = "timed_out", "the work's time was up", "The whole process tree was stopped at the job's `timeout`. Give it more with `--timeout`.";
    ExitStatus = "exit_status", "the program said it failed", "It exited with a status other than 0 or was ended by a signal; `longshore job logs ID` shows its output.";
    HandlerFailed = "handler_failed", "the package's handler said it failed", "The message has the handler's own words; `longshore job logs ID` shows what it told on the way.";
    PackageFailed = "package_failed", "the package was not installed or removed", "What was there before is there still. The message has the host's own words: an archive that cannot be fetched, whose digest or signature is not the one that is asked for, or that holds something else.";
    CommandNotFound = "command_not_found", "the program is not on the host", "No such file on the agent's `PATH`, or it is not executable.";
    Cancelled = "cancelled", "somebody cancelled it", "`cancel_verified` says whether every process is known to be gone.";
    Expired = "expired", "it was not started in time", "Nothing ran and nothing will. Submit again, with a longer `expires_in` if the agents are busy.";
    DeadLetter = "dead_letter", "its attempts are used up", "Every attempt failed in passing or lost its agent. The last error is in the answer; submit again with `longshore job retry ID`.";
    DeadLetterClosed = "dead_letter_closed", "the dead letter needs nothing more", "It was redriven or discarded before, as `detail` says, and nothing was done now. To have the work done again all the same: `longshore job retry ID`.";
    Interrupted = "interrupted", "its agent stopped while it ran", "The agent's process ended and took the work with it; it may have had part of its effect. It was not run again because nobody said that is safe: use `retry` in the submission, or `longshore job retry ID`.";
    Lost = "lost", "its agent did not answer in time", "The agent may be down or cut off. If an answer arrives later it replaces this state.";
    Staging = "staging", "the workspace could not be prepared", "No step ran. The message names the file at fault.";
    Collecting = "collecting", "the artifacts could not be brought back", "The steps ran; the message names the file at fault.";
    HostFault = "host_fault", "the agent's host could not do it", "An error of the host, not of the job: a full disk, no memory, no processes left. It is tried again if the job's policy allows.";
    NotPermitted = "not_permitted", "the host does not allow it", "The agent runs without a right it needs for this; the message says which, and what to enable. Run the agent as root, or give it that right.";
    SecretsSealed = "secrets_sealed", "the agent cannot open the job's secrets", "Nothing was started. The agent lacks the key that they were sealed for, or they were moved or altered on the broker; the message says which. Give the agent the fleet's `secrets.key` and submit the job again.";
    Untrusted = "untrusted", "no controller that the agent trusts vouches for the job", "Nothing was started. The job is unsigned, was altered after it was signed, or was signed with a key that the agent does not know; the message says which. If the key is the fleet's own, add it to the agent's `jobs.pub`; otherwise find out who writes to the broker.";
    Unsupported = "unsupported", "the host has nothing to do it with", "What the operation works with is not on that host; the message says what is missing. Where nothing can do it, the execution is `skipped`.";
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An RFC 9457 problem document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// `/problems/CODE`, served by the controller.
    #[serde(rename = "type")]
    pub kind: String,
    /// A few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What failed, and why.
    pub detail: String,
    /// The stable code.
    pub code: ErrorCode,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Finds the request in the controller's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Whether the same request may succeed later.
    #[serde(default)]
    pub retryable: bool,
    /// Each field at fault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// A field at fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FieldError {
    /// JSON Pointer into the request body, such as `/args/command`.
    pub pointer: String,
    /// What it takes.
    pub detail: String,
}

impl Problem {
    /// A problem with the code's own title.
    #[must_use]
    pub fn new(code: ErrorCode, status: u16, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("/problems/{code}"),
            title: code.title().to_owned(),
            status,
            detail: detail.into(),
            code,
            hint: None,
            request_id: None,
            retryable: false,
            errors: Vec::new(),
        }
    }
}

/// An error and its causes, on one line: for a failure's message, or a log.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_explained() {
        let mut texts: Vec<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), ErrorCode::ALL.len());
        assert!(ErrorCode::ALL.iter().all(|code| code.explanation().len() > 30));
    }
}
