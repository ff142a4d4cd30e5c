//! A ledger that refuses one kind of write for good, as a broker of other settings or a newer version may.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use jiff::Timestamp;
use longshore_model::job::Job;
use longshore_model::retry::RetryPolicy;
use longshore_model::wire::record::{Answer, Definition, Event, EventKind, Outcome, Reservation};
use longshore_model::{AgentId, ExecutionId, JobId, Label};
use longshore_store::{
    Addressed, AddressedPage, Announcement, Answered, Appended, Created, Delivery, Error, ExecutionRecord, InboxPage, JobRecord, Ledger,
    PullStream, Revision, Store, WakeStream, Work, memory,
};
use longshore_testkit::{eventually, sample};

use super::{Bench, PATIENCE, n_starts, started_on};

const REFUSED: Error = Error::Refused { doing: "writing", reason: String::new() };

pub(super) struct Refusing {
    pub(super) inner: Arc<dyn Ledger>,
    answers: AtomicBool,
    losses: AtomicBool,
    n_refused: AtomicUsize,
    /// Whether a job is deleted just before its first start is stored.
    deletes: AtomicBool,
    /// Stored just before a second start is.
    late: Mutex<Option<Answer>>,
    /// Whether no execution can be read.
    pub(super) is_silent: AtomicBool,
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
        if matches!(event.kind, EventKind::Started { attempt: 1, .. }) && self.deletes.swap(false, Ordering::Relaxed) {
            self.inner.delete(job).await?;
        }
        if matches!(event.kind, EventKind::Started { attempt: 2.., .. }) {
            let late = self.late.lock().unwrap().take();
            if let Some(answer) = late {
                self.inner.answer(&answer).await?;
            }
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
        if self.is_silent.load(Ordering::Relaxed) {
            return Err(Error::Unavailable { doing: "reading", source: None });
        }
        self.inner.load_execution(job, execution).await
    }

    async fn load_answer(&self, job: JobId, execution: ExecutionId) -> Result<Option<Answer>, Error> {
        self.inner.load_answer(job, execution).await
    }

    async fn reserve(&self, key_hash: &str, reservation: &Reservation) -> Result<Reservation, Error> {
        self.inner.reserve(key_hash, reservation).await
    }

    async fn reserved(&self, key_hash: &str) -> Result<Option<Reservation>, Error> {
        self.inner.reserved(key_hash).await
    }

    async fn retire(&self, key_hash: &str, job: JobId) -> Result<(), Error> {
        self.inner.retire(key_hash, job).await
    }

    async fn delete(&self, job: JobId) -> Result<(), Error> {
        self.inner.delete(job).await
    }
}

/// A bench on the in-memory stores, and their ledger.
pub(super) async fn refusing(lease: Duration, answers: bool, losses: bool) -> (Bench, Arc<Refusing>) {
    let store = memory::open(memory::MemoryOptions { lease, ..memory::MemoryOptions::default() });
    let (answers, losses) = (answers.into(), losses.into());
    let ledger = Arc::new(Refusing {
        inner: Arc::clone(&store.ledger),
        answers,
        losses,
        n_refused: AtomicUsize::new(0),
        deletes: AtomicBool::new(false),
        late: Mutex::default(),
        is_silent: AtomicBool::new(false),
    });
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
async fn an_answer_that_comes_just_before_a_second_start_keeps_it_from_running() {
    let (mut bench, ledger) = refusing(Duration::from_secs(60), false, false).await;
    let dir = tempfile::tempdir().unwrap();
    let ran = dir.path().join("ran");
    let script = format!("touch '{}'", ran.display());
    let job = Job { retry: RetryPolicy::standard(), ..sample::shell_any(sample::job_id(1), Timestamp::now(), &script) };
    let next = Job { retry: RetryPolicy::once(), ..sample::query_any(sample::job_id(2), Timestamp::now()) };
    bench.submit(&job).await;
    let mut pulled = bench.store.work.pull(1).await.unwrap();
    let delivery = tokio::time::timeout(PATIENCE, pulled.next()).await.unwrap().unwrap();
    let other = sample::agent_id(9);
    let rests_on = started_on(1, other, delivery.lease.delivery());
    bench.store.ledger.append(job.id, ExecutionId::Any, delivery.revision, &rests_on).await.unwrap();
    // Its claim is over, and it lives.
    delivery.lease.give_back(Duration::ZERO).await.unwrap();
    drop(pulled);
    let answer = Answer {
        agent: Some(other),
        hostname: Some("other".to_owned()),
        ..Answer::new(job.id, ExecutionId::Any, Outcome::Completed, 1, Timestamp::now())
    };
    *ledger.late.lock().unwrap() = Some(answer);
    bench.start_agent(sample::agent_id(1), 1).await;
    assert_eq!(bench.answer(job.id, ExecutionId::Any).await.agent, Some(other));
    bench.submit(&next).await;
    bench.answer(next.id, ExecutionId::Any).await;
    assert_eq!(n_starts(&bench.record(job.id).await), 2, "it was recorded");
    assert!(!ran.exists(), "and did not run");
}

/// Whoever has something in hand keeps a file that grows: what is gone must not stay in it.
#[tokio::test]
async fn a_job_that_is_deleted_as_it_starts_leaves_its_agent_with_nothing_in_hand() {
    let (mut bench, ledger) = refusing(Duration::from_secs(60), false, false).await;
    ledger.deletes.store(true, Ordering::Relaxed);
    let me = sample::agent_id(1);
    let job = sample::query_any(sample::job_id(1), Timestamp::now());
    bench.submit(&job).await;
    bench.start_agent(me, 1).await;
    let journal = bench.dir.path().join(me.to_string()).join("journal/in-hand");
    let newest = || {
        let text = std::fs::read_to_string(&journal).ok()?;
        serde_json::from_str::<serde_json::Value>(text.lines().last()?).ok()
    };
    let is_forgotten = async || newest().filter(|record| record["entry"].is_null()).map(|record| record["job"].clone());
    assert_eq!(eventually("a note that is taken back", PATIENCE, is_forgotten).await, job.id.to_string());
    assert!(bench.store.ledger.load(job.id).await.unwrap().is_none(), "and nothing of it is left");
}

#[tokio::test]
async fn a_loss_that_is_refused_is_not_decided_again_at_once() {
    let (mut bench, ledger) = refusing(Duration::from_secs(1), false, true).await;
    let job = Job { retry: RetryPolicy::once(), ..sample::query_any(sample::job_id(1), Timestamp::now()) };
    bench.submit(&job).await;
    let mut pulled = bench.store.work.pull(1).await.unwrap();
    let delivery = tokio::time::timeout(PATIENCE, pulled.next()).await.unwrap().unwrap();
    let event = started_on(1, sample::agent_id(9), delivery.lease.delivery());
    bench.store.ledger.append(job.id, ExecutionId::Any, delivery.revision, &event).await.unwrap();
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

/// A store that tells no hints at first.
struct Speechless {
    store: Store,
    n_refusals: AtomicUsize,
}

impl Speechless {
    fn word(&self) -> Result<(), Error> {
        let refuses = self.n_refusals.try_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
        if refuses { Err(Error::Unavailable { doing: "saying anything", source: None }) } else { Ok(()) }
    }
}

#[async_trait]
impl Work for Speechless {
    fn lease_duration(&self) -> Duration {
        self.store.work.lease_duration()
    }

    async fn pull(&self, max: usize) -> Result<PullStream, Error> {
        self.store.work.pull(max).await
    }

    async fn take(&self, group: &Label, max: usize) -> Result<Vec<Delivery>, Error> {
        self.store.work.take(group, max).await
    }

    async fn has_work(&self, group: &Label) -> Result<bool, Error> {
        self.store.work.has_work(group).await
    }

    async fn inbox(&self, agent: AgentId, after: u64) -> Result<InboxPage, Error> {
        self.store.work.inbox(agent, after).await
    }

    async fn addressed(&self, after: Revision) -> Result<AddressedPage, Error> {
        self.store.work.addressed(after).await
    }

    async fn take_out(&self, entry: Addressed) -> Result<(), Error> {
        self.store.work.take_out(entry).await
    }

    async fn wakes(&self, agent: AgentId, groups: &[Label]) -> Result<WakeStream, Error> {
        self.word()?;
        self.store.work.wakes(agent, groups).await
    }

    async fn give_back(&self, token: &str) -> Result<(), Error> {
        self.store.work.give_back(token).await
    }

    async fn flush(&self) -> Result<(), Error> {
        self.store.work.flush().await
    }

    async fn join(&self) -> Result<(), Error> {
        self.store.work.join().await
    }

    async fn signal_cancel(&self, agent: AgentId, job: JobId) -> Result<(), Error> {
        self.store.work.signal_cancel(agent, job).await
    }

    async fn announce(&self, definition: &Definition, announcement: Announcement) -> Result<bool, Error> {
        self.store.work.announce(definition, announcement).await
    }

    async fn withdraw(&self, definition: &Definition) -> Result<(), Error> {
        self.store.work.withdraw(definition).await
    }
}

/// A bench whose store is speechless for so many questions.
fn speechless(n_refusals: usize) -> (Bench, Arc<Speechless>) {
    let store = memory::open(memory::MemoryOptions { lease: Duration::from_secs(2), ..memory::MemoryOptions::default() });
    let speechless = Arc::new(Speechless { store: store.clone(), n_refusals: n_refusals.into() });
    (Bench::on(Store { work: speechless.clone(), ..store }), speechless)
}

#[tokio::test]
async fn an_agent_that_is_told_no_hints_works_and_asks_for_them_again() {
    let (mut bench, stores) = speechless(1);
    bench.start_agent(sample::agent_id(1), 1).await;
    let job = sample::query_any(sample::job_id(1), Timestamp::now());
    bench.submit(&job).await;
    bench.answer(job.id, ExecutionId::Any).await;
    assert_eq!(stores.n_refusals.load(Ordering::Relaxed), 0);
}
