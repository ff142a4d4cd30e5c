use std::time::Duration;

use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use longshore_model::wire::agent::Heartbeat;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Answer, Definition, Event, EventKind, Failure, Outcome, SCHEMA};
use longshore_model::{AgentId, ExecutionId, ExecutionState, JobId, JobStatus};
use longshore_store::{Answered, Appended, Created, JobRecord, PullStream, RegistryEvent, Revision, Store, memory};
use tokio::task::JoinSet;

use super::{dead_letters, expired, inboxes, leftovers, lost, owed, turns, unannounced};
use crate::app::{App, fold};
use crate::{Config, SigningKey};

const TIMEOUT: Duration = Duration::from_secs(60);
const EXPIRES_IN: Duration = Duration::from_secs(3600);

/// A controller without its API and its own turns: the test says when a pass is made, and at what time.
pub(crate) struct Bench {
    pub(crate) app: App,
    _feed: JoinSet<()>,
}

impl Bench {
    pub(crate) fn on(store: &Store) -> Self {
        let app = App::new(Config::new(SigningKey::new(b"secret".to_vec())), store.clone());
        let mut feed = JoinSet::new();
        feed.spawn(crate::index::follow(app.clone()));
        feed.spawn(crate::letters::follow(app.clone()));
        Self { app, _feed: feed }
    }

    /// Waits until the index has taken what the test wrote.
    pub(crate) async fn index(&self, holds: impl Fn(&crate::index::Index) -> bool) {
        let wait = async {
            while !holds(&self.app.index()) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the index follows");
    }

    /// Waits until the letters are as the test says.
    async fn letters(&self, hold: impl Fn(&crate::letters::Letters) -> bool) {
        let wait = async {
            while !hold(&self.app.letters()) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the letters follow");
    }

    /// The agent that the tests' work is held by is there, as a later process.
    fn agent_is_replaced(&self) {
        let later = Heartbeat { started_at: at(1), ..crate::fleet::tests::heartbeat(1, "web-01") };
        self.app.fleet_mut().take(RegistryEvent::Beat(later));
        self.app.fleet_mut().take(RegistryEvent::Current);
    }

    pub(super) async fn index_has(&self, job: JobId, state: ExecutionState) {
        self.index(|index| index.get(job).is_some_and(|entry| entry.shares[0].execution.state() == state)).await;
    }
}

pub(super) fn store() -> Store {
    memory::open(memory::MemoryOptions::default())
}

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::now().checked_add(SignedDuration::from_secs(second)).unwrap()
}

pub(crate) async fn create(store: &Store, id: u128) -> (JobId, Revision) {
    let definition = definition(id);
    match store.ledger.create(&definition).await.unwrap() {
        Created::Stored(revision) => (definition.id, revision),
        Created::Exists => panic!("the id is new"),
    }
}

fn definition(id: u128) -> Definition {
    let now = Timestamp::now();
    Definition {
        schema: SCHEMA,
        id: JobId::from_bits(id),
        operation: "node.hostname.get".to_owned(),
        args: serde_json::json!({}),
        target: "_any".to_owned(),
        executions: vec![ExecutionId::Any],
        timeout_ms: u64::try_from(TIMEOUT.as_millis()).unwrap(),
        not_before: None,
        expires_at: now.checked_add(SignedDuration::try_from(EXPIRES_IN).unwrap()).unwrap(),
        max_attempts: 2,
        backoff_ms: vec![1000],
        concurrency_key: None,
        usual_backoff: false,
        annotations: std::collections::BTreeMap::new(),
        submitted_by: "ada".to_owned(),
        submitted_at: now,
        retry_of: None,
        sealed_for: None,
        signature: None,
        key_sha256: None,
        fleet_revision: None,
    }
}

pub(super) async fn append(store: &Store, job: JobId, after: Revision, kind: EventKind) -> Revision {
    let event = Event { schema: SCHEMA, at: Timestamp::now(), kind };
    match store.ledger.append(job, ExecutionId::Any, after, &event).await.unwrap() {
        Appended::Stored(revision) => revision,
        Appended::Conflict => panic!("nobody else writes"),
    }
}

pub(super) fn started() -> EventKind {
    EventKind::Started { attempt: 1, agent: AgentId::from_bits(1), hostname: "web-01".to_owned(), delivery: None }
}

async fn load(store: &Store, job: JobId) -> (JobRecord, ExecutionState) {
    let record = store.ledger.load(job).await.unwrap().unwrap();
    let state = fold(&record).0[0].1.state();
    (record, state)
}

/// Whether anybody is offered work.
async fn is_offered(store: &Store) -> bool {
    let pull = async { store.work.pull(1).await.unwrap().next().await.is_some() };
    tokio::time::timeout(Duration::from_millis(50), pull).await.unwrap_or(false)
}

#[tokio::test]
async fn a_job_that_nobody_was_told_of_is_announced() {
    let store = store();
    let bench = Bench::on(&store);
    let (job, _) = create(&store, 1).await;
    store.work.withdraw(&load(&store, job).await.0.definition).await.unwrap();
    bench.index_has(job, ExecutionState::Pending).await;
    unannounced::pass(bench.app.clone(), None, at(4)).await.unwrap();
    assert!(!is_offered(&store).await, "it is given its time");
    unannounced::pass(bench.app.clone(), None, at(6)).await.unwrap();
    unannounced::pass(bench.app.clone(), None, at(11)).await.unwrap();
    assert!(is_offered(&store).await);
    assert!(!is_offered(&store).await, "it is announced once");
}

/// A crash between the definition and its shares: whoever looks repairs it within ten seconds, two passes included.
#[tokio::test]
async fn a_share_that_was_left_out_is_there_within_ten_seconds() {
    let store = store();
    let bench = Bench::on(&store);
    let agents = [AgentId::from_bits(1), AgentId::from_bits(2)];
    let several = Definition { target: "_all".to_owned(), executions: agents.map(ExecutionId::Agent).into(), ..definition(1) };
    store.ledger.create(&several).await.unwrap();
    store.work.withdraw(&several).await.unwrap();
    bench.index_has(several.id, ExecutionState::Pending).await;
    let n_waiting = async || {
        let inboxes = futures::future::join_all(agents.map(|agent| store.work.inbox(agent, 0))).await;
        inboxes.into_iter().map(|page| page.unwrap().deliveries.len()).collect::<Vec<_>>()
    };
    unannounced::pass(bench.app.clone(), None, at(2)).await.unwrap();
    assert_eq!(n_waiting().await, [0, 0], "its writer is given time");
    let every = i64::try_from(bench.app.config.reconcile_every.as_secs()).unwrap();
    assert!(4 + every <= 10);
    unannounced::pass(bench.app.clone(), None, at(4)).await.unwrap();
    assert_eq!(n_waiting().await, [1, 1]);
}

#[tokio::test]
async fn a_retry_that_nobody_makes_is_announced_and_running_work_is_not() {
    let store = store();
    let bench = Bench::on(&store);
    let (job, created) = create(&store, 1).await;
    let definition = load(&store, job).await.0.definition;
    store.work.withdraw(&definition).await.unwrap();
    let running = append(&store, job, created, started()).await;
    bench.index_has(job, ExecutionState::Running).await;
    unannounced::pass(bench.app.clone(), None, at(50)).await.unwrap();
    assert!(!is_offered(&store).await);
    let error = Failure { code: ErrorCode::HostFault, message: "no memory".to_owned() };
    append(&store, job, running, EventKind::Retrying { attempt: 1, error, not_before: at(1) }).await;
    bench.index_has(job, ExecutionState::Retryable).await;
    unannounced::pass(bench.app.clone(), None, at(1)).await.unwrap();
    assert!(!is_offered(&store).await);
    unannounced::pass(bench.app.clone(), None, at(40)).await.unwrap();
    assert!(is_offered(&store).await);
}

async fn n_offered(store: &Store) -> usize {
    let mut count = 0;
    while is_offered(store).await {
        count += 1;
    }
    count
}

#[tokio::test]
async fn work_whose_agent_is_gone_can_be_heard_of_again_and_spent_offers_are_renewed() {
    let store = store();
    let bench = Bench::on(&store);
    let (running, created) = create(&store, 1).await;
    append(&store, running, created, started()).await;
    let (spent, _) = create(&store, 2).await;
    bench.index_has(running, ExecutionState::Running).await;
    bench.index_has(spent, ExecutionState::Pending).await;
    // Both are offered once, to somebody who never says a word.
    assert_eq!(n_offered(&store).await, 2);
    let lease = i64::try_from(bench.app.config.lease.as_secs()).unwrap();
    let late = at(lease + 60);
    unannounced::pass(bench.app.clone(), None, late).await.unwrap();
    assert_eq!(n_offered(&store).await, 1, "what waits is offered anew; who runs the other is not known to be gone");
    bench.app.fleet_mut().take(RegistryEvent::Current);
    unannounced::pass(bench.app.clone(), None, late).await.unwrap();
    assert_eq!(n_offered(&store).await, 1, "who has just begun to listen knows nobody to be gone");
    bench.agent_is_replaced();
    unannounced::pass(bench.app.clone(), None, late).await.unwrap();
    assert_eq!(n_offered(&store).await, 2, "now its agent is gone");
}

#[tokio::test]
async fn what_is_not_started_in_time_expires_and_never_starts() {
    let store = store();
    let bench = Bench::on(&store);
    let (job, created) = create(&store, 1).await;
    let (running, revision) = create(&store, 2).await;
    append(&store, running, revision, started()).await;
    bench.index_has(job, ExecutionState::Pending).await;
    bench.index_has(running, ExecutionState::Running).await;
    expired::pass(bench.app.clone(), None, at(3599)).await.unwrap();
    assert_eq!(load(&store, job).await.1, ExecutionState::Pending);
    expired::pass(bench.app.clone(), None, at(3603)).await.unwrap();
    let (record, state) = load(&store, job).await;
    assert_eq!(state, ExecutionState::Expired);
    assert_eq!(record.answers[0].outcome, Outcome::Expired);
    assert_eq!(load(&store, running).await.1, ExecutionState::Running);
    let event = Event { schema: SCHEMA, at: Timestamp::now(), kind: started() };
    assert_eq!(store.ledger.append(job, ExecutionId::Any, created, &event).await.unwrap(), Appended::Conflict);
    bench.index(|index| index.counts()["expired"] == 1).await;
}

#[tokio::test]
async fn answers_that_are_owed_are_written_and_change_nothing_that_was_seen() {
    let store = store();
    let bench = Bench::on(&store);
    let (cancelled, revision) = create(&store, 1).await;
    append(&store, cancelled, revision, EventKind::Cancelled { by: "bob".to_owned() }).await;
    let (expired, revision) = create(&store, 2).await;
    append(&store, expired, revision, EventKind::Expired).await;
    bench.index(|index| index.owing(None, 10).len() == 2).await;
    let seen = async |job| crate::app::job_view(&load(&store, job).await.0, Vec::new(), at(0)).executions;
    let before = [seen(cancelled).await, seen(expired).await];
    owed::pass(bench.app.clone(), None, at(7)).await.unwrap();
    assert_eq!([seen(cancelled).await, seen(expired).await], before);
    let answer = store.ledger.load_answer(cancelled, ExecutionId::Any).await.unwrap().unwrap();
    assert_eq!((answer.outcome, answer.error.unwrap().message.as_str()), (Outcome::Cancelled, "cancelled by bob"));
    let answer = store.ledger.load_answer(expired, ExecutionId::Any).await.unwrap().unwrap();
    assert_eq!(answer.outcome, Outcome::Expired);
    bench.index(|index| index.owing(None, 10).is_empty()).await;
    assert!(!is_offered(&store).await);
}

pub(super) fn answer(job: JobId) -> Answer {
    Answer {
        agent: Some(AgentId::from_bits(1)),
        hostname: Some("web-01".to_owned()),
        ..Answer::new(job, ExecutionId::Any, Outcome::Completed, 1, Timestamp::now())
    }
}

#[tokio::test]
async fn silent_work_is_lost_until_its_late_answer() {
    let store = store();
    let bench = Bench::on(&store);
    let (job, created) = create(&store, 1).await;
    append(&store, job, created, started()).await;
    bench.index_has(job, ExecutionState::Running).await;
    // Time-out 60 s, grace 30 s, lease 120 s.
    bench.agent_is_replaced();
    lost::pass(bench.app.clone(), None, at(205)).await.unwrap();
    assert_eq!(load(&store, job).await.1, ExecutionState::Running);
    lost::pass(bench.app.clone(), None, at(215)).await.unwrap();
    lost::pass(bench.app.clone(), None, at(215)).await.unwrap();
    let (record, state) = load(&store, job).await;
    assert_eq!((state, record.events.len()), (ExecutionState::Lost, 2));
    bench.index(|index| index.counts()["failed"] == 1).await;

    assert_eq!(store.ledger.answer(&answer(job)).await.unwrap(), Answered::Stored);
    bench.index(|index| index.get(job).unwrap().status(Timestamp::now()) == JobStatus::Completed).await;
    assert_eq!(bench.app.index().counts()["failed"], 0);
    assert_eq!(load(&store, job).await.1, ExecutionState::Completed);
}

#[tokio::test]
async fn an_answer_that_comes_after_its_job_was_deleted_is_removed() {
    let store = store();
    let bench = Bench::on(&store);
    let (kept, _) = create(&store, 1).await;
    let (job, _) = create(&store, 2).await;
    bench.index(|index| index.get(job).is_some()).await;
    store.ledger.delete(job).await.unwrap();
    bench.index(|index| index.get(job).is_none()).await;
    store.ledger.answer(&answer(kept)).await.unwrap();
    store.ledger.answer(&answer(job)).await.unwrap();
    bench.index(|index| index.leftovers(None, 10) == [job]).await;
    // One that was started since knows nothing of the job.
    let other = Bench::on(&store);
    other.index(|index| index.leftovers(None, 10) == [job]).await;
    for controller in [&bench, &other] {
        leftovers::pass(controller.app.clone(), None, at(0)).await.unwrap();
        assert!(controller.app.index().leftovers(None, 10).is_empty());
    }
    assert_eq!(store.ledger.load_answer(job, ExecutionId::Any).await.unwrap(), None);
    assert!(store.ledger.load_answer(kept, ExecutionId::Any).await.unwrap().is_some());
}

#[tokio::test]
async fn what_needs_its_agent_no_more_is_taken_out_of_its_inbox_and_nothing_else_is() {
    let store = store();
    let (one, two) = (Bench::on(&store), Bench::on(&store));
    let agent = AgentId::from_bits(1);
    let [waits, runs, answered, deleted] = [1, 2, 3, 4].map(JobId::from_bits);
    for id in 1..=4 {
        let definition = Definition { target: "web-01".to_owned(), executions: vec![agent.into()], ..definition(id) };
        let Created::Stored(revision) = store.ledger.create(&definition).await.unwrap() else { panic!("the id is new") };
        if definition.id == runs {
            let event = Event { schema: SCHEMA, at: Timestamp::now(), kind: started() };
            store.ledger.append(runs, agent.into(), revision, &event).await.unwrap();
        }
    }
    // Its agent died before it could take the entry out, and the other's job was deleted before the broker had announced it.
    store.ledger.answer(&Answer { execution: agent.into(), ..answer(answered) }).await.unwrap();
    store.ledger.delete(deleted).await.unwrap();
    for bench in [&one, &two] {
        let is_told = |index: &crate::index::Index| index.counts()["completed"] == 1 && index.get(deleted).is_none();
        bench.index(|index| index.get(waits).is_some() && is_told(index) && index.counts()["running"] == 1).await;
    }
    let pass = |bench: &Bench| inboxes::pass(bench.app.clone(), None, at(0));
    let (first, second) = tokio::join!(pass(&one), pass(&two));
    assert_eq!((first.unwrap(), second.unwrap()), (None, None));
    let left: Vec<JobId> = store.work.addressed(0).await.unwrap().items.iter().map(|entry| entry.job).collect();
    assert_eq!(left, [waits, runs]);
}

/// More of them than a pass looks at: jobs that are there after all, or cannot be read, stay among the leftovers.
#[tokio::test]
async fn leftovers_that_stay_keep_no_others_from_being_removed() {
    let store = store();
    let bench = Bench::on(&store);
    let stay = super::LOADS_MAX as u128;
    for id in 0..=stay {
        create(&store, id).await;
    }
    bench.index(|index| index.counts()["pending"] == u64::try_from(stay).unwrap() + 1).await;
    let gone = JobId::from_bits(stay);
    store.ledger.delete(gone).await.unwrap();
    for id in 0..=stay {
        let job = JobId::from_bits(id);
        bench.app.index_mut().delete(job);
        store.ledger.answer(&answer(job)).await.unwrap();
    }
    bench.index(|index| index.leftovers(None, usize::MAX).len() == super::LOADS_MAX + 1).await;
    let cursor = leftovers::pass(bench.app.clone(), None, at(0)).await.unwrap();
    assert_eq!(cursor, Some(JobId::from_bits(stay - 1)));
    assert!(store.ledger.load_answer(gone, ExecutionId::Any).await.unwrap().is_some(), "it is the next pass's");
    assert_eq!(leftovers::pass(bench.app.clone(), cursor, at(0)).await.unwrap(), None);
    assert_eq!(store.ledger.load_answer(gone, ExecutionId::Any).await.unwrap(), None);
}

#[tokio::test]
async fn an_agent_that_lives_may_fetch_and_store_before_its_work_is_lost() {
    let store = store();
    let bench = Bench::on(&store);
    let (job, created) = create(&store, 1).await;
    append(&store, job, created, started()).await;
    bench.index_has(job, ExecutionState::Running).await;
    bench.app.fleet_mut().take(RegistryEvent::Beat(crate::fleet::tests::heartbeat(1, "web-01")));
    bench.app.fleet_mut().take(RegistryEvent::Current);
    // Twice the time-out of 60 s, half an hour, grace 30 s, lease 120 s.
    lost::pass(bench.app.clone(), None, at(2065)).await.unwrap();
    assert_eq!(load(&store, job).await.1, ExecutionState::Running);
    lost::pass(bench.app.clone(), None, at(2075)).await.unwrap();
    assert_eq!(load(&store, job).await.1, ExecutionState::Lost);
}

#[tokio::test]
async fn two_reconcilers_at_once_write_everything_once() {
    const JOBS: u128 = 60;
    let store = store();
    let (one, two) = (Bench::on(&store), Bench::on(&store));
    for id in 0..JOBS {
        let (job, created) = create(&store, id).await;
        match id % 3 {
            0 => {}
            1 => drop(append(&store, job, created, started()).await),
            _ => drop(append(&store, job, created, EventKind::Cancelled { by: "bob".to_owned() }).await),
        }
    }
    for bench in [&one, &two] {
        bench.index(|index| index.counts()["cancelled"] == 20 && index.counts()["running"] == 20 && index.counts()["pending"] == 20).await;
    }
    let now = at(7200);
    let passes = |bench: &Bench| {
        let app = bench.app.clone();
        async move {
            expired::pass(app.clone(), None, now).await.unwrap();
            owed::pass(app.clone(), None, now).await.unwrap();
            lost::pass(app.clone(), None, now).await.unwrap();
            unannounced::pass(app, None, now).await.unwrap();
        }
    };
    tokio::join!(passes(&one), passes(&two), passes(&one), passes(&two));
    for id in 0..JOBS {
        let (record, state) = load(&store, JobId::from_bits(id)).await;
        let expected = match id % 3 {
            0 => (ExecutionState::Expired, 1, 1),
            1 => (ExecutionState::Lost, 2, 0),
            _ => (ExecutionState::Cancelled, 1, 1),
        };
        assert_eq!((state, record.events.len(), record.answers.len()), expected, "{id}");
    }
}

#[tokio::test]
async fn passes_are_bounded_and_go_on_where_they_stopped() {
    let store = store();
    let bench = Bench::on(&store);
    let jobs = super::LOADS_MAX + 40;
    for id in 0..jobs {
        create(&store, id as u128).await;
    }
    bench.index(|index| index.counts()["pending"] == jobs as u64).await;
    let cursor = expired::pass(bench.app.clone(), None, at(7200)).await.unwrap();
    assert_eq!(cursor, Some(JobId::from_bits(super::LOADS_MAX as u128 - 1)));
    bench.index(|index| index.counts()["pending"] == 40).await;
    assert_eq!(expired::pass(bench.app.clone(), cursor, at(7200)).await.unwrap(), None);
    bench.index(|index| index.counts()["expired"] == jobs as u64).await;
}

/// A job whose two attempts are used up.
async fn dead(store: &Store, id: u128) -> JobId {
    let (job, created) = create(store, id).await;
    let error = Failure { code: ErrorCode::HostFault, message: "no disk".to_owned() };
    let started_once = append(store, job, created, started()).await;
    let retrying = append(store, job, started_once, EventKind::Retrying { attempt: 1, error, not_before: at(0) }).await;
    let second = EventKind::Started { attempt: 2, agent: AgentId::from_bits(1), hostname: "web-01".to_owned(), delivery: None };
    append(store, job, retrying, second).await;
    let error = Failure { code: ErrorCode::DeadLetter, message: "all 2 attempts are used up; the last: no disk".to_owned() };
    let answer = Answer { outcome: Outcome::Failed, attempts: 2, error: Some(error), ..answer(job) };
    assert_eq!(store.ledger.answer(&answer).await.unwrap(), Answered::Stored);
    job
}

#[tokio::test]
async fn two_reconcilers_at_once_record_every_dead_letter_once() {
    const JOBS: u128 = 60;
    let store = store();
    let (one, two) = (Bench::on(&store), Bench::on(&store));
    for id in 0..JOBS {
        dead(&store, id).await;
    }
    let alive = create(&store, JOBS).await.0;
    for bench in [&one, &two] {
        bench.index(|index| index.counts()["failed"] == 60 && index.counts()["pending"] == 1).await;
        bench.letters(crate::letters::Letters::is_current).await;
    }
    let pass = |bench: &Bench| dead_letters::pass(bench.app.clone(), None, at(0));
    let passes = tokio::join!(pass(&one), pass(&two), pass(&one), pass(&two));
    for done in [passes.0, passes.1, passes.2, passes.3] {
        assert_eq!(done.unwrap(), None);
    }
    let mut revisions = std::collections::BTreeSet::new();
    for id in 0..JOBS {
        let stored = store.dead_letters.load(JobId::from_bits(id)).await.unwrap().unwrap();
        assert_eq!((stored.letter.executions[0].attempts, stored.letter.dead()), (2, 1));
        revisions.insert(stored.revision);
    }
    assert_eq!(revisions, (1..=60).collect(), "each was written once");
    assert_eq!(store.dead_letters.load(alive).await.unwrap(), None);
    // And now there is nothing to do.
    for bench in [&one, &two] {
        bench.letters(|letters| (0..JOBS).all(|id| letters.get(JobId::from_bits(id)).is_some())).await;
        assert_eq!(crate::app::dead_letters::unsettled(&bench.app, None, (100, 1000)), (Vec::new(), None));
    }
}

#[tokio::test]
async fn passes_over_the_dead_are_bounded_and_go_on_where_they_stopped() {
    let store = store();
    let bench = Bench::on(&store);
    let jobs = super::LOADS_MAX + 40;
    for id in 0..jobs {
        dead(&store, id as u128).await;
    }
    bench.index(|index| index.counts()["failed"] == jobs as u64).await;
    bench.letters(crate::letters::Letters::is_current).await;
    let cursor = dead_letters::pass(bench.app.clone(), None, at(0)).await.unwrap();
    assert_eq!(cursor, Some(JobId::from_bits(super::LOADS_MAX as u128 - 1)));
    assert_eq!(store.dead_letters.load(JobId::from_bits(super::LOADS_MAX as u128)).await.unwrap(), None);
    assert_eq!(dead_letters::pass(bench.app.clone(), cursor, at(0)).await.unwrap(), None);
    for id in 0..jobs {
        assert!(store.dead_letters.load(JobId::from_bits(id as u128)).await.unwrap().is_some(), "{id}");
    }
    // Of what is settled many are looked at in one pass, and none is loaded.
    let (found, last) = crate::app::dead_letters::unsettled(&bench.app, None, (10, 100));
    assert_eq!((found, last), (Vec::new(), Some(JobId::from_bits(99))));
}

#[tokio::test]
async fn letters_follow_the_ledger_and_what_was_closed_stays() {
    let store = store();
    let bench = Bench::on(&store);
    let lose = async |id: u128| {
        let (job, created) = create(&store, id).await;
        let once = append(&store, job, created, started()).await;
        let second = EventKind::Started { attempt: 2, agent: AgentId::from_bits(1), hostname: "web-01".to_owned(), delivery: None };
        let again = append(&store, job, once, second).await;
        append(&store, job, again, EventKind::Lost { attempt: 2 }).await;
        job
    };
    let [died, completed, discarded, deleted] = [lose(1).await, lose(2).await, lose(3).await, lose(4).await];
    bench.letters(crate::letters::Letters::is_current).await;
    bench.index(|index| index.counts()["failed"] == 4).await;
    let pass = async || dead_letters::pass(bench.app.clone(), None, at(0)).await.unwrap();
    pass().await;
    let letter = async |job: JobId| store.dead_letters.load(job).await.unwrap().map(|stored| stored.letter);
    assert_eq!(letter(died).await.unwrap().executions[0].error.code, ErrorCode::Lost);

    let admin =
        longshore_model::access::Caller::new("bob", &longshore_model::access::Roles::default(), &["admin".to_owned()], None, None).unwrap();
    crate::app::dead_letters::discard(&bench.app, &admin, discarded).await.unwrap();
    let closed = letter(discarded).await;
    let error = Failure { code: ErrorCode::DeadLetter, message: "it was heard after all".to_owned() };
    let late = Answer { outcome: Outcome::Failed, attempts: 2, error: Some(error), ..answer(died) };
    store.ledger.answer(&late).await.unwrap();
    store.ledger.answer(&Answer { attempts: 2, ..answer(completed) }).await.unwrap();
    store.ledger.answer(&Answer { attempts: 2, ..answer(discarded) }).await.unwrap();
    store.ledger.delete(deleted).await.unwrap();
    bench.index(|index| index.counts()["completed"] == 2 && index.get(deleted).is_none()).await;
    bench.index(|index| index.get(died).unwrap().shares[0].execution.is_answered()).await;
    pass().await;
    assert_eq!(letter(died).await.unwrap().executions[0].error.message, "it was heard after all");
    assert_eq!(letter(completed).await, None);
    assert_eq!(letter(deleted).await, None);
    assert_eq!(letter(discarded).await, closed);
    assert_eq!(crate::app::dead_letters::unsettled(&bench.app, None, (100, 1000)), (Vec::new(), None));
}

/// A job that waits for its turn.
async fn create_keyed(store: &Store, id: u128, key: &str) {
    let definition = Definition { concurrency_key: Some(key.to_owned()), ..definition(id) };
    let waiter = longshore_model::job::turn::waiter(&definition.clone().try_into().unwrap(), at(0)).unwrap();
    store.turns.enter(&waiter).await.unwrap();
    store.ledger.create(&definition).await.unwrap();
}

/// Agents have taken all jobs off the queue. Gives what is offered from now on.
async fn none_is_at_its_turn(store: &Store, bench: &Bench, n_jobs: u128) -> PullStream {
    let mut pulled = store.work.pull(256).await.unwrap();
    for _ in 0..n_jobs {
        pulled.next().await.unwrap().lease.done().await.unwrap();
    }
    bench.index(|index| index.counts()["pending"] == u64::try_from(n_jobs).unwrap()).await;
    pulled
}

#[tokio::test]
async fn a_round_over_all_who_wait_is_bounded_goes_on_where_it_stopped_and_reaches_the_last_key() {
    const SHORT: u128 = 12;
    const BOUNDS: turns::Bounds = turns::Bounds { waiters: 5, jobs: 3, keys: 100 };
    let store = store();
    let bench = Bench::on(&store);
    let near = longshore_model::limits::TURNS_OFFERED_MAX as u128;
    let long = near + 4;
    for id in 0..long {
        create_keyed(&store, id, "long").await;
    }
    for id in long..long + SHORT {
        create_keyed(&store, id, &format!("short-{}", id % 6)).await;
    }
    let mut pulled = none_is_at_its_turn(&store, &bench, long + SHORT).await;
    let (mut cursor, mut offered, mut n_passes) = (None, Vec::new(), 0);
    loop {
        cursor = turns::pass_within(bench.app.clone(), cursor, at(60), BOUNDS).await.unwrap();
        let before = offered.len();
        while let Some(delivery) = futures::FutureExt::now_or_never(pulled.next()) {
            offered.push(delivery.unwrap().definition.id);
        }
        assert!(offered.len() - before <= BOUNDS.jobs, "{} in one pass", offered.len() - before);
        n_passes += 1;
        if cursor.is_none() {
            break;
        }
    }
    let expected: Vec<JobId> = (0..near).chain(long..long + SHORT).map(JobId::from_bits).collect();
    assert_eq!(offered, expected, "the first of each key, in the order in which they came");
    assert!(n_passes >= expected.len() / BOUNDS.jobs, "{n_passes} passes");
}

#[tokio::test]
async fn who_waits_no_more_is_removed_and_only_those_near_their_turn_are_announced() {
    let store = store();
    let bench = Bench::on(&store);
    let near = longshore_model::limits::TURNS_OFFERED_MAX as u128;
    let last = near + 3;
    for id in 0..last {
        create_keyed(&store, id, "k").await;
    }
    let mut pulled = none_is_at_its_turn(&store, &bench, last).await;
    unannounced::pass(bench.app.clone(), None, at(60)).await.unwrap();
    turns::pass(bench.app.clone(), None, at(60)).await.unwrap();
    let mut offered = Vec::new();
    for _ in 0..near {
        offered.push(pulled.next().await.unwrap().definition.id);
    }
    assert_eq!(offered, (0..near).map(JobId::from_bits).collect::<Vec<_>>());
    assert!(futures::FutureExt::now_or_never(pulled.next()).is_none(), "the others are not near");

    // The first has ended, and one never came to be.
    assert_eq!(store.ledger.answer(&answer(JobId::from_bits(0))).await.unwrap(), Answered::Stored);
    bench.index(|index| index.counts()["completed"] == 1).await;
    let orphan = Definition { concurrency_key: Some("k".to_owned()), ..definition(last) };
    store.turns.enter(&longshore_model::job::turn::waiter(&orphan.try_into().unwrap(), at(0)).unwrap()).await.unwrap();
    for (later, expected) in [(30, 1..=last), (61, 1..=last - 1)] {
        turns::pass(bench.app.clone(), None, at(later)).await.unwrap();
        let waiting: Vec<_> = store.turns.waiting("k").await.unwrap().into_iter().map(|waiter| waiter.job).collect();
        assert_eq!(waiting, expected.map(JobId::from_bits).collect::<Vec<_>>(), "after {later} s");
    }
    assert_eq!(pulled.next().await.unwrap().definition.id, JobId::from_bits(near));
}
