//! Latency at idle and throughput with 256 in flight, beside the floor.

use std::time::{Duration, Instant};

use anyhow::bail;
use futures::StreamExt;
use longshore_testkit::{NatsOptions, NatsServer};

use crate::floor::Floor;
use crate::system::{System, median, processor_time};

/// How much is measured.
pub(crate) struct Settings {
    rounds: usize,
    n_idle: usize,
    n_busy: usize,
    in_flight: usize,
    workers: usize,
    /// How the broker syncs: each in a pass of its own.
    syncs: Vec<(&'static str, bool)>,
}

const SYNCS: [(&str, bool); 2] = [("sync always", true), ("sync default", false)];

impl Settings {
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut settings = Self { rounds: 5, n_idle: 300, n_busy: 12_000, in_flight: 256, workers: 64, syncs: SYNCS.into() };
        for arg in args {
            match arg.as_str() {
                "--quick" => settings = Self { rounds: 2, n_idle: 60, n_busy: 600, ..settings },
                "--sync-always" => settings.syncs = SYNCS[..1].into(),
                "--sync-default" => settings.syncs = SYNCS[1..].into(),
                _ => bail!("unknown option {arg:?}"),
            }
        }
        Ok(settings)
    }
}

/// One round's figures.
struct Round {
    p50: Duration,
    p99: Duration,
    per_second: f64,
    /// Microseconds of processor time that a job of the busy part took from each process.
    spent: Vec<f64>,
}

pub(crate) async fn run(settings: &Settings) -> anyhow::Result<()> {
    println!(
        "bench jobs: node.hostname.get through REST, controller, broker and agent, beside the raw broker with the same three durable writes"
    );
    println!(
        "machine: {} processors, {}; nats-server {}",
        std::thread::available_parallelism()?,
        kernel(),
        longshore_testkit::NATS_SERVER_VERSION
    );
    println!(
        "settings: {} rounds, idle {} jobs one after the other, busy {} jobs with {} in flight, {} slots; medians over rounds, both sides alternating",
        settings.rounds, settings.n_idle, settings.n_busy, settings.in_flight, settings.workers
    );
    for &(name, sync_always) in &settings.syncs {
        let server = NatsServer::start_with(NatsOptions { sync_always, ..NatsOptions::default() }).await;
        let floor = Floor::start(&server.url(), settings.workers).await?;
        let system = System::start(&server.url(), settings.workers).await?;
        let mut processes = vec![("bench", std::process::id()), ("nats-server", server.pid())];
        let few = processes.clone();
        processes.extend(system.processes());
        measure(settings, &few, async || floor.job().await).await?;
        measure(settings, &processes, async || system.job().await).await?;
        let (mut floors, mut systems) = (Vec::new(), Vec::new());
        for _ in 0..settings.rounds {
            floors.push(measure(settings, &few, async || floor.job().await).await?);
            systems.push(measure(settings, &processes, async || system.job().await).await?);
        }
        report(name, &floors, &systems);
        report_spent("floor", &few, &floors);
        report_spent("longshore", &processes, &systems);
    }
    Ok(())
}

async fn measure(settings: &Settings, processes: &[(&str, u32)], job: impl AsyncFn() -> anyhow::Result<()>) -> anyhow::Result<Round> {
    let mut times = Vec::with_capacity(settings.n_idle);
    for _ in 0..settings.n_idle {
        let since = Instant::now();
        job().await?;
        times.push(since.elapsed());
    }
    times.sort_unstable();
    let before = times_of(processes)?;
    let since = Instant::now();
    let mut jobs = futures::stream::iter(0..settings.n_busy).map(|_| job()).buffer_unordered(settings.in_flight);
    while let Some(done) = jobs.next().await {
        done?;
    }
    let per_second = settings.n_busy as f64 / since.elapsed().as_secs_f64();
    let a_job = |(before, after): (&Duration, Duration)| after.saturating_sub(*before).as_secs_f64() * 1e6 / settings.n_busy as f64;
    let spent = before.iter().zip(times_of(processes)?).map(a_job).collect();
    Ok(Round { p50: times[times.len() / 2], p99: times[times.len() * 99 / 100], per_second, spent })
}

fn times_of(processes: &[(&str, u32)]) -> anyhow::Result<Vec<Duration>> {
    processes.iter().map(|&(_, id)| processor_time(&id.to_string())).collect()
}

/// What a busy job takes of the processors, which says more than its rate while others work on the same machine.
fn report_spent(who: &str, processes: &[(&str, u32)], rounds: &[Round]) {
    let spent: Vec<f64> = (0..processes.len()).map(|i| median(rounds.iter().map(|round| round.spent[i]).collect())).collect();
    let parts: Vec<String> = processes.iter().zip(&spent).map(|((name, _), spent)| format!("{name} {spent:.0}")).collect();
    println!("{who:<14} {:>6.0} µs of processor a busy job: {}", spent.iter().sum::<f64>(), parts.join(", "));
}

fn report(name: &str, floors: &[Round], systems: &[Round]) {
    println!("\n{name:<14} {:>12} {:>12} {:>14}", "idle p50", "idle p99", "jobs/s");
    let figures = |rounds: &[Round]| {
        let median = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
        [median(|round| round.p50.as_secs_f64() * 1e3), median(|round| round.p99.as_secs_f64() * 1e3), median(|round| round.per_second)]
    };
    let (floor, system) = (figures(floors), figures(systems));
    for (who, [p50, p99, rate]) in [("floor", floor), ("longshore", system)] {
        println!("{who:<14} {p50:>9.2} ms {p99:>9.2} ms {rate:>12.0}/s");
    }
    println!("{:<14} {:>11.2}x {:>11.2}x {:>13.2}x", "ratio", system[0] / floor[0], system[1] / floor[1], system[2] / floor[2]);
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown kernel".to_owned(), |text| format!("Linux {}", text.trim()))
}
