//! One job for every agent: how long until the last has answered, and what an agent costs.
//!
//! The agents are the real runtime, each with a broker connection of its own, all in this process; the controller is a process of its own.
//! The operation reads the host's name, so what is measured is the way there and back.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures::StreamExt;
use longshore_agent::{Agent, Config, FactsPolicy, Thresholds};
use longshore_client::Client;
use longshore_exec::{Machine, SupervisorCommand};
use longshore_model::AgentId;
use longshore_store::jetstream;
use longshore_testkit::{NatsOptions, NatsServer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::system::{Controller, median, resident_kib};

/// Agents that come up at once.
const AT_ONCE: usize = 32;
/// Files that an agent has open: its connection, the lock of its directory, and its journal.
const FILES_PER_AGENT: u64 = 3;
/// What everything else in this process may have open, and in the broker, which has a file for each agent.
const FILES_BESIDES: u64 = 512;
/// How often an agent asks to join before it gives up: a broker whom many ask at once may be slow to answer.
const JOIN_TRIES: usize = 10;
/// For everybody to be there, and for everybody to have answered.
const PATIENCE: Duration = Duration::from_secs(300);

/// How much is measured.
pub(crate) struct Settings {
    sizes: Vec<usize>,
    rounds: usize,
}

impl Settings {
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut sizes = Vec::new();
        for arg in args {
            sizes.push(arg.parse().ok().filter(|size| *size > 0).with_context(|| format!("{arg:?} is not a number of agents"))?);
        }
        Ok(Self { sizes: if sizes.is_empty() { vec![100, 1000, 5000] } else { sizes }, rounds: 5 })
    }
}

pub(crate) async fn run(settings: &Settings) -> anyhow::Result<()> {
    println!("bench fanout: node.hostname.get for _all, agents in this process, sync always; medians of {} rounds", settings.rounds);
    println!(
        "{:>7} {:>12} {:>14} {:>14} {:>12} {:>12} {:>12} {:>12} {:>10}",
        "agents", "up in", "accepted in", "all answered", "answers/s", "completed", "KiB/agent", "files/agent", "consumers"
    );
    let limit = files_allowed(settings.sizes.iter().copied().max().unwrap_or_default())?;
    let mut n_left_out = 0;
    for size in &settings.sizes {
        let needed = files_needed(*size);
        if limit.is_some_and(|limit| limit < needed) {
            println!(
                "{size:>7} left out: {needed} files have to be open at once, and {} may be. Raise the limit first (`ulimit -Hn {needed}` where the system allows it), or ask for fewer agents",
                limit.unwrap_or_default()
            );
            n_left_out += 1;
            continue;
        }
        measure(*size, settings.rounds).await?;
    }
    anyhow::ensure!(n_left_out < settings.sizes.len(), "nothing was measured: the limit of open files allows none of these sizes");
    Ok(())
}

fn files_needed(n_agents: usize) -> u64 {
    n_agents as u64 * FILES_PER_AGENT + FILES_BESIDES
}

/// How many files may be open at once, for this process and those that it starts, raised as far as it must and may; `None` is any number.
fn files_allowed(n_agents: usize) -> anyhow::Result<Option<u64>> {
    let needed = files_needed(n_agents);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= needed) {
        return Ok(current);
    }
    // Whoever has the right to (root, unless it was taken away) may raise the maximum as well.
    if maximum.is_some_and(|maximum| maximum < needed)
        && setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: Some(needed) }).is_ok()
    {
        return Ok(Some(needed));
    }
    let allowed = maximum.map_or(needed, |maximum| maximum.min(needed));
    setrlimit(Resource::Nofile, Rlimit { current: Some(allowed), maximum }).context("the limit of open files cannot be raised")?;
    Ok(Some(allowed))
}

/// Files that this process has open.
fn files_open() -> anyhow::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/fd")?.count())
}

async fn measure(size: usize, rounds: usize) -> anyhow::Result<()> {
    let server = NatsServer::start_with(NatsOptions { sync_always: true, ..NatsOptions::default() }).await;
    let controller = Controller::start(&server.url()).await?;
    let dir = tempfile::tempdir()?;
    let stop = CancellationToken::new();
    let mut agents = JoinSet::new();
    let (memory_before, files_before, since) = (resident_kib("self")?, files_open()?, Instant::now());
    let mut coming = futures::stream::iter(0..size)
        .map(|n| {
            let (url, state_dir, stop) = (server.url(), dir.path().join(n.to_string()), stop.clone());
            async move { agent(n, url, state_dir, stop).await }
        })
        .buffer_unordered(AT_ONCE);
    while let Some(agent) = coming.next().await {
        agents.spawn(agent?);
    }
    drop(coming);
    let everybody_is_there = async {
        while controller.client.agents().await?.items.len() < size {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, everybody_is_there).await.context("some agents never came")??;
    let up = since.elapsed();
    let memory = resident_kib("self")?.saturating_sub(memory_before) / size as u64;
    let files = files_open()?.saturating_sub(files_before) as f64 / size as f64;

    let (mut accepted, mut answered) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (first, last) = job(&controller.client, size).await?;
        accepted.push(first);
        answered.push(last);
    }
    let (accepted, answered) = (median(accepted), median(answered));
    let consumers = consumers(&server.url()).await?;
    println!(
        "{size:>7} {:>10.1} s {:>11.1} ms {:>11.1} ms {:>12.0} {:>12} {memory:>12} {files:>12.1} {consumers:>10}",
        up.as_secs_f64(),
        accepted.as_secs_f64() * 1e3,
        answered.as_secs_f64() * 1e3,
        size as f64 / answered.as_secs_f64(),
        format!("{rounds}x{size}"),
    );
    stop.cancel();
    while agents.join_next().await.is_some() {}
    Ok(())
}

/// One job: when it was accepted, and when the last answer was in hand. Every agent must have completed it, or this is an error.
async fn job(client: &Client, size: usize) -> anyhow::Result<(Duration, Duration)> {
    let mut request = Client::request("node.hostname.get", json!({}));
    request.target = "_all".to_owned();
    let since = Instant::now();
    let accepted = client.submit(&request, None).await?;
    let first = since.elapsed();
    let view = client.job(accepted.id, Some(PATIENCE)).await?;
    let last = since.elapsed();
    let n_completed = view.executions.iter().filter(|execution| execution.result.is_some()).count();
    if n_completed != size {
        bail!("{n_completed} of {size} agents completed the job, which is {}", view.status.as_str());
    }
    Ok((first, last))
}

async fn agent(
    n: usize,
    url: String,
    state_dir: std::path::PathBuf,
    stop: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + Send + use<>> {
    let store = jetstream::connect(&jetstream::Config { url, client_name: "bench-agent".into(), ..jetstream::Config::default() }).await?;
    let config = Config {
        id: AgentId::from_bits(n as u128 + 1),
        hostname: Some(format!("host-{n:05}")),
        labels: Vec::new(),
        max_jobs: 4,
        state_dir,
        workspaces_dir: None,
        jobs_dir: None,
        supervisor: SupervisorCommand { program: "/nonexistent".into(), args: Vec::new() },
        heartbeat_every: Duration::from_secs(10),
        backoff: longshore_model::retry::standard_backoff(),
        kill_grace: Duration::from_secs(1),
        opening_keys: None,
        trusted_keys: None,
        machine: Machine::default(),
        facts: FactsPolicy::default(),
        thresholds: Thresholds::default(),
        packages: None,
    };
    let agent = Agent::new(config, store)?;
    let mut n_tries = 1;
    while let Err(error) = agent.join().await {
        if n_tries == JOIN_TRIES {
            return Err(error.into());
        }
        n_tries += 1;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(async move {
        if let Err(error) = agent.run(stop, CancellationToken::new()).await {
            println!("an agent ended: {error}");
        }
    })
}

/// Consumers on the broker.
async fn consumers(url: &str) -> anyhow::Result<usize> {
    let context = async_nats::jetstream::new(async_nats::connect(url).await?);
    Ok(context.query_account().await?.consumers)
}
