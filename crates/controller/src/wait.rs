//! Who waits for the end of which job. A waiter registers before it looks, so that no end falls between the look and the wait.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use longshore_model::wire::record::{Answer, Event};
use longshore_model::{ExecutionId, JobId};
use longshore_store::{Fact, Position, Revision};
use tokio::sync::Notify;

/// Everybody who waits, by job.
#[derive(Default)]
pub(crate) struct Waiters {
    jobs: Arc<Mutex<HashMap<JobId, Waiting>>>,
}

/// What has been told of one job so far. Most jobs have one who waits, for whom a channel for many would be large.
#[derive(Default)]
struct Changes {
    count: AtomicU64,
    more: Notify,
}

struct Waiting {
    changes: Arc<Changes>,
    /// For a job that is being submitted: what the feed has told of it, from its first moment on.
    told: Option<Told>,
}

/// What the feed has told of one job.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) events: Vec<(Revision, ExecutionId, Event)>,
    pub(crate) answers: Vec<Answer>,
}

/// A place in the queue for one job's end. Dropping it gives up the place.
pub(crate) struct Ticket {
    job: JobId,
    changes: Arc<Changes>,
    /// Changes that this place has been told.
    seen: u64,
    jobs: Arc<Mutex<HashMap<JobId, Waiting>>>,
}

impl Waiters {
    /// Takes a place; an end from now on is not missed.
    pub(crate) fn register(&self, job: JobId) -> Ticket {
        self.ticket(job, None)
    }

    /// Takes a place for a job that nobody knows yet: everything that the feed will tell of it is kept for the one who waits.
    pub(crate) fn register_new(&self, job: JobId) -> Ticket {
        self.ticket(job, Some(Told::default()))
    }

    fn ticket(&self, job: JobId, told: Option<Told>) -> Ticket {
        let mut jobs = lock(&self.jobs);
        let waiting = jobs.entry(job).or_insert_with(|| Waiting { changes: Arc::default(), told });
        let changes = Arc::clone(&waiting.changes);
        Ticket { job, seen: changes.count.load(Ordering::Acquire), changes, jobs: Arc::clone(&self.jobs) }
    }

    /// Keeps a fact for whoever has waited since before the job was known.
    pub(crate) fn tell(&self, position: Position, fact: &Fact) {
        let job = match fact {
            Fact::Happened { job, .. } => *job,
            Fact::Answered(answer) => answer.job,
            Fact::Defined(_) | Fact::Deleted(_) => return,
        };
        if let Some(Waiting { told: Some(told), .. }) = lock(&self.jobs).get_mut(&job) {
            match fact {
                Fact::Happened { execution, event, .. } => told.events.push((position.queue, *execution, event.clone())),
                Fact::Answered(answer) => told.answers.push((**answer).clone()),
                Fact::Defined(_) | Fact::Deleted(_) => {}
            }
        }
    }

    /// Tells everybody who waits for `job` that it has ended or is gone, or more of an end that was told before.
    pub(crate) fn wake(&self, job: JobId) {
        if let Some(waiting) = lock(&self.jobs).get(&job) {
            waiting.changes.count.fetch_add(1, Ordering::Release);
            waiting.changes.more.notify_waiters();
        }
    }
}

impl Ticket {
    /// Returns when the end is told, or more of it, and at once if that was since the last call. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        loop {
            let mut more = pin!(self.changes.more.notified());
            // From here on a change is heard; what came before is in the count.
            more.as_mut().enable();
            let count = self.changes.count.load(Ordering::Acquire);
            if count != self.seen {
                self.seen = count;
                return;
            }
            more.await;
        }
    }

    /// What the feed has told of the job since the last call, if this place was taken before the job was known.
    pub(crate) fn told(&self) -> Option<Told> {
        lock(&self.jobs).get_mut(&self.job).and_then(|waiting| waiting.told.as_mut().map(std::mem::take))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut jobs = lock(&self.jobs);
        // Held by the map, by this ticket, and by nobody else.
        if jobs.get(&self.job).is_some_and(|waiting| Arc::strong_count(&waiting.changes) <= 2) {
            jobs.remove(&self.job);
        }
    }
}

fn lock(jobs: &Mutex<HashMap<JobId, Waiting>>) -> MutexGuard<'_, HashMap<JobId, Waiting>> {
    jobs.lock().expect("no holder of this lock panics")
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
