//! Repeating a job by hand: the same operation, arguments, target, time-out and policy as a new job, linked both ways.

use jiff::{SignedDuration, Timestamp};
use longshore_model::access::Caller;
use longshore_model::job::{Job, Submission};
use longshore_model::limits::EXPIRES_IN_DEFAULT;
use longshore_model::wire::rest::{JobView, RetryJobRequest, RetryOnly};
use longshore_model::{ExecutionId, ExecutionState, JobId};

use crate::fleet::Waits;

use super::{App, Error, fold, permit, shown_to, submit};

/// Repeats a job that has ended. Needs the operation's own permission: a repeat is a submission.
pub(crate) async fn retry(app: &App, caller: &Caller, id: JobId, request: RetryJobRequest) -> Result<JobView, Error> {
    permit(caller, "job:write")?;
    let record = app.load(id).await?.ok_or_else(|| Error::no_job(id))?;
    let shares = fold(&record);
    let job = Job::try_from(record.definition)?;
    permit(caller, job.call.operation().spec().permission)?;
    if !shares.is_final() {
        return Err(Error::NotFinal { job: id });
    }
    let did = |state| matches!(state, ExecutionState::Completed | ExecutionState::Skipped);
    // All are whoever the target means now; who failed is asked again, also where the target would mean others by now.
    let executions = match request.only {
        RetryOnly::All => app.fleet().resolve(&job.target, Waits::No)?,
        RetryOnly::Failed => {
            let failed: Vec<ExecutionId> = shares.0.iter().filter(|(_, execution)| !did(execution.state())).map(|(id, _)| *id).collect();
            if failed.is_empty() {
                return Err(Error::field("/only", "every execution of the job completed, so none is to be repeated"));
            }
            app.fleet().check(&failed)?;
            failed
        }
    };

    let now = app.now();
    let lifetime = SignedDuration::try_from(EXPIRES_IN_DEFAULT).unwrap_or(SignedDuration::MAX);
    let submission = Submission {
        call: job.call,
        target: job.target,
        timeout: job.timeout,
        not_before: None,
        expires_at: now.checked_add(lifetime).unwrap_or(Timestamp::MAX),
        retry: job.retry,
        wait_for_agents: None,
        idempotency_key: None,
        annotations: job.annotations,
    };
    submit::check_retention(app, &submission, now)?;
    let placed = submit::Placed { id: submit::new_id(), executions, retry_of: Some(id), key_sha256: None };
    let accepted = submit::accept(app, caller, submission, placed).await?;
    Ok(shown_to(caller, accepted.view(app)))
}
