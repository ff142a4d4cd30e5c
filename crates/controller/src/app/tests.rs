//! A broker that fails at every call in turn, before or after the write took effect: whatever was begun can be finished.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use longshore_model::wire::record::{Answer, Definition, Event, Reservation};
use longshore_model::wire::rest::JobRequest;
use longshore_model::{AgentId, ExecutionId, ExecutionState, JobId};
use longshore_store::{Answered, Appended, Created, Error as StoreError, JobRecord, Ledger, RegistryEvent, Revision, Store, memory};

use super::*;
use crate::{Config, SigningKey};

/// When the answer of the failing call is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Before,
    After,
}

struct Flaky {
    inner: Arc<dyn Ledger>,
    calls: AtomicUsize,
    fails_at: usize,
    fault: Fault,
}

impl Flaky {
    async fn call<T>(&self, call: impl Future<Output = Result<T, StoreError>> + Send) -> Result<T, StoreError> {
        let fails = self.calls.fetch_add(1, Ordering::Relaxed) == self.fails_at;
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
        self.call(self.inner.append(job, execution, after, event)).await
    }

    async fn answer(&self, answer: &Answer) -> Result<Answered, StoreError> {
        self.call(self.inner.answer(answer)).await
    }

    async fn load(&self, job: JobId) -> Result<Option<JobRecord>, StoreError> {
        self.call(self.inner.load(job)).await
    }

    async fn load_answer(&self, job: JobId, execution: ExecutionId) -> Result<Option<Answer>, StoreError> {
        self.call(self.inner.load_answer(job, execution)).await
    }

    async fn reserve(&self, key_hash: &str, reservation: &Reservation) -> Result<Reservation, StoreError> {
        self.call(self.inner.reserve(key_hash, reservation)).await
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
    Caller::new("ada", &["admin".to_owned()], None).unwrap()
}

fn request() -> JobRequest {
    serde_json::from_value(serde_json::json!({"operation": "node.hostname.get", "target": "web-01", "idempotency_key": "k"})).unwrap()
}

/// Every fault at every call, until an operation makes fewer calls than that.
async fn at_every_call(mut check: impl AsyncFnMut(Store, App, &Flaky)) {
    for fault in [Fault::Before, Fault::After] {
        for fails_at in 0.. {
            let sound = memory::open(memory::MemoryOptions::default());
            let flaky = Arc::new(Flaky { inner: Arc::clone(&sound.ledger), calls: AtomicUsize::new(0), fails_at, fault });
            let broken = app_on(Store { ledger: Arc::clone(&flaky) as Arc<dyn Ledger>, ..sound.clone() });
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
        let inbox = store.work.inbox(AgentId::from_bits(1)).await.unwrap();
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
        assert!(store.work.inbox(AgentId::from_bits(1)).await.unwrap().is_empty());
    })
    .await;
}
