//! A broker that fails at every call in turn, before or after the write took effect: whatever was begun can be finished. And a ledger that
//! is full, or that somebody else always writes to first.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use longshore_model::wire::dead_letter::DeadLetter;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Answer, Definition, Event, EventKind, Failure, Outcome, Reservation, SCHEMA};
use longshore_model::wire::rest::{DeadLetterCondition, JobRequest};
use longshore_model::{AgentId, ExecutionId, ExecutionState, JobId};
use longshore_store::{
    Answered, Appended, Created, DeadLetters, Error as StoreError, ExecutionRecord, JobRecord, Ledger, LetterPut, LetterStream,
    RegistryEvent, Revision, Store, StoredLetter, memory,
};

use super::*;
use crate::{Config, SigningKey};

/// What is wrong with the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// One call is lost.
    Before,
    /// The answer of one call is lost.
    After,
    /// Answers find no room.
    Full,
    /// Somebody else writes first, for so many calls.
    Contended,
}

struct Flaky {
    inner: Arc<dyn Ledger>,
    calls: AtomicUsize,
    fails_at: usize,
    fault: Fault,
}

impl Flaky {
    async fn call<T>(&self, call: impl Future<Output = Result<T, StoreError>> + Send) -> Result<T, StoreError> {
        let fails = self.calls.fetch_add(1, Ordering::Relaxed) == self.fails_at && matches!(self.fault, Fault::Before | Fault::After);
        let lost = || Err(StoreError::Unavailable { doing: "a call that the test breaks", source: None });
        if fails && self.fault == Fault::Before {
            return lost();
        }
        let done = call.await;
        if fails { lost() } else { done }
    }
}

#[async_trait]
impl Ledger for Flaky {
    async fn create(&self, definition: &Definition) -> Result<Created, StoreError> {
        self.call(self.inner.create(definition)).await
    }

    async fn append(&self, job: JobId, execution: ExecutionId, after: Revision, event: &Event) -> Result<Appended, StoreError> {
        if self.fault == Fault::Contended && self.calls.load(Ordering::Relaxed) < self.fails_at {
            return Ok(Appended::Conflict);
        }
        self.call(self.inner.append(job, execution, after, event)).await
    }

    async fn answer(&self, answer: &Answer) -> Result<Answered, StoreError> {
        if self.fault == Fault::Full {
            return Err(StoreError::Full { store: "job-responses".to_owned() });
        }
        self.call(self.inner.answer(answer)).await
    }

    async fn load(&self, job: JobId) -> Result<Option<JobRecord>, StoreError> {
        self.call(self.inner.load(job)).await
    }

    async fn load_execution(&self, job: JobId, execution: ExecutionId) -> Result<Option<ExecutionRecord>, StoreError> {
        self.call(self.inner.load_execution(job, execution)).await
    }

    async fn load_answer(&self, job: JobId, execution: ExecutionId) -> Result<Option<Answer>, StoreError> {
        self.call(self.inner.load_answer(job, execution)).await
    }

    async fn reserve(&self, key_hash: &str, reservation: &Reservation) -> Result<Reservation, StoreError> {
        self.call(self.inner.reserve(key_hash, reservation)).await
    }

    async fn reserved(&self, key_hash: &str) -> Result<Option<Reservation>, StoreError> {
        self.call(self.inner.reserved(key_hash)).await
    }

    async fn retire(&self, key_hash: &str, job: JobId) -> Result<(), StoreError> {
        self.call(self.inner.retire(key_hash, job)).await
    }

    async fn delete(&self, job: JobId) -> Result<(), StoreError> {
        self.call(self.inner.delete(job)).await
    }
}

fn app_on(store: Store) -> App {
    let app = App::new(Config::new(SigningKey::new(Vec::new())), store);
    app.fleet_mut().take(RegistryEvent::Beat(crate::fleet::tests::heartbeat(1, "web-01")));
    app.fleet_mut().take(RegistryEvent::Current);
    app.index_mut().caught_up();
    app
}

fn caller() -> Caller {
    Caller::new("ada", &longshore_model::access::Roles::default(), &["admin".to_owned()], None, None).unwrap()
}

fn request() -> JobRequest {
    serde_json::from_value(serde_json::json!({"operation": "node.hostname.get", "target": "web-01", "idempotency_key": "k"})).unwrap()
}

fn broken(sound: &Store, fails_at: usize, fault: Fault) -> (App, Arc<Flaky>) {
    let flaky = Arc::new(Flaky { inner: Arc::clone(&sound.ledger), calls: AtomicUsize::new(0), fails_at, fault });
    (app_on(Store { ledger: Arc::clone(&flaky) as Arc<dyn Ledger>, ..sound.clone() }), flaky)
}

/// Every fault at every call, until an operation makes fewer calls than that.
async fn at_every_call(mut check: impl AsyncFnMut(Store, App, &Flaky)) {
    for fault in [Fault::Before, Fault::After] {
        for fails_at in 0.. {
            let sound = memory::open(memory::MemoryOptions::default());
            let (broken, flaky) = broken(&sound, fails_at, fault);
            check(sound, broken, &flaky).await;
            if flaky.calls.load(Ordering::Relaxed) <= fails_at {
                break;
            }
        }
    }
}

async fn submitted(store: &Store) -> JobId {
    submit::submit(&app_on(store.clone()), &caller(), request()).await.unwrap().record.definition.id
}

#[tokio::test]
async fn a_submission_that_failed_anywhere_is_finished_by_its_repeat_as_one_job() {
    at_every_call(async |store, broken, _| {
        let first = submit::submit(&broken, &caller(), request()).await.map(|submitted| submitted.record.definition.id);
        let second = submitted(&store).await;
        assert!(first.is_err() || first.is_ok_and(|id| id == second));
        // One announcement, for one job.
        let inbox = store.work.inbox(AgentId::from_bits(1), 0).await.unwrap().deliveries;
        assert_eq!(inbox.iter().map(|delivery| delivery.definition.id).collect::<Vec<_>>(), [second]);
    })
    .await;
}

#[tokio::test]
async fn a_cancel_that_failed_anywhere_is_finished_by_its_repeat() {
    at_every_call(async |store, broken, _| {
        let id = submitted(&store).await;
        let _ = cancel::cancel(&broken, &caller(), id).await;
        cancel::cancel(&app_on(store.clone()), &caller(), id).await.unwrap();
        let record = store.ledger.load(id).await.unwrap().unwrap();
        assert_eq!(fold(&record).0[0].1.state(), ExecutionState::Cancelled);
        assert_eq!(record.events.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_delete_that_failed_anywhere_is_finished_by_its_repeat() {
    at_every_call(async |store, broken, _| {
        let id = submitted(&store).await;
        let _ = delete::delete(&broken, &caller(), id, delete::Running::CancelFirst).await;
        match delete::delete(&app_on(store.clone()), &caller(), id, delete::Running::CancelFirst).await {
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(store.ledger.load(id).await.unwrap().is_none());
        assert!(store.ledger.load_answer(id, ExecutionId::Agent(AgentId::from_bits(1))).await.unwrap().is_none());
        assert!(store.work.inbox(AgentId::from_bits(1), 0).await.unwrap().deliveries.is_empty());
        let again = submit::submit(&app_on(store.clone()), &caller(), request()).await;
        assert!(matches!(again, Err(Error::Deleted { job }) if job == id), "its work is not done again");
    })
    .await;
}

/// A job whose only execution used its attempts up.
async fn dead(store: &Store) -> JobId {
    let id = running(store).await;
    let error = Failure { code: ErrorCode::DeadLetter, message: "all 1 attempts are used up".to_owned() };
    let execution = ExecutionId::Agent(AgentId::from_bits(1));
    let answer = Answer { error: Some(error), ..answer(id, execution, Outcome::Failed, None) };
    store.ledger.answer(&answer).await.unwrap();
    store.work.withdraw(&store.ledger.load(id).await.unwrap().unwrap().definition).await.unwrap();
    id
}

#[tokio::test]
async fn a_redrive_that_failed_anywhere_is_finished_by_its_repeat_as_one_job() {
    at_every_call(async |store, broken, _| {
        let id = dead(&store).await;
        let first = dead_letters::redrive(&broken, &caller(), id).await.map(|redrive| redrive.job.id);
        let sound = app_on(store.clone());
        let second = dead_letters::redrive(&sound, &caller(), id).await.unwrap().job;
        assert!(first.is_err() || first.is_ok_and(|first| first == second.id));
        assert_eq!(second.retry_of, Some(id));
        let letter = dead_letters::get(&sound, &caller(), id).await.unwrap();
        assert_eq!((letter.state, letter.redriven_as), (DeadLetterCondition::Redriven, Some(second.id)));
        // One announcement, for one job.
        let inbox = store.work.inbox(AgentId::from_bits(1), 0).await.unwrap().deliveries;
        assert_eq!(inbox.iter().map(|delivery| delivery.definition.id).collect::<Vec<_>>(), [second.id]);
    })
    .await;
}

/// Letters that cannot be written any more.
struct Silenced(Arc<dyn DeadLetters>);

#[async_trait]
impl DeadLetters for Silenced {
    async fn put(&self, _: &DeadLetter, _: Revision) -> Result<LetterPut, StoreError> {
        Err(StoreError::Unavailable { doing: "a call that the test breaks", source: None })
    }

    async fn load(&self, job: JobId) -> Result<Option<StoredLetter>, StoreError> {
        self.0.load(job).await
    }

    async fn delete(&self, job: JobId) -> Result<(), StoreError> {
        self.0.delete(job).await
    }

    async fn follow(&self) -> Result<LetterStream, StoreError> {
        self.0.follow().await
    }
}

#[tokio::test]
async fn a_redrive_that_could_not_be_noted_is_accepted_and_noted_later_whoever_looks() {
    let store = memory::open(memory::MemoryOptions::default());
    let id = dead(&store).await;
    let sound = app_on(store.clone());
    assert_eq!(dead_letters::get(&sound, &caller(), id).await.unwrap().state, DeadLetterCondition::Open);
    let broken = app_on(Store { dead_letters: Arc::new(Silenced(Arc::clone(&store.dead_letters))), ..store.clone() });
    let made = dead_letters::redrive(&broken, &caller(), id).await.unwrap();
    assert!(made.is_new);
    assert_eq!(dead_letters::get(&sound, &caller(), id).await.unwrap().state, DeadLetterCondition::Open);

    // Somebody discards it who has not heard of the new job; whoever has notes what is so.
    dead_letters::discard(&sound, &caller(), id).await.unwrap();
    let definition = store.ledger.load(made.job.id).await.unwrap().unwrap().definition;
    for id in [id, made.job.id] {
        let definition = store.ledger.load(id).await.unwrap().unwrap().definition;
        sound.index_mut().define(&definition, sound.now(), sound.now());
    }
    let letter = dead_letters::get(&sound, &caller(), id).await.unwrap();
    assert_eq!((letter.state, letter.redriven_as), (DeadLetterCondition::Redriven, Some(made.job.id)));
    assert_eq!((letter.closed_by, letter.closed_at), (Some("ada".to_owned()), Some(definition.submitted_at)));
    let again = dead_letters::redrive(&app_on(store), &caller(), id).await.unwrap();
    assert_eq!((again.job.id, again.is_new), (made.job.id, false));
}

#[tokio::test]
async fn a_repeat_by_hand_is_no_redrive() {
    let store = memory::open(memory::MemoryOptions::default());
    let app = app_on(store.clone());
    let id = dead(&store).await;
    let definition = store.ledger.load(id).await.unwrap().unwrap().definition;
    app.index_mut().define(&definition, app.now(), app.now());
    let repeat = retry::retry(&app, &caller(), id, longshore_model::wire::rest::RetryJobRequest::default()).await.unwrap();
    let letter = dead_letters::get(&app, &caller(), id).await.unwrap();
    assert_eq!((letter.state, letter.redriven_as), (DeadLetterCondition::Open, None));
    let redriven = dead_letters::redrive(&app, &caller(), id).await.unwrap();
    assert!(redriven.is_new && redriven.job.id != repeat.id);
}

#[tokio::test]
async fn a_delete_that_failed_anywhere_leaves_no_dead_letter_when_it_is_repeated() {
    at_every_call(async |store, broken, _| {
        let id = dead(&store).await;
        let sound = app_on(store.clone());
        dead_letters::get(&sound, &caller(), id).await.unwrap();
        let _ = delete::delete(&broken, &caller(), id, delete::Running::Refuse).await;
        match delete::delete(&sound, &caller(), id, delete::Running::Refuse).await {
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        assert_eq!(store.dead_letters.load(id).await.unwrap(), None);
        assert!(matches!(dead_letters::redrive(&sound, &caller(), id).await, Err(Error::NotFound { .. })));
    })
    .await;
}

#[tokio::test]
async fn a_cancel_whose_answer_finds_no_room_is_a_cancel() {
    let store = memory::open(memory::MemoryOptions::default());
    let id = submitted(&store).await;
    let view = cancel::cancel(&broken(&store, 0, Fault::Full).0, &caller(), id).await.unwrap();
    assert_eq!((view.changed, view.job.status.as_str()), (true, "cancelled"));
    assert!(store.work.inbox(AgentId::from_bits(1), 0).await.unwrap().deliveries.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_cancel_outlasts_a_leader_that_refuses_writes_for_a_while() {
    let store = memory::open(memory::MemoryOptions::default());
    let id = submitted(&store).await;
    let (broken, _) = broken(&store, 50, Fault::Contended);
    let began = tokio::time::Instant::now();
    assert!(cancel::cancel(&broken, &caller(), id).await.unwrap().changed);
    assert!(began.elapsed() > Duration::from_secs(1), "it asks less and less often");
}

#[tokio::test(start_paused = true)]
async fn a_cancel_that_never_gets_to_write_says_that_a_repeat_may() {
    let store = memory::open(memory::MemoryOptions::default());
    let id = submitted(&store).await;
    let (broken, _) = broken(&store, usize::MAX, Fault::Contended);
    assert!(matches!(cancel::cancel(&broken, &caller(), id).await, Err(Error::Contended { job }) if job == id));
}

/// A job that `agent` has started.
async fn running(store: &Store) -> JobId {
    let id = submitted(store).await;
    let record = store.ledger.load(id).await.unwrap().unwrap();
    let kind = EventKind::Started { attempt: 1, agent: AgentId::from_bits(1), hostname: "web-01".to_owned(), delivery: None };
    let event = Event { schema: SCHEMA, at: jiff::Timestamp::now(), kind };
    store.ledger.append(id, record.definition.executions[0], record.definition_revision, &event).await.unwrap();
    id
}

#[tokio::test(start_paused = true)]
async fn a_forced_delete_of_what_does_not_stop_says_that_its_end_is_asked_for() {
    let store = memory::open(memory::MemoryOptions::default());
    let id = running(&store).await;
    let app = app_on(store.clone());
    assert!(matches!(delete::delete(&app, &caller(), id, delete::Running::Refuse).await, Err(Error::Running { .. })));
    assert!(matches!(delete::delete(&app, &caller(), id, delete::Running::CancelFirst).await, Err(Error::Stopping { .. })));
    assert!(fold(&store.ledger.load(id).await.unwrap().unwrap()).0[0].1.cancel_requested_by().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_cancel_says_what_became_of_the_work_and_no_more() {
    let rows = [
        (Some((Outcome::Cancelled, Some(true))), "the job was stopped"),
        (Some((Outcome::Cancelled, Some(false))), "whether all of its processes are gone is not known"),
        (Some((Outcome::Cancelled, None)), "whether all of its processes are gone is not known"),
        (Some((Outcome::Completed, None)), "the job ended by itself before it was stopped: completed"),
        (None, "did not answer in time; whether it stopped is not known"),
    ];
    for (end, expected) in rows {
        let store = memory::open(memory::MemoryOptions::default());
        let id = running(&store).await;
        let app = app_on(store.clone());
        let ended = async {
            let record = loop {
                let record = store.ledger.load(id).await.unwrap().unwrap();
                if record.events.len() == 2 {
                    break record;
                }
                tokio::task::yield_now().await;
            };
            let execution = record.definition.executions[0];
            match end {
                Some((outcome, cancel_verified)) => {
                    let answer = answer(id, execution, outcome, cancel_verified);
                    store.ledger.answer(&answer).await.unwrap();
                }
                None => {
                    let event = Event { schema: SCHEMA, at: jiff::Timestamp::now(), kind: EventKind::Lost { attempt: 1 } };
                    store.ledger.append(id, execution, record.revision(execution), &event).await.unwrap();
                }
            }
        };
        let caller = caller();
        let (view, ()) = tokio::join!(cancel::cancel(&app, &caller, id), ended);
        let message = view.unwrap().message;
        assert!(message.contains(expected), "{message}");
    }
}

fn answer(job: JobId, execution: ExecutionId, outcome: Outcome, cancel_verified: Option<bool>) -> Answer {
    Answer {
        schema: SCHEMA,
        job,
        execution,
        outcome,
        agent: Some(AgentId::from_bits(1)),
        hostname: Some("web-01".to_owned()),
        attempts: 1,
        changed: None,
        result: None,
        result_object: None,
        error: None,
        cancel_verified,
        started_at: None,
        finished_at: jiff::Timestamp::now(),
        duration_ms: None,
    }
}

#[tokio::test]
async fn lists_and_counts_wait_for_the_whole_index() {
    let app = App::new(Config::new(SigningKey::new(Vec::new())), memory::open(memory::MemoryOptions::default()));
    let list = || list::list(&app, &caller(), crate::index::Filter::default(), None, 10);
    assert!(matches!(list(), Err(Error::Indexing)));
    assert!(status::status(&app, &caller()).unwrap().jobs.is_empty());
    let open = std::collections::BTreeSet::from([DeadLetterCondition::Open]);
    let letters = || dead_letters::list(&app, &caller(), &open, None, 10);
    assert!(matches!(letters(), Err(Error::Indexing)));
    app.index_mut().caught_up();
    assert!(matches!(letters(), Err(Error::Indexing)), "half of the letters would look like all of them");
    app.letters_mut().current();
    assert!(letters().unwrap().items.is_empty());
    assert!(list().unwrap().items.is_empty());
    assert_eq!(status::status(&app, &caller()).unwrap().jobs["pending"], 0);
}
