//! Tasks that are handed out over a WebSocket, as a process at a stand-in of the existing scheduler: how long an echo takes there and back,
//! how many there are in a second, what a worker takes when it is idle, how soon it is registered, and what broken connections cost.
//! `cargo xtask bench worker`.
//!
//! The floor is a worker that does no more than it must ([`bare`]), with the same stand-in and the same interpreter in the same run. Rounds
//! alternate between all of them. With `--existing COMMAND` the existing worker is measured beside ours, with the same package and the same
//! variables; without, its figures are those that were measured once, elsewhere, and are printed as such.

mod bare;
mod cuts;
mod site;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bare::Bare;
use futures::StreamExt;
use longshore_testkit::{Process, SchedulerOptions};
use serde_json::json;
use site::{Site, Whose, tree_kib};

use crate::system::{binary, median, resident_kib};

/// Tasks that are handed out at once: the window of a session.
const IN_FLIGHT: usize = 64;
/// What the existing worker took, on another machine.
const EXISTING: &str = "the existing worker, measured elsewhere: 1.6 ms, 490 to 760 /s, 50 MiB idle, registered in 1.3 s, loses results";

/// How handlers run, and the node of the package that runs so; of the existing worker the first alone. A runtime that is added has its row here, and
/// its node in `bench/handlers/manifest.json`.
static RUNTIMES: [(&str, &str); 4] =
    [("python", "echo"), ("program that stays", "lines"), ("program for each task", "once"), ("wasm", "wasm")];

/// How much is measured.
pub(crate) struct Settings {
    rounds: usize,
    n_idle: usize,
    n_busy: usize,
    starts: usize,
    cuts: usize,
    existing: Option<String>,
}

impl Settings {
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut settings = Self { rounds: 5, n_idle: 300, n_busy: 3000, starts: 20, cuts: 100, existing: None };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => settings = Self { rounds: 2, n_idle: 50, n_busy: 200, starts: 3, cuts: 20, ..settings },
                "--existing" => settings.existing = Some(args.next().context("--existing takes a command")?),
                _ => bail!("unknown option {arg:?}"),
            }
        }
        Ok(settings)
    }
}

/// What one round of one kind took.
#[derive(Clone, Copy)]
struct Round {
    p50: Duration,
    p99: Duration,
    per_second: f64,
}

pub(crate) async fn run(settings: &Settings) -> anyhow::Result<()> {
    println!("bench worker: an echo from a stand-in of the existing scheduler through a worker and a handler, and back");
    println!(
        "machine: {} processors; {}; settings: {} rounds, {} tasks one after the other, {} with {IN_FLIGHT} at once; medians over rounds",
        std::thread::available_parallelism()?,
        python()?,
        settings.rounds,
        settings.n_idle,
        settings.n_busy
    );
    let mut workers = vec![("longshore", Whose::Ours)];
    workers.extend(settings.existing.clone().map(|line| ("existing", Whose::Existing(line))));
    echoes(settings, &workers).await?;
    starts(settings, &workers).await?;
    for (who, whose) in &workers {
        let cuts::Lost { cuts, tasks, lost, twice } = cuts::measure(whose, settings.cuts).await?;
        println!("{who:<10} {cuts} connections cut, {tasks} tasks: {lost} results lost, {twice} tasks run twice; aim 0 and 0");
    }
    println!("({EXISTING})");
    Ok(())
}

/// One kind of echo: a worker, and how its handler runs.
struct Contender {
    name: String,
    node: &'static str,
    site: usize,
    rounds: Vec<Round>,
}

async fn echoes(settings: &Settings, workers: &[(&str, Whose)]) -> anyhow::Result<()> {
    let floor = Site::new(Whose::Ours, SchedulerOptions::default()).await?;
    let _bare = Bare::start(&floor.scheduler, floor.path()).await?;
    let (mut sites, mut processes) = (vec![floor], Vec::<Process>::new());
    let mut contenders = vec![Contender { name: "floor (bare, python)".to_owned(), node: "echo", site: 0, rounds: Vec::new() }];
    for (who, whose) in workers {
        let site = Site::new(whose.clone(), SchedulerOptions::default()).await?;
        processes.push(site.start(&site.scheduler.url(), &[]).await?.0);
        let runtimes = if *whose == Whose::Ours { &RUNTIMES[..] } else { &RUNTIMES[..1] };
        let of = |&(runtime, node): &(&str, &'static str)| Contender {
            name: format!("{who}, {runtime}"),
            node,
            site: sites.len(),
            rounds: Vec::new(),
        };
        contenders.extend(runtimes.iter().map(of));
        sites.push(site);
    }
    // The first of each makes its handler's process and does not count.
    for contender in &contenders {
        let first = sites[contender.site].task(&format!("warm {}", contender.node), contender.node, &json!({})).await;
        first.with_context(|| format!("{}: `cargo xtask bench worker` builds with every runtime", contender.name))?;
    }
    for round in 0..settings.rounds {
        for contender in &mut contenders {
            let measured = measure(settings, &sites[contender.site], contender.node, round).await?;
            contender.rounds.push(measured);
        }
    }
    println!("\n{:<34} {:>10} {:>10} {:>12} {:>9} {:>9}", "echo", "p50", "p99", "tasks/s", "p50", "tasks/s");
    let median = |rounds: &[Round], figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
    let figures = |rounds: &[Round]| {
        (median(rounds, |round| ms(round.p50)), median(rounds, |round| ms(round.p99)), median(rounds, |round| round.per_second))
    };
    let (floor, _, floor_rate) = figures(&contenders[0].rounds);
    for Contender { name, rounds, .. } in &contenders {
        let (p50, p99, rate) = figures(rounds);
        println!("{name:<34} {p50:>7.2} ms {p99:>7.2} ms {rate:>10.0}/s {:>8.2}x {:>8.2}x", p50 / floor, rate / floor_rate);
    }
    println!("aims with Python: at most 0.80 ms, at least 2450 to 3800 /s (0.5 x and 5 x the existing worker)\n");
    for ((who, _), process) in workers.iter().zip(&processes) {
        let (kib, n_processes) = tree_kib(process.pid())?;
        println!("{who:<10} after that, with warm handlers: {:>6.1} MiB in {n_processes} processes", mib(kib));
    }
    Ok(())
}

async fn measure(settings: &Settings, site: &Site, node: &str, round: usize) -> anyhow::Result<Round> {
    let parameters = |n: usize| json!({"n": n, "text": "as much as a small task says"});
    let mut times = Vec::with_capacity(settings.n_idle);
    for n in 0..settings.n_idle {
        let since = Instant::now();
        site.task(&format!("{node} {round} idle {n}"), node, &parameters(n)).await?;
        times.push(since.elapsed());
    }
    times.sort_unstable();
    let since = Instant::now();
    let busy = |n: usize| async move { site.task(&format!("{node} {round} busy {n}"), node, &parameters(n)).await };
    let mut tasks = futures::stream::iter(0..settings.n_busy).map(busy).buffer_unordered(IN_FLIGHT);
    while let Some(done) = tasks.next().await {
        done?;
    }
    let per_second = settings.n_busy as f64 / since.elapsed().as_secs_f64();
    Ok(Round { p50: times[times.len() / 2], p99: times[times.len() * 99 / 100], per_second })
}

/// Starts until the worker is registered, and the memory of one that has had no task; beside the least that a start of a program costs.
async fn starts(settings: &Settings, workers: &[(&str, Whose)]) -> anyhow::Result<()> {
    let mut floors = Vec::new();
    let mut figures: Vec<(Vec<Duration>, Vec<u64>)> = workers.iter().map(|_| Default::default()).collect();
    for _ in 0..settings.starts {
        let since = Instant::now();
        ensure!(Command::new(binary()?).arg("version").stdout(Stdio::null()).status()?.success(), "the program does not say its version");
        floors.push(since.elapsed());
        for ((_, whose), (times, memory)) in workers.iter().zip(&mut figures) {
            let site = Site::new(whose.clone(), SchedulerOptions::default()).await?;
            let (process, took) = site.start(&site.scheduler.url(), &[]).await?;
            times.push(took);
            memory.push(resident_kib(&process.pid().to_string())?);
        }
    }
    let floor = median(floors);
    println!("floor      `longshore version` {:>7.1} ms", ms(floor));
    for ((who, _), (times, memory)) in workers.iter().zip(figures) {
        let least = times.iter().min().copied().unwrap_or_default();
        let took = median(times);
        println!(
            "{who:<10} registered after {:>9.1} ms (least {:.1} ms), {:.1} x the floor; aim 100 ms",
            ms(took),
            ms(least),
            took.div_duration_f64(floor)
        );
        println!("{who:<10} idle, without handlers {:>6.1} MiB; aim 15 MiB", mib(median(memory)));
    }
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

fn python() -> anyhow::Result<String> {
    let said = Command::new("python3").arg("--version").output().context("there is no python3")?;
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}
