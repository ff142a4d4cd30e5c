//! Who waits for which job. A waiter registers before it looks, so that no change falls between the look and the wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use longshore_model::JobId;
use tokio::sync::watch;

/// Everybody who waits, by job.
#[derive(Default)]
pub(crate) struct Waiters {
    jobs: Arc<Mutex<HashMap<JobId, watch::Sender<u64>>>>,
}

/// A place in the queue for one job's changes. Dropping it gives up the place.
pub(crate) struct Ticket {
    job: JobId,
    changes: watch::Receiver<u64>,
    jobs: Arc<Mutex<HashMap<JobId, watch::Sender<u64>>>>,
}

impl Waiters {
    /// Takes a place; changes from now on are not missed.
    pub(crate) fn register(&self, job: JobId) -> Ticket {
        let mut jobs = self.jobs.lock().expect("no holder of this lock panics");
        let changes = jobs.entry(job).or_insert_with(|| watch::Sender::new(0)).subscribe();
        Ticket { job, changes, jobs: Arc::clone(&self.jobs) }
    }

    /// Tells everybody who waits for `job` that it changed.
    pub(crate) fn wake(&self, job: JobId) {
        if let Some(sender) = self.jobs.lock().expect("no holder of this lock panics").get(&job) {
            sender.send_modify(|count| *count += 1);
        }
    }
}

impl Ticket {
    /// Returns after the next change, or at once if there was one since the last call. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        // The sender lives in the map as long as this ticket does.
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut jobs = self.jobs.lock().expect("no holder of this lock panics");
        // This ticket's own receiver still counts.
        if jobs.get(&self.job).is_some_and(|sender| sender.receiver_count() <= 1) {
            jobs.remove(&self.job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_between_registering_and_waiting_is_not_missed() {
        let waiters = Waiters::default();
        let job = JobId::from_bits(1);
        let (mut first, second) = (waiters.register(job), waiters.register(job));
        waiters.wake(job);
        first.changed().await;
        drop(first);
        assert_eq!(waiters.jobs.lock().unwrap().len(), 1);
        drop(second);
        assert!(waiters.jobs.lock().unwrap().is_empty());
        waiters.wake(job);
    }
}
