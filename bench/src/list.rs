//! Lists of retained jobs: how long a page takes by each filter, how fast a controller that starts knows them all, and what it keeps of each.
//!
//! The jobs are written into the ledger as agents and controllers write them, by this process; then a controller is started on them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use longshore_client::{Client, JobFilter};
use longshore_model::job::Job;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Answer, Definition, Event, EventKind, Failure, Outcome, SCHEMA};
use longshore_model::{AgentId, ExecutionId};
use longshore_store::{Appended, Created, Store, jetstream};
use longshore_testkit::{NatsOptions, NatsServer, sample};
use serde_json::json;

use crate::system::Controller;

/// Jobs that are written at once.
const AT_ONCE: usize = 512;
/// Records of one job: its definition, its start, its answer.
const RECORDS: usize = 3;
/// Pages of each filter.
const PAGES: usize = 300;
/// Room for a million jobs, in each of the ledger's buckets.
const LEDGER_BYTES: u64 = 4 << 30;
/// For a controller to know all jobs.
const PATIENCE: Duration = Duration::from_secs(600);

/// How much is measured.
pub(crate) struct Settings {
    sizes: Vec<usize>,
}

impl Settings {
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut sizes = Vec::new();
        for arg in args {
            sizes.push(arg.parse().ok().filter(|size| *size > 0).with_context(|| format!("{arg:?} is not a number of jobs"))?);
        }
        Ok(Self { sizes: if sizes.is_empty() { vec![10_000, 100_000, 1_000_000] } else { sizes } })
    }
}

pub(crate) async fn run(settings: &Settings) -> anyhow::Result<()> {
    println!("bench list: pages of 50 by each filter, {PAGES} of each, over HTTP; the floor is a list of nothing");
    for size in &settings.sizes {
        measure(*size).await?;
    }
    Ok(())
}

async fn measure(size: usize) -> anyhow::Result<()> {
    let server = NatsServer::start_with(NatsOptions { sync_always: false, ..NatsOptions::default() }).await;
    let mut config = jetstream::Config { url: server.url(), ..jetstream::Config::default() };
    config.kv.max_bytes = LEDGER_BYTES;
    config.objects.max_bytes = 64 << 20;
    let store = jetstream::connect(&config).await?;
    let bounds = [("LONGSHORE_NATS__KV__MAX_BYTES", "4GiB"), ("LONGSHORE_NATS__OBJECTS__MAX_BYTES", "64MiB")];
    let empty = {
        let controller = Controller::start_with(&server.url(), &bounds).await?;
        first_page(&controller.client).await?;
        controller.resident_kib()?
    };
    let since = Instant::now();
    let now = Timestamp::now();
    futures::stream::iter(0..size).map(|n| retain(&store, n, now)).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    let written = since.elapsed();

    let since = Instant::now();
    let controller = Controller::start_with(&server.url(), &bounds).await?;
    first_page(&controller.client).await?;
    let rebuilt = since.elapsed();
    let bytes = controller.resident_kib()?.saturating_sub(empty) * 1024 / size as u64;
    println!(
        "\n{size} jobs: written in {:.1} s; a controller that starts answers after {:.2} s, {:.0} records/s; {bytes} bytes a job",
        written.as_secs_f64(),
        rebuilt.as_secs_f64(),
        (size * RECORDS) as f64 / rebuilt.as_secs_f64(),
    );
    println!("{:<34} {:>10} {:>10}", "filter", "p50", "p99");
    let client = &controller.client;
    pages("(floor: no agents, listed)", async || client.agents().await.map(|_| ()).map_err(Into::into)).await?;
    let any = || JobFilter { limit: Some(50), ..JobFilter::default() };
    let filters = [
        ("none", any()),
        ("status=failed", JobFilter { status: Some("failed".to_owned()), ..any() }),
        ("operation", JobFilter { operation: Some("node.uptime.get".to_owned()), ..any() }),
        ("target", JobFilter { target: Some("_any".to_owned()), ..any() }),
        ("agent", JobFilter { agent: Some("host-7".to_owned()), ..any() }),
        ("submitter", JobFilter { submitter: Some("ada".to_owned()), ..any() }),
        ("annotation", JobFilter { annotation: Some("team=3".to_owned()), ..any() }),
        ("since=1h", JobFilter { since: Some("1h".to_owned()), ..any() }),
        ("text, that many have", JobFilter { q: Some("uptime".to_owned()), ..any() }),
        ("text, that nobody has", JobFilter { q: Some("no such text".to_owned()), ..any() }),
    ];
    for (name, filter) in filters {
        pages(name, async || client.jobs(&filter).await.map(|_| ()).map_err(Into::into)).await?;
    }
    Ok(())
}

/// Waits until the controller knows every job that is stored.
async fn first_page(client: &Client) -> anyhow::Result<()> {
    let asked = async {
        while client.jobs(&JobFilter { limit: Some(1), ..JobFilter::default() }).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.context("the controller does not know its jobs")
}

async fn pages(name: &str, page: impl AsyncFn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut times = Vec::with_capacity(PAGES);
    for _ in 0..PAGES {
        let since = Instant::now();
        page().await?;
        times.push(since.elapsed());
    }
    times.sort_unstable();
    let [p50, p99] = [50, 99].map(|percent| times[times.len() * percent / 100].as_secs_f64() * 1e3);
    println!("{name:<34} {p50:>7.2} ms {p99:>7.2} ms");
    Ok(())
}

/// One job as it is when it has ended; every tenth has failed.
async fn retain(store: &Store, n: usize, now: Timestamp) -> anyhow::Result<()> {
    let host = n % 50;
    let agent = AgentId::from_bits(host as u128);
    let query = sample::query_any(sample::job_id(n as u64), now);
    let operation = if n.is_multiple_of(3) { "node.uptime.get" } else { "node.hostname.get" };
    let call = longshore_model::operation::Call::parse(operation, json!({}))?;
    let annotations = [("team".to_owned(), (n % 8).to_string())].into();
    let job = Job { call, annotations, submitted_by: if n.is_multiple_of(2) { "ada" } else { "bob" }.to_owned(), ..query };
    let Created::Stored(revision) = store.ledger.create(&Definition::from(&job)).await? else { anyhow::bail!("job {n} is there already") };
    let kind = EventKind::Started { attempt: 1, agent, hostname: format!("host-{host}"), delivery: None };
    let started = store.ledger.append(job.id, ExecutionId::Any, revision, &Event { schema: SCHEMA, at: now, kind }).await?;
    ensure!(matches!(started, Appended::Stored(_)), "job {n} was started by somebody else");
    let failed = n.is_multiple_of(10);
    let error = failed.then(|| Failure { code: ErrorCode::HostFault, message: "the disk is full".to_owned() });
    let answer = Answer {
        schema: SCHEMA,
        job: job.id,
        execution: ExecutionId::Any,
        outcome: if failed { Outcome::Failed } else { Outcome::Completed },
        agent: Some(agent),
        hostname: Some(format!("host-{host}")),
        attempts: 1,
        changed: Some(false),
        result: (!failed).then(|| json!({ "hostname": format!("host-{host}") })),
        result_object: None,
        error,
        cancel_verified: None,
        started_at: Some(now),
        finished_at: now,
        duration_ms: Some(1),
    };
    store.ledger.answer(&answer).await?;
    Ok(())
}
