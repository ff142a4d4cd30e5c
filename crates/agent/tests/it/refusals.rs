//! A ledger that refuses one kind of write for good, as a broker of other settings or a newer version may.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use jiff::Timestamp;
use longshore_model::job::Job;
use longshore_model::retry::RetryPolicy;
use longshore_model::wire::record::{Answer, Definition, Event, EventKind, Outcome, Reservation};
use longshore_model::{ExecutionId, JobId};
use longshore_store::{Answered, Appended, Created, Error, ExecutionRecord, JobRecord, Ledger, Revision, Store, memory};
use longshore_testkit::{eventually, sample};

use super::{Bench, PATIENCE, n_starts, started};

const REFUSED: Error = Error::Refused { doing: "writing", reason: String::new() };

struct Refusing {
    inner: Arc<dyn Ledger>,
    answers: AtomicBool,
    losses: AtomicBool,
    n_refused: AtomicUsize,
}

impl Refusing {
    fn refuses(&self, which: &AtomicBool) -> bool {
        let refuses = which.load(Ordering::Relaxed);
        self.n_refused.fetch_add(usize::from(refuses), Ordering::Relaxed);
        refuses
    }
}

#[async_trait]
impl Ledger for Refusing {
    async fn append(&self, job: JobId, execution: ExecutionId, after: Revision, event: &Event) -> Result<Appended, Error> {
        if matches!(event.kind, EventKind::Lost { .. }) && self.refuses(&self.losses) {
            return Err(REFUSED);
        }
        self.inner.append(job, execution, after, event).await
    }

    async fn answer(&self, answer: &Answer) -> Result<Answered, Error> {
        if self.refuses(&self.answers) {
            return Err(REFUSED);
        }
        self.inner.answer(answer).await
    }

    async fn create(&self, definition: &Definition) -> Result<Created, Error> {
        self.inner.create(definition).await
    }

    async fn load(&self, job: JobId) -> Result<Option<JobRecord>, Error> {
        self.inner.load(job).await
    }

    async fn load_execution(&self, job: JobId, execution: ExecutionId) -> Result<Option<ExecutionRecord>, Error> {
        self.inner.load_execution(job, execution).await
    }

    async fn load_answer(&self, job: JobId, execution: ExecutionId) -> Result<Option<Answer>, Error> {
        self.inner.load_answer(job, execution).await
    }

    async fn reserve(&self, key_hash: &str, reservation: &Reservation) -> Result<Reservation, Error> {
        self.inner.reserve(key_hash, reservation).await
    }

    async fn retire(&self, key_hash: &str, job: JobId) -> Result<(), Error> {
        self.inner.retire(key_hash, job).await
    }

    async fn delete(&self, job: JobId) -> Result<(), Error> {
        self.inner.delete(job).await
    }
}

/// A bench on the in-memory stores, and their ledger.
async fn refusing(lease: Duration, answers: bool, losses: bool) -> (Bench, Arc<Refusing>) {
    let store = memory::open(memory::MemoryOptions { lease, ..memory::MemoryOptions::default() });
    let (answers, losses) = (answers.into(), losses.into());
    let ledger = Arc::new(Refusing { inner: Arc::clone(&store.ledger), answers, losses, n_refused: AtomicUsize::new(0) });
    (Bench::on(Store { ledger: Arc::clone(&ledger) as Arc<dyn Ledger>, ..store }), ledger)
}

#[tokio::test]
async fn an_answer_that_is_refused_is_stored_when_its_work_is_offered_again() {
    let (mut bench, ledger) = refusing(Duration::from_millis(500), true, false).await;
    let job = Job { retry: RetryPolicy::once(), ..sample::query_any(sample::job_id(1), Timestamp::now()) };
    bench.submit(&job).await;
    bench.start_agent(sample::agent_id(1), 1).await;
    eventually("a refused answer", PATIENCE, async || (ledger.n_refused.load(Ordering::Relaxed) > 0).then_some(())).await;
    ledger.answers.store(false, Ordering::Relaxed);
    let answer = bench.answer(job.id, ExecutionId::Any).await;
    assert_eq!((answer.outcome, answer.attempts), (Outcome::Completed, 1), "it was done, not interrupted");
    assert_eq!(n_starts(&bench.record(job.id).await), 1);
}

#[tokio::test]
async fn a_loss_that_is_refused_is_not_decided_again_at_once() {
    let (mut bench, ledger) = refusing(Duration::from_secs(1), false, true).await;
    let job = Job { retry: RetryPolicy::once(), ..sample::query_any(sample::job_id(1), Timestamp::now()) };
    bench.submit(&job).await;
    let mut pulled = bench.store.work.pull(1).await.unwrap();
    let delivery = tokio::time::timeout(PATIENCE, pulled.next()).await.unwrap().unwrap();
    bench.store.ledger.append(job.id, ExecutionId::Any, delivery.revision, &started(1, sample::agent_id(9))).await.unwrap();
    drop((pulled, delivery));
    bench.start_agent(sample::agent_id(1), 1).await;
    eventually("a refused loss", PATIENCE, async || (ledger.n_refused.load(Ordering::Relaxed) > 0).then_some(())).await;
    // The one slot is free again: other work is done, and meanwhile the loss is tried no more often than its claim lapses.
    for n in 2..22 {
        let other = sample::query_any(sample::job_id(n), Timestamp::now());
        bench.submit(&other).await;
        bench.answer(other.id, ExecutionId::Any).await;
    }
    assert!(ledger.n_refused.load(Ordering::Relaxed) <= 5, "{} tries", ledger.n_refused.load(Ordering::Relaxed));
}
