//! Work that ends with its agent, and whose end somebody asks for meanwhile.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use longshore_agent::{Entry, Host, Key, Notes};
use longshore_exec::{Finished, Output, Strain, Task};
use longshore_model::wire::agent::Process;
use longshore_model::wire::facts::Facts;
use longshore_model::wire::record::Failure;
use tokio::sync::Notify;

use super::refusals::{Refusing, refusing};
use super::*;

const ASKED_BY: &str = "ada";

/// Work that goes on until it is told to end, and then takes until the test lets it go.
struct Lingering {
    process: &'static str,
    told: Notify,
    may_go: Notify,
}

#[async_trait]
impl Host for Lingering {
    async fn run(&self, _task: Task, output: Arc<dyn Output>, cancel: CancellationToken) -> Finished {
        drop(output);
        cancel.cancelled().await;
        self.told.notify_one();
        self.may_go.notified().await;
        Finished {
            outcome: Outcome::Cancelled,
            changed: None,
            result: None,
            failure: Some(Failure { code: ErrorCode::Cancelled, message: "stopped".to_owned() }),
            transient: false,
            cancel_verified: Some(true),
            archive: None,
            duration: Duration::ZERO,
        }
    }

    async fn facts(&self, hostname: &str) -> Facts {
        Facts { hostname: hostname.to_owned(), ..Facts::default() }
    }

    async fn strain(&self) -> Strain {
        Strain::default()
    }

    fn process(&self) -> Process {
        Process { id: self.process.to_owned(), place: "here".to_owned() }
    }

    async fn close(&self) {}
}

#[derive(Default)]
struct Paper(Mutex<BTreeMap<Key, Entry>>);

impl Notes for Paper {
    fn note(&self, key: Key, entry: &Entry) -> bool {
        self.0.lock().unwrap().insert(key, entry.clone());
        true
    }

    fn forget(&self, key: Key) {
        self.0.lock().unwrap().remove(&key);
    }

    fn left_behind(&self) -> Vec<(Key, Entry)> {
        self.0.lock().unwrap().clone().into_iter().collect()
    }
}

/// An agent's process on such a host.
struct Running {
    host: Arc<Lingering>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

fn start(bench: &Bench, notes: &Arc<Paper>, process: &'static str) -> Running {
    let host = Arc::new(Lingering { process, told: Notify::new(), may_go: Notify::new() });
    let stop = CancellationToken::new();
    let agent = Agent::on(bench.config(sample::agent_id(1), process), bench.store.clone(), host.clone(), notes.clone());
    let stopped = stop.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { agent.run(CancellationToken::new(), stopped).await.unwrap() });
    Running { host, stop, tasks }
}

async fn ends(mut process: Running) {
    process.stop.cancel();
    tokio::time::timeout(PATIENCE, process.tasks.join_next()).await.unwrap().unwrap().unwrap();
}

/// A job whose agent is told to end while it runs, and whose end is asked for while it is ending.
async fn stopped_and_cancelled(retry: RetryPolicy, is_silent: bool) -> (Bench, Arc<Refusing>, Arc<Paper>, Job) {
    let (bench, ledger) = refusing(Duration::from_secs(60), false, false).await;
    let notes = Arc::new(Paper::default());
    let job = Job { retry, ..sample::query_any(sample::job_id(1), Timestamp::now()) };
    bench.submit(&job).await;
    let first = start(&bench, &notes, "first");
    let record = async || ledger.inner.load_execution(job.id, ExecutionId::Any).await.unwrap().filter(|record| !record.events.is_empty());
    let running = eventually("it to run", PATIENCE, record).await;
    first.stop.cancel();
    tokio::time::timeout(PATIENCE, first.host.told.notified()).await.unwrap();
    let request = Event { schema: SCHEMA, at: Timestamp::now(), kind: EventKind::CancelRequested { by: ASKED_BY.to_owned() } };
    let asked = ledger.inner.append(job.id, ExecutionId::Any, running.revision, &request).await.unwrap();
    assert!(matches!(asked, Appended::Stored(_)));
    ledger.is_silent.store(is_silent, Ordering::Relaxed);
    first.host.may_go.notify_one();
    ends(first).await;
    (bench, ledger, notes, job)
}

async fn is_cancelled(bench: &Bench, job: &Job) {
    let answer = bench.answer(job.id, ExecutionId::Any).await;
    assert_eq!((answer.outcome, answer.attempts), (Outcome::Cancelled, 1), "{:?}", answer.error);
    assert!(answer.error.unwrap().message.contains(ASKED_BY));
}

#[tokio::test]
async fn a_cancel_that_comes_while_its_agent_stops_is_how_the_job_ended() {
    for retry in [RetryPolicy::once(), RetryPolicy::standard()] {
        let (bench, _ledger, notes, job) = stopped_and_cancelled(retry, false).await;
        is_cancelled(&bench, &job).await;
        assert!(notes.left_behind().is_empty(), "nothing is in hand any more");
    }
}

#[tokio::test]
async fn an_agent_that_cannot_read_the_ledger_as_it_stops_leaves_the_word_to_its_next_process() {
    let (bench, ledger, notes, job) = stopped_and_cancelled(RetryPolicy::once(), true).await;
    assert_eq!(ledger.inner.load_answer(job.id, ExecutionId::Any).await.unwrap(), None, "it does not know how the job ended");
    ledger.is_silent.store(false, Ordering::Relaxed);
    let next = start(&bench, &notes, "next");
    is_cancelled(&bench, &job).await;
    ends(next).await;
}
