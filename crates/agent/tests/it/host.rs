//! What an agent tells of itself and of its host, and that nobody else is it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;
use longshore_agent::{Agent, Error as AgentError, FactsPolicy, Thresholds};
use longshore_exec::Machine;
use longshore_model::job::Job;
use longshore_model::operation::Call;
use longshore_model::retry::RetryPolicy;
use longshore_model::wire::agent::{AgentState, Condition, Heartbeat, Process};
use longshore_model::wire::audit::AuditOutcome;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Outcome, SCHEMA};
use longshore_model::{AgentId, ExecutionId};
use longshore_store::{Error, Newest, Registry, RegistryStream, Revision, Store, memory};
use longshore_testkit::{eventually, sample};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Bench, PATIENCE, n_starts};

#[tokio::test]
async fn facts_are_kept_while_their_agent_lives_and_go_after_it() {
    let mut bench = Bench::new(|config| config.facts.ttl = Duration::from_secs(3)).await;
    let me = sample::agent_id(1);
    let policy = FactsPolicy { every: Duration::from_secs(60), kept: Duration::from_secs(3) };
    let drain = bench
        .start_with(me, |config| {
            config.facts = policy;
            config.labels = vec!["group:web.dev".parse().unwrap()];
        })
        .await;
    let facts = bench.store.facts.clone();
    let first = eventually("facts", PATIENCE, async || facts.of(me).await.ok().flatten()).await;
    assert_eq!((first.facts.hostname.as_str(), first.facts.agent.id.as_str()), ("host-1", me.to_string().as_str()));
    assert_eq!(first.facts.label["group"], "web.dev");
    assert!(first.facts.kernel.is_some() && first.facts.memory.total_bytes.is_some(), "{first:?}");
    // Older than the store keeps them, so they were written again although nothing has changed.
    let is_older = |at: Timestamp| at.duration_since(first.gathered_at) > policy.kept.try_into().unwrap();
    let kept = async || facts.of(me).await.unwrap().filter(|record| is_older(record.gathered_at));
    assert_eq!(eventually("facts that were written again", PATIENCE, kept).await.facts, first.facts);
    assert!(!first.left);
    drain.cancel();
    eventually("the goodbye", PATIENCE, async || facts.of(me).await.unwrap().filter(|record| record.left)).await;
    eventually("them to go", PATIENCE, async || facts.of(me).await.unwrap().is_none().then_some(())).await;
}

#[tokio::test]
async fn facts_that_a_host_does_not_have_fail_the_execution_once_with_what_there_is() {
    let mut bench = Bench::new(|_| ()).await;
    bench.start_agent(sample::agent_id(1), 2).await;
    for (n, operation, args, expected) in [
        (
            1,
            "command.exec",
            json!({"command": ["echo", "@fact.hostnmae"]}),
            "/args/command/1: the host has no fact \"hostnmae\": did you mean hostname",
        ),
        (2, "network.dns.get", json!({"interface": "@fact.label.group"}), "/args/interface: the host has no fact \"label.group\""),
        (
            3,
            "network.dns.get",
            json!({"interface": "@fact.agent.id"}),
            "with this host's facts in them the arguments cannot be: /args/interface",
        ),
    ] {
        let call = Call::parse(operation, args).unwrap();
        let job = Job { call, retry: RetryPolicy::standard(), ..sample::query_any(sample::job_id(n), Timestamp::now()) };
        bench.submit(&job).await;
        let answer = bench.answer(job.id, ExecutionId::Any).await;
        let error = answer.error.unwrap();
        assert_eq!((answer.outcome, answer.attempts, error.code), (Outcome::Failed, 1, ErrorCode::Validation));
        assert!(error.message.starts_with(expected), "{}", error.message);
    }
}

/// A host that is a directory.
fn made_up_host(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let machine = Machine { root: root.path().into(), path: None };
    (root, machine)
}

#[tokio::test]
async fn facts_follow_the_host_at_the_interval() {
    let mut bench = Bench::new(|_| ()).await;
    let (root, machine) = made_up_host(&[("etc/os-release", "ID=debian\n")]);
    let (quick, slow) = (sample::agent_id(1), sample::agent_id(2));
    for (agent, every) in [(quick, Duration::from_millis(200)), (slow, Duration::from_secs(3600))] {
        let policy = FactsPolicy { every, ..FactsPolicy::default() };
        bench.start_with(agent, |config| (config.machine, config.facts) = (machine.clone(), policy)).await;
    }
    let said = async |agent| bench.store.facts.of(agent).await.unwrap().and_then(|record| record.facts.os.distribution);
    for agent in [quick, slow] {
        eventually("the first facts", PATIENCE, async || said(agent).await.filter(|name| name == "debian")).await;
    }
    std::fs::write(root.path().join("etc/os-release"), "ID=alpine\n").unwrap();
    eventually("the new ones", PATIENCE, async || said(quick).await.filter(|name| name == "alpine")).await;
    assert_eq!(said(slow).await.as_deref(), Some("debian"), "it is not its time");
}

#[tokio::test]
async fn each_threshold_decides_what_the_host_counts_as_short_of() {
    let mut bench = Bench::new(|_| ()).await;
    let (root, machine) = made_up_host(&[
        ("proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 50 kB\n"),
        ("proc/stat", "cpu0 1\ncpu1 1\n"),
        ("proc/loadavg", "5.00 1.00 0.50 1/100 1234\n"),
        ("proc/self/mounts", "/dev/a / ext4 rw 0 0\n"),
    ]);
    let usual = Thresholds { disk_percent: 101, ..Thresholds::default() };
    let rows = [
        (1, usual, vec!["memory_pressure", "high_load"]),
        (2, Thresholds { memory_percent: 96, ..usual }, vec!["high_load"]),
        (3, Thresholds { load_percent: 251, ..usual }, vec!["memory_pressure"]),
        (4, Thresholds { disk_percent: 1, ..usual }, vec!["memory_pressure", "high_load", "disk_pressure"]),
        (5, Thresholds { memory_percent: 96, load_percent: 251, disk_percent: 101 }, vec![]),
    ];
    for (n, thresholds, _) in &rows {
        bench.start_with(sample::agent_id(*n), |config| (config.machine, config.thresholds) = (machine.clone(), *thresholds)).await;
    }
    let said = async |n| bench.store.registry.newest(sample::agent_id(n)).await.unwrap().heartbeat.map(|heartbeat| heartbeat.conditions);
    for (n, _, expected) in &rows {
        let is_it = |found: &Vec<Condition>| found.iter().map(|condition| condition.kind.as_str()).eq(expected.iter().copied());
        eventually("its conditions", PATIENCE, async || said(*n).await.filter(is_it)).await;
    }
    let before = said(1).await.unwrap();
    assert_eq!(before.iter().map(|condition| (condition.percent, condition.threshold_percent)).collect::<Vec<_>>(), [(95, 90), (250, 200)]);
    std::fs::write(root.path().join("proc/loadavg"), "0.10 1.00 0.50 1/100 1234\n").unwrap();
    let after = eventually("the load to be over", PATIENCE, async || said(1).await.filter(|found| found.len() == 1)).await;
    assert_eq!((after[0].kind.as_str(), after[0].since), ("memory_pressure", before[0].since), "what lasts keeps its beginning");
}

#[tokio::test]
async fn of_two_agents_with_one_identity_the_second_is_refused_and_the_first_goes_on() {
    let mut bench = Bench::new(|_| ()).await;
    let me = sample::agent_id(1);
    bench.start_agent(me, 2).await;
    let is_bound = async || bench.store.registry.newest(me).await.unwrap().heartbeat;
    eventually("the first to be bound", PATIENCE, is_bound).await;
    let copy = Agent::new(bench.config(me, "copied"), bench.store.clone()).unwrap();
    let refused = copy.join().await.unwrap_err();
    assert!(matches!(&refused, AgentError::Identity { id, hostname } if *id == me && hostname == "host-1"), "{refused}");
    let trail = bench.store.audit.before(None, 10).await.unwrap();
    let record = &trail.items[0].record;
    assert_eq!((record.method.as_str(), record.outcome()), ("BIND", AuditOutcome::Refused));
    assert!(record.reason.as_ref().unwrap().contains("host-1"), "{record:?}");
    let ended = copy.run(CancellationToken::new(), CancellationToken::new()).await;
    assert!(matches!(ended, Err(AgentError::Identity { .. })), "it does not run all the same");
    let job = sample::query_any(sample::job_id(1), Timestamp::now());
    bench.submit(&job).await;
    assert_eq!(bench.answer(job.id, ExecutionId::Any).await.hostname.as_deref(), Some("host-1"));
}

#[tokio::test]
async fn an_agent_that_was_killed_is_bound_again_at_once_where_it_was_and_elsewhere_when_it_is_known_to_be_gone() {
    let mut bench = Bench::new(|config| config.registry.ttl = Duration::from_secs(3)).await;
    let me = sample::agent_id(1);
    let heard = async |bench: &Bench| bench.store.registry.newest(me).await.unwrap().heartbeat;
    bench.start_agent(me, 2).await;
    eventually("it to be bound", PATIENCE, async || heard(&bench).await).await;
    bench.tasks.shutdown().await;
    assert!(heard(&bench).await.is_some(), "nobody said goodbye");
    let again = Agent::new(bench.config(me, &me.to_string()), bench.store.clone()).unwrap();
    let since = Instant::now();
    again.join().await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(1), "after {:?}", since.elapsed());
    drop(again);
    // The same agent.id somewhere else, after a move or a reboot: nobody beats there any more.
    let moved = Agent::new(bench.config(me, "elsewhere"), bench.store.clone()).unwrap();
    moved.join().await.unwrap();
    assert!(since.elapsed() > Duration::from_secs(1), "the last heartbeat had to expire");
}

#[tokio::test]
async fn an_agent_whose_identity_was_taken_while_it_was_away_ends() {
    let mut bench = Bench::new(|_| ()).await;
    let me = sample::agent_id(1);
    let agent = Agent::new(bench.config(me, "mine"), bench.store.clone()).unwrap();
    agent.join().await.unwrap();
    let mine = bench.store.registry.newest(me).await.unwrap().heartbeat.unwrap();
    bench.tasks.spawn(async move {
        let ended = agent.run(CancellationToken::new(), CancellationToken::new()).await;
        assert!(matches!(&ended, Err(AgentError::Identity { hostname, .. }) if hostname == "thief"), "{ended:?}");
    });
    let process = Some(Process { id: "other".to_owned(), place: "other".to_owned() });
    let theirs = Heartbeat { hostname: "thief".to_owned(), process, ..mine };
    bench.store.registry.beat(&theirs).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, bench.tasks.join_next()).await.expect("it ends");
    ended.unwrap().unwrap();
    let left = bench.store.registry.newest(me).await.unwrap().heartbeat.unwrap();
    assert_eq!(left.hostname, "thief", "it does not say goodbye for the other");
}

/// A registry that does not tell what people want of an agent, for a while.
struct Mute {
    inner: Arc<dyn Registry>,
    is_mute: AtomicBool,
    n_asked: AtomicUsize,
}

#[async_trait]
impl Registry for Mute {
    async fn state_of(&self, agent: AgentId) -> Result<Option<AgentState>, Error> {
        self.n_asked.fetch_add(1, Ordering::Relaxed);
        if self.is_mute.load(Ordering::Relaxed) {
            return Err(Error::Unavailable { doing: "reading", source: None });
        }
        self.inner.state_of(agent).await
    }

    async fn beat(&self, heartbeat: &Heartbeat) -> Result<(), Error> {
        self.inner.beat(heartbeat).await
    }

    async fn beat_after(&self, heartbeat: &Heartbeat, after: Revision) -> Result<Option<Revision>, Error> {
        self.inner.beat_after(heartbeat, after).await
    }

    async fn newest(&self, agent: AgentId) -> Result<Newest, Error> {
        self.inner.newest(agent).await
    }

    async fn leave(&self, agent: AgentId) -> Result<(), Error> {
        self.inner.leave(agent).await
    }

    async fn set_state(&self, state: &AgentState) -> Result<(), Error> {
        self.inner.set_state(state).await
    }

    async fn states_of(&self, agent: AgentId) -> Result<Vec<AgentState>, Error> {
        self.inner.states_of(agent).await
    }

    async fn forget(&self, agent: AgentId) -> Result<(), Error> {
        self.inner.forget(agent).await
    }

    async fn watch(&self) -> Result<RegistryStream, Error> {
        self.inner.watch().await
    }
}

#[tokio::test]
async fn an_agent_that_cannot_read_whether_it_is_drained_takes_no_work_until_it_can() {
    let store = memory::open(memory::MemoryOptions::default());
    let mute = Arc::new(Mute { inner: store.registry.clone(), is_mute: true.into(), n_asked: AtomicUsize::new(0) });
    let mut bench = Bench::on(Store { registry: mute.clone(), ..store });
    let me = sample::agent_id(1);
    let want = async |drained| {
        let state = AgentState { schema: SCHEMA, agent: me, drained, at: Timestamp::now(), by: "ada".into(), reason: None };
        mute.set_state(&state).await.unwrap();
    };
    want(true).await;
    let any = sample::query_any(sample::job_id(1), Timestamp::now());
    let addressed = sample::query_host(sample::job_id(2), Timestamp::now(), "host-1", me);
    bench.submit(&any).await;
    bench.submit(&addressed).await;
    bench.start_agent(me, 2).await;
    let asked = async |more: usize| {
        let n = mute.n_asked.load(Ordering::Relaxed) + more;
        eventually("it to ask", PATIENCE, async || (mute.n_asked.load(Ordering::Relaxed) >= n).then_some(())).await;
    };
    let n_started = async |bench: &Bench| n_starts(&bench.record(any.id).await) + n_starts(&bench.record(addressed.id).await);
    asked(5).await;
    assert_eq!(n_started(&bench).await, 0, "it does not know");
    mute.is_mute.store(false, Ordering::Relaxed);
    let knows = async || mute.newest(me).await.unwrap().heartbeat.filter(|heartbeat| heartbeat.drained);
    eventually("it to know that it is drained", PATIENCE, knows).await;
    assert_eq!(n_started(&bench).await, 0, "it is drained");
    want(false).await;
    bench.answer(any.id, ExecutionId::Any).await;
    bench.answer(addressed.id, me.into()).await;
}

#[tokio::test]
async fn an_agent_in_doubt_that_is_not_drained_begins_as_soon_as_it_knows() {
    let store = memory::open(memory::MemoryOptions::default());
    let mute = Arc::new(Mute { inner: store.registry.clone(), is_mute: true.into(), n_asked: AtomicUsize::new(0) });
    let mut bench = Bench::on(Store { registry: mute.clone(), ..store });
    let job = sample::query_any(sample::job_id(1), Timestamp::now());
    bench.submit(&job).await;
    bench.start_agent(sample::agent_id(1), 2).await;
    eventually("it to ask", PATIENCE, async || (mute.n_asked.load(Ordering::Relaxed) > 3).then_some(())).await;
    assert_eq!(n_starts(&bench.record(job.id).await), 0);
    mute.is_mute.store(false, Ordering::Relaxed);
    bench.answer(job.id, ExecutionId::Any).await;
}
