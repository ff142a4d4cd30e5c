//! The agent on a real broker. What needs child processes is tested with the whole program, in `longshore-cli`.
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its bench ends here")]

mod drives;
mod host;
mod refusals;
mod stops;
mod trust;
mod turns;
mod worker;

use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use longshore_agent::{Agent, Config, FactsPolicy, Thresholds};
use longshore_exec::{Machine, SupervisorCommand};
use longshore_model::job::Job;
use longshore_model::retry::{RetryPolicy, standard_backoff};
use longshore_model::wire::agent::AgentState;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Answer, Definition, Event, EventKind, Outcome, SCHEMA};
use longshore_model::{AgentId, ExecutionId, HostName, JobId, Target};
use longshore_store::{Absence, Announcement, Appended, Created, JobRecord, RegistryEvent, Store, jetstream, memory};
use longshore_testkit::{NatsServer, eventually, sample};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    store: Store,
    /// Without one the agents share `store`.
    broker: Option<(NatsServer, jetstream::Config)>,
    dir: tempfile::TempDir,
    tasks: JoinSet<()>,
    /// Of agents that are started from now on.
    backoff: Vec<Duration>,
}

impl Bench {
    async fn new(adapt: impl FnOnce(&mut jetstream::Config)) -> Self {
        let server = NatsServer::start().await;
        let mut config = jetstream::Config { url: server.url(), ..jetstream::Config::default() };
        adapt(&mut config);
        let store = jetstream::connect(&config).await.unwrap();
        Self { broker: Some((server, config)), ..Self::on(store) }
    }

    fn on(store: Store) -> Self {
        Self { store, broker: None, dir: tempfile::tempdir().unwrap(), tasks: JoinSet::new(), backoff: standard_backoff() }
    }

    fn broker(&mut self) -> &mut (NatsServer, jetstream::Config) {
        self.broker.as_mut().unwrap()
    }

    async fn start_agent(&mut self, id: AgentId, max_jobs: usize) -> CancellationToken {
        self.start_member(id, max_jobs, &[]).await
    }

    async fn start_member(&mut self, id: AgentId, max_jobs: usize, labels: &[&str]) -> CancellationToken {
        let labels = labels.iter().map(|label| label.parse().unwrap()).collect();
        self.start_with(id, |config| (config.max_jobs, config.labels) = (max_jobs, labels)).await
    }

    async fn start_with(&mut self, id: AgentId, adapt: impl FnOnce(&mut Config)) -> CancellationToken {
        let drain = CancellationToken::new();
        let mut config = self.config(id, &id.to_string());
        adapt(&mut config);
        let store = match &self.broker {
            Some((_, config)) => jetstream::connect(config).await.unwrap(),
            None => self.store.clone(),
        };
        let agent = Agent::new(config, store).unwrap();
        let drained = drain.clone();
        self.tasks.spawn(async move { agent.run(drained, CancellationToken::new()).await.unwrap() });
        drain
    }

    /// An agent whose state directory has this name.
    fn config(&self, id: AgentId, place: &str) -> Config {
        Config {
            id,
            hostname: Some(format!("host-{}", id.bits())),
            labels: Vec::new(),
            max_jobs: 2,
            state_dir: self.dir.path().join(place),
            workspaces_dir: None,
            jobs_dir: None,
            supervisor: SupervisorCommand { program: "/nonexistent".into(), args: Vec::new() },
            heartbeat_every: Duration::from_secs(1),
            backoff: self.backoff.clone(),
            kill_grace: Duration::from_secs(1),
            opening_keys: None,
            trusted_keys: None,
            machine: Machine::default(),
            facts: FactsPolicy::default(),
            thresholds: Thresholds::default(),
            packages: None,
        }
    }

    async fn submit(&self, job: &Job) {
        assert!(matches!(self.store.ledger.create(&Definition::from(job)).await.unwrap(), Created::Stored(_)));
    }

    async fn answer(&self, job: JobId, execution: ExecutionId) -> Answer {
        eventually("an answer", PATIENCE, async || self.store.ledger.load_answer(job, execution).await.ok().flatten()).await
    }

    async fn record(&self, job: JobId) -> JobRecord {
        self.store.ledger.load(job).await.unwrap().unwrap()
    }
}

async fn is_empty(bench: &Bench, inbox_of: AgentId) -> bool {
    bench.store.work.inbox(inbox_of, 0).await.unwrap().deliveries.is_empty()
}

fn n_starts(record: &JobRecord) -> usize {
    record.events.iter().filter(|(.., event)| matches!(event.kind, EventKind::Started { .. })).count()
}

fn started(attempt: u32, agent: AgentId) -> Event {
    started_on(attempt, agent, None)
}

fn started_on(attempt: u32, agent: AgentId, delivery: Option<String>) -> Event {
    Event { schema: SCHEMA, at: Timestamp::now(), kind: EventKind::Started { attempt, agent, hostname: "gone".into(), delivery } }
}

#[tokio::test]
async fn any_work_and_addressed_work_are_answered_and_leave_nothing_queued() {
    let mut bench = Bench::new(|_| ()).await;
    let me = sample::agent_id(1);
    bench.start_agent(me, 4).await;
    let now = Timestamp::now();
    let (any, host) = (sample::query_any(sample::job_id(1), now), sample::query_host(sample::job_id(2), now, "host-1", me));
    bench.submit(&any).await;
    bench.submit(&host).await;
    for (job, execution) in [(any.id, ExecutionId::Any), (host.id, me.into())] {
        let answer = bench.answer(job, execution).await;
        assert_eq!((answer.outcome, answer.attempts, answer.agent), (Outcome::Completed, 1, Some(me)));
        assert_eq!(n_starts(&bench.record(job).await), 1);
    }
    eventually("an empty inbox", PATIENCE, async || is_empty(&bench, me).await.then_some(())).await;
    let definition = Definition::from(&any);
    let announcement = Announcement { execution: ExecutionId::Any, revision: 1, seen: 1, absence: Absence::Gone };
    let is_gone = async || bench.store.work.announce(&definition, announcement).await.unwrap().then_some(());
    eventually("a queue that has nothing left of it", PATIENCE, is_gone).await;
}

#[tokio::test]
async fn any_work_is_shared_and_run_once_each() {
    let mut bench = Bench::new(|_| ()).await;
    for n in 1..=3 {
        bench.start_agent(sample::agent_id(n), 2).await;
    }
    let now = Timestamp::now();
    const JOBS: u64 = 300;
    for n in 0..JOBS {
        bench.submit(&sample::query_any(sample::job_id(n), now)).await;
    }
    let mut share = std::collections::BTreeMap::<_, u64>::new();
    for n in 0..JOBS {
        let answer = bench.answer(sample::job_id(n), ExecutionId::Any).await;
        assert_eq!(answer.attempts, 1);
        *share.entry(answer.agent).or_default() += 1;
        assert_eq!(n_starts(&bench.record(sample::job_id(n)).await), 1);
    }
    assert!(share.len() == 3 && share.values().all(|n| *n >= JOBS / 10), "{share:?}");
}

#[tokio::test]
async fn a_new_agent_runs_nothing_that_is_finished() {
    let mut bench = Bench::new(|_| ()).await;
    let me = sample::agent_id(1);
    let first = bench.start_agent(me, 2).await;
    let job = sample::query_host(sample::job_id(1), Timestamp::now(), "host-1", me);
    bench.submit(&job).await;
    bench.answer(job.id, me.into()).await;
    first.cancel();
    bench.tasks.join_next().await.unwrap().unwrap();
    bench.start_agent(me, 2).await;
    bench.start_agent(sample::agent_id(2), 2).await;
    let marker = sample::query_any(sample::job_id(2), Timestamp::now());
    bench.submit(&marker).await;
    bench.answer(marker.id, ExecutionId::Any).await;
    assert_eq!(n_starts(&bench.record(job.id).await), 1);
}

#[tokio::test]
async fn expired_work_never_starts() {
    let mut bench = Bench::new(|_| ()).await;
    let past = Timestamp::now() - jiff::SignedDuration::from_secs(10);
    let job = Job { expires_at: past, ..sample::query_any(sample::job_id(1), past) };
    bench.submit(&job).await;
    bench.start_agent(sample::agent_id(1), 1).await;
    let later = sample::query_any(sample::job_id(2), Timestamp::now());
    bench.submit(&later).await;
    bench.answer(later.id, ExecutionId::Any).await;
    let record = bench.record(job.id).await;
    assert_eq!((n_starts(&record), record.answers.len()), (0, 0), "the controller's clock decides that it ends");
}

#[tokio::test]
async fn work_waits_for_its_time() {
    let mut bench = Bench::new(|_| ()).await;
    let me = sample::agent_id(1);
    bench.start_agent(me, 2).await;
    let now = Timestamp::now();
    let later = now + jiff::SignedDuration::from_millis(700);
    let any = Job { not_before: Some(later), ..sample::query_any(sample::job_id(1), now) };
    let host = Job { not_before: Some(later), ..sample::query_host(sample::job_id(2), now, "host-1", me) };
    bench.submit(&any).await;
    bench.submit(&host).await;
    for (job, execution) in [(any.id, ExecutionId::Any), (host.id, me.into())] {
        let answer = bench.answer(job, execution).await;
        assert!(answer.started_at.unwrap() >= later, "{job} started early");
        assert_eq!(answer.outcome, Outcome::Completed);
    }
}

#[tokio::test]
async fn waits_between_attempts_are_the_jobs_own_or_else_its_agents() {
    let mut bench = Bench::new(|_| ()).await;
    bench.backoff = [300, 700].map(Duration::from_millis).to_vec();
    bench.start_agent(sample::agent_id(1), 4).await;
    let now = Timestamp::now();
    // The host cannot start any program, which is a fault that passes.
    let job = |n, retry| Job { retry, ..sample::shell_any(sample::job_id(n), now, "true") };
    let chosen = RetryPolicy::new(4, vec![Duration::from_millis(100)]).unwrap();
    let jobs = [job(1, chosen.clone()), job(2, chosen.with_usual_backoff())];
    for (job, expected) in jobs.iter().zip([[100, 100, 100], [300, 700, 700]]) {
        bench.submit(job).await;
        let answer = bench.answer(job.id, ExecutionId::Any).await;
        assert_eq!((answer.attempts, answer.error.unwrap().code), (4, ErrorCode::DeadLetter));
        let record = bench.record(job.id).await;
        let waits: Vec<_> = record
            .events
            .iter()
            .filter_map(|(.., event)| {
                let EventKind::Retrying { not_before, .. } = &event.kind else { return None };
                Some(not_before.duration_since(event.at).as_millis())
            })
            .collect();
        assert_eq!(waits, expected, "{job:?}");
        let starts: Vec<_> = record
            .events
            .iter()
            .filter(|(.., event)| matches!(event.kind, EventKind::Started { .. }))
            .map(|(.., event)| event.at)
            .collect();
        for (pair, wait) in starts.windows(2).zip(expected) {
            assert!(pair[1].duration_since(pair[0]).as_millis() >= wait, "{starts:?}");
        }
    }
}

#[tokio::test]
async fn work_of_a_vanished_agent_is_tried_again_if_the_policy_says_so_and_lost_if_not() {
    let mut bench = Bench::new(|config| config.consumer.ack_wait = Duration::from_secs(1)).await;
    let now = Timestamp::now();
    let safe = Job { retry: RetryPolicy::standard(), ..sample::query_any(sample::job_id(1), now) };
    let unsafe_one = Job { retry: RetryPolicy::once(), ..sample::query_any(sample::job_id(2), now) };
    let gone = sample::agent_id(9);
    for job in [&safe, &unsafe_one] {
        bench.submit(job).await;
    }
    // An agent that claims both and is never heard of again.
    let mut pulled = bench.store.work.pull(2).await.unwrap();
    for _ in 0..2 {
        let delivery = tokio::time::timeout(PATIENCE, pulled.next()).await.unwrap().unwrap();
        let event = started_on(1, gone, delivery.lease.delivery());
        let appended = bench.store.ledger.append(delivery.definition.id, ExecutionId::Any, delivery.revision, &event).await.unwrap();
        assert!(matches!(appended, Appended::Stored(_)));
    }
    drop(pulled);
    bench.start_agent(sample::agent_id(1), 2).await;
    let answer = bench.answer(safe.id, ExecutionId::Any).await;
    assert_eq!((answer.outcome, answer.attempts), (Outcome::Completed, 2));
    let lost = eventually("the loss", PATIENCE, async || {
        let record = bench.record(unsafe_one.id).await;
        record.events.iter().any(|(.., event)| matches!(event.kind, EventKind::Lost { attempt: 1 })).then_some(record)
    })
    .await;
    assert_eq!((n_starts(&lost), lost.answers.len()), (1, 0));
}

/// It was offered the work before somebody else was, on another offer, and was slow to look at it: of that one it knows nothing.
#[tokio::test]
async fn an_old_delivery_starts_nothing_beside_an_attempt_that_rests_on_another_offer() {
    let mut bench = Bench::new(|_| ()).await;
    let now = Timestamp::now();
    let job = |n| Job { retry: RetryPolicy::standard(), ..sample::query_any(sample::job_id(n), now) };
    let (theirs, unknown, followed) = (job(1), job(2), job(3));
    for job in [&theirs, &unknown, &followed] {
        bench.submit(job).await;
    }
    let other = sample::agent_id(9);
    let mut pulled = bench.store.work.pull(3).await.unwrap();
    for _ in 0..3 {
        let delivery = tokio::time::timeout(PATIENCE, pulled.next()).await.unwrap().unwrap();
        let (id, own) = (delivery.definition.id, delivery.lease.delivery().unwrap());
        let rests_on = match id {
            _ if id == theirs.id => Some(format!("9{own}")),
            // An agent of an earlier version does not say.
            _ if id == unknown.id => None,
            _ => Some(own),
        };
        bench.store.ledger.append(id, ExecutionId::Any, delivery.revision, &started_on(1, other, rests_on)).await.unwrap();
        delivery.lease.give_back(Duration::ZERO).await.unwrap();
    }
    drop(pulled);
    bench.start_agent(sample::agent_id(1), 3).await;
    let answer = bench.answer(followed.id, ExecutionId::Any).await;
    assert_eq!((answer.outcome, answer.attempts), (Outcome::Completed, 2));
    for job in [&theirs, &unknown] {
        let definition = Definition::from(job);
        let announcement = Announcement { execution: ExecutionId::Any, revision: 1, seen: 1, absence: Absence::Gone };
        let is_left_to_it = async || bench.store.work.announce(&definition, announcement).await.unwrap().then_some(());
        eventually("the delivery to be dropped", PATIENCE, is_left_to_it).await;
        let record = bench.record(job.id).await;
        assert_eq!((n_starts(&record), record.answers.len()), (1, 0), "{}", job.id);
    }
}

/// Leaves what an agent's process leaves that was killed with an attempt in hand, and starts the agent again. `noted` is what its journal says of
/// it, for that place.
async fn killed_with(
    bench: &mut Bench,
    me: AgentId,
    job: &Job,
    more: Option<EventKind>,
    noted: impl FnOnce(&str) -> Value,
) -> CancellationToken {
    bench.submit(job).await;
    let mut pulled = bench.store.work.pull(1).await.unwrap();
    let delivery = tokio::time::timeout(PATIENCE, pulled.next()).await.unwrap().unwrap();
    drop(pulled);
    let mut last = delivery.revision;
    for event in [Some(started(1, me)), more.map(|kind| Event { schema: SCHEMA, at: Timestamp::now(), kind })].into_iter().flatten() {
        let appended = bench.store.ledger.append(job.id, ExecutionId::Any, last, &event).await.unwrap();
        let Appended::Stored(revision) = appended else { panic!("{appended:?}") };
        last = revision;
    }
    let state = bench.dir.path().join(me.to_string());
    let journal = state.join("journal");
    std::fs::create_dir_all(&journal).unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let found = std::fs::metadata(&state).unwrap();
    let mut entry = noted(&format!("{}-{:x}-{:x}", boot.trim(), found.dev(), found.ino()));
    entry["token"] = delivery.lease.token().unwrap().into();
    let record = json!({ "job": job.id, "execution": "any", "entry": entry });
    std::fs::write(journal.join("in-hand"), format!("\n{record}")).unwrap();
    bench.start_agent(me, 1).await
}

#[tokio::test]
async fn a_restarted_agent_answers_for_what_its_killed_process_held() {
    let mut bench = Bench::new(|_| ()).await;
    let job = Job { retry: RetryPolicy::once(), ..sample::query_any(sample::job_id(1), Timestamp::now()) };
    let since = Instant::now();
    killed_with(&mut bench, sample::agent_id(1), &job, None, |_| json!({})).await;
    let answer = bench.answer(job.id, ExecutionId::Any).await;
    assert_eq!(answer.error.unwrap().code, ErrorCode::Interrupted);
    assert!(since.elapsed() < bench.broker().1.consumer.ack_wait, "it did not wait for the claim to lapse");
}

#[tokio::test]
async fn a_start_that_was_recorded_and_never_begun_is_begun_by_the_next_process_and_stays_the_only_one() {
    let mut bench = Bench::new(|_| ()).await;
    let cancel = || Some(EventKind::CancelRequested { by: "somebody".into() });
    for (n, attempt, is_here, more, expected) in [
        (1, 1, true, None, Ok(())),
        // What is said of another boot or of another attempt is of no use: it may have begun since.
        (2, 1, false, None, Err(ErrorCode::Interrupted)),
        (3, 2, true, None, Err(ErrorCode::Interrupted)),
        (4, 1, true, cancel(), Err(ErrorCode::Cancelled)),
    ] {
        let job = Job { retry: RetryPolicy::once(), ..sample::query_any(sample::job_id(n), Timestamp::now()) };
        let noted = |place: &str| json!({ "unbegun": { "attempt": attempt, "place": if is_here { place } else { "elsewhere" } } });
        let drain = killed_with(&mut bench, sample::agent_id(n), &job, more, noted).await;
        let answer = bench.answer(job.id, ExecutionId::Any).await;
        assert_eq!((answer.attempts, answer.error.map_or(Ok(()), |error| Err(error.code))), (1, expected), "{n}");
        assert_eq!(n_starts(&bench.record(job.id).await), 1, "{n}");
        drain.cancel();
        bench.tasks.join_next().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn work_survives_kills_of_the_broker() {
    // What the broker had on its way to the agent when it was killed counts as claimed.
    let mut bench = Bench::new(|config| config.consumer.ack_wait = Duration::from_secs(3)).await;
    bench.start_agent(sample::agent_id(1), 4).await;
    let now = Timestamp::now();
    for n in 0..60 {
        let job = sample::query_any(sample::job_id(n), now);
        if n % 20 == 10 {
            bench.broker().0.kill();
            bench.broker().0.restart().await;
        }
        eventually("an accepted submission", PATIENCE, async || bench.store.ledger.create(&Definition::from(&job)).await.ok()).await;
    }
    for n in 0..60 {
        assert_eq!(bench.answer(sample::job_id(n), ExecutionId::Any).await.outcome, Outcome::Completed);
    }
}

#[tokio::test]
async fn work_that_is_not_due_does_not_hide_what_came_after_it() {
    let mut bench = Bench::new(|_| ()).await;
    let me = sample::agent_id(1);
    let now = Timestamp::now();
    let in_an_hour = now.checked_add(SignedDuration::from_hours(1)).unwrap();
    let to_me = |n| sample::query_host(sample::job_id(n), now, "host-1", me);
    const NOT_DUE: u64 = 1500;
    let store = &bench.store;
    let store_all = futures::stream::iter(0..NOT_DUE).for_each_concurrent(64, |n| async move {
        let job = Job { not_before: Some(in_an_hour), ..to_me(n) };
        store.ledger.create(&Definition::from(&job)).await.unwrap();
    });
    store_all.await;
    bench.submit(&to_me(NOT_DUE)).await;
    bench.start_agent(me, 2).await;
    assert_eq!(bench.answer(sample::job_id(NOT_DUE), me.into()).await.outcome, Outcome::Completed);
}

#[tokio::test]
async fn a_groups_work_is_done_by_one_of_its_members() {
    let mut bench = Bench::new(|_| ()).await;
    let (web, dev, db) = (sample::agent_id(1), sample::agent_id(2), sample::agent_id(3));
    let of = |n: u64, group: &str| Job {
        target: format!("_any@{group}").parse().unwrap(),
        ..sample::query_any(sample::job_id(n), Timestamp::now())
    };
    // Some wait before anybody is there, the others come while their members listen.
    for n in 0..20 {
        bench.submit(&of(n, "group:web")).await;
    }
    bench.start_member(web, 2, &["group:web.prod", "tier:front"]).await;
    bench.start_member(dev, 2, &["group:web.dev"]).await;
    bench.start_member(db, 2, &["group:db"]).await;
    for n in 20..40 {
        bench.submit(&of(n, "group:web.dev")).await;
        bench.submit(&of(n + 20, "tier:front")).await;
    }
    for n in 0..60 {
        let answer = bench.answer(sample::job_id(n), ExecutionId::Any).await;
        let by = answer.agent.unwrap();
        let expected: &[AgentId] = match n {
            0..20 => &[web, dev],
            20..40 => &[dev],
            _ => &[web],
        };
        assert!(expected.contains(&by), "job {n} was done by {by}");
        assert_eq!(n_starts(&bench.record(sample::job_id(n)).await), 1);
    }
}

#[tokio::test]
async fn work_for_several_is_done_once_by_each_of_them() {
    let mut bench = Bench::new(|_| ()).await;
    let members: Vec<AgentId> = (1..=4).map(sample::agent_id).collect();
    // One of them is away when the work comes, and one is none of them.
    for agent in [1, 2, 3, 9] {
        bench.start_agent(sample::agent_id(agent), 2).await;
    }
    let executions: Vec<ExecutionId> = members.iter().map(|agent| (*agent).into()).collect();
    let job = Job { target: Target::All, executions: executions.clone(), ..sample::query_any(sample::job_id(1), Timestamp::now()) };
    bench.submit(&job).await;
    for execution in &executions[..3] {
        assert_eq!(bench.answer(job.id, *execution).await.agent, execution.agent());
    }
    bench.start_agent(members[3], 2).await;
    bench.answer(job.id, executions[3]).await;
    let record = bench.record(job.id).await;
    assert_eq!((n_starts(&record), record.answers.len()), (4, 4));
}

#[tokio::test]
async fn a_drained_agent_takes_nothing_until_it_is_told_to_and_stays_drained_over_a_restart() {
    let mut bench = Bench::new(|_| ()).await;
    let (me, other) = (sample::agent_id(1), sample::agent_id(2));
    let registry = bench.store.registry.clone();
    let want = async |drained| {
        let state = AgentState { schema: SCHEMA, agent: me, drained, at: Timestamp::now(), by: "ada".into(), reason: None };
        registry.set_state(&state).await.unwrap();
    };
    let says = async |drained: bool| {
        let mut watch = registry.watch().await.unwrap();
        let is_it = |event| matches!(event, RegistryEvent::Beat(beat) if beat.agent == me && beat.drained == drained);
        let told = async { while !is_it(watch.next().await.unwrap().unwrap().event) {} };
        tokio::time::timeout(PATIENCE, told).await.expect("the agent says that it knows");
    };
    let first = bench.start_agent(me, 2).await;
    says(false).await;
    want(true).await;
    says(true).await;
    for n in 0..4 {
        bench.submit(&sample::query_any(sample::job_id(n), Timestamp::now())).await;
    }
    let addressed = sample::query_host(sample::job_id(9), Timestamp::now(), "host-1", me);
    bench.submit(&addressed).await;
    first.cancel();
    bench.tasks.join_next().await.unwrap().unwrap();
    bench.start_agent(me, 2).await;
    says(true).await;
    bench.start_agent(other, 2).await;
    for n in 0..4 {
        assert_eq!(bench.answer(sample::job_id(n), ExecutionId::Any).await.agent, Some(other));
    }
    assert_eq!(n_starts(&bench.record(addressed.id).await), 0, "what waits for it goes on waiting");
    want(false).await;
    bench.answer(addressed.id, me.into()).await;
}

#[tokio::test]
async fn a_host_name_with_dots_and_capitals_works() {
    let mut bench = Bench::new(|_| ()).await;
    let me = sample::agent_id(1);
    bench.start_agent(me, 1).await;
    let name: HostName = "Web.01.Example.COM".parse().unwrap();
    let job = Job { target: Target::Host(name), ..sample::query_host(sample::job_id(1), Timestamp::now(), "host-1", me) };
    bench.submit(&job).await;
    assert_eq!(bench.answer(job.id, me.into()).await.outcome, Outcome::Completed);
}

#[tokio::test]
async fn a_second_agent_in_one_state_directory_is_refused_before_it_touches_anything() {
    let bench = Bench::on(memory::open(memory::MemoryOptions::default()));
    let open = |n| Agent::new(bench.config(sample::agent_id(n), "shared"), bench.store.clone());
    let file = || std::fs::metadata(bench.dir.path().join("shared/journal/in-hand")).unwrap().ino();
    let first = open(1).unwrap();
    let written = file();
    assert!(matches!(open(2), Err(longshore_agent::Error::Host(_))));
    assert_eq!(file(), written, "what the first has in hand is not written anew");
    drop(first);
    open(2).unwrap();
}
