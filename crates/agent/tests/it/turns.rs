//! Turns under a concurrency key: one at a time, in order, and nothing run by who has lost its turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use longshore_model::job::turn::waiter;
use longshore_model::wire::turn::{Hold, Holder, Waiter};
use longshore_store::{Error, Revision, Turn, Turns, WaiterPage, memory};

use super::*;

const KEY: &str = "deploy";
/// How long a job has that soon expires.
const EXPIRES_IN: Duration = Duration::from_secs(1);

fn keyed(n: u64) -> Job {
    Job { concurrency_key: Some(KEY.to_owned()), retry: RetryPolicy::standard(), ..sample::query_any(sample::job_id(n), Timestamp::now()) }
}

async fn submit(store: &Store, job: &Job) {
    store.turns.enter(&waiter(job, Timestamp::now()).unwrap()).await.unwrap();
    assert!(matches!(store.ledger.create(&Definition::from(job)).await.unwrap(), Created::Stored(_)));
}

fn hold(job: &Job) -> Hold {
    Hold { schema: SCHEMA, holder: Holder { job: job.id, execution: ExecutionId::Any, attempt: 1 }, over: None }
}

#[tokio::test]
async fn jobs_with_one_key_run_one_at_a_time_in_the_order_of_submission() {
    let mut bench = Bench::new(|_| ()).await;
    for n in 1..=3 {
        bench.start_agent(sample::agent_id(n), 4).await;
    }
    // Within what is offered at once: there is no controller here to offer the rest.
    let jobs: Vec<Job> = [5, 2, 8, 1, 7, 3, 6].map(keyed).into();
    for job in &jobs {
        submit(&bench.store, job).await;
    }
    let mut ended = Timestamp::MIN;
    for job in &jobs {
        let answer = bench.answer(job.id, ExecutionId::Any).await;
        assert_eq!((answer.outcome, answer.attempts), (Outcome::Completed, 1));
        assert!(answer.started_at.unwrap() >= ended, "{} began before the one before it had ended", job.id);
        ended = answer.finished_at;
    }
    let is_idle = async || bench.store.turns.waiting(KEY).await.unwrap().is_empty().then_some(());
    eventually("nobody who waits", PATIENCE, is_idle).await;
    let is_free = async || bench.store.turns.turn(KEY).await.unwrap().hold.is_none().then_some(());
    eventually("a free turn", PATIENCE, is_free).await;
}

#[tokio::test]
async fn a_turn_whose_holder_never_starts_is_taken_over_after_a_lease_and_one_that_runs_is_not() {
    let mut bench = Bench::new(|config| config.consumer.ack_wait = Duration::from_secs(1)).await;
    let (gone, next) = (keyed(1), keyed(2));
    assert!(matches!(bench.store.ledger.create(&Definition::from(&gone)).await.unwrap(), Created::Stored(_)));
    let mut pulled = bench.store.work.pull(1).await.unwrap();
    let delivery = tokio::time::timeout(PATIENCE, pulled.next()).await.unwrap().unwrap();
    drop(pulled);
    // An agent that took the turn, and was killed before it recorded its start. The job itself is taken off the queue.
    delivery.lease.done().await.unwrap();
    bench.store.turns.take(KEY, &hold(&gone), 0).await.unwrap().unwrap();
    submit(&bench.store, &next).await;
    bench.start_agent(sample::agent_id(1), 2).await;
    assert_eq!(bench.answer(next.id, ExecutionId::Any).await.outcome, Outcome::Completed);

    // And one that did record it: it has the turn until the ledger says otherwise.
    let third = keyed(3);
    // The one before frees it after its answer.
    eventually("the turn", PATIENCE, async || {
        let turn = bench.store.turns.turn(KEY).await.unwrap();
        bench.store.turns.take(KEY, &hold(&gone), turn.revision).await.unwrap()
    })
    .await;
    let appended = bench.store.ledger.append(gone.id, ExecutionId::Any, delivery.revision, &started(1, sample::agent_id(9))).await.unwrap();
    let Appended::Stored(revision) = appended else { panic!("nobody else writes") };
    submit(&bench.store, &third).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(n_starts(&bench.record(third.id).await), 0);
    let lost = Event { schema: SCHEMA, at: Timestamp::now(), kind: EventKind::Lost { attempt: 1 } };
    bench.store.ledger.append(gone.id, ExecutionId::Any, revision, &lost).await.unwrap();
    assert_eq!(bench.answer(third.id, ExecutionId::Any).await.outcome, Outcome::Completed);
}

/// Does something at the moment at which a turn is taken.
struct Meddler {
    store: Store,
    rival: Job,
    when: When,
    done: AtomicBool,
    n_entered: AtomicUsize,
}

impl Meddler {
    fn new(store: Store, rival: Job, when: When) -> Self {
        Self { store, rival, when, done: AtomicBool::new(false), n_entered: AtomicUsize::new(0) }
    }
}

#[derive(PartialEq)]
enum When {
    /// The rival, from whom the turn is taken, records its start just before.
    Before,
    /// The rival takes the turn just after.
    After,
    /// The rival is deleted while who waits is being read.
    Deleted,
    /// The rival is deleted after who waits was read, and has a place again all the same: an earlier try to ask for its turn was killed
    /// between entering it and finding out.
    DeletedAndEntered,
    /// Nobody does anything, for longer than jobs that soon expire have.
    Late,
}

#[async_trait]
impl Turns for Meddler {
    async fn take(&self, key: &str, hold: &Hold, after: Revision) -> Result<Option<Revision>, Error> {
        let is_now = hold.holder.job != self.rival.id && !self.done.swap(true, Ordering::Relaxed);
        match (&self.when, is_now) {
            (When::Before, true) => {
                let record = self.store.ledger.load(self.rival.id).await?.unwrap();
                self.store
                    .ledger
                    .append(self.rival.id, ExecutionId::Any, record.revision(ExecutionId::Any), &started(1, sample::agent_id(9)))
                    .await?;
                self.store.turns.take(key, hold, after).await
            }
            (When::After, true) => {
                let taken = self.store.turns.take(key, hold, after).await?;
                let theirs = Hold { over: Some(hold.holder), ..super::turns::hold(&self.rival) };
                self.store.turns.take(key, &theirs, taken.unwrap()).await?.unwrap();
                Ok(taken)
            }
            (When::Late, true) => {
                tokio::time::sleep(EXPIRES_IN * 2).await;
                self.store.turns.take(key, hold, after).await
            }
            (When::Before | When::After | When::Late, false) | (When::Deleted | When::DeletedAndEntered, _) => {
                self.store.turns.take(key, hold, after).await
            }
        }
    }

    async fn enter(&self, waiter: &Waiter) -> Result<(), Error> {
        self.store.turns.enter(waiter).await?;
        self.n_entered.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn waiting(&self, key: &str) -> Result<Vec<Waiter>, Error> {
        let is_deleted = matches!(self.when, When::Deleted | When::DeletedAndEntered);
        if !is_deleted || self.done.swap(true, Ordering::Relaxed) {
            return self.store.turns.waiting(key).await;
        }
        if self.when == When::DeletedAndEntered {
            let waiting = self.store.turns.waiting(key).await?;
            self.store.ledger.delete(self.rival.id).await?;
            return Ok(waiting);
        }
        self.store.turns.leave(key, self.rival.id).await?;
        let waiting = self.store.turns.waiting(key).await?;
        self.store.ledger.delete(self.rival.id).await?;
        Ok(waiting)
    }

    async fn page(&self, after: Revision) -> Result<WaiterPage, Error> {
        self.store.turns.page(after).await
    }

    async fn leave(&self, key: &str, job: JobId) -> Result<(), Error> {
        self.store.turns.leave(key, job).await
    }

    async fn turn(&self, key: &str) -> Result<Turn, Error> {
        self.store.turns.turn(key).await
    }

    async fn release(&self, key: &str, held: Revision) -> Result<(), Error> {
        self.store.turns.release(key, held).await
    }
}

/// A bench whose agent meets a rival that is stored, and whose work nobody is offered.
async fn meddled(when: When) -> (Bench, Job) {
    let lease = match when {
        When::Before | When::After => Duration::from_millis(500),
        When::Late | When::Deleted | When::DeletedAndEntered => Duration::from_secs(60),
    };
    let sound = memory::open(memory::MemoryOptions { lease, ..memory::MemoryOptions::default() });
    let rival = keyed(1);
    assert!(matches!(sound.ledger.create(&Definition::from(&rival)).await.unwrap(), Created::Stored(_)));
    sound.work.withdraw(&Definition::from(&rival)).await.unwrap();
    let meddler = Meddler::new(sound.clone(), rival.clone(), when);
    (Bench::on(Store { turns: Arc::new(meddler), ..sound }), rival)
}

#[tokio::test]
async fn who_has_lost_its_turn_before_it_could_start_does_not_run() {
    let (mut bench, rival) = meddled(When::After).await;
    let job = keyed(2);
    submit(&bench.store, &job).await;
    bench.start_agent(sample::agent_id(1), 1).await;
    // The rival never starts, so after a lease the turn comes back, for the second attempt.
    let answer = bench.answer(job.id, ExecutionId::Any).await;
    assert_eq!((answer.outcome, answer.attempts), (Outcome::Completed, 2));
    let record = bench.record(job.id).await;
    let is_said = record.events.iter().any(
        |(.., event)| matches!(&event.kind, EventKind::Retrying { attempt: 1, error, .. } if error.message.contains("taken by another job")),
    );
    assert!(is_said);
    assert_eq!(n_starts(&bench.record(rival.id).await), 0);
}

#[tokio::test]
async fn who_takes_over_a_turn_gives_it_back_if_its_holder_started_meanwhile() {
    let (mut bench, rival) = meddled(When::Before).await;
    let job = keyed(2);
    bench.store.turns.take(KEY, &hold(&rival), 0).await.unwrap().unwrap();
    submit(&bench.store, &job).await;
    bench.start_agent(sample::agent_id(1), 1).await;
    let is_back = async || {
        let has_started = n_starts(&bench.record(rival.id).await) == 1;
        let turn = bench.store.turns.turn(KEY).await.unwrap();
        (has_started && turn.hold.is_some_and(|hold| hold.holder.job == rival.id)).then_some(())
    };
    eventually("the rival's turn", PATIENCE, is_back).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(n_starts(&bench.record(job.id).await), 0);
}

#[tokio::test]
async fn a_job_that_is_deleted_while_its_turn_is_asked_for_leaves_no_place_in_the_queue() {
    let sound = memory::open(memory::MemoryOptions::default());
    let (deleted, next) = (keyed(1), keyed(2));
    let meddler = Arc::new(Meddler::new(sound.clone(), deleted.clone(), When::Deleted));
    let mut bench = Bench::on(Store { turns: Arc::clone(&meddler) as Arc<dyn Turns>, ..sound });
    submit(&bench.store, &deleted).await;
    bench.start_agent(sample::agent_id(1), 1).await;
    // Once by its submission, and once more by the agent, which found no place.
    let is_back = async || (meddler.n_entered.load(Ordering::Relaxed) == 2).then_some(());
    eventually("the agent's question", PATIENCE, is_back).await;
    let is_gone = async || bench.store.turns.waiting(KEY).await.unwrap().is_empty().then_some(());
    eventually("nobody who waits", PATIENCE, is_gone).await;
    submit(&bench.store, &next).await;
    assert_eq!(bench.answer(next.id, ExecutionId::Any).await.outcome, Outcome::Completed);
}

#[tokio::test]
async fn a_place_that_a_deleted_job_got_back_is_given_up_by_who_finds_it_deleted() {
    let sound = memory::open(memory::MemoryOptions::default());
    let me = sample::agent_id(1);
    let on_host = |n| Job { executions: vec![me.into()], target: Target::Host("host-1".parse().unwrap()), ..keyed(n) };
    let (deleted, next) = (on_host(1), on_host(2));
    let meddler = Arc::new(Meddler::new(sound.clone(), deleted.clone(), When::DeletedAndEntered));
    let mut bench = Bench::on(Store { turns: Arc::clone(&meddler) as Arc<dyn Turns>, ..sound });
    // What an agent enters does not say which execution it is, so that nobody who waits behind it can look.
    let place = Waiter { execution: None, ..waiter(&deleted, Timestamp::now()).unwrap() };
    bench.store.turns.enter(&place).await.unwrap();
    bench.submit(&deleted).await;
    submit(&bench.store, &next).await;
    bench.start_agent(me, 2).await;
    assert_eq!(bench.answer(next.id, me.into()).await.outcome, Outcome::Completed);
    assert_eq!(n_starts(&bench.record(next.id).await), 1);
}

#[tokio::test]
async fn a_job_that_expires_while_its_turn_is_asked_for_does_not_start_and_frees_it() {
    let (mut bench, _) = meddled(When::Late).await;
    let mut job = keyed(2);
    job.expires_at = Timestamp::now() + SignedDuration::try_from(EXPIRES_IN).unwrap();
    submit(&bench.store, &job).await;
    bench.start_agent(sample::agent_id(1), 1).await;
    let is_over = async || {
        let turn = bench.store.turns.turn(KEY).await.unwrap();
        (turn.revision > 1 && turn.hold.is_none()).then_some(())
    };
    eventually("a turn that was taken and freed", PATIENCE, is_over).await;
    assert_eq!(n_starts(&bench.record(job.id).await), 0);
}
