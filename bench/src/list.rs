//! Lists of retained jobs: how long a page takes by each filter, how fast a controller that starts knows them all, and what it keeps of each.
//!
//! The jobs are written into the ledger as agents and controllers write them, by this process; then a controller is started on them. The
//! floor of that start is to read the same records with async-nats and keep nothing, in the same run.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use async_nats::jetstream::consumer::pull::OrderedConfig;
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

use crate::system::{Controller, processor_time};

/// Jobs that are written at once.
const AT_ONCE: usize = 512;
/// Records of one job: its definition, its start, its answer.
const RECORDS: usize = 3;
/// Pages of each filter.
const PAGES: usize = 300;
/// Who submitted the oldest job, and no other.
const RARE: &str = "cleo";
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
    println!(
        "bench list: pages of 50 by each filter, {PAGES} of each, over HTTP; the floor is a list of nothing. What finds less than a page is followed to its end"
    );
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

    let broker = server.pid().to_string();
    let (since, broker_before, own_before) = (Instant::now(), processor_time(&broker)?, processor_time("self")?);
    read_all(&server.url(), &config, size).await?;
    let floor = Reading {
        took: since.elapsed(),
        reader: processor_time("self")?.saturating_sub(own_before),
        broker: processor_time(&broker)?.saturating_sub(broker_before),
    };
    let (since, broker_before) = (Instant::now(), processor_time(&broker)?);
    let controller = Controller::start_with(&server.url(), &bounds).await?;
    first_page(&controller.client).await?;
    let rebuild = Reading {
        took: since.elapsed(),
        reader: controller.processor_time()?,
        broker: processor_time(&broker)?.saturating_sub(broker_before),
    };
    let bytes = controller.resident_kib()?.saturating_sub(empty) * 1024 / size as u64;
    println!("\n{size} jobs, {RECORDS} records each: written in {:.1} s; {bytes} bytes a job in the controller", written.as_secs_f64());
    println!("{:<34} {:>10} {:>12} {:>16} {:>16}", "reading", "took", "records/s", "reader us/record", "broker us/record");
    floor.report("(floor: async-nats, nothing kept)", size);
    rebuild.report("a controller that starts", size);
    println!("{:<34} {:>9.2}x {:>11.2}x", "ratio", rebuild.took.div_duration_f64(floor.took), floor.took.div_duration_f64(rebuild.took));
    println!("{:<34} {:>10} {:>10} {:>12}", "filter", "p50", "p99", "to the end");
    let client = &controller.client;
    report("(floor: no agents, listed)", &pages(async || client.agents().await.map(|_| ()).map_err(Into::into)).await?, "");
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
        ("text, that nobody has, of an id", JobFilter { q: Some("zzz".to_owned()), ..any() }),
        ("submitter, of one old job", JobFilter { submitter: Some(RARE.to_owned()), ..any() }),
        ("text, of one old job", JobFilter { q: Some(RARE.to_owned()), ..any() }),
        ("agent, that nobody was", JobFilter { agent: Some("host-x".to_owned()), ..any() }),
        ("annotation, that nobody has", JobFilter { annotation: Some("team=99".to_owned()), ..any() }),
        ("two, that never meet", JobFilter { submitter: Some("ada".to_owned()), agent: Some("host-7".to_owned()), ..any() }),
    ];
    for (name, filter) in filters {
        let times = pages(async || client.jobs(&filter).await.map(|_| ()).map_err(Into::into)).await?;
        report(name, &times, &to_the_end(client, filter).await?);
    }
    Ok(())
}

/// What reading all records took.
struct Reading {
    took: Duration,
    reader: Duration,
    broker: Duration,
}

impl Reading {
    fn report(&self, name: &str, size: usize) {
        let n_records = (size * RECORDS) as f64;
        let each = |time: Duration| time.as_secs_f64() * 1e6 / n_records;
        println!(
            "{name:<34} {:>8.2} s {:>12.0} {:>16.2} {:>16.2}",
            self.took.as_secs_f64(),
            n_records / self.took.as_secs_f64(),
            each(self.reader),
            each(self.broker),
        );
    }
}

/// Reads every record of `size` jobs as a controller that starts must, one sequence after the other, and keeps nothing.
async fn read_all(url: &str, config: &jetstream::Config, size: usize) -> anyhow::Result<()> {
    let context = async_nats::jetstream::new(async_nats::connect(url).await?);
    let jobs = format!("$KV.{}.jobs.>", config.kv.bucket);
    let answers = format!("$KV.{}.>", config.kv.response_bucket);
    for (bucket, filter_subject, n_records) in
        [(&config.kv.bucket, jobs, size * (RECORDS - 1)), (&config.kv.response_bucket, answers, size)]
    {
        let stream = context.get_stream(format!("KV_{bucket}")).await?;
        let reader = stream.create_consumer(OrderedConfig { filter_subject, ..OrderedConfig::default() }).await?;
        let mut records = reader.messages().await?.take(n_records);
        while let Some(record) = records.next().await {
            record?;
        }
    }
    Ok(())
}

/// Pages until one has no next, if none is full: what it takes to know that there is no more.
async fn to_the_end(client: &Client, filter: JobFilter) -> anyhow::Result<String> {
    let (since, mut n_pages, mut filter) = (Instant::now(), 0, filter);
    loop {
        let page = client.jobs(&filter).await?;
        n_pages += 1;
        if Some(page.items.len()) == filter.limit {
            return Ok(String::new());
        }
        let Some(next) = page.next_cursor else { break };
        filter.cursor = Some(next);
    }
    Ok(format!("{:.1} ms, {n_pages}", since.elapsed().as_secs_f64() * 1e3))
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

async fn pages(page: impl AsyncFn() -> anyhow::Result<()>) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(PAGES);
    for _ in 0..PAGES {
        let since = Instant::now();
        page().await?;
        times.push(since.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}

fn report(name: &str, times: &[Duration], to_the_end: &str) {
    let [p50, p99] = [50, 99].map(|percent| times[times.len() * percent / 100].as_secs_f64() * 1e3);
    println!("{name:<34} {p50:>7.2} ms {p99:>7.2} ms {to_the_end:>12}");
}

/// One job as it is when it has ended; every tenth has failed.
async fn retain(store: &Store, n: usize, now: Timestamp) -> anyhow::Result<()> {
    let host = n % 50;
    let agent = AgentId::from_bits(host as u128);
    let query = sample::query_any(sample::job_id(n as u64), now);
    let operation = if n.is_multiple_of(3) { "node.uptime.get" } else { "node.hostname.get" };
    let call = longshore_model::operation::Call::parse(operation, json!({}))?;
    let annotations = [("team".to_owned(), (n % 8).to_string())].into();
    let by = match n {
        0 => RARE,
        n if n.is_multiple_of(2) => "ada",
        _ => "bob",
    };
    let job = Job { call, annotations, submitted_by: by.to_owned(), ..query };
    let Created::Stored(revision) = store.ledger.create(&Definition::from(&job)).await? else { anyhow::bail!("job {n} is there already") };
    let kind = EventKind::Started { attempt: 1, agent, hostname: format!("host-{host}"), delivery: None };
    let started = store.ledger.append(job.id, ExecutionId::Any, revision, &Event { schema: SCHEMA, at: now, kind }).await?;
    ensure!(matches!(started, Appended::Stored(_)), "job {n} was started by somebody else");
    let failed = n.is_multiple_of(10);
    let error = failed.then(|| Failure { code: ErrorCode::HostFault, message: "the disk is full".to_owned() });
    let answer = Answer {
        agent: Some(agent),
        hostname: Some(format!("host-{host}")),
        changed: Some(false),
        result: (!failed).then(|| json!({ "hostname": format!("host-{host}") })),
        error,
        started_at: Some(now),
        duration_ms: Some(1),
        ..Answer::new(job.id, ExecutionId::Any, if failed { Outcome::Failed } else { Outcome::Completed }, 1, now)
    };
    store.ledger.answer(&answer).await?;
    Ok(())
}
