//! Repeating a job by hand: the same operation, arguments, target, time-out and policy as a new job, linked both ways.

use longshore_model::access::Caller;
use longshore_model::job::{Job, Submission};
use longshore_model::wire::rest::{JobView, RetryJobRequest, RetryOnly};
use longshore_model::{ExecutionId, ExecutionState, JobId, Target};

use crate::fleet::Waits;

use super::submit::{self, Submitted};
use super::{App, Error, again, fold, permit, resolve, shown_to};

/// What of a job is repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// All of it, by whoever its target means now.
    All,
    /// All of it, for another target.
    For(Target),
    /// What did not complete, by who was to do it.
    Failed,
}

/// Repeats a job that has ended, and shows the new one.
pub(crate) async fn retry(app: &App, caller: &Caller, id: JobId, request: RetryJobRequest) -> Result<JobView, Error> {
    let what = match request.only {
        RetryOnly::All => Repeat::All,
        RetryOnly::Failed => Repeat::Failed,
    };
    Ok(shown_to(caller, repeat(app, caller, id, what).await?.view(app)))
}

/// Repeats a job that has ended. Needs the operation's own permission: a repeat is a submission.
pub(crate) async fn repeat(app: &App, caller: &Caller, id: JobId, what: Repeat) -> Result<Submitted, Error> {
    permit(caller, "job:write")?;
    let record = app.load(id).await?.ok_or_else(|| Error::no_job(id))?;
    let shares = fold(&record);
    let job = Job::try_from(record.definition)?;
    permit(caller, job.call.operation().spec().permission)?;
    if !shares.is_final() {
        return Err(Error::NotFinal { job: id });
    }
    let did = |state| matches!(state, ExecutionState::Completed | ExecutionState::Skipped);
    let (target, frozen) = match what {
        Repeat::All => (job.target.clone(), resolve(app, caller, &job.target, &job.call, Waits::No)?),
        Repeat::For(target) => {
            let frozen = resolve(app, caller, &target, &job.call, Waits::No)?;
            (target, frozen)
        }
        // Who failed is asked again, also where the target would mean others by now.
        Repeat::Failed => {
            let failed: Vec<ExecutionId> = shares.0.iter().filter(|(_, execution)| !did(execution.state())).map(|(id, _)| *id).collect();
            if failed.is_empty() {
                return Err(Error::field("/only", "every execution of the job completed, so none is to be repeated"));
            }
            (job.target.clone(), again(app, failed)?)
        }
    };

    let now = app.now();
    let submission = Submission { target, ..Submission::again(job, now) };
    submit::check_retention(app, &submission, now)?;
    let placed = submit::Placed { id: submit::new_id(app), frozen, retry_of: Some(id), key_sha256: None };
    submit::accept(app, caller, submission, placed).await
}
