//! A turn under a concurrency key, around an attempt: asked for before its start is recorded, looked at again after, freed at its end.
//!
//! How it is asked for is in `longshore_store`, for gateways ask too; here is what this agent does with the answer.

use jiff::{SignedDuration, Timestamp};
use longshore_model::ExecutionId;
use longshore_model::job::Job;
use longshore_model::limits::TURNS_OFFERED_MAX;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::Failure;
use longshore_model::wire::turn::Holder;
use longshore_store::{Asked, Error};

use crate::execution::{Settled, Worker};

impl Worker {
    /// Asks for the turn of an attempt whose job has this key; `None` if we are to stop, or cannot ask.
    pub(crate) async fn ask_for_turn(&mut self, job: &Job, key: &str, attempt: u32) -> Option<Asked> {
        let holder = Holder { job: self.key.0, execution: self.key.1, attempt };
        loop {
            match self.ctx.turns.ask(&self.ctx.store, job, key, holder).await {
                Ok(asked) => return Some(asked),
                Err(error) if error.is_retryable() && self.claim.is_valid() => self.broker_fault("asking for a turn", &error).await?,
                Err(error) => {
                    tracing::error!(job.id = %self.key.0, %error, "a turn cannot be asked for; handing the work back");
                    self.claim.give_back(Asked::wait(usize::MAX)).await;
                    return None;
                }
            }
        }
    }

    /// Leaves the queue for a turn, if the job is gone. Asking may have entered it again after whoever deleted it had removed its place, and
    /// have broken off before it found that out.
    pub(crate) async fn leave_if_deleted(&self, job: &Job) {
        let Some(key) = job.concurrency_key.as_deref().filter(|_| !self.signals.stop.is_cancelled()) else { return };
        let left = async {
            if self.ctx.store.ledger.load_execution(self.key.0, self.key.1).await?.is_none() {
                self.ctx.store.turns.leave(key, job.id).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = left.await {
            tracing::debug!(job.id = %job.id, %error, "a deleted job's place is left for the controller to remove");
        }
    }

    /// Waits for a turn. What is far from it leaves the broker: the controller announces it when it comes near.
    pub(crate) async fn wait_for_turn(self, n_before: usize) -> Settled {
        if n_before >= TURNS_OFFERED_MAX && self.key.1 == ExecutionId::Any {
            self.claim.done().await;
            return Settled::Done;
        }
        let until = SignedDuration::try_from(Asked::wait(n_before)).ok().and_then(|wait| self.ctx.now().checked_add(wait).ok());
        self.wait(until.unwrap_or(Timestamp::MAX)).await
    }
}

/// Why an attempt that has started does not run.
pub(crate) fn passed_over() -> Failure {
    let message = "its turn under the concurrency key was taken by another job before it could start".to_owned();
    Failure { code: ErrorCode::Interrupted, message }
}
