//! A submission, parsed: every field checked before anything is stored.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::definition::Job;
use crate::id::{ExecutionId, JobId};
use crate::limits::{
    ANNOTATION_BYTES_MAX, ANNOTATIONS_MAX, CONCURRENCY_KEY_BYTES_MAX, EXPIRES_IN_DEFAULT, EXPIRES_IN_MAX, IDEMPOTENCY_KEY_BYTES_MAX,
    TIMEOUT_MAX, TIMEOUT_MIN,
};
use crate::operation::{Call, CallError};
use crate::retry::{RetryPolicy, standard_backoff};
use crate::target::Target;
use crate::unit::Span;
use crate::wire::problem::FieldError;
use crate::wire::rest::{JobRequest, RetryRequest};
use crate::wire::secret::Secret;

/// A submission with nothing left to check but the fleet: whether its target exists, and whether the submitter may.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// What to do.
    pub call: Call,
    /// Who should do it.
    pub target: Target,
    /// Of one attempt.
    pub timeout: Duration,
    /// Earliest start.
    pub not_before: Option<Timestamp>,
    /// Never started after this.
    pub expires_at: Timestamp,
    /// How often and how far apart.
    pub retry: RetryPolicy,
    /// How long it may wait for agents that are not available; then it is refused only if its target means nobody who is known.
    pub wait_for_agents: Option<Duration>,
    /// Names the submission, so that it can be sent again.
    pub idempotency_key: Option<String>,
    /// Of all executions with this key at most one runs at a time; the others wait in the order of submission.
    pub concurrency_key: Option<String>,
    /// Short strings for people and searches.
    pub annotations: BTreeMap<String, String>,
    /// The job that the secrets were sealed for; `None` if they have not been sealed yet, or there are none.
    pub sealed_for: Option<JobId>,
}

/// Why a submission was refused. Nothing was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSubmission {
    /// No such operation; the nearest names.
    #[error("there is no operation {name:?}")]
    UnknownOperation {
        /// What was asked for.
        name: String,
        /// What it may have meant.
        nearest: Vec<&'static str>,
    },
    /// Fields with values that cannot be.
    #[error("{}", .0.iter().map(|field| format!("{}: {}", field.pointer, field.detail)).collect::<Vec<_>>().join("; "))]
    Fields(Vec<FieldError>),
}

impl Submission {
    /// Checks every field, collecting all that are at fault.
    ///
    /// # Errors
    /// The operation does not exist, or fields have values that cannot be.
    pub fn parse(request: JobRequest, now: Timestamp) -> Result<Self, InvalidSubmission> {
        let mut faults = Faults::default();
        let call = match Call::parse(&request.operation, request.args) {
            Ok(call) => faults.only_plain(&call).then_some(call),
            Err(CallError::UnknownOperation { name, nearest }) => return Err(InvalidSubmission::UnknownOperation { name, nearest }),
            Err(CallError::Args(errors)) => {
                faults.0.extend(errors);
                None
            }
        };
        let target = faults.take("/target", request.target.parse::<Target>());
        let timeout = request.timeout.as_deref().map(|text| faults.span("/timeout", text, TIMEOUT_MIN, TIMEOUT_MAX));
        let expires_in = match request.expires_in.as_deref() {
            Some(text) => faults.span("/expires_in", text, TIMEOUT_MIN, EXPIRES_IN_MAX),
            None => Some(EXPIRES_IN_DEFAULT),
        };
        let not_before = request.not_before.as_deref().and_then(|text| faults.instant("/not_before", text, now));
        let retry = request.retry.as_ref().map(|retry| faults.retry(retry));
        let wait_for_agents =
            request.wait_for_agents.as_deref().and_then(|text| faults.span("/wait_for_agents", text, TIMEOUT_MIN, EXPIRES_IN_MAX));
        faults.annotations(&request.annotations);
        faults.key("/idempotency_key", request.idempotency_key.as_deref(), IDEMPOTENCY_KEY_BYTES_MAX);
        faults.key("/concurrency_key", request.concurrency_key.as_deref(), CONCURRENCY_KEY_BYTES_MAX);

        // `expires_in` counts from the earliest start, so that a scheduled job is not expired when its time comes.
        let expires_in = expires_in.map(|span| wait_for_agents.map_or(span, |wait| span.min(wait)));
        let expires_at = expires_in.and_then(|span| later(not_before.unwrap_or(now), span));
        let (Some(call), Some(target), Some(expires_at), true) = (call, target, expires_at, faults.0.is_empty()) else {
            return Err(InvalidSubmission::Fields(faults.0));
        };
        let spec = call.operation().spec();
        let retry = retry.flatten().unwrap_or_else(|| if spec.retry_safe { RetryPolicy::standard() } else { RetryPolicy::once() });
        Ok(Self {
            timeout: timeout.flatten().unwrap_or(spec.timeout),
            call,
            target,
            not_before,
            expires_at,
            retry,
            wait_for_agents,
            idempotency_key: request.idempotency_key,
            concurrency_key: request.concurrency_key,
            annotations: request.annotations,
            sealed_for: None,
        })
    }

    /// The same once more, to be started from now on: operation, arguments, target, time-out and policy are those of `job`.
    #[must_use]
    pub fn again(job: Job, now: Timestamp) -> Self {
        let has_secrets = job.call.secrets().is_some_and(|secrets| !secrets.is_empty());
        Self {
            sealed_for: has_secrets.then_some(job.sealed_for.unwrap_or(job.id)),
            call: job.call,
            target: job.target,
            timeout: job.timeout,
            not_before: None,
            expires_at: later(now, EXPIRES_IN_DEFAULT).unwrap_or(Timestamp::MAX),
            retry: job.retry,
            wait_for_agents: None,
            idempotency_key: None,
            concurrency_key: job.concurrency_key,
            annotations: job.annotations,
        }
    }

    /// The accepted job.
    #[must_use]
    pub fn into_job(self, id: JobId, executions: Vec<ExecutionId>, submitted_by: String, submitted_at: Timestamp) -> Job {
        Job {
            id,
            call: self.call,
            target: self.target,
            executions,
            timeout: self.timeout,
            not_before: self.not_before,
            expires_at: self.expires_at,
            retry: self.retry,
            concurrency_key: self.concurrency_key,
            annotations: self.annotations,
            submitted_by,
            submitted_at,
            retry_of: None,
            // What was sealed for this very job need not say so.
            sealed_for: self.sealed_for.filter(|of| *of != id),
        }
    }

    /// The latest moment at which a record of this job may still be needed: its last possible start, and every attempt after it.
    #[must_use]
    pub fn outlives(&self) -> Timestamp {
        let attempts = self.retry.max_attempts();
        let waits: Duration = (1..attempts).filter_map(|attempt| self.retry.wait_after(attempt)).sum();
        later(self.expires_at, self.timeout.saturating_mul(attempts).saturating_add(waits)).unwrap_or(Timestamp::MAX)
    }
}

fn later(from: Timestamp, by: Duration) -> Option<Timestamp> {
    from.checked_add(SignedDuration::try_from(by).ok()?).ok()
}

#[derive(Default)]
struct Faults(Vec<FieldError>);

impl Faults {
    fn push(&mut self, pointer: &str, detail: impl ToString) {
        self.0.push(FieldError { pointer: pointer.to_owned(), detail: detail.to_string() });
    }

    /// Whether the secrets are plain text: what is sealed belongs to another job.
    fn only_plain(&mut self, call: &Call) -> bool {
        let sealed = call.secrets().into_iter().flatten().find(|(_, secret)| matches!(secret, Secret::Sealed(_)));
        if let Some((name, _)) = sealed {
            self.push("/args/secrets", format!("{name:?} must be text"));
        }
        sealed.is_none()
    }

    fn take<T, E: ToString>(&mut self, pointer: &str, parsed: Result<T, E>) -> Option<T> {
        parsed.map_err(|error| self.push(pointer, error)).ok()
    }

    fn span(&mut self, pointer: &str, text: &str, min: Duration, max: Duration) -> Option<Duration> {
        let Span(span) = self.take(pointer, text.parse())?;
        if (min..=max).contains(&span) {
            return Some(span);
        }
        self.push(pointer, format!("must be between {} and {}", Span(min), Span(max)));
        None
    }

    fn instant(&mut self, pointer: &str, text: &str, now: Timestamp) -> Option<Timestamp> {
        let at = text.parse::<Timestamp>().ok().or_else(|| later(now, text.parse::<Span>().ok()?.0));
        let Some(at) = at else {
            self.push(pointer, format!("{:?} is neither an RFC 3339 time nor a duration", text.chars().take(64).collect::<String>()));
            return None;
        };
        if later(now, EXPIRES_IN_MAX).is_some_and(|latest| at > latest) {
            self.push(pointer, format!("must be within {} from now", Span(EXPIRES_IN_MAX)));
            return None;
        }
        Some(at)
    }

    fn retry(&mut self, retry: &RetryRequest) -> Option<RetryPolicy> {
        let is_usual = retry.backoff.is_none();
        let backoff = match &retry.backoff {
            None => Some(standard_backoff()),
            Some(steps) => {
                self.take("/retry/backoff", steps.iter().map(|step| step.parse::<Span>().map(|span| span.0)).collect::<Result<_, _>>())
            }
        };
        let policy = self.take("/retry", RetryPolicy::new(retry.max_attempts, backoff?))?;
        Some(if is_usual { policy.with_usual_backoff() } else { policy })
    }

    fn annotations(&mut self, annotations: &BTreeMap<String, String>) {
        if annotations.len() > ANNOTATIONS_MAX {
            self.push("/annotations", format!("at most {ANNOTATIONS_MAX} annotations"));
        }
        let sound = |text: &str| text.len() <= ANNOTATION_BYTES_MAX && !text.contains(char::is_control);
        if annotations.iter().any(|(key, value)| key.is_empty() || !sound(key) || !sound(value)) {
            self.push(
                "/annotations",
                format!("keys and values take up to {ANNOTATION_BYTES_MAX} bytes without control characters, keys at least one"),
            );
        }
    }

    fn key(&mut self, pointer: &str, key: Option<&str>, bytes_max: usize) {
        let is_sound = |key: &str| (1..=bytes_max).contains(&key.len()) && !key.contains(|c: char| !c.is_ascii_graphic() && c != ' ');
        if !key.is_none_or(is_sound) {
            self.push(pointer, format!("1 to {bytes_max} printable ASCII characters"));
        }
    }
}
